"""The checks of data and of simple models, figure by figure."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ccapproval import datachecks
from ccapproval.examination import FAIL, INSUFFICIENT, PASS
from ccapproval.settings import Behaviour

TRAINING = {
    "features": ["a", "b"], "sensitive": [], "target": "t", "positive_class": 1,
}  # fmt: skip


def table(positives, rows=10, **columns):
    """Rows of which the first so many are positive."""
    given = {"a": np.arange(rows) * 1.0, "b": np.zeros(rows)} | columns
    return pd.DataFrame({**given, "t": (np.arange(rows) < positives).astype(int)})


def test_words_and_missing_values_become_numbers():
    words = pd.DataFrame(
        {"w": ["b", "a", None, "b"], "x": [1, None, 3, 2], "y": [True, False, True, True]},
        index=[5, 6, 7, 8],
    )
    found = datachecks.numeric(words, ["w", "x", "y"])
    assert found.index.tolist() == [5, 6, 7, 8]
    assert found["w"].tolist() == [1, 0, -1, 1]
    assert found["x"].tolist() == [1, 2, 3, 2]
    assert found["y"].tolist() == [1, 0, 1, 1]


def test_an_area_needs_both_classes():
    chances = np.array([0.1, 0.4, 0.3])
    assert datachecks.area(np.array([False, True, True]), chances) == 1.0
    assert datachecks.area(np.array([True, True, True]), chances) is None
    assert datachecks.area(np.array([False, False, False]), chances) is None


def compared(train, test, predicted, **settings):
    actual = (test["t"] == 1).to_numpy()
    judged = (actual, predicted, predicted.astype(float))
    return datachecks.simple_models(train, test, TRAINING, judged, Behaviour(**settings))


@pytest.mark.parametrize(("positives", "theirs"), [(7, 0.3), (5, 0.3), (4, 0.7)])
def test_the_majority_is_that_of_the_training(positives, theirs):
    test = table(3)
    (check,) = compared(table(positives), test, np.ones(10, bool), margins={"majority": 0})
    assert check.measured == {
        "accuracy": 0.3, "baseline_accuracy": theirs, "margin": 0,
        "auc": 0.5, "baseline_auc": 0.5,
    }  # fmt: skip
    assert (check.status, check.violations) == ((FAIL, 1) if theirs > 0.3 else (PASS, 0))
    assert (check.name, check.n) == ("better than majority", 10)


def test_simple_models_are_those_of_the_library():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 600))
    rows = pd.DataFrame({"a": a, "b": 100 * b, "t": (a + b + random.normal(size=600) > 0) * 1})
    train, test = rows[:400], rows[400:].reset_index(drop=True)
    features, wanted = ["a", "b"], test["t"].to_numpy()
    checks = compared(train, test, np.zeros(200, bool))
    for check, model in zip(
        checks[1:],
        (
            DecisionTreeClassifier(max_depth=1),
            make_pipeline(StandardScaler(), LogisticRegression()),
        ),
        strict=True,
    ):
        fitted = model.fit(train[features], train["t"])
        expected = (fitted.predict(test[features]) == wanted).mean()
        assert check.measured["baseline_accuracy"] == pytest.approx(expected, abs=0.006)
    stump, linear = (check.measured["baseline_accuracy"] for check in checks[1:])
    assert linear > stump > checks[0].measured["baseline_accuracy"] + 0.1


def test_of_one_class_the_simple_models_know_only_that():
    checks = compared(table(10), table(6), np.ones(10, bool))
    assert [check.measured["baseline_accuracy"] for check in checks] == [0.6] * 3


@pytest.mark.parametrize(("margin", "expected"), [(0.25, PASS), (0.26, FAIL)])
def test_a_margin_is_met_exactly(margin, expected):
    rows, right = table(6, rows=8), np.arange(8) < 6
    (check,) = compared(table(8, rows=8), rows, right, margins={"majority": margin})
    assert (check.status, check.measured["baseline_accuracy"]) == (expected, 0.75)


def test_few_values_are_slices_and_many_become_ranges():
    places, labels = datachecks.ranges(pd.Series(range(10)))
    assert labels == [*map(str, range(10)), "missing"]
    places, labels = datachecks.ranges(pd.Series(range(11)))
    assert len(labels) == 10 + 1
    # Most are the same: fewer ranges.
    places, labels = datachecks.ranges(pd.Series([0] * 50 + list(range(50))))
    assert np.bincount(places).sum() == 100
    assert 2 < len(labels) < 11
    words = [f"word {place}" for place in range(12)]
    assert datachecks.ranges(pd.Series(words))[1] == [*words, "missing"]


def sliced(right, **settings):
    rows = pd.DataFrame({"a": np.arange(len(right)) // 10, "b": 0})
    return datachecks.slices(rows, TRAINING, np.array(right), Behaviour(**settings))[0]


def test_slices_have_the_intervals_of_their_beta_distribution():
    # Three slices of ten rows by a, and one of thirty by b.
    right = [False] * 10 + [True] * 10 + [True, False] * 5
    check = sliced(right, slice_rows=10, slice_accuracy=0.3)
    assert (check.n, check.violations, check.status) == (4, 1, FAIL)
    assert "1 of 4 slices have an accuracy below 0.3; 0 with fewer than 10 rows" in check.reason
    assert [each["accuracy"] for each in check.examples] == [0.0, 0.5, 0.5]
    assert [each["n"] for each in check.examples] == [10, 10, 30]
    for each in check.examples:
        hits = round(each["accuracy"] * each["n"])
        law = stats.beta(hits + 1, each["n"] - hits + 1)
        low, high = law.ppf([0.025, 0.975])
        assert each["interval"] == pytest.approx((min(low, each["accuracy"]), high), abs=0.025)


def test_small_slices_are_counted():
    check = sliced([True] * 30, slice_rows=11)
    assert (check.n, check.status) == (1, PASS)
    assert "; 3 with fewer than 11 rows were left out" in check.reason


def test_a_slice_is_weak_only_surely():
    # 13 of 30: the interval reaches beyond a half.
    check = sliced([True] * 13 + [False] * 17, slice_rows=30, slice_accuracy=0.5)
    assert (check.n, check.status) == (1, PASS)
    assert check.examples[0]["accuracy"] < 0.5 < check.examples[0]["interval"][1]


@pytest.mark.parametrize(
    ("train", "test", "rare"),
    [((1, 100), (1, 100), 0), ((99, 100), (100, 10_000), 0), ((1, 101), (5, 10), 1),
     ((0, 10), (999, 1000), 2)],
)  # fmt: skip
def test_the_rarer_class_has_its_share(train, test, rare):
    made = [table(positives, rows=rows) for positives, rows in (train, test)]
    check = datachecks.balance(*made, TRAINING, Behaviour())
    assert (check.violations, check.status) == (rare, FAIL if rare else PASS)
    assert check.n == train[1] + test[1]
    shares = [min(each[0], each[1] - each[0]) / each[1] for each in (train, test)]
    assert [check.measured["train"], check.measured["test"]] == pytest.approx(shares)
    assert check.measured["limit"] == 0.01


def test_repeated_rows_up_to_the_limit_are_only_measured():
    rows = table(0, a=[0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    check = datachecks.duplicates(rows, Behaviour(maximum_duplicates=0.5))
    assert (check.status, check.violations, check.n) == (PASS, 0, 10)
    assert check.measured == {"rows": 5, "share": 0.5, "limit": 0.5}
    assert check.reason == "5 of 10 training rows repeat an earlier one (50.0 %); at most 50 %"
    check = datachecks.duplicates(rows, Behaviour(maximum_duplicates=0.4))
    assert (check.status, check.violations) == (FAIL, 5)


def test_rows_overlap_value_by_value_missing_ones_too():
    train = table(0, rows=4, a=[1, np.nan, 3, 4], b=["x", "y", None, "z"])
    test = table(0, rows=5, a=[np.nan, 3, 1, 9, 1], b=["y", None, "z", "x", "x"])
    check = datachecks.overlap(train, test, Behaviour())
    assert (check.measured["rows"], check.n, check.status) == (3, 5, FAIL)
    # A column that the training has not tells nothing.
    check = datachecks.overlap(train, test.assign(group=range(5)), Behaviour())
    assert check.measured["rows"] == 3
    assert datachecks.overlap(train, test, Behaviour(maximum_overlap=0.6)).status == PASS


def test_leakage_is_looked_for_in_both_directions():
    rows = table(5, a=[*range(10)], b=[1, 1, 1, 1, 0, 1, 0, 0, 0, 0])
    check = datachecks.leakage(rows, TRAINING, Behaviour())
    assert (check.status, check.n, check.violations) == (FAIL, 2, 1)
    assert check.examples == [{"feature": "a", "auc": 1.0}, {"feature": "b", "auc": 0.8}]
    limits = [(0.8, 1), (0.79, 2), (1.0, 0)]
    for limit, telling in limits:
        found = datachecks.leakage(rows, TRAINING, Behaviour(maximum_feature_auc=limit))
        assert (found.violations, found.status) == (telling, FAIL if telling else PASS)
    alone = datachecks.leakage(table(0), TRAINING, Behaviour())
    assert (alone.status, alone.n) == (INSUFFICIENT, 0)


def test_the_three_most_telling_features_are_shown():
    columns = {name: np.arange(10) % (place + 2) for place, name in enumerate("cdef")}
    rows = table(5, **columns)
    training = {**TRAINING, "features": ["f", "e", "a", "d", "c"]}
    check = datachecks.leakage(rows, training, Behaviour())
    areas = [each["auc"] for each in check.examples]
    assert (check.examples[0]["feature"], len(areas)) == ("a", 3)
    assert areas == sorted(areas, reverse=True)


def test_nothing_is_passed_without_all_five_checks():
    made = table(5)
    names = ["schema", "class balance", "duplicates", "overlap of training and test"]

    class Model:
        features = ()

    found = datachecks.data(made, made, TRAINING, Model(), Behaviour())
    assert [check.name for check in found] == [*names, "target leakage"]
