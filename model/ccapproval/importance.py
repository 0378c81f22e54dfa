"""What a model owes to each feature, and how its answer follows it, for any kind of model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.inspection import permutation_importance

MOST_ROWS = 20_000
REPEATS = 5
# Of the dependence: rows that are averaged over, and values that a feature is set to.
AVERAGED_ROWS = 500
GRID = 40


def importances(
    estimator: Any, rows: pd.DataFrame, labels: pd.Series, seed: int
) -> dict[str, float]:
    """Accuracy lost when one feature's values are shuffled among the rows (Breiman 2001).

    Args:
        estimator: fitted.
        rows: the features, in training order, shape (rows, features); of more than 20,000 rows
            as many are drawn.
        labels: the class labels, shape (rows,).
        seed: of the drawing and the shuffling.

    Returns:
        The mean loss over five shufflings, a fraction, by feature; a shuffling can happen to
        help, so it may be slightly negative.
    """
    if len(rows) > MOST_ROWS:
        rows = rows.sample(MOST_ROWS, random_state=seed)
        labels = labels.loc[rows.index]
    found = permutation_importance(
        estimator, rows, labels, scoring="accuracy", n_repeats=REPEATS, random_state=seed
    )
    return dict(zip(rows.columns, found.importances_mean.tolist(), strict=True))


def dependence(
    estimator: Any, rows: pd.DataFrame, column: int, seed: int
) -> dict[str, dict[str, list[float]]]:
    """Mean probability while one feature is set to a value in all rows (Friedman 2001).

    Args:
        estimator: fitted.
        rows: the features, in training order, shape (rows, features); 500 of them are drawn.
        column: of the positive class among the probabilities.
        seed: of the drawing.

    Returns:
        By feature `value`, quantiles of its numbers, ascending, and `probability`. Features
        that are no numbers, and those without two different values, are left out.
    """
    sample = rows.sample(min(AVERAGED_ROWS, len(rows)), random_state=seed)
    found = {}
    for name in rows.columns:
        if rows[name].dtype.kind not in "biuf":
            continue
        quantiles = rows[name].quantile(np.linspace(0, 1, GRID), interpolation="nearest")
        grid = np.unique(quantiles.dropna())
        if len(grid) < 2:
            continue
        means = []
        for value in grid:
            changed = sample.assign(**{name: np.full(len(sample), value, dtype=rows[name].dtype)})
            means.append(float(estimator.predict_proba(changed)[:, column].mean()))
        found[str(name)] = {"value": grid.astype(float).tolist(), "probability": means}
    return found
