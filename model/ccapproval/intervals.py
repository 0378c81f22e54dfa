"""95 % intervals by the Bayesian bootstrap of tables of counts.

A row's part in a bootstrap is decided by the cell of the table that it falls into, so the cells
are drawn instead of the rows: half a million rows cost what their few cells cost. Weights of the
cells are gamma distributed with the count as shape (Rubin 1981: with uniform Dirichlet weights
of the rows, a cell's weight is the sum of its rows').

The tables of outcomes get one observation more in each of the four cells. It is the correction
of Agresti and Caffo (2000) for the difference of two proportions: without it, 40 hits of 40 would
have an interval of no width, and differences between small groups intervals that are too short.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)

Interval = tuple[float, float]


def outcome_weights(counts: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Draws of the weights of outcomes.

    Args:
        counts: of the four outcomes, shape (4, groups).
        draws: how many.
        random: the source of chance.

    Returns:
        float64, shape (4, groups, draws); each group's weights are to be taken as shares.
    """
    return random.standard_gamma(counts[:, :, np.newaxis] + 1.0, (*counts.shape, draws))


def percentile(values: np.ndarray, estimate: float) -> Interval:
    """The middle 95 % of draws, widened to hold the estimate."""
    low, high = np.quantile(values, TAILS)
    return min(float(low), estimate), max(float(high), estimate)


def folded(low: float, high: float) -> Interval:
    """The interval of |x| where [low, high] is that of x."""
    ends = abs(low), abs(high)
    return (0.0 if low <= 0 <= high else min(ends)), max(ends)


def gap(rates: list[np.ndarray], estimate: float) -> Interval:
    """The interval of the greatest difference between two groups in any of the rates.

    The percentiles of an unsigned difference never reach zero, so they would deny the fairness
    of a fair model. For two groups and one rate the signed difference has the interval, and is
    folded. Otherwise the intervals of all pairs are made to hold together (the greatest
    studentised deviation of each draw decides how wide they are); the gap then lies between the
    greatest of their lower and the greatest of their upper ends.

    Args:
        rates: draws of each rate, shape (groups, draws) each, at least two groups.
        estimate: the gap itself.
    """
    differences = np.array(
        [rate[a] - rate[b] for rate in rates for a, b in combinations(range(len(rate)), 2)]
    )
    if len(differences) == 1:
        low, high = folded(*np.quantile(differences[0], TAILS).tolist())
    else:
        middle = differences.mean(axis=1, keepdims=True)
        spread = differences.std(axis=1, keepdims=True)
        deviations = np.max(np.abs(differences - middle) / spread, axis=0)
        reach = float(np.quantile(deviations, CONFIDENCE)) * spread
        low = max(0.0, float(np.max(np.abs(middle) - reach)))
        high = float(np.max(np.abs(middle) + reach))
    return min(low, estimate), max(high, estimate)


def ratio(rates: np.ndarray, estimate: float) -> Interval:
    """The interval of the least rate over the greatest: `gap` on the logarithmic scale.

    Args:
        rates: draws of the rate, shape (groups, draws), above zero.
        estimate: the ratio itself, from 0 to 1.
    """
    far = -np.log(estimate) if estimate else np.inf
    low, high = gap([np.log(rates)], far)
    return float(np.exp(-high)), float(np.exp(-low))
