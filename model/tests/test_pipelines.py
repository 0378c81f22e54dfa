"""Pipelines, calibrated classifiers and thresholds answer in Rust as in scikit-learn."""

import os
import warnings

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from parity import Case, differences, frame_differences, scored_lines
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

from ccapproval.common import InputError
from ccapproval.export import export
from ccapproval.model_file import decode

FULL = os.environ.get("PARITY") == "full"
MODELS = 200 if FULL else 8
ROWS = 1_000 if FULL else 300
TOWNS = ["Aachen", "Bonn", "Köln", "Bad Ems", "x,y", 'say "no"']

pytestmark = pytest.mark.filterwarnings("ignore")


def people(random, rows, strange=False):
    """A table of numbers, whole numbers, texts and numbers that are categories, with gaps."""
    towns = [*TOWNS, "Ulm", "bonn"] if strange else TOWNS
    rooms = [1.0, 2.0, 3.0, 7.0, 2.5, 99.0] if strange else [1.0, 2.0, 3.0, 7.0]
    weights = [0.4, 0.3, 0.15, 0.1, 0.04, 0.01]
    table = pd.DataFrame(
        {
            "income": random.normal(5e4, 2e4, rows),
            "age": random.integers(18, 90, rows).astype(np.float64),
            "town": random.choice(towns, rows, p=None if strange else weights),
            "debt": random.exponential(1e3, rows),
            "rooms": random.choice(rooms, rows),
        }
    )
    for name in ("income", "age", "debt"):
        table.loc[random.random(rows) < 0.1, name] = np.nan
    table["town"] = table["town"].astype(object).where(random.random(rows) > 0.05, np.nan)
    return table


def target_of(random, table, classes):
    """Labels that follow from the table."""
    score = table["income"].fillna(4e4) / 2e4 + table["rooms"] + (table["town"] == "Bonn") * 2
    score += random.normal(size=len(table))
    return np.searchsorted(np.quantile(score, np.arange(1, classes) / classes), score)


def classifier_of(seed, random):
    """A classifier that takes no missing values for granted, and its tolerance."""
    few = {"n_estimators": int(random.integers(2, 12)), "random_state": seed}
    kinds = [
        (RandomForestClassifier(max_depth=5, **few), 0.0),
        (GradientBoostingClassifier(max_depth=3, **few), 0.0),
        (HistGradientBoostingClassifier(max_iter=8, random_state=seed), 0.0),
        (lightgbm.LGBMClassifier(verbose=-1, num_threads=1, **few), 0.0),
        (xgboost.XGBClassifier(nthread=1, **few), 0.0),
        (LogisticRegression(max_iter=500), 1e-12),
        (DecisionTreeClassifier(random_state=seed), 0.0),
    ]
    return kinds[seed % len(kinds)]


def preprocessing_of(seed, random, dense):
    """A column transformer in one of many shapes."""
    scaler = (
        StandardScaler(),
        MinMaxScaler(clip=seed % 2 == 0, feature_range=(-1, 2)),
        StandardScaler(with_mean=False),
        StandardScaler(with_std=False),
        "passthrough",
    )[seed % 5]
    strategy = ("median", "mean", "most_frequent", "constant")[seed % 4]
    numbers = make_pipeline(
        SimpleImputer(strategy=strategy, fill_value=-1.5 if strategy == "constant" else None),
        scaler,
    )
    hot = OneHotEncoder(
        handle_unknown=("ignore", "infrequent_if_exist")[seed % 2],
        min_frequency=0.08 if seed % 4 == 1 else None,
        drop=(None, "if_binary", "first")[seed % 3],
        sparse_output=not dense,
    )
    filled = SimpleImputer(
        strategy=("most_frequent", "constant")[seed % 2], fill_value=("none" if seed % 2 else None)
    )
    coded = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=-3,
        encoded_missing_value=-2,
        max_categories=3 if seed % 5 == 0 else None,
    )
    texts = (hot, make_pipeline(filled, hot), coded)[random.integers(3)]
    return ColumnTransformer(
        [
            ("texts", texts, ["town"]),
            ("numbers", numbers, ["income", "debt", "age"]),
            ("rooms", OneHotEncoder(handle_unknown="ignore", sparse_output=not dense), ["rooms"]),
        ],
        remainder=("drop", "passthrough")[seed % 2],
    )


def test_random_pipelines_on_data_frames(scorer, tmp_path):
    compared = 0
    for seed in range(MODELS):
        random = np.random.default_rng(seed)
        table = people(random, int(random.integers(300, 900)))
        target = target_of(random, table, (2, 3)[seed % 2])
        last, tolerance = classifier_of(seed, random)
        dense = isinstance(last, HistGradientBoostingClassifier) or seed % 3 == 0
        model = make_pipeline(preprocessing_of(seed, random, dense), last).fit(table, target)
        rows = pd.concat([table[:ROWS], people(random, ROWS, strange=True)])
        assert frame_differences(scorer, tmp_path, model, rows, tolerance) == 0, f"seed {seed}"
        compared += len(rows)
    print(f"pipelines: {MODELS} models, {compared} rows, 0 differences")


def test_sparse_matrices(scorer, tmp_path):
    random = np.random.default_rng(6)
    table = people(random, 600)
    target = target_of(random, table, 2)
    rows = people(random, 600, strange=True)
    for seed in range(7):
        last, tolerance = classifier_of(seed, random)
        if isinstance(last, HistGradientBoostingClassifier):
            continue
        encode = ColumnTransformer(
            [
                ("hot", OneHotEncoder(handle_unknown="ignore"), ["town", "rooms"]),
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
            ],
            sparse_threshold=1.0,
        )
        model = make_pipeline(encode, last).fit(table, target)
        assert encode.sparse_output_
        assert frame_differences(scorer, tmp_path, model, rows, tolerance) == 0, last


def numbers_of(random, rows=400, width=5, classes=2):
    values = random.normal(size=(rows, width)) * 10.0 ** random.uniform(-3, 3, width)
    values[:, 0] = random.integers(0, 5, rows)
    score = np.tanh(values).sum(axis=1) + random.normal(size=rows)
    return values, np.searchsorted(np.quantile(score, np.arange(1, classes) / classes), score)


def test_random_pipelines_on_arrays(scorer, tmp_path):
    compared = 0
    for seed in range(MODELS):
        random = np.random.default_rng(50 + seed)
        values, target = numbers_of(random, classes=2 + seed % 2)
        marker = (np.nan, -1.0)[seed % 2]
        values[random.random(values.shape) < 0.1] = marker
        last, tolerance = classifier_of(seed, random)
        steps = [SimpleImputer(missing_values=marker), (StandardScaler(), MinMaxScaler())[seed % 2]]
        model = make_pipeline(*steps, last).fit(values, target)
        rows = np.vstack([values, random.normal(size=(ROWS, 5)) * 1e3, values * 1e-39])
        case = Case(model, values, tolerance=tolerance)
        assert differences(scorer, tmp_path, case, rows) == 0, f"seed {seed}"
        compared += len(rows)
    print(f"pipelines of numbers: {MODELS} models, {compared} rows, 0 differences")


def inner_of(seed):
    few = {"n_estimators": 6, "random_state": seed}
    kinds = [
        (RandomForestClassifier(max_depth=4, **few), 0.0),
        (GradientBoostingClassifier(max_depth=2, **few), 0.0),
        (HistGradientBoostingClassifier(max_iter=6, random_state=seed), 0.0),
        (lightgbm.LGBMClassifier(verbose=-1, num_threads=1, **few), 0.0),
        (make_pipeline(StandardScaler(), LogisticRegression()), 1e-12),
        (make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=4)), 0.0),
    ]
    return kinds[seed % len(kinds)]


def test_calibrated_classifiers(scorer, tmp_path):
    compared = 0
    for seed in range(MODELS):
        random = np.random.default_rng(90 + seed)
        values, target = numbers_of(random, classes=(2, 2, 3, 9)[seed % 4], rows=600)
        inner, tolerance = inner_of(seed)
        model = CalibratedClassifierCV(
            inner, method=("isotonic", "sigmoid")[seed % 2], cv=3, ensemble=seed % 3 != 0
        )
        model.fit(values, target)
        rows = np.vstack([values, random.normal(size=(ROWS, 5)) * 1e3])
        # Isotonic steps turn a last digit into more.
        case = Case(model, values, tolerance=tolerance and 1e-9)
        assert differences(scorer, tmp_path, case, rows) == 0, f"seed {seed}"
        compared += len(rows)
    print(f"calibrated: {MODELS} models, {compared} rows, 0 differences")


@pytest.mark.parametrize("label", [None, 4, 7])
def test_thresholds(scorer, tmp_path, label):
    for seed in range(4):
        random = np.random.default_rng(seed)
        values, target = numbers_of(random)
        target = np.where(target, 7, 4)
        fitted = RandomForestClassifier(n_estimators=10, random_state=seed).fit(values, target)
        for threshold in ("auto", 0.3, 0.5, 1 / 3):
            model = FixedThresholdClassifier(
                FrozenEstimator(fitted), threshold=threshold, pos_label=label
            ).fit(values, target)
            assert differences(scorer, tmp_path, Case(model, values), values) == 0
    boosted = GradientBoostingClassifier(n_estimators=9)
    model = FixedThresholdClassifier(
        boosted, threshold=-0.4, response_method="decision_function"
    ).fit(values, target)
    assert differences(scorer, tmp_path, Case(model, values), values) == 0


def test_thresholds_in_single_precision_and_tuned_ones(scorer, tmp_path):
    random = np.random.default_rng(8)
    values, target = numbers_of(random)
    boosted = xgboost.XGBClassifier(n_estimators=8, nthread=1).fit(values, target)
    chances = boosted.predict_proba(values)[:, 1]
    for chance in chances[:10].tolist():
        model = FixedThresholdClassifier(FrozenEstimator(boosted), threshold=chance)
        model.fit(values, target)
        assert differences(scorer, tmp_path, Case(model, values), values) == 0
        # In single precision this is the same number, and rows that have it are above.
        model = FixedThresholdClassifier(
            FrozenEstimator(boosted), threshold=np.nextafter(chance, 1).item()
        )
        model.fit(values, target)
        assert differences(scorer, tmp_path, Case(model, values), values) == 0
    for inner in (boosted, HistGradientBoostingClassifier(max_iter=8)):
        model = TunedThresholdClassifierCV(inner, scoring="balanced_accuracy", cv=3)
        model.fit(values, target)
        assert differences(scorer, tmp_path, Case(model, values), values) == 0


@pytest.mark.parametrize("kind", ["lightgbm", "scikit-learn", "xgboost"])
def test_categories_of_data_frames(scorer, tmp_path, kind):
    for seed in range(4):
        random = np.random.default_rng(seed)
        ascii_only = {"Köln": "Koeln"} if kind == "xgboost" else {}
        table = people(random, 600).replace({"town": ascii_only})
        target = target_of(random, table, 2 + seed % 2)
        # XGBoost takes no categories that are floats.
        rooms = pd.CategoricalDtype([1, 2, 3, 7] if kind == "xgboost" else [1.0, 2.0, 3.0, 7.0])
        towns = pd.CategoricalDtype([ascii_only.get(each, each) for each in TOWNS[::-1]])
        typed = table.astype({"town": towns, "rooms": rooms})
        model = {
            "lightgbm": lightgbm.LGBMClassifier(n_estimators=8, verbose=-1, min_child_samples=5),
            "scikit-learn": HistGradientBoostingClassifier(max_iter=8),
            "xgboost": xgboost.XGBClassifier(
                n_estimators=8, enable_categorical=True, max_cat_to_onehot=2
            ),
        }[kind].fit(typed, target)
        rows = people(random, 600, strange=kind != "xgboost").replace({"town": ascii_only})
        if kind == "scikit-learn":
            given = rows.astype({"town": "category", "rooms": "category"})
        else:
            given = rows.astype({"town": towns, "rooms": rooms})
        assert frame_differences(scorer, tmp_path, model, rows, given=given) == 0
        texts = {each.name: each.type for each in decode(export(model)).features}
        assert (texts["town"], texts["rooms"]) == ("text", "number")


def test_what_the_library_refuses_is_refused(scorer, tmp_path):
    random = np.random.default_rng(0)
    table = people(random, 300).dropna()
    target = target_of(random, table, 2)
    encode = ColumnTransformer([("town", OneHotEncoder(), ["town"])], remainder="passthrough")
    model = make_pipeline(encode, GradientBoostingClassifier(n_estimators=3)).fit(table, target)
    for name, value, reason in [
        ("town", "Ulm", "town is none of the values"),
        ("town", np.nan, "town is none of the values|town is missing"),
        ("income", np.nan, "no answer|is missing"),
        ("income", 1e39, "no answer|too large"),
        ("income", -np.inf, "no answer|too large"),
    ]:
        row = table[:1].copy()
        row[name] = value
        with pytest.raises((TypeError, ValueError), match=r"unknown categories|nan|NaN|infinity"):
            model.predict(row)
        with pytest.raises(AssertionError, match=reason):
            scored_lines(scorer, tmp_path, export(model), row.to_csv(index=False))


def fitted_of(step, *, frame=False):
    random = np.random.default_rng(1)
    values, target = numbers_of(random)
    table = pd.DataFrame(values, columns=list("abcde")) if frame else values
    return make_pipeline(step, DecisionTreeClassifier(max_depth=2)).fit(table, target)


def test_categories_that_xgboost_does_not_keep_are_refused():
    table = pd.DataFrame({"town": pd.Categorical(["Köln", "Bonn"] * 20)})
    model = xgboost.XGBClassifier(n_estimators=2, enable_categorical=True)
    with pytest.raises(InputError, match="letters beyond ASCII"):
        export(model.fit(table, [0, 1] * 20))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: fitted_of(MaxAbsScaler()), "MaxAbsScaler cannot be exported; supported are Col"),
        (lambda: fitted_of(FunctionTransformer(np.abs)), "FunctionTransformer with the function"),
        (lambda: fitted_of(SimpleImputer(add_indicator=True)), "SimpleImputer with add_indicator"),
        (lambda: calibrated_by("temperature", RandomForestClassifier(5)), "temperature"),
        (lambda: calibrated_by("sigmoid", GaussianNB()), "GaussianNB cannot be exported"),
        (lambda: calibrated_by("sigmoid", xgboost.XGBClassifier(n_estimators=2)), "XGBoost"),
        (lambda: started_by(LogisticRegression()), "init LogisticRegression"),
        (lambda: xgboost_with(objective="multi:softmax"), "multi:softmax cannot be exported"),
        (lambda: xgboost_with(booster="dart"), "booster dart cannot be exported"),
        (lambda: xgboost_with(booster="gblinear"), "booster gblinear cannot be exported"),
        (lambda: lightgbm_with(linear_tree=True), "linear trees cannot be exported"),
        (lambda: lightgbm_with(objective="cross_entropy"), "objective cross_entropy cannot be"),
    ],
)
def test_what_is_not_supported_is_named(model, named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = model()
    with pytest.raises(InputError, match=named):
        export(fitted)


def calibrated_by(method, inner):
    return CalibratedClassifierCV(inner, method=method, cv=2).fit(
        *numbers_of(np.random.default_rng(2))
    )


def started_by(init):
    model = GradientBoostingClassifier(n_estimators=2, init=init)
    return model.fit(*numbers_of(np.random.default_rng(3)))


def xgboost_with(**settings):
    values, target = numbers_of(
        np.random.default_rng(4), classes=3 if "objective" in settings else 2
    )
    data = xgboost.DMatrix(values, label=target)
    settings = {"objective": "binary:logistic", "nthread": 1} | settings
    if settings["objective"].startswith("multi"):
        settings["num_class"] = 3
    return xgboost.train(settings, data, 2)


def lightgbm_with(**settings):
    values, target = numbers_of(np.random.default_rng(5))
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1} | settings
    return lightgbm.train(settings, lightgbm.Dataset(values, target), 2)
