"""Random tables of outcomes by group, and every figure of ours beside those of others.

    python tests/fairness_tables.py [--tables N]

prints one line of JSON: how many tables were compared, and the largest difference.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from fairlearn import metrics as fairlearn
from sklearn import metrics as scikit_learn

from ccapproval import rates

JUDGES = {
    "selection_rate": fairlearn.selection_rate,
    "recall": fairlearn.true_positive_rate,
    "false_positive_rate": fairlearn.false_positive_rate,
    "accuracy": scikit_learn.accuracy_score,
    "precision": scikit_learn.precision_score,
    "f1": scikit_learn.f1_score,
}


def remembered(judge: Callable) -> Callable:
    """The judge, asked only once about the same counts: it takes a millisecond a question."""
    answers = {}

    def answer(actual: pd.Series, predicted: pd.Series) -> float:
        counts = tuple(np.bincount(2 * np.asarray(actual) + np.asarray(predicted), minlength=4))
        if counts not in answers:
            answers[counts] = judge(actual, predicted)
        return answers[counts]

    return answer


@dataclass
class Compared:
    """What came of a comparison.

    Attributes:
        tables: how many.
        largest_difference: of any figure that both sides have.
        compared: in how many tables, by figure.
        refused: in how many tables ours is null, by figure.
        answers_where_refused: what the judges answer there, and how often.
    """

    tables: int = 0
    largest_difference: float = 0.0
    compared: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    answers_where_refused: Counter = field(default_factory=Counter)


def full_table(random: np.random.Generator) -> np.ndarray:
    """Counts of the outcomes, shape (4, groups), none of them zero; one in ten is large."""
    most = 200 if random.integers(0, 10) == 0 else 8
    return random.integers(1, most, (4, int(random.integers(2, 5))))


def table(random: np.random.Generator) -> np.ndarray:
    """Counts of the outcomes, shape (4, groups), every group with a row; two in five have edges."""
    counts = full_table(random)
    edge = random.integers(0, 15)
    if edge == 0:  # a group of one
        counts[:, 0] = random.permutation([1, 0, 0, 0])
    elif edge == 1:  # a group without positives
        counts[2:, 0] = 0
    elif edge == 2:  # a group without negatives
        counts[:2, 0] = 0
    elif edge == 3:  # everybody is denied
        counts[[1, 3]] = 0
    elif edge == 4:  # a single group
        counts = counts[:, :1]
    elif edge == 5:  # everybody is approved, rightly
        counts[:3] = 0
    return counts


def rows_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with these outcomes: actual and predicted (bool) and group, shape (rows,) each."""
    outcome, group = (np.repeat(each.ravel(), counts.ravel()) for each in np.indices(counts.shape))
    return outcome >= 2, outcome % 2 == 1, group


def compare(random: np.random.Generator, tables: int) -> Compared:
    """Compares every rate of every group, and every difference between groups."""
    drawn = [table(random) for _ in range(tables)]
    parts = [rows_of(each) for each in drawn]
    actual, predicted, group = (np.concatenate(each) for each in zip(*parts, strict=True))
    number = np.repeat(np.arange(tables), [len(each[0]) for each in parts])
    with warnings.catch_warnings():
        # Of figures without rows, which is what the edges are about.
        warnings.simplefilter("ignore")
        frame = fairlearn.MetricFrame(
            metrics={name: remembered(judge) for name, judge in JUDGES.items()},
            y_true=actual,
            y_pred=predicted,
            sensitive_features=pd.Series(group, name="group"),
            control_features=pd.Series(number, name="table"),
        )
        differences, ratios = frame.difference(), frame.ratio()
    result = Compared(tables)
    groups = frame.by_group
    for place, (actual, predicted, group) in enumerate(parts):
        found = rates.group_rates(actual, predicted, pd.Series(group, name="group"))
        for label, each in found.items():
            beside(result, each, dict(groups.loc[(place, int(label))]), rates.RATES)
        expected = differences.loc[place]
        judged = {
            name: max(expected[rate] for rate in compared)
            for name, compared in rates.DIFFERENCES.items()
        } | {rates.RATIO: ratios.loc[place]["selection_rate"]}
        beside(result, rates.fairness(found), judged, rates.FAIRNESS)
    return result


def beside(result: Compared, ours: dict, theirs: dict, names: object) -> None:
    """Compares figures that ours defines; of the others, records what the judges answer."""
    for name in names:
        if ours[name] is None:
            result.refused[name] += 1
            answer = "NaN" if np.isnan(theirs[name]) else "no such rows"
            if ours["reasons"][name] == "there is only one group":
                answer = "single group"
            result.answers_where_refused[answer] += 1
        else:
            result.compared[name] += 1
            difference = abs(ours[name] - theirs[name])
            # Not max(): NaN would compare as no difference.
            if not difference <= result.largest_difference:
                result.largest_difference = float(difference)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=10_000)
    arguments = parser.parse_args()
    result = compare(np.random.default_rng(0), arguments.tables)
    figures = {
        "tables_compared": result.tables,
        "figures_compared": result.compared.total(),
        "refused": result.refused.total(),
        "largest_difference": result.largest_difference,
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
