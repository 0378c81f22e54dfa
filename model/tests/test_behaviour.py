import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL_CELLS, write_predictions
from pandera.config import ValidationDepth, config_context

from ccapproval import behaviour, datachecks, train
from ccapproval.common import InputError
from ccapproval.examination import FAIL, INSUFFICIENT, PASS
from ccapproval.model_file import Feature
from ccapproval.settings import Behaviour, behaviour_settings

CASE = {"name": "large", "event": {"size": 9, "old": 1}, "prediction": 1}


@pytest.fixture
def examined(small, scorer):
    """Examines the model of some cells; gives the checks by name."""

    def examine(settings, model=SMALL_CELLS[3], cases=(CASE,), wanted=2000):
        small.cells(*SMALL_CELLS[:3], model)
        out = small.folder / "out"
        train.train(small.notebook, out)
        write_predictions(out, out / "predictions.csv")
        predictor = behaviour.Predictor(scorer, out / "model.bin")
        tables = {"behaviour": {"pairs": wanted, **settings}, "smoke_tests": list(cases)}
        found = behaviour.examine(out, out / "predictions.csv", predictor, tables)
        return found, {check["name"]: check for check in found["checks"]}

    return examine


def test_a_tree_that_goes_up_and_a_hidden_attribute_pass(examined):
    found, checks = examined({"increasing": ["size"]})
    assert checks["monotone size"]["status"] == PASS
    assert (checks["invariant group"]["status"], checks["invariant group"]["n"]) == (PASS, 1000)
    assert found["pairs"] == 2000
    assert checks["minimum cases"]["status"] == PASS
    assert found["model"].startswith("sha256:")
    json.dumps(found, allow_nan=False)
    # What the policy takes a pass for.
    for check in found["checks"]:
        assert check["status"] != PASS or (check["n"] > 0 and check["violations"] == 0), check


def test_the_wrong_direction_is_found_with_its_worst_pairs(examined):
    _, checks = examined({"decreasing": ["size"], "invariant": ["size", "old"]})
    check = checks["monotone size"]
    assert (check["status"], check["violations"] > 50) == (FAIL, True)
    for example in check["examples"]:
        assert example["size"][0] > example["size"][1]
        assert example["probability"][0] > example["probability"][1]
        assert set(example["values"]) == {"old"}
    assert checks["invariant size"]["status"] == FAIL
    assert checks["invariant size"]["examples"]


def test_a_case_with_another_answer_is_named(examined):
    wrong = {"name": "tiny", "event": {"size": 0, "old": 0}, "prediction": 1}
    check = examined({}, cases=[CASE, wrong])[1]["minimum cases"]
    assert (check["status"], check["violations"], check["n"]) == (FAIL, 1, 2)
    assert check["examples"][0]["name"] == "tiny"
    assert examined({}, cases=[])[1]["minimum cases"]["status"] == INSUFFICIENT


def test_a_model_that_denies_everybody_beats_nobody(examined):
    constant = (
        "model = DecisionTreeClassifier(max_depth=1, min_samples_leaf=75).fit(\n"
        "    X_train * 0, y_train)"
    )
    checks = examined({"margins": {"majority": 0.1}}, model=constant)[1]
    assert checks["better than majority"]["status"] == FAIL
    assert checks["monotone size"]["status"] == PASS if "monotone size" in checks else True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"increasing": ["seize"]}, "there is no seize; there are size, old"),
        ({"invariant": ["grupp"]}, "there is no grupp; there are size, old, group"),
        ({"warn_only": ["monoton"]}, "there is no check monoton; there are invariant group, "),
        ({"pears": 1}, r"\[behaviour\] has no pears; known: seed, pairs"),
        ({"margins": {"forest": 1}}, r"margins has no forest; known: majority, "),
        ({"increasing": "size"}, "must be a list of names"),
        ({"increasing": ["size", 1]}, "must be a list of names"),
        ({"margins": {"stump": -1.5}}, "margins.stump must be a number of at least -1"),
        ({"slice_rows": 1.5}, "slice_rows must be a whole number"),
    ],
)
def test_what_is_declared_wrongly_is_refused(examined, settings, message):
    with pytest.raises(InputError, match=message):
        examined(settings)


def test_a_program_that_refuses_is_quoted(examined):
    with pytest.raises(InputError, match=r"ended with 1: .*size"):
        examined({}, cases=[{"name": "a", "event": {"size": "x", "old": 1}, "prediction": 1}])
    with pytest.raises(InputError, match="lacks old"):
        examined({}, cases=[{"name": "a", "event": {"size": 1}, "prediction": 1}])


def test_a_check_that_only_warns_says_so(examined):
    checks = examined({"warn_only": ["minimum cases"]}, cases=[])[1]
    assert checks["minimum cases"]["severity"] == "warn"
    assert checks["schema"]["severity"] == "error"


TRAINING = {
    "features": ["a", "b"], "sensitive": [], "target": "t", "positive_class": 1,
}  # fmt: skip


def table(rows=1000, seed=0):
    random = np.random.default_rng(seed)
    made = pd.DataFrame({"a": random.normal(size=rows), "b": random.integers(0, 3, rows)})
    made["t"] = (made["a"] + random.normal(size=rows) > 0).astype(int)
    return made


def test_a_feature_that_tells_the_target_leaks():
    rows = table()
    assert datachecks.leakage(rows, TRAINING, Behaviour()).status == PASS
    rows["b"] = 1 - rows["t"]
    check = datachecks.leakage(rows, TRAINING, Behaviour())
    assert (check.status, check.violations) == (FAIL, 1)
    assert check.examples[0] == {"feature": "b", "auc": 1.0}


def test_test_rows_among_the_training_rows_are_counted():
    train_rows, test_rows = table(), table(seed=1)
    assert datachecks.overlap(train_rows, test_rows, Behaviour()).violations == 0
    test_rows[:600] = train_rows[:600]
    check = datachecks.overlap(train_rows, test_rows, Behaviour())
    assert (check.status, check.violations) == (FAIL, 600)
    twice = pd.concat([train_rows, train_rows[:10]], ignore_index=True)
    check = datachecks.duplicates(twice, Behaviour())
    assert (check.status, check.violations, check.measured["rows"]) == (PASS, 0, 10)
    assert datachecks.duplicates(twice, Behaviour(maximum_duplicates=0.001)).status == FAIL


def test_a_rare_class_is_found():
    rows = table()
    assert datachecks.balance(rows, rows, TRAINING, Behaviour()).status == PASS
    check = datachecks.balance(rows, rows.assign(t=0), TRAINING, Behaviour())
    assert (check.status, check.violations, check.measured["test"]) == (FAIL, 1, 0.0)


def test_a_weak_slice_is_found_and_small_ones_are_left_out():
    rows = table()
    right = np.where(rows["b"] == 2, np.arange(1000) % 5 == 0, True)
    check = datachecks.slices(rows, TRAINING, right, Behaviour(slice_rows=50))[0]
    assert (check.status, check.violations) == (FAIL, 1)
    assert (check.examples[0]["feature"], check.examples[0]["slice"]) == ("b", "2")
    none = datachecks.slices(rows, TRAINING, right, Behaviour(slice_rows=5000))[0]
    assert (none.status, none.n) == (INSUFFICIENT, 0)


def test_simple_models_are_beaten_by_the_truth_and_beat_chance():
    rows, rest = table(), table(seed=1)
    actual = (rest["t"] == 1).to_numpy()
    judged = (actual, actual, actual.astype(float))
    checks = datachecks.simple_models(rows, rest, TRAINING, judged, Behaviour())
    assert [check.status for check in checks] == [PASS] * 3
    judged = (actual, ~actual, 1 - actual.astype(float))
    checks = datachecks.simple_models(rows, rest, TRAINING, judged, Behaviour())
    assert [check.status for check in checks] == [FAIL] * 3


def test_a_model_that_learned_by_heart_is_found():
    test = {"accuracy": 0.8, "n": 100}
    assert behaviour.overfit({"accuracy": 1.0}, test, Behaviour()).status == FAIL
    assert behaviour.overfit({"accuracy": 0.81}, test, Behaviour()).status == PASS


def test_without_a_table_the_defaults_hold():
    assert behaviour_settings({}) == Behaviour()
    assert Behaviour() == Behaviour(
        seed=0,
        pairs=1_000_000,
        margins={"majority": 0.0, "stump": 0.0, "logistic regression": 0.0},
        maximum_overfit=0.02,
        slice_rows=500,
        slice_accuracy=0.5,
        minimum_class_share=0.01,
        maximum_duplicates=0.5,
        maximum_overlap=0.5,
        maximum_feature_auc=0.99,
    )


def test_a_margin_may_be_a_lead_for_the_simple_model():
    assert behaviour_settings({"behaviour": {"margins": {"stump": -1}}}).margins == {"stump": -1}


def test_rows_are_written_as_pandas_writes_them():
    base = pd.DataFrame(
        {"whole": [1, -2, 3], "half": [0.1, np.nan, 1e-300], "word": ['a "b", c', "d\ne", None]}
    )
    first, second = np.array([4, 5, 6]), np.array([7, 8, 9])
    lines = b"".join(behaviour.Pairs("whole", base, first, second).chunks())
    both = pd.concat([base.assign(whole=values) for values in (first, second)])
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(lines)), both.reset_index(drop=True))
    alone = behaviour.Pairs("half", base[["half"]], np.array([np.nan, 1]), np.array([2.5, 3]))
    assert b"".join(alone.chunks()) == b'"half"\n""\n1.0\n2.5\n3.0\n'


def test_pairs_are_written_in_pieces(monkeypatch):
    monkeypatch.setattr(behaviour, "CHUNK", 2)
    base = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]})
    pieces = list(behaviour.Pairs("b", base, np.array([7, 8, 9]), np.array([0, 0, 0])).chunks())
    assert pieces == [b'"a","b"\n', b"1,7\n2,8\n", b"3,9\n", b"1,0\n2,0\n", b"3,0\n"]


def test_rows_without_a_value_are_a_slice_of_their_own():
    places, labels = datachecks.ranges(pd.Series([2.0, np.nan, 3.0, 2.0]))
    assert [labels[place] for place in places] == ["2.0", "missing", "3.0", "2.0"]
    many = pd.Series([*range(100), None], dtype=float)
    places, labels = datachecks.ranges(many)
    assert labels[places[-1]] == "missing"
    assert np.bincount(places).tolist() == [10] * 10 + [1]
    rows = table().assign(b=lambda made: made["b"].where(made["b"] != 2))
    right = rows["b"].notna().to_numpy()
    check = datachecks.slices(rows, TRAINING, right, Behaviour(slice_rows=50))[0]
    assert (check.status, check.examples[0]["slice"]) == (FAIL, "missing")
    sizes = rows["b"].value_counts(dropna=False)
    assert check.examples[0]["n"] == sizes[np.nan]


def judged(column, **feature):
    model = SimpleNamespace(features=(Feature("f", **feature),))
    return datachecks.schema(pd.DataFrame({"f": [1]}), pd.DataFrame({"f": column}), model)


@pytest.mark.parametrize(
    ("column", "feature", "wrong"),
    [
        ([0, 5, 10, None], {"type": "integer", "minimum": 0, "maximum": 10}, []),
        ([-1, 11, 12, 3], {"type": "number", "maximum": 10, "minimum": 0}, [-1, 11, 12]),
        ([-1e300, 1e300, 0.5], {"type": "number"}, []),
        ([0.5, 1.0, 2.0], {"type": "integer"}, [0.5]),
        ([0, 1, 0.5, 2], {"type": "flag", "minimum": 0, "maximum": 1}, [0.5, 2.0]),
        (["1", "x", None, "3"], {"type": "number"}, ["x"]),
        (["y", "0.5", "7"], {"type": "integer", "minimum": 0, "maximum": 1}, ["y", "0.5", "7"]),
        (["x", None, "3"], {"type": "text"}, []),
        ([None, None], {"type": "flag"}, []),
        ([float("inf"), float("-inf"), 5], {"minimum": -10, "maximum": 10}, ["inf", "-inf"]),
    ],
)
def test_values_of_another_type_or_out_of_range_are_found_once(column, feature, wrong):
    check = judged(column, **feature)
    assert [example["value"] for example in check.examples] == wrong
    assert (check.violations, check.n) == (len(wrong), len(column) + 1)
    assert check.status == (FAIL if wrong else PASS)
    json.dumps(vars(check), allow_nan=False)


def test_wrong_values_of_training_and_test_add_up():
    model = SimpleNamespace(features=(Feature("f", maximum=1), Feature("g", type="integer")))
    rows = pd.DataFrame({"f": [2, 0], "g": [1, 0.5]})
    check = datachecks.schema(rows, rows[:1], model)
    assert (check.n, check.violations) == (6, 3)
    assert check.examples == [
        {"feature": "f", "value": 2}, {"feature": "g", "value": 0.5}, {"feature": "f", "value": 2}
    ]  # fmt: skip


def test_many_wrong_values_are_counted_and_few_are_shown():
    check = judged([*range(1000)], type="number", maximum=9)
    assert (check.violations, len(check.examples)) == (990, datachecks.EXAMPLES)


def test_nobody_switches_the_schema_off():
    # As the variables PANDERA_VALIDATION_ENABLED and PANDERA_VALIDATION_DEPTH do.
    for off in ({"validation_enabled": False}, {"validation_depth": ValidationDepth.SCHEMA_ONLY}):
        with config_context(**off):
            assert judged([11], maximum=10).status == FAIL
