"""Every supported family answers in Rust as its library does, on models of random shapes.

`PARITY=full` compares 200 models and at least 200,000 rows a family instead of a few.
"""

import os

import lightgbm
import numpy as np
import pytest
import xgboost
from parity import Case, differences, probes, thresholds
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from ccapproval.export import export

FULL = os.environ.get("PARITY") == "full"
MODELS = 200 if FULL else 6
# The family of the model that ships, and quick.
TREES = 200 if FULL else 60
ROWS = 400 if FULL else 200
CUTS = 60

pytestmark = pytest.mark.filterwarnings("ignore")


def columns(random, rows, width):
    """Columns of many kinds: whole numbers, steps of one float32, magnitudes, few values."""
    made = []
    for _ in range(width):
        kind = random.integers(5)
        scale = 10.0 ** random.uniform(-6, 6)
        if kind == 0:
            column = random.integers(-5, 6, rows).astype(np.float64)
        elif kind == 1:
            start = np.float32(random.normal() * scale).view(np.int32)
            column = (start + random.integers(0, 40, rows)).astype(np.int32).view(np.float32)
        elif kind == 2:
            column = random.normal(size=rows) * 10.0 ** random.uniform(-40, 30, rows)
        elif kind == 3:
            column = random.choice([0.1, 0.2, 0.3, 1 / 3, 0.0, -0.0, 2.0**24 + 1], rows)
        else:
            column = random.normal(size=rows) * scale
        made.append(np.asarray(column, dtype=np.float64))
    return np.column_stack(made)


def data(seed, missing=True, categorical=False, classes=None):
    """Random rows and labels: features, categories, missing values, classes all vary."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(80, 900))
    width = int(random.integers(1, 16))
    values = columns(random, rows, width)
    categories = {}
    if categorical:
        for column in range(width):
            if random.random() < 0.5:
                categories[column] = int(random.integers(2, 40))
                values[:, column] = random.integers(categories[column], size=rows)
    if missing and seed % 3:
        values[random.random(values.shape) < (0.1, 0.4)[seed % 2]] = np.nan
    count = classes or (2, 2, 3, 2, 5, 9)[seed % 6]
    score = np.nan_to_num(values / (np.nanmax(np.abs(values), axis=0) + 1e-300)).sum(axis=1)
    score = np.sin(3 * score) + random.normal(size=rows) * 0.4
    target = np.searchsorted(np.quantile(score, np.arange(1, count) / count), score)
    target[:count] = np.arange(count)
    weights = random.exponential(size=rows) if seed % 2 else None
    return random, values, target, categories, weights


def labelled(random, target):
    """The same classes with labels of their own."""
    labels = np.sort(random.choice(np.arange(-50, 50), target.max() + 1, replace=False))
    return labels[target]


def single_tree(seed):
    random, values, target, _, weights = data(seed)
    kind = ExtraTreeClassifier if seed % 3 == 1 else DecisionTreeClassifier
    model = kind(
        max_depth=(None, 1, 3, 6, 12)[seed % 5],
        criterion=("gini", "entropy", "log_loss")[seed % 3],
        class_weight=(None, "balanced")[seed % 2],
        random_state=seed,
    )
    return Case(model.fit(values, labelled(random, target), sample_weight=weights), values)


def forest(kind):
    def make(seed):
        random, values, target, _, weights = data(seed)
        model = kind(
            n_estimators=int(random.integers(1, 25)),
            max_depth=(None, 2, 5, 9)[seed % 4],
            class_weight=(None, "balanced", "balanced_subsample")[seed % 3],
            max_features=(None, "sqrt")[seed % 2],
            random_state=seed,
        )
        return Case(model.fit(values, labelled(random, target), sample_weight=weights), values)

    return make


def gradient_boosting(seed):
    random, values, target, _, weights = data(seed, missing=False)
    loss = "exponential" if target.max() == 1 and seed % 4 == 0 else "log_loss"
    model = GradientBoostingClassifier(
        loss=loss,
        n_estimators=int(random.integers(1, 25)),
        learning_rate=float(random.choice([0.03, 0.1, 1 / 3, 1.0])),
        max_depth=int(random.integers(1, 6)),
        subsample=float(random.choice([0.5, 1.0])),
        init=(None, None, "zero")[seed % 3],
        random_state=seed,
    )
    model.fit(values, labelled(random, target), sample_weight=weights)
    return Case(model, values, missing=False)


def histogram_boosting(seed):
    random, values, target, categories, weights = data(seed, categorical=True)
    model = HistGradientBoostingClassifier(
        max_iter=int(random.integers(1, 25)),
        learning_rate=float(random.choice([0.03, 0.1, 1 / 3])),
        max_leaf_nodes=int(random.integers(2, 40)),
        min_samples_leaf=int(random.integers(1, 20)),
        categorical_features=sorted(categories) or None,
        class_weight=(None, "balanced")[seed % 2],
        early_stopping=False,
        random_state=seed,
    )
    model.fit(values, labelled(random, target), sample_weight=weights)
    return Case(model, values, single=False, infinite=True, categories=categories)


def xgboost_parameters(random, seed):
    return {
        "max_depth": int(random.integers(1, 8)),
        "learning_rate": float(random.choice([0.03, 0.1, 1 / 3, 1.0])),
        "min_child_weight": float(random.choice([0.01, 1.0])),
        "max_cat_to_onehot": int(random.integers(1, 8)),
        "num_parallel_tree": (1, 1, 3)[seed % 3],
        "grow_policy": ("depthwise", "lossguide")[seed % 2],
        "subsample": float(random.choice([0.6, 1.0])),
        "seed": seed,
        "nthread": 1,
    } | ({"base_score": float(random.choice([0.1, 0.5, 0.9]))} if seed % 5 == 0 else {})


def xgboost_classifier(seed):
    random, values, target, categories, weights = data(seed, categorical=True)
    if seed % 6 == 4:
        categories = {}
    settings = xgboost_parameters(random, seed)
    if target.max() > 1:
        settings.pop("base_score", None)
    missing = float(random.choice([-1.0, 0.0, 0.1])) if seed % 7 == 3 else np.nan
    model = xgboost.XGBClassifier(
        n_estimators=int(random.integers(1, 25)),
        enable_categorical=True,
        feature_types=["c" if each in categories else "q" for each in range(values.shape[1])],
        missing=missing,
        early_stopping_rounds=2 if seed % 4 == 1 else None,
        **settings,
    )
    model.fit(
        values, target, sample_weight=weights, eval_set=[(values[:60], target[:60])], verbose=False
    )
    return Case(model, values, categories=categories)


def xgboost_booster(seed):
    random, values, target, categories, weights = data(seed, categorical=True)
    kinds = ["c" if each in categories else "q" for each in range(values.shape[1])]
    settings = xgboost_parameters(random, seed)
    if target.max() > 1:
        settings.pop("base_score", None)
        settings |= {"objective": "multi:softprob", "num_class": int(target.max()) + 1}
    else:
        settings |= {"objective": "binary:logistic"}
    rows = xgboost.DMatrix(
        values, label=target, weight=weights, feature_types=kinds, enable_categorical=True
    )
    return Case(
        xgboost.train(settings, rows, int(random.integers(1, 25))), values, categories=categories
    )


def lightgbm_parameters(random, seed):
    settings = {
        "num_leaves": int(random.integers(2, 40)),
        "learning_rate": float(random.choice([0.03, 0.1, 1 / 3])),
        "min_data_in_leaf": int(random.integers(1, 20)),
        "min_data_per_group": 5,
        "use_missing": seed % 5 != 2,
        "zero_as_missing": seed % 4 == 1,
        "max_cat_to_onehot": int(random.integers(1, 8)),
        "verbose": -1,
        "num_threads": 1,
        "seed": seed,
    }
    if seed % 8 == 5:
        settings |= {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}
    if seed % 9 == 4:
        settings |= {"boosting": "dart"}
    return settings


def lightgbm_classifier(seed):
    random, values, target, categories, weights = data(seed, categorical=True)
    settings = lightgbm_parameters(random, seed)
    if target.max() > 1 and seed % 2:
        settings["objective"] = "multiclassova"
    model = lightgbm.LGBMClassifier(
        n_estimators=int(random.integers(1, 25)),
        class_weight=(None, "balanced")[seed % 2],
        **settings,
    )
    model.fit(
        values,
        labelled(random, target),
        sample_weight=weights,
        categorical_feature=sorted(categories),
    )
    return Case(model, values, single=False, infinite=True, categories=categories)


def lightgbm_booster(seed):
    random, values, target, categories, weights = data(seed, categorical=True)
    settings = lightgbm_parameters(random, seed) | {"objective": "binary", "sigmoid": 0.7}
    if target.max() > 1:
        settings |= {"objective": "multiclass", "num_class": int(target.max()) + 1}
    rows = lightgbm.Dataset(values, target, weight=weights, categorical_feature=sorted(categories))
    model = lightgbm.train(settings, rows, int(random.integers(1, 25)))
    return Case(model, values, single=False, infinite=True, categories=categories)


def logistic_regression(seed):
    random, values, target, _, weights = data(seed, missing=False)
    values = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-30)
    model = LogisticRegression(C=float(random.choice([0.1, 1, 100])), max_iter=300)
    model.fit(values, labelled(random, target), sample_weight=weights)
    return Case(model, values, missing=False, tolerance=1e-12)


FAMILIES = {
    "DecisionTree, ExtraTree": single_tree,
    "RandomForest": forest(RandomForestClassifier),
    "ExtraTrees": forest(ExtraTreesClassifier),
    "GradientBoosting": gradient_boosting,
    "HistGradientBoosting": histogram_boosting,
    "XGBClassifier": xgboost_classifier,
    "xgboost Booster": xgboost_booster,
    "LGBMClassifier": lightgbm_classifier,
    "lightgbm Booster": lightgbm_booster,
    "LogisticRegression": logistic_regression,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_random_models(scorer, tmp_path, family):
    compared = 0
    count = TREES if FAMILIES[family] is single_tree else MODELS
    for seed in range(count):
        case = FAMILIES[family](seed)
        random = np.random.default_rng(10_000 + seed)
        cuts = thresholds(export(case.model))
        chosen = [cuts[each] for each in random.permutation(len(cuts))[:CUTS].tolist()]
        rows = probes(case, random, ROWS, chosen)
        assert differences(scorer, tmp_path, case, rows) == 0, f"seed {seed}"
        compared += len(rows)
    print(f"{family}: {count} models, {compared} rows, 0 differences")
    assert compared >= 1_000 * count or not FULL
