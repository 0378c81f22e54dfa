"""A full examination of predictions: every figure with its interval, its rows and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ccapproval import intervals
from ccapproval.curves import Scores, curves, score_figures
from ccapproval.intervals import Interval
from ccapproval.rates import (
    DIFFERENCES,
    MOST_GROUPS,
    RATES,
    RATIO,
    fairness,
    group_codes,
    group_counts,
    rates_of,
)
from ccapproval.settings import Metrics

PASS, FAIL, INSUFFICIENT = "pass", "fail", "insufficient evidence"


def verdict(
    name: str, value: float | None, interval: Interval | None, scarce: str | None, settings: Metrics
) -> tuple[str | None, str | None]:
    """What a figure proves against its limits, and why not more.

    It passes if the whole interval keeps the limits, and fails if the figure itself does not;
    between the two, and where rows are scarce, the evidence is insufficient.

    Args:
        name: of the figure.
        value: of the figure; None where undefined.
        interval: its 95 % interval, where it is defined.
        scarce: why the rows are too few; None if they are not.
        settings: with the limits.

    Returns:
        The verdict, null where no limit is declared, and a reason for all but a pass.
    """
    limits = [
        (settings.minimum.get(name), "at least", lambda found, limit: found >= limit),
        (settings.maximum.get(name), "at most", lambda found, limit: found <= limit),
    ]
    declared = [limit for limit in limits if limit[0] is not None]
    if not declared:
        return None, "no limit is declared"
    if scarce:
        return INSUFFICIENT, scarce
    if value is None or interval is None:
        return INSUFFICIENT, "undefined"
    for limit, words, keeps in declared:
        if not keeps(value, limit):
            return FAIL, f"{value:.4g} is not {words} {limit:g}"
    for limit, words, keeps in declared:
        if not all(keeps(end, limit) for end in interval):
            return INSUFFICIENT, f"the interval reaches beyond the limit of {words} {limit:g}"
    return PASS, None


def scarcity(rates: Mapping[str, Any], settings: Metrics) -> str | None:
    """Why some rows are too few to prove anything; None if they are not."""
    short = []
    for name, count, least in (
        ("positives", rates["fn"] + rates["tp"], settings.minimum_positives),
        ("negatives", rates["tn"] + rates["fp"], settings.minimum_negatives),
    ):
        if count < least:
            short.append(f"{count} {name}, at least {least} are needed")
    return "; ".join(short) or None


def evidence(
    name: str,
    value: float | None,
    n: int,
    interval: Interval | None,
    judged: tuple[str | None, str | None],
) -> dict[str, Any]:
    """The record of what stands behind a figure."""
    found, reason = judged
    return {
        "n": n,
        "interval": None if value is None or interval is None else list(interval),
        "verdict": found,
        "reason": reason,
    }


class Examination:
    """Examines predictions under one set of settings; the same order of calls, the same chance."""

    def __init__(self, settings: Metrics):
        """With the random numbers at their start."""
        self.settings = settings
        self.random = np.random.default_rng(settings.seed)

    def part(self, counts: np.ndarray, weights: np.ndarray, scores: Scores) -> dict[str, Any]:
        """Rates of some rows with their evidence.

        Args:
            counts: of the outcomes, shape (4,).
            weights: draws of them, shape (4, draws).
            scores: of the same rows.

        Returns:
            What `rates_of` gives, the figures of `curves.SCORE_FIGURES`, and `evidence` by name:
            `n` rows that it rests on, 95 % `interval`, `verdict` and its `reason`.
        """
        result = rates_of(counts)
        reasons = result.pop("reasons")
        found = {name: (rate.of(weights), int(rate.rows(counts))) for name, rate in RATES.items()}
        known: dict[str, tuple[int, Interval | None]] = {
            name: (n, None if result[name] is None else intervals.percentile(drawn, result[name]))
            for name, (drawn, n) in found.items()
        }
        values, ranges, more = score_figures(scores, self.settings.draws, self.random)
        result |= values
        reasons |= more
        known |= {name: (result["n"], ranges.get(name)) for name in values}
        scarce = scarcity(result, self.settings)
        result["reasons"] = reasons
        result["evidence"] = {
            name: evidence(
                name, result[name], n, interval,
                verdict(name, result[name], interval, scarce or reasons.get(name), self.settings),
            )
            for name, (n, interval) in known.items()
        }  # fmt: skip
        return result

    def fairness(self, groups: Mapping[str, Any], weights: np.ndarray) -> dict[str, Any]:
        """Differences between groups with their evidence.

        Args:
            groups: by label, from `part`.
            weights: draws of the groups' outcomes, shape (4, groups, draws).
        """
        result = fairness(groups)
        reasons = result["reasons"]
        drawn = {name: rate.of(weights) for name, rate in RATES.items()}
        short = (
            f"group {label}: {reason}"
            for label, each in groups.items()
            if (reason := scarcity(each, self.settings))
        )
        scarce = next(short, None)
        n = sum(each["n"] for each in groups.values())
        result["evidence"] = {}
        for name in (*DIFFERENCES, RATIO):
            value, interval = result[name], None
            if value is not None and name == RATIO:
                interval = intervals.ratio(drawn["selection_rate"], value)
            elif value is not None:
                interval = intervals.gap([drawn[rate] for rate in DIFFERENCES[name]], value)
            judged = verdict(name, value, interval, reasons.get(name) or scarce, self.settings)
            result["evidence"][name] = evidence(name, value, n, interval, judged)
        return result

    def grouping(
        self,
        actual: np.ndarray,
        predicted: np.ndarray,
        chances: np.ndarray,
        grouped: tuple[np.ndarray, list[str]],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Figures of each group, and the differences between them.

        Args:
            actual: bool, shape (rows,).
            predicted: bool, shape (rows,).
            chances: probabilities of the positive class, shape (rows,).
            grouped: from `group_codes`.
        """
        codes, labels = grouped
        counts = group_counts(actual, predicted, codes, len(labels))
        weights = intervals.outcome_weights(counts, self.settings.draws, self.random)
        groups = {}
        for place, label in enumerate(labels):
            rows = codes == place
            scores = Scores.of(actual[rows], chances[rows])
            groups[label] = self.part(counts[:, place], weights[:, place], scores)
        return groups, self.fairness(groups, weights)

    def of(
        self,
        actual: np.ndarray,
        predicted: np.ndarray,
        chances: np.ndarray,
        sensitive: pd.DataFrame,
    ) -> dict[str, Any]:
        """The whole examination.

        Args:
            actual: bool, shape (rows,), whether the row is of the positive class.
            predicted: bool, shape (rows,), whether it was predicted to be.
            chances: probabilities of the positive class, shape (rows,).
            sensitive: the sensitive attributes, shape (rows, attributes).

        Returns:
            `overall`; `groups` and `fairness` by attribute; `intersections` by the attributes
            that meet, each with `groups` and `fairness`, or a `reason` why not;
            `fairnessScoreEqualOpportunity`, the equal opportunity difference of the attribute
            with the widest one in percentage points, null if one of them has none, and its
            `interval`.
        """
        everybody = np.zeros(len(actual), dtype=np.int64)
        counts = group_counts(actual, predicted, everybody, 1)
        weights = intervals.outcome_weights(counts, self.settings.draws, self.random)
        overall = self.part(counts[:, 0], weights[:, 0], Scores.of(actual, chances))
        grouped = {name: group_codes(sensitive[name]) for name in sensitive.columns}
        groups, gaps = {}, {}
        for name, each in grouped.items():
            groups[name], gaps[name] = self.grouping(actual, predicted, chances, each)
        meetings = {}
        for names in meeting(list(grouped)):
            cells = crossed([grouped[name] for name in names])
            if len(cells[1]) > MOST_GROUPS:
                met = ({}, None, f"{len(cells[1])} groups, more than {MOST_GROUPS}")
            else:
                met = (*self.grouping(actual, predicted, chances, cells), None)
            keys = ("groups", "fairness", "reason")
            meetings[" × ".join(names)] = dict(zip(keys, met, strict=True))
        score, interval = score_of(gaps)
        return {
            "overall": overall,
            "groups": groups,
            "fairness": gaps,
            "intersections": meetings,
            "fairnessScoreEqualOpportunity": score,
            "interval": interval,
        }


def score_of(gaps: Mapping[str, Any]) -> tuple[float | None, list[float] | None]:
    """The widest equal opportunity difference in percentage points, and its interval.

    An attribute without a figure leaves the score open: its gap could be the widest.
    """
    name = "equal_opportunity_difference"
    if not gaps or any(each[name] is None for each in gaps.values()):
        return None, None
    widest = max(gaps.values(), key=lambda each: each[name])
    return 100 * widest[name], [100 * end for end in widest["evidence"][name]["interval"]]


def meeting(names: list[str]) -> list[tuple[str, ...]]:
    """Which attributes are looked at together: every two, and all of them."""
    pairs = list(combinations(names, 2))
    return pairs if len(names) < 3 else [*pairs, tuple(names)]


def crossed(grouped: list[tuple[np.ndarray, list[str]]]) -> tuple[np.ndarray, list[str]]:
    """The groups of several attributes together, without those that have no row."""
    codes, labels = np.zeros_like(grouped[0][0]), [""]
    for each, names in grouped:
        codes = codes * len(names) + each
        labels = [f"{left} × {name}" if left else name for left in labels for name in names]
    present, places = np.unique(codes, return_inverse=True)
    return places, [labels[code] for code in present]


def drawn(actual: np.ndarray, chances: np.ndarray, sensitive: pd.DataFrame) -> dict[str, Any]:
    """Curves of all rows (`overall`) and of each group (`groups`, by attribute and label)."""
    groups = {}
    for name in sensitive.columns:
        codes, labels = group_codes(sensitive[name])
        groups[name] = {
            label: curves(Scores.of(actual[codes == place], chances[codes == place]))
            for place, label in enumerate(labels)
        }
    return {"overall": curves(Scores.of(actual, chances)), "groups": groups}
