"""How often the interval of a fairness gap covers the truth, in simulated models.

    python tests/fairness_coverage.py

prints one line of JSON: the coverage by case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np

from ccapproval import intervals
from ccapproval.rates import RATES

# A minority of 20 %, as in a portfolio where one group is rare.
SHARES = (0.8, 0.2)
BASE_RATE = 0.4
RECALL = 0.8
FALSE_POSITIVE_RATE = 0.1


def model(
    random: np.random.Generator, rows: int, shares: Sequence[float], gap: float
) -> np.ndarray:
    """Outcomes of a simulated model by group, shape (4, groups).

    All groups have the same true positive rate, but for the last, which has one lower by `gap`.
    """
    sizes = random.multinomial(rows, shares)
    positives = random.binomial(sizes, BASE_RATE)
    recall = np.full(len(shares), RECALL)
    recall[-1] -= gap
    tp = random.binomial(positives, recall)
    fp = random.binomial(sizes - positives, FALSE_POSITIVE_RATE)
    return np.stack([sizes - positives - fp, fp, positives - tp, tp])


def coverage(
    random: np.random.Generator,
    *,
    gap: float = 0.0,
    models: int = 1000,
    rows: int = 1000,
    shares: Sequence[float] = SHARES,
    draws: int = 2000,
    criterion: str = "recall",
) -> float:
    """Share of models whose interval of the gap in a rate covers the true one.

    For `recall` that is the equal opportunity difference, whose truth is `gap`; other rates are
    fair only with a gap of zero.
    """
    covered = 0
    rate = RATES[criterion]
    for _ in range(models):
        counts = model(random, rows, shares, gap)
        found = rate.of(counts)
        drawn = rate.of(intervals.outcome_weights(counts, draws, random))
        low, high = intervals.gap([drawn], float(found.max() - found.min()))
        # The truth is exact, the interval is not: equal ends are equal to the last bit but one.
        covered += low - 1e-12 <= gap <= high + 1e-12
    return covered / models


CASES = {
    "coverage": {},
    "coverage of selection rates": {"criterion": "selection_rate"},
    "coverage of accuracies": {"criterion": "accuracy"},
    "coverage of precisions": {"criterion": "precision"},
    "coverage at a gap of 0.05": {"gap": 0.05},
    "coverage at a gap of 0.1": {"gap": 0.1},
    "coverage at a gap of 0.2": {"gap": 0.2},
    "coverage of three groups": {"shares": (0.5, 0.3, 0.2)},
    "coverage of five groups": {"shares": (0.3, 0.2, 0.2, 0.2, 0.1)},
    "coverage of 10,000 rows": {"rows": 10_000},
}


def main() -> int:
    """The command."""
    found = {name: coverage(np.random.default_rng(0), **case) for name, case in CASES.items()}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
