"""Checks of a model beside simple ones, of its weak slices, and of the data it was made from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ccapproval.curves import Scores, auc
from ccapproval.examination import FAIL, INSUFFICIENT, PASS
from ccapproval.intervals import percentile
from ccapproval.model_file import Feature, Model
from ccapproval.settings import Behaviour, Check

EXAMPLES = 3
SLICES = 10
DRAWS = 2000


def status(passes: bool) -> str:
    """The word of an answer."""
    return PASS if passes else FAIL


def numeric(table: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    """Features as numbers: words by their place, missing values by the mean of their column."""
    columns = {}
    for name in features:
        column = table[name]
        if column.dtype.kind not in "iufb":
            column = pd.Series(pd.factorize(column, sort=True)[0], index=column.index)
        columns[name] = column.astype(np.float64).fillna(column.mean())
    return pd.DataFrame(columns)


def area(actual: np.ndarray, chances: np.ndarray) -> float | None:
    """AUC, or None without positives or negatives."""
    scores = Scores.of(actual, chances)
    return float(auc(scores.counts)) if scores.counts.sum(axis=1).all() else None


def simple_models(
    train: pd.DataFrame,
    test: pd.DataFrame,
    training: Mapping[str, Any],
    judged: tuple[np.ndarray, np.ndarray, np.ndarray],
    settings: Behaviour,
) -> list[Check]:
    """Models that anybody could have made in a minute are beaten by a margin of accuracy.

    Args:
        train: the training rows.
        test: the test rows.
        training: the training record.
        judged: actual and predicted (bool) and the probability of each test row.
        settings: with the margins.
    """
    actual, predicted, chances = judged
    both = numeric(pd.concat([train, test], ignore_index=True), training["features"])
    rows, rest = both[: len(train)], both[len(train) :]
    labels = (train[training["target"]] == training["positive_class"]).to_numpy()
    ours, ours_area = float((actual == predicted).mean()), area(actual, chances)
    checks = []
    for name, margin in settings.margins.items():
        answers = np.full(len(test), labels.mean())
        if name != "majority" and len(np.unique(labels)) == 2:
            made = {
                "stump": DecisionTreeClassifier(max_depth=1, random_state=0),
                # Of few features and many rows: the solver that needs the fewest passes.
                "logistic regression": make_pipeline(
                    StandardScaler(), LogisticRegression(solver="newton-cholesky")
                ),
            }[name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = made.fit(rows, labels).predict_proba(rest)[:, 1]
        theirs = float(((answers >= 0.5) == actual).mean())
        passes = ours >= theirs + margin
        checks.append(
            Check(
                "baseline",
                f"better than {name}",
                status(passes),
                len(test),
                int(not passes),
                f"accuracy {ours:.4f}, of the simple model {theirs:.4f}; the margin is {margin:g}",
                measured={
                    "accuracy": ours, "baseline_accuracy": theirs, "margin": margin,
                    "auc": ours_area, "baseline_auc": area(actual, answers),
                },
            )
        )  # fmt: skip
    return checks


def ranges(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The slice of each row: its value where there are few, else a range.

    Returns:
        Places in the list of labels, shape (rows,), and the labels.
    """
    if column.dtype.kind in "iuf" and column.nunique() > SLICES:
        column = pd.qcut(column, SLICES, duplicates="drop")
    codes, values = pd.factorize(column)
    # Rows without a value have the code -1, the last place.
    return codes % (len(values) + 1), [*map(str, values), "missing"]


def slices(
    test: pd.DataFrame, training: Mapping[str, Any], right: np.ndarray, settings: Behaviour
) -> list[Check]:
    """No range or value of a feature has an accuracy that is surely below the limit.

    A slice of fewer than `settings.slice_rows` rows is left out; one is weak if its whole 95 %
    interval lies below the limit.
    """
    names = dict.fromkeys([*training["features"], *training["sensitive"]])
    random = np.random.default_rng(settings.seed)
    found, small = [], 0
    for name in names:
        places, labels = ranges(test[name])
        sizes = np.bincount(places, minlength=len(labels)).tolist()
        rights = np.bincount(places[right], minlength=len(labels)).tolist()
        for label, n, hits in sorted(zip(labels, sizes, rights, strict=True)):
            if not n:
                continue
            if n < settings.slice_rows:
                small += 1
                continue
            drawn = random.beta(hits + 1, n - hits + 1, DRAWS)
            low, high = percentile(drawn, hits / n)
            found.append(
                {"feature": name, "slice": label, "n": n, "accuracy": hits / n,
                 "interval": [low, high]}
            )  # fmt: skip
    weak = [each for each in found if each["interval"][1] < settings.slice_accuracy]
    worst = sorted(found, key=lambda each: each["accuracy"])[:EXAMPLES]
    reason = (
        f"{len(weak)} of {len(found)} slices have an accuracy below {settings.slice_accuracy:g}; "
        f"{small} with fewer than {settings.slice_rows} rows were left out"
    )
    result = status(not weak) if found else INSUFFICIENT
    return [Check("slices", "weak slices", result, len(found), len(weak), reason, worst)]


def data(
    train: pd.DataFrame,
    test: pd.DataFrame,
    training: Mapping[str, Any],
    model: Model,
    settings: Behaviour,
) -> list[Check]:
    """Schema and ranges, class balance, duplicates, overlap of training and test, leakage."""
    return [
        schema(train, test, model),
        balance(train, test, training, settings),
        duplicates(train, settings),
        overlap(train, test, settings),
        leakage(test, training, settings),
    ]


def kept(feature: Feature) -> Callable[[pd.Series], pd.Series]:
    """Says of each value whether it has the type of a feature and lies in its range."""

    def holds(column: pd.Series) -> pd.Series:
        values = pd.to_numeric(column, errors="coerce")
        inside = values.between(feature.minimum, feature.maximum)
        if feature.type in ("integer", "flag"):
            inside &= values == np.floor(values)
        return inside

    return holds


def feature_schema(model: Model) -> pa.DataFrameSchema:
    """What rows of features must be; a missing value is nobody's fault here."""

    def column(feature: Feature) -> pa.Column:
        # One check for a column, so that each wrong value counts once.
        check = pa.Check(kept(feature), name="type and range", n_failure_cases=EXAMPLES)
        return pa.Column(checks=[] if feature.type == "text" else [check], nullable=True)

    return pa.DataFrameSchema({feature.name: column(feature) for feature in model.features})


def in_json(value: Any) -> Any:
    """A value as a record can hold it: JSON has no infinite numbers."""
    return str(value) if value in (np.inf, -np.inf) else value


def wrong_values(rows: pd.DataFrame, schema: pa.DataFrameSchema) -> tuple[int, list[Any]]:
    """How many values a schema of `feature_schema` refuses, and the first of each feature."""
    # Variables of the environment can switch pandera off; a check that was not made is no pass.
    with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
        try:
            schema.validate(rows, lazy=True)
        except SchemaErrors as errors:
            found = errors.schema_errors
            count = sum(int((~error.check_output).sum()) for error in found)
            examples = [
                {"feature": error.schema.name, "value": in_json(value)}
                for error in found
                for value in error.failure_cases["failure_case"].tolist()
            ]
            return count, examples
    return 0, []


def schema(train: pd.DataFrame, test: pd.DataFrame, model: Model) -> Check:
    """Every value of a feature has the type and lies in the range that requests must keep."""
    made = feature_schema(model)
    (outside, examples), (more, others) = (wrong_values(rows, made) for rows in (train, test))
    outside, n = outside + more, (len(train) + len(test)) * len(model.features)
    reason = f"{outside:,} of {n:,} values are not of the type or in the range of schema.json"
    shown = [*examples, *others][:EXAMPLES]
    return Check("data", "schema", status(not outside), n, outside, reason, shown)


def balance(
    train: pd.DataFrame, test: pd.DataFrame, training: Mapping[str, Any], settings: Behaviour
) -> Check:
    """The rarer class is not too rare, in training and in the test."""
    shares = []
    for rows in (train, test):
        share = float((rows[training["target"]] == training["positive_class"]).mean())
        shares.append(min(share, 1 - share))
    least = settings.minimum_class_share
    rare = sum(share < least for share in shares)
    reason = (
        f"share of the rarer class in training {shares[0]:.4f}, in the test {shares[1]:.4f}; "
        f"at least {least:g}"
    )
    measured = {"train": shares[0], "test": shares[1], "limit": least}
    n = len(train) + len(test)
    return Check("data", "class balance", status(not rare), n, rare, reason, measured=measured)


def duplicates(train: pd.DataFrame, settings: Behaviour) -> Check:
    """Not too many training rows repeat an earlier one."""
    repeated = int(train.duplicated().sum())
    return shared("duplicates", repeated, len(train), settings.maximum_duplicates, "training rows "
                  "repeat an earlier one")  # fmt: skip


def overlap(train: pd.DataFrame, test: pd.DataFrame, settings: Behaviour) -> Check:
    """Not too many test rows are also training rows, value by value."""
    columns = [name for name in test.columns if name in train.columns]
    both = pd.concat([train[columns], test[columns]], ignore_index=True)
    codes = both.groupby(columns, dropna=False, sort=False).ngroup().to_numpy()
    seen = int(np.isin(codes[len(train) :], codes[: len(train)]).sum())
    return shared("overlap of training and test", seen, len(test), settings.maximum_overlap,
                  "test rows are among the training rows")  # fmt: skip


def shared(name: str, count: int, n: int, limit: float, words: str) -> Check:
    """A check of a share of rows; rows up to the limit are no violations, only measured."""
    share = count / n
    passes = share <= limit
    return Check(
        "data",
        name,
        status(passes),
        n,
        0 if passes else count,
        f"{count:,} of {n:,} {words} ({100 * share:.1f} %); at most {100 * limit:g} %",
        measured={"rows": count, "share": share, "limit": limit},
    )


def leakage(test: pd.DataFrame, training: Mapping[str, Any], settings: Behaviour) -> Check:
    """No feature alone tells the target: that would be the answer, not a reason for it."""
    actual = (test[training["target"]] == training["positive_class"]).to_numpy()
    areas = {}
    for name, column in numeric(test, training["features"]).items():
        found = area(actual, column.to_numpy())
        if found is not None:
            areas[str(name)] = max(found, 1 - found)
    limit = settings.maximum_feature_auc
    telling = {name: value for name, value in areas.items() if value > limit}
    result = status(not telling) if areas else INSUFFICIENT
    reason = f"{len(telling)} of {len(areas)} features have an AUC of their own above {limit:g}"
    examples = [
        {"feature": name, "auc": value}
        for name, value in sorted(areas.items(), key=lambda item: -item[1])[:EXAMPLES]
    ]
    return Check("leakage", "target leakage", result, len(areas), len(telling), reason, examples)
