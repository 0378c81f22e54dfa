"""Generated pairs and what is concluded from their answers, with a predictor in this process."""

import io

import numpy as np
import pandas as pd
import pytest

from ccapproval import baselines, behaviour
from ccapproval.common import InputError
from ccapproval.examination import FAIL, INSUFFICIENT, PASS
from ccapproval.settings import Behaviour

TRAINING = {"features": ["x", "k", "word"], "sensitive": ["group"], "positive_class": 1}


class Predictor:
    """Approves from a probability of a half, which a function gives."""

    def __init__(self, chance):
        self.chance, self.tables = chance, []

    def predict(self, chunks, rows, form):
        assert form == "csv"
        table = pd.read_csv(io.BytesIO(b"".join(chunks)))
        assert len(table) == rows
        self.tables.append(table)
        chances = np.asarray(self.chance(table), dtype=float)
        return (chances >= 0.5).astype(int), chances


def people(rows=500):
    random = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "x": random.permutation(rows) * 1.0,
            "k": random.integers(0, 3, rows),
            "word": random.choice(["a", "b"], rows),
            "group": random.integers(0, 2, rows),
        }
    )


def sampled(values, pairs=4000):
    rows = pd.DataFrame({"x": values, "row": range(len(values))})
    return rows, *behaviour.sampled(rows, "x", pairs, np.random.default_rng(0))


@pytest.mark.parametrize("whole", [True, False])
def test_every_second_pair_of_many_values_lies_close_together(whole):
    values = np.arange(101) * (100 if whole else 0.5)
    rows, base, first, second = sampled(values)
    assert len(base) == len(first) == len(second) == 4000
    assert base.index.tolist() == list(range(4000))
    assert base["row"].nunique() == len(rows)
    assert set(first) <= set(values)
    far, near = (second - first)[::2], (second - first)[1::2]
    reach = np.ptp(values) / 100
    assert np.abs(far).max() > 50 * reach
    assert (near > 0).all()
    assert near.max() <= reach + (1 if whole else 1e-9)
    assert near.mean() == pytest.approx(reach / 2, rel=0.05)
    assert (first != second).all()


def test_of_few_values_two_different_ones_are_drawn():
    for values in ([3, 5, 9], [True, False], ["a", "b", None], [1.5, np.nan, 2.5], range(100)):
        _, _, first, second = sampled(pd.Series(values))
        observed = set(pd.Series(values).dropna())
        assert set(first) == set(second) == observed
        assert (first != second).all()
    _, _, first, second = sampled([7, 7])
    assert set(first) == set(second) == {7}


def monotone(chance, direction=1, column="x", pairs=400):
    predictor = Predictor(chance)
    rows = people()[TRAINING["features"]]
    random = np.random.default_rng(0)
    check = behaviour.monotone(predictor, rows, column, direction, pairs, 1, random)
    return check, predictor


def test_what_falls_where_more_is_better_is_found():
    # Approved below 300: more turns an approval into a denial wherever 300 lies between.
    check, predictor = monotone(lambda table: np.where(table["x"] < 300, 0.9, 0.4))
    (table,) = predictor.tables
    less, more = table["x"][:400].to_numpy(), table["x"][400:].to_numpy()
    assert (less < more).all()
    flips = int(((less < 300) & (more >= 300)).sum())
    assert (check.status, check.violations, check.n) == (FAIL, flips, 400)
    assert check.reason == f"more x turned an approval into a denial in {flips} pairs"
    assert check.measured == {"lower_probabilities": flips, "largest_fall": 0.5}
    assert len(check.examples) == 3
    for example in check.examples:
        assert example["x"][0] < 300 <= example["x"][1]
        assert example["probability"] == [0.9, 0.4]
        assert set(example["values"]) == {"k", "word"}
    check, predictor = monotone(lambda table: np.where(table["x"] < 300, 0.9, 0.4), direction=-1)
    assert (check.status, check.violations, check.examples) == (PASS, 0, [])
    assert check.reason.startswith("less x ")
    assert check.measured == {"lower_probabilities": 0, "largest_fall": 0.0}
    assert (predictor.tables[0]["x"][:400] > predictor.tables[0]["x"][400:].to_numpy()).all()


def test_a_fall_that_turns_no_approval_is_only_measured():
    check, _ = monotone(lambda table: 0.4 - table["x"] / 10_000)
    assert (check.status, check.violations) == (PASS, 0)
    assert check.measured["lower_probabilities"] == 400
    assert 0.03 < check.measured["largest_fall"] < 0.05


def test_the_worst_falls_are_shown_first():
    check, _ = monotone(lambda table: 0.9 - table["x"] / 600)
    falls = [example["probability"][0] - example["probability"][1] for example in check.examples]
    assert falls == sorted(falls, reverse=True)
    assert falls[0] > 0.6


def test_one_value_has_no_direction_and_no_other():
    rows, random = people().assign(x=1.0, group=0), np.random.default_rng(0)
    predictor = Predictor(lambda table: table["x"])
    check = behaviour.monotone(predictor, rows, "x", 1, 10, 1, random)
    other = behaviour.invariant(predictor, rows, "group", 10, random)
    for each in (check, other):
        assert (each.status, each.n, each.violations) == (INSUFFICIENT, 0, 0)
        assert each.reason.endswith("has only one value")
    assert predictor.tables == []


def invariant(chance, column="group", pairs=300):
    predictor = Predictor(chance)
    random = np.random.default_rng(0)
    return behaviour.invariant(predictor, people(), column, pairs, random), predictor


def test_any_change_by_what_must_not_matter_is_found():
    check, predictor = invariant(lambda table: table["x"] / 1000)
    assert (check.status, check.n, check.violations) == (PASS, 300, 0)
    (table,) = predictor.tables
    first, second = table[:300], table[300:].reset_index(drop=True)
    assert (first["group"] != second["group"]).all()
    others = ["x", "k", "word"]
    assert first[others].equals(second[others])
    # A difference that turns no answer counts, too.
    check, _ = invariant(lambda table: table["group"] * table["x"] / 2000)
    assert (check.status, check.measured["flips"]) == (FAIL, 0)
    assert check.reason == f"another group changed the answer in {check.violations} pairs"
    sizes = [abs(np.subtract(*example["probability"])) for example in check.examples]
    assert (len(sizes), sizes) == (3, sorted(sizes, reverse=True))
    assert sizes[0] > 0.24
    check, _ = invariant(lambda table: table["k"] / 2 + 0.01, column="k")
    assert 0 < check.measured["flips"] < check.violations == 300


def test_pairs_are_shared_by_the_checks_that_need_them():
    settings = Behaviour(pairs=10, increasing=["x"], decreasing=["k"], invariant=["word"])
    predictor = Predictor(lambda table: np.full(len(table), 0.25))
    checks = behaviour.pair_checks(predictor, people(), TRAINING, settings)
    names = ["monotone x", "monotone k", "invariant word", "invariant group"]
    assert [check.name for check in checks] == names
    assert [check.n for check in checks] == [3, 3, 3, 3]
    # What the model does not see is a column of its own check alone.
    columns = [list(table.columns) for table in predictor.tables]
    assert columns == [["x", "k", "word"]] * 3 + [["x", "k", "word", "group"]]
    again = Behaviour(pairs=10, invariant=["group", "word"])
    names = [each.name for each in behaviour.pair_checks(predictor, people(), TRAINING, again)]
    assert names == ["invariant group", "invariant word"]


def test_words_have_no_direction():
    predictor = Predictor(lambda table: table["x"])
    with pytest.raises(InputError, match=r"\[behaviour\] word: only numbers have a direction"):
        behaviour.pair_checks(predictor, people(), TRAINING, Behaviour(decreasing=["word"]))
    with pytest.raises(InputError, match="increasing and decreasing: there is no group; there are"):
        behaviour.pair_checks(predictor, people(), TRAINING, Behaviour(increasing=["group"]))


def test_a_difference_up_to_the_limit_is_no_overfitting():
    test = {"accuracy": 0.75, "n": 40}
    check = behaviour.overfit({"accuracy": 0.875}, test, Behaviour(maximum_overfit=0.125))
    assert (check.status, check.n, check.violations) == (PASS, 40, 0)
    assert check.measured == {"difference": 0.125, "limit": 0.125}
    check = behaviour.overfit({"accuracy": 0.875}, test, Behaviour(maximum_overfit=0.12))
    assert (check.status, check.violations) == (FAIL, 1)


def test_sensitive_attributes_become_numbers():
    words = pd.Series(["b", None, "a", "b"], index=[3, 4, 5, 6], name="g")
    found = baselines.numbers(words)
    assert found.to_dict() == {3: 1, 4: -1, 5: 0, 6: 1}
    assert found.name == "g"
    whole = baselines.numbers(pd.Series([3, 1]))
    assert (whole.dtype, whole.tolist()) == (np.float64, [3.0, 1.0])
    assert baselines.numbers(pd.Series([True, False])).tolist() == [1.0, 0.0]
