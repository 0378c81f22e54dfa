"""What the model file holds for explanations: weights of nodes, means, and texts."""

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import DMatrix, XGBClassifier

from ccapproval.common import InputError
from ccapproval.export import export
from ccapproval.model_file import LEAF, decode
from ccapproval.program import COVER_TOLERANCE


def data(classes=2, count=600):
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
