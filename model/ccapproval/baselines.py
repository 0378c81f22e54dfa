"""Models that the one that ships is held against; none of them ships."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from ccapproval.examination import Examination

AWARE = "the same kind of model, trained on the same rows with the sensitive attributes as features"


def numbers(column: pd.Series) -> pd.Series:
    """A sensitive attribute as a feature: numbers as they are, other values by their place."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    return pd.Series(pd.factorize(column, sort=True)[0], index=column.index, name=column.name)


def aware(
    estimator: Any,
    training: Mapping[str, Any],
    train: pd.DataFrame,
    test: pd.DataFrame,
    examination: Examination,
) -> dict[str, Any]:
    """The examination of a model that sees what the one that ships must not see.

    It is what repeating the history would look like, and the figure that is easily taken for
    the shipped model's own.

    Args:
        estimator: the fitted estimator that ships; it is not changed.
        training: the training record.
        train: the training rows.
        test: the test rows, of the same columns.
        examination: with the settings.

    Returns:
        `description`, `features`, `reason`, and the examination; where there is no such model,
        `reason` says why, and the examination is left out.
    """
    unseen = [name for name in training["sensitive"] if name not in training["features"]]
    features = [*training["features"], *unseen]
    about = {"description": AWARE, "features": features, "reason": None}
    if not unseen:
        return about | {"reason": "the model that ships sees every sensitive attribute itself"}
    absent = [name for name in unseen if name not in train.columns]
    if absent:
        return about | {
            "reason": f"the training rows lack {', '.join(absent)}: define sensitive_train in a "
            "cell tagged `train`"
        }
    table = pd.concat([train, test], ignore_index=True)
    table = table.assign(**{name: numbers(table[name]) for name in unseen})[features]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = clone(estimator).fit(table[: len(train)], train[training["target"]])
            rows = table[len(train) :]
            predicted = fitted.predict(rows) == training["positive_class"]
            place = list(fitted.classes_).index(training["positive_class"])
            chances = fitted.predict_proba(rows)[:, place].astype(np.float64)
    except Exception as error:
        # Whatever the library refuses: the baseline is beside the point, the model is measured.
        return about | {"reason": f"it cannot be trained: {type(error).__name__}: {error}"}
    actual = (test[training["target"]] == training["positive_class"]).to_numpy()
    return about | examination.of(actual, predicted, chances, test[training["sensitive"]])
