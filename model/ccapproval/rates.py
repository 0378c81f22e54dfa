"""Rates of a confusion matrix, and the differences between groups that fairness criteria ask for.

A figure that the rows do not define is null with a reason: zero would read as perfect fairness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ccapproval.common import InputError

# The order of the four outcomes in every table of counts.
OUTCOMES = ("tn", "fp", "fn", "tp")
MISSING = "missing"
MOST_GROUPS = 100


@dataclass(frozen=True)
class Rate:
    """A ratio of two weighted sums of the outcomes `OUTCOMES`.

    Attributes:
        numerator: weight of each outcome.
        denominator: weight of each outcome.
        undefined: what is true of the rows where the denominator is zero.
    """

    numerator: tuple[int, int, int, int]
    denominator: tuple[int, int, int, int]
    undefined: str

    def of(self, counts: np.ndarray) -> np.ndarray:
        """The rate of each table; NaN where it is undefined.

        Args:
            counts: of the outcomes, shape (4, ...).

        Returns:
            Fractions, float64, shape (...).
        """
        above = np.tensordot(self.numerator, counts, axes=1)
        below = np.tensordot(self.denominator, counts, axes=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(below > 0, above / below, np.nan)

    def rows(self, counts: np.ndarray) -> np.ndarray:
        """How many rows the rate rests on, shape (...)."""
        return np.tensordot(np.minimum(self.denominator, 1), counts, axes=1)


RATES = {
    "accuracy": Rate((1, 0, 0, 1), (1, 1, 1, 1), "no rows"),
    "precision": Rate((0, 0, 0, 1), (0, 1, 0, 1), "no row is predicted positive"),
    "recall": Rate((0, 0, 0, 1), (0, 0, 1, 1), "no row is actually positive"),
    "false_positive_rate": Rate((0, 1, 0, 0), (1, 1, 0, 0), "no row is actually negative"),
    "f1": Rate((0, 0, 0, 2), (0, 1, 1, 2), "no row is positive, actually or predicted"),
    "selection_rate": Rate((0, 1, 0, 1), (1, 1, 1, 1), "no rows"),
}

# Fairness criterion: the rates whose greatest difference between two groups it is. Demographic
# parity, equal opportunity and equalized odds: Hardt, Price and Srebro 2016; predictive parity:
# Chouldechova 2017.
DIFFERENCES = {
    "demographic_parity_difference": ("selection_rate",),
    "equal_opportunity_difference": ("recall",),
    "equal_accuracy_difference": ("accuracy",),
    "equalized_odds_difference": ("recall", "false_positive_rate"),
    "predictive_parity_difference": ("precision",),
}
RATIO = "demographic_parity_ratio"
FAIRNESS = (*DIFFERENCES, RATIO)


def outcome_counts(actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts of the outcomes `OUTCOMES`, int64, shape (4,), of bool arrays of shape (rows,)."""
    return np.bincount(2 * actual.astype(np.int8) + predicted, minlength=4)


def rates_of(counts: np.ndarray) -> dict[str, Any]:
    """`rates` from the counts of the outcomes, shape (4,)."""
    result: dict[str, Any] = {"n": int(counts.sum())}
    result |= {name: int(count) for name, count in zip(OUTCOMES, counts, strict=True)}
    reasons = {}
    for name, rate in RATES.items():
        value = float(rate.of(counts))
        result[name] = None if np.isnan(value) else value
        if result[name] is None:
            reasons[name] = rate.undefined
    result["reasons"] = reasons
    return result


def rates(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Confusion counts and the rates derived from them.

    Args:
        actual: bool, shape (rows,), whether the row is of the positive class.
        predicted: bool, shape (rows,), whether it was predicted to be.

    Returns:
        Counts `n tn fp fn tp`; `accuracy`, `precision`, `recall` (true positive rate),
        `false_positive_rate`, `f1`, `selection_rate` as fractions, null where the denominator
        is zero; `reasons` says why, by the name of the rate.
    """
    return rates_of(outcome_counts(actual, predicted))


def group_codes(groups: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The group of every row; rows without a value are a group of their own, the last one.

    Args:
        groups: a sensitive attribute, shape (rows,).

    Returns:
        Places in the list of labels, shape (rows,), and the labels, sorted by value.

    Raises:
        InputError: there are too many groups, or one is named as the rows without a value are.
    """
    absent = groups.isna().to_numpy()
    present = groups[~absent]
    if present.dtype.kind == "f" and (present == np.floor(present)).all():
        # An integer column that lacks values is read as floats: 1.0 is group 1 all the same.
        present = present.astype(np.int64)
    places, values = pd.factorize(present, sort=True)
    if len(values) > MOST_GROUPS:
        raise InputError(
            f"sensitive column {groups.name} has {len(values)} different values: "
            f"put them into {MOST_GROUPS} groups at most, such as ranges"
        )
    labels = [str(value) for value in values]
    codes = np.full(len(groups), len(labels), dtype=np.int64)
    codes[~absent] = places
    if absent.any():
        if MISSING in labels:
            raise InputError(
                f"sensitive column {groups.name} has empty values and a group named "
                f"{MISSING}: rename it"
            )
        labels.append(MISSING)
    return codes, labels


def group_counts(
    actual: np.ndarray, predicted: np.ndarray, codes: np.ndarray, groups: int
) -> np.ndarray:
    """Counts of the outcomes in every group, int64, shape (4, groups)."""
    cells = codes * 4 + 2 * actual.astype(np.int64) + predicted
    return np.bincount(cells, minlength=4 * groups).reshape(groups, 4).T


def group_rates(
    actual: np.ndarray, predicted: np.ndarray, groups: pd.Series
) -> dict[str, dict[str, Any]]:
    """`rates` of every group, in the order of the sorted labels, rows without a group last."""
    codes, labels = group_codes(groups)
    counts = group_counts(actual, predicted, codes, len(labels))
    return {label: rates_of(counts[:, place]) for place, label in enumerate(labels)}


def undefined(groups: Mapping[str, Mapping[str, Any]], names: tuple[str, ...]) -> str | None:
    """Why rates cannot be compared between groups; None if they can."""
    if len(groups) < 2:
        return "there is only one group" if groups else "there is no group"
    for name in names:
        for label, each in groups.items():
            if each[name] is None:
                return f"group {label}: {each['reasons'][name]}"
    return None


def fairness(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Differences between groups, greatest minus least, unsigned and unrounded, as fractions.

    Args:
        groups: from `group_rates`.

    Returns:
        The figures `FAIRNESS`, null where undefined; `reasons` says why, by name. The ratio is
        the least selection rate over the greatest. Equalized odds is the greater of the
        differences in true and in false positive rates.
    """
    result: dict[str, Any] = {}
    reasons = {}
    for name, compared in DIFFERENCES.items():
        reason = undefined(groups, compared)
        result[name] = None
        if reason:
            reasons[name] = reason
            continue
        columns = [[each[rate] for each in groups.values()] for rate in compared]
        result[name] = max(max(values) - min(values) for values in columns)
    reason = undefined(groups, ("selection_rate",))
    selected = [] if reason else [each["selection_rate"] for each in groups.values()]
    if selected and not max(selected):
        reason = "no row of any group is predicted positive"
    result[RATIO] = None if reason else min(selected) / max(selected)
    if reason:
        reasons[RATIO] = reason
    result["reasons"] = reasons
    return result
