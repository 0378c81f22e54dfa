"""What the model file holds for explanations, and that they are those of the `shap` package."""

import io
import itertools
import math
import os
import subprocess

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import DMatrix, XGBClassifier

from ccapproval.common import InputError
from ccapproval.export import export
from ccapproval.model_file import LEAF, MISSING_GOES_LEFT, decode
from ccapproval.program import COVER_TOLERANCE

FULL = os.environ.get("EXPLAIN") == "full"
# Trees of a model, and rows that are explained.
TREES, ROWS = (100, 1000) if FULL else (10, 60)
# Rows that a model learns from; the explained ones are among them.
COUNT = max(600, ROWS)
# Of contributions whose size is about 1; both sides add up doubles.
TOLERANCE = 1e-9
# Of what xgboost computes itself: it adds up floats of single precision.
SINGLE_TOLERANCE = 1e-5


def data(classes=2, count=COUNT):
    random = np.random.default_rng(classes)
    values = random.normal(size=(count, 5))
    score = values[:, 0] + values[:, 1] * values[:, 2] + random.normal(size=count)
    return values, np.digitize(score, np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1]))


FAMILIES = [
    DecisionTreeClassifier(max_depth=5),
    RandomForestClassifier(5, random_state=0),
    ExtraTreesClassifier(5, random_state=0),
    GradientBoostingClassifier(n_estimators=5, subsample=0.7),
    HistGradientBoostingClassifier(max_iter=5),
    XGBClassifier(n_estimators=5, min_child_weight=0),
    LGBMClassifier(n_estimators=5, verbose=-1),
]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", FAMILIES, ids=lambda each: type(each).__name__)
def test_every_tree_family_has_a_weight_a_node(estimator, classes):
    values, target = data(classes)
    model = decode(export(estimator.fit(values, target)))
    assert len(model.covers) == len(model.nodes)
    split = model.nodes["flags"] & LEAF == 0
    child = model.nodes["child"][split].astype(int)
    below = model.covers[child] + model.covers[child + 1]
    assert (model.covers > 0).all()
    assert np.allclose(below, model.covers[split], rtol=COVER_TOLERANCE, atol=0)


def mean_of_leaves(model):
    """The mean of a model's leaves by weight, all trees added up."""
    means = model.nodes["threshold"].copy()
    for index in np.flatnonzero(model.nodes["flags"] & LEAF == 0)[::-1]:
        child = int(model.nodes["child"][index])
        both = slice(child, child + 2)
        means[index] = model.covers[both] @ means[both] / model.covers[index]
    return means[model.trees["root"]].sum()


def test_weights_are_those_of_the_libraries_own_explanations():
    values, target = data()
    boosted = LGBMClassifier(n_estimators=20, verbose=-1).fit(values, target)
    bias = boosted.booster_.predict(values[:1], pred_contrib=True)[0, -1]
    assert mean_of_leaves(decode(export(boosted))) == pytest.approx(bias, abs=1e-12)
    boosted = XGBClassifier(n_estimators=20).fit(values, target)
    model = decode(export(boosted))
    found = boosted.get_booster().predict(DMatrix(values[:1]), pred_contribs=True)[0, -1]
    assert mean_of_leaves(model) + model.numbers[0] == pytest.approx(found, abs=1e-5)


def test_a_tree_that_weighs_nothing_somewhere_predicts_without_explanations():
    values, target = data()
    weights = (values[:, 0] > 0).astype(float)
    tree = DecisionTreeClassifier(random_state=0).fit(values, target, sample_weight=weights)
    tree.tree_.weighted_n_node_samples[-1] = 0.0
    assert len(decode(export(tree)).covers) == 0


def test_a_linear_model_has_the_means_of_what_it_reads():
    values, target = data()
    frame = pd.DataFrame(values * 3 + 1, columns=list("abcde"))
    plain = LogisticRegression().fit(frame, target)
    assert len(decode(export(plain)).means) == 0
    means = decode(export(plain, background=frame)).means
    assert np.allclose(means, frame.mean(), rtol=1e-12)
    scaled = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, target)
    assert np.allclose(decode(export(scaled, background=frame)).means, 0, atol=1e-12)


def test_a_text_belongs_to_a_feature():
    values, target = data()
    frame = pd.DataFrame(values, columns=list("abcde"))
    tree = DecisionTreeClassifier(max_depth=2).fit(frame, target)
    model = decode(export(tree, reasons={"b": "Größe"}))
    assert [each.reason for each in model.features] == ["", "Größe", "", "", ""]
    assert export(tree, reasons={}) == export(tree)
    with pytest.raises(InputError, match="no feature x; it has a, b"):
        export(tree, reasons={"x": "text"})
    for text in ("", "  ", 3):
        with pytest.raises(InputError, match="b needs a text"):
            export(tree, reasons={"b": text})


@pytest.fixture(scope="module")
def shap():
    """Imported where it is needed, without compiling what no test here calls."""
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    return pytest.importorskip(
        "shap", reason="Macs with Intel processors have no shap for this numpy"
    )


class Explained:
    """What `score --explain` answers.

    Attributes:
        predictions: classes (rows).
        base: base values (classes), of two classes that of the positive one alone.
        contributions: (rows, features, classes).
        reasons: names of features for each row.
    """

    def __init__(self, scorer, folder, content, frame):
        (folder / "model.bin").write_bytes(content)
        lines = frame.to_csv(index=False, float_format=lambda value: repr(float(value)))
        command = [scorer, "--model", folder / "model.bin", "--explain"]
        result = subprocess.run(command, input=lines, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        table = pd.read_csv(io.StringIO(result.stdout), keep_default_na=False)
        table = table.astype(
            {name: float for name in table if name not in ("prediction", "reasons")}
        )
        self.predictions = table["prediction"].to_numpy()
        self.base = table.filter(regex="^base").to_numpy()[0]
        found = table.filter(regex="^contribution_").to_numpy()
        self.contributions = found.reshape(len(frame), len(self.base), -1).swapaxes(1, 2)
        self.reasons = [text.split(";") if text else [] for text in table["reasons"]]

    def agree(self, contributions, base, tolerance=TOLERANCE):
        """Compares with another's; of two classes only the positive one's are compared."""
        contributions, base = np.asarray(contributions), np.atleast_1d(base)
        if contributions.ndim == 2:
            contributions = contributions[:, :, np.newaxis]
        width = len(self.base)
        np.testing.assert_allclose(
            self.contributions, contributions[:, :, -width:], rtol=0, atol=tolerance
        )
        np.testing.assert_allclose(self.base, base[-width:], rtol=0, atol=tolerance)


def table(values):
    return pd.DataFrame(values, columns=[f"x{index}" for index in range(values.shape[1])])


def with_missing(values):
    random = np.random.default_rng(7)
    return np.where(random.random(values.shape) < 0.2, np.nan, values)


SHAP_FAMILIES = [
    (DecisionTreeClassifier(max_depth=6, random_state=0), 2, False),
    (DecisionTreeClassifier(max_depth=6, random_state=0), 3, False),
    (RandomForestClassifier(TREES, max_depth=6, random_state=0), 2, False),
    (RandomForestClassifier(TREES, max_depth=6, random_state=0), 3, False),
    (ExtraTreesClassifier(TREES, max_depth=6, random_state=0), 2, False),
    (ExtraTreesClassifier(TREES, max_depth=6, random_state=0), 3, False),
    (GradientBoostingClassifier(n_estimators=TREES), 2, False),
    (HistGradientBoostingClassifier(max_iter=TREES), 2, False),
    (HistGradientBoostingClassifier(max_iter=TREES), 2, True),
    (LGBMClassifier(n_estimators=TREES, n_jobs=1, verbose=-1), 2, False),
    (LGBMClassifier(n_estimators=TREES, n_jobs=1, verbose=-1), 2, True),
    (LGBMClassifier(n_estimators=TREES, n_jobs=1, verbose=-1), 3, True),
]


@pytest.mark.filterwarnings("ignore:LightGBM binary classifier")
@pytest.mark.parametrize(
    ("estimator", "classes", "missing"), SHAP_FAMILIES, ids=lambda each: str(each).partition("(")[0]
)
def test_contributions_are_those_of_shap(shap, scorer, tmp_path, estimator, classes, missing):
    values, target = data(classes)
    values = with_missing(values) if missing else values
    estimator.fit(values, target)
    frame = table(values[:ROWS])
    found = Explained(scorer, tmp_path, export(estimator), frame)
    explainer = shap.TreeExplainer(estimator)
    found.agree(explainer.shap_values(values[:ROWS]), explainer.expected_value)
    # The reasons of a denial are what spoke most against approval.
    for row, reasons in enumerate(found.reasons):
        against = found.contributions[row, :, -1]
        if found.predictions[row] == classes - 1:
            assert reasons == []
        elif against.min() < 0:
            strongest = [f"x{index}" for index in np.argsort(against) if against[index] < 0]
            assert reasons == strongest[:4]


def arrays(model):
    """The trees of a file as `shap` takes them: arrays of the nodes' children and so on."""
    roots = model.trees["root"].astype(int).tolist()
    trees = []
    for root, end in itertools.pairwise([*roots, len(model.nodes)]):
        nodes = model.nodes[root:end]
        leaf = nodes["flags"] & LEAF != 0
        left = np.where(leaf, -1, nodes["child"].astype(int) - root)
        right = np.where(leaf, -1, left + 1)
        trees.append(
            {
                "children_left": left,
                "children_right": right,
                "children_default": np.where(nodes["flags"] & MISSING_GOES_LEFT, left, right),
                "features": np.where(leaf, -2, nodes["feature"].astype(int)),
                "thresholds": np.where(leaf, -2.0, nodes["threshold"]),
                "values": np.where(leaf, nodes["threshold"], 0.0)[:, np.newaxis],
                "node_sample_weight": model.covers[root:end],
            }
        )
    return trees


def worth(tree, row, known, node=0):
    """What a tree gives for a row of which only some features are known."""
    left, right = tree["children_left"][node], tree["children_right"][node]
    if left < 0:
        return tree["values"][node, 0]
    feature = tree["features"][node]
    if feature in known:
        goes_left = row[feature] <= tree["thresholds"][node]
        default = tree["children_default"][node]
        child = default if np.isnan(row[feature]) else left if goes_left else right
        return worth(tree, row, known, child)
    weights = tree["node_sample_weight"]
    both = [weights[child] * worth(tree, row, known, child) for child in (left, right)]
    return sum(both) / weights[node]


def shapley(trees, row):
    """Shapley values by their definition, over all sets of features."""
    features = range(len(row))
    sets = [
        set(each) for size in range(len(row) + 1) for each in itertools.combinations(features, size)
    ]
    worths = {frozenset(known): sum(worth(tree, row, known) for tree in trees) for known in sets}
    shares = [1 / (len(row) * math.comb(len(row) - 1, size)) for size in features]
    return [
        sum(
            shares[len(known)] * (worths[known | {feature}] - worths[known])
            for known in worths
            if feature not in known
        )
        for feature in features
    ]


@pytest.mark.parametrize("missing", [False, True])
def test_of_xgboost_contributions_are_those_of_the_definition(shap, scorer, tmp_path, missing):
    values, target = data()
    values = with_missing(values) if missing else values
    boosted = XGBClassifier(n_estimators=TREES, max_depth=4).fit(values, target)
    content = export(boosted)
    model = decode(content)
    found = Explained(scorer, tmp_path, content, table(values[:ROWS]))
    trees = arrays(model)
    explainer = shap.TreeExplainer({"trees": trees, "input_dtype": np.float32})
    # For its base value the two weights below a node are the whole, for its contributions the
    # node's own is, from which xgboost's rounding parts them: here the definition decides.
    base = model.numbers[0] + sum(worth(tree, values[0], set()) for tree in trees)
    found.agree(explainer.shap_values(values[:ROWS]), base)
    few = values[:5].astype(np.float32).astype(np.float64)
    expected = np.array([shapley(trees, row) for row in few])
    assert np.abs(found.contributions[:5, :, 0] - expected).max() < TOLERANCE
    raw = [model.numbers[0] + sum(worth(tree, row, set(range(5))) for tree in trees) for row in few]
    sums = found.base[0] + found.contributions[:5, :, 0].sum(axis=1)
    np.testing.assert_allclose(sums, raw, rtol=0, atol=TOLERANCE)
    # For xgboost's own models `shap` asks xgboost.
    explainer = shap.TreeExplainer(boosted)
    expected = explainer.shap_values(values[:ROWS])
    found.agree(expected, explainer.expected_value, SINGLE_TOLERANCE)


def test_contributions_to_derived_columns_count_for_the_feature_they_are_derived_from(
    shap, scorer, tmp_path
):
    values, target = data()
    frame = table(with_missing(values))
    frame["town"] = np.random.default_rng(3).choice(["Bonn", "Köln", "Ulm"], len(frame))
    target = np.where(frame["town"] == "Ulm", 1 - target, target)
    numbers = [name for name in frame if name != "town"]
    prepare = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["town"]),
        (SimpleImputer(), numbers),
    )
    forest = RandomForestClassifier(TREES, max_depth=6, random_state=0)
    model = make_pipeline(prepare, forest).fit(frame, target)
    found = Explained(scorer, tmp_path, export(model), frame[:ROWS])
    explainer = shap.TreeExplainer(forest)
    derived = explainer.shap_values(prepare.transform(frame[:ROWS]))[:, :, 1]
    places = [len(numbers)] * 3 + list(range(len(numbers)))
    expected = np.zeros((ROWS, frame.shape[1]))
    for place, column in zip(places, derived.T, strict=True):
        expected[:, place] += column
    assert np.abs(expected[:, -1]).max() > 0.05
    found.agree(expected, explainer.expected_value)


def test_contributions_of_a_linear_model_are_those_of_shap(shap, scorer, tmp_path):
    values, target = data()
    frame = table(values * 3 + 1)
    model = LogisticRegression().fit(frame, target)
    found = Explained(scorer, tmp_path, export(model, background=frame), frame[:ROWS])
    masker = shap.maskers.Independent(frame, max_samples=len(frame))
    explainer = shap.LinearExplainer(model, masker)
    found.agree(explainer.shap_values(frame[:ROWS]), explainer.expected_value)
    sums = found.contributions[:, :, 0].sum(axis=1) + found.base[0]
    np.testing.assert_allclose(sums, model.decision_function(frame[:ROWS]), rtol=0, atol=TOLERANCE)
