"""What the probabilities are worth: AUC, Brier score, calibration, and curves to draw.

Everything is computed from a table of counts by score: rows with the same score and the same
class cannot be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ccapproval.intervals import CONFIDENCE, Interval, percentile

CALIBRATION_BINS = 10
HISTOGRAM_BINS = 20
SWEEP = np.linspace(0, 1, 101)
MOST_POINTS = 200
# More different scores than these are put into so many bins of equal mass for the bootstrap: a
# multiple, so that none lies in two bins of the calibration.
MOST_SCORES = 100 * CALIBRATION_BINS

# Figure: why it is undefined without positives or negatives; the others need only a row.
SCORE_FIGURES = ("auc", "brier", "calibration_error")
CALIBRATION = (
    "expected calibration error: the rows are put into 10 bins of equal mass by probability (rows "
    "with the same probability stay together), and the absolute differences between the mean "
    "probability and the share of positives are averaged over the rows"
)


@dataclass(frozen=True)
class Scores:
    """Rows counted by their score.

    Attributes:
        values: the different scores, ascending, float64, shape (scores,).
        counts: rows that are actually negative and positive, int64, shape (2, scores).
    """

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, actual: np.ndarray, chances: np.ndarray) -> Scores:
        """Counts bool labels and probabilities of the positive class, shape (rows,) each."""
        values, places = np.unique(chances, return_inverse=True)
        cells = np.bincount(actual * len(values) + places, minlength=2 * len(values))
        return cls(values, cells.reshape(2, len(values)))

    def bins(self, number: int) -> np.ndarray:
        """The bin of each score: bins of equal mass, scores undivided; shape (scores,)."""
        rows = self.counts.sum(axis=0)
        below = np.cumsum(rows) - rows
        return below * number // max(int(rows.sum()), 1)


def auc(counts: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, ties counted half (Mann-Whitney).

    Args:
        counts: rows or weights by class and ascending score, shape (..., 2, scores), neither
            class empty.
    """
    negative, positive = counts[..., 0, :], counts[..., 1, :]
    below = np.cumsum(negative, axis=-1) - negative / 2
    pairs = negative.sum(axis=-1) * positive.sum(axis=-1)
    return np.sum(positive * below, axis=-1) / pairs


def calibration_gaps(weights: np.ndarray, scores: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Share of positives minus mean probability of each bin, weighted by the bin's share of rows.

    The expected calibration error, see `CALIBRATION`, is the sum of their absolute values.

    Args:
        weights: rows or weights by class and score, shape (..., 2, scores).
        scores: mean score of each cell, shape (2, scores).
        starts: where each bin starts, shape (bins,).

    Returns:
        float64, shape (..., bins).
    """
    excess = weights[..., 1, :] - np.sum(weights * scores, axis=-2)
    gaps = np.add.reduceat(excess, starts, axis=-1)
    return gaps / weights.sum(axis=(-2, -1))[..., np.newaxis]


def bin_starts(bins: np.ndarray) -> np.ndarray:
    """Where each bin starts in the ascending numbers of bins."""
    return np.flatnonzero(np.r_[True, np.diff(bins) > 0])


def score_figures(
    scores: Scores, draws: int, random: np.random.Generator
) -> tuple[dict[str, float | None], dict[str, Interval], dict[str, str]]:
    """The figures `SCORE_FIGURES`, their 95 % intervals, and why one is undefined, by name.

    The bootstrap of more than `MOST_SCORES` different scores works on bins of equal mass; its
    draws are moved by what the binning itself changes. The calibration error of a sample is
    larger than the truth, so percentiles would deny that a calibrated model is one. It is a norm
    of the bins' gaps, so the truth is no further from it than the norm of the gaps' errors
    (triangle inequality): the 95th percentile of that norm is taken off and added. In bins of
    fewer than a hundred rows the bootstrap knows too little of rare outcomes: 500 rows cover the
    truth in about 90 % of samples, 2,000 in 95 %.
    """
    values, counts = scores.values, scores.counts
    if not counts.sum():
        return dict.fromkeys(SCORE_FIGURES), {}, dict.fromkeys(SCORE_FIGURES, "no rows")
    error = np.stack([values**2, (1 - values) ** 2])
    both = np.stack([values, values])
    starts = bin_starts(scores.bins(CALIBRATION_BINS))
    defined = bool(counts.sum(axis=1).all())
    found: dict[str, float | None] = {
        "auc": float(auc(counts)) if defined else None,
        "brier": float(np.sum(counts * error) / counts.sum()),
        "calibration_error": float(np.abs(calibration_gaps(counts, both, starts)).sum()),
    }
    if len(values) > MOST_SCORES:
        counts, both, error, starts = compressed(scores, both, error)
    weights = random.standard_gamma(counts, (draws, *counts.shape))

    def brier(weights: np.ndarray) -> np.ndarray:
        return np.sum(weights * error, axis=(-2, -1)) / weights.sum(axis=(-2, -1))

    intervals = {}
    for name, function in (("auc", auc), ("brier", brier)):
        estimate = found[name]
        if estimate is not None:
            moved = estimate + function(weights) - function(counts)
            low, high = percentile(moved, estimate)
            intervals[name] = max(0.0, low), min(1.0, high)
    errors = calibration_gaps(weights, both, starts) - calibration_gaps(counts, both, starts)
    reach = float(np.quantile(np.abs(errors).sum(axis=-1), CONFIDENCE))
    estimate = found["calibration_error"]
    intervals["calibration_error"] = max(0.0, estimate - reach), min(1.0, estimate + reach)
    empty = "positive" if not scores.counts[1].sum() else "negative"
    reasons = {} if defined else {"auc": f"no row is actually {empty}"}
    return found, intervals, reasons


def compressed(
    scores: Scores, both: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts, mean scores and mean errors of bins, and where the calibration's bins start."""
    bins = scores.bins(MOST_SCORES)
    starts = bin_starts(bins)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts, axis=1)

    counts = summed(scores.counts)
    shares = scores.counts / np.maximum(np.repeat(counts, np.diff(np.r_[starts, len(bins)]), 1), 1)
    coarse = bins[starts] * CALIBRATION_BINS // MOST_SCORES
    return counts, summed(shares * both), summed(shares * error), bin_starts(coarse)


def thinned(length: int) -> np.ndarray:
    """Places of at most `MOST_POINTS` points of a curve, both ends among them."""
    return np.unique(np.linspace(0, length - 1, min(length, MOST_POINTS)).round().astype(int))


def curves(scores: Scores) -> dict[str, Any]:
    """What a report draws of some rows.

    Returns:
        `roc` with `threshold` (null: nobody is approved), `false_positive_rate`,
        `true_positive_rate`, or null without positives or without negatives;
        `precision_recall` with `threshold`, `recall`, `precision`, or null without positives;
        `calibration`, a list of bins `n`, `probability` (mean), `positive` (share);
        `sweep` with `threshold`, `selection_rate`, `accuracy`, `recall`, a row being approved
        from the threshold up; `histogram` with `edges` and the counts `negative`, `positive`.
    """
    values, (negative, positive) = scores.values, scores.counts
    negatives, positives = int(negative.sum()), int(positive.sum())
    # Approved from each score up, the highest first.
    false_positive = np.cumsum(negative[::-1])
    true_positive = np.cumsum(positive[::-1])
    result: dict[str, Any] = {"roc": None, "precision_recall": None}
    thresholds = values[::-1]
    if positives:
        places = thinned(len(values))
        precision = true_positive / (true_positive + false_positive)
        result["precision_recall"] = {
            "threshold": thresholds[places].tolist(),
            "recall": (true_positive[places] / positives).tolist(),
            "precision": precision[places].tolist(),
        }
        if negatives:
            result["roc"] = {
                "threshold": [None, *thresholds[places].tolist()],
                "false_positive_rate": [0.0, *(false_positive[places] / negatives).tolist()],
                "true_positive_rate": [0.0, *(true_positive[places] / positives).tolist()],
            }
    result["calibration"] = calibration_bins(scores)
    result["sweep"] = sweep(scores)
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    result["histogram"] = {"edges": edges.tolist()} | {
        name: np.histogram(values, edges, weights=counts)[0].astype(int).tolist()
        for name, counts in (("negative", negative), ("positive", positive))
    }
    return result


def calibration_bins(scores: Scores) -> list[dict[str, Any]]:
    """Size, mean probability and share of positives of each bin of the calibration error."""
    if not len(scores.values):
        return []
    starts = bin_starts(scores.bins(CALIBRATION_BINS))
    rows = scores.counts.sum(axis=0)
    n, sums, positive = (
        np.add.reduceat(each, starts) for each in (rows, rows * scores.values, scores.counts[1])
    )
    return [
        {"n": int(count), "probability": float(mean), "positive": float(share)}
        for count, mean, share in zip(n, sums / n, positive / n, strict=True)
    ]


def sweep(scores: Scores) -> dict[str, list[float | None]]:
    """Rates if every row with a probability of at least the threshold were approved."""
    place = np.searchsorted(scores.values, SWEEP)
    below = np.pad(np.cumsum(scores.counts, axis=1), ((0, 0), (1, 0)))[:, place]
    total = scores.counts.sum(axis=1)
    approved = total[:, np.newaxis] - below
    n, positives = int(total.sum()), int(total[1])

    def shares(counts: np.ndarray, of: int) -> list[float | None]:
        return [count / of if of else None for count in counts.tolist()]

    return {
        "threshold": SWEEP.tolist(),
        "selection_rate": shares(approved.sum(axis=0), n),
        "accuracy": shares(below[0] + approved[1], n),
        "recall": shares(approved[1], positives),
    }
