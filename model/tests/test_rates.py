"""Rates and gaps on random tables, beside those of Fairlearn and scikit-learn."""

import warnings

import fairness_tables
import numpy as np
import pandas as pd
import pytest

from ccapproval import rates
from ccapproval.common import InputError


@pytest.fixture(scope="module")
def compared():
    return fairness_tables.compare(np.random.default_rng(5), tables=120)


def test_figures_are_those_of_fairlearn_and_scikit_learn(compared):
    assert compared.largest_difference <= 1e-12
    # Every figure is compared in most tables, and refused in some of those with an edge.
    assert set(compared.compared) == {*rates.RATES, *rates.FAIRNESS}
    for name, number in compared.compared.items():
        assert number > 50, name
    assert compared.refused["equal_opportunity_difference"] > 3
    assert compared.refused["demographic_parity_ratio"] > 3


def test_what_is_refused_is_what_fairlearn_answers_with_zero_or_nan(compared):
    assert set(compared.answers_where_refused) <= {"single group", "no such rows", "NaN"}
    assert len(compared.answers_where_refused) == 3


def test_the_functions_of_fairlearn_say_the_same():
    from fairlearn import metrics as fairlearn

    random = np.random.default_rng(6)
    for _ in range(8):
        actual, predicted, group = fairness_tables.rows_of(fairness_tables.full_table(random))
        found = rates.fairness(rates.group_rates(actual, predicted, pd.Series(group)))
        for name in (
            "demographic_parity_difference", "demographic_parity_ratio",
            "equal_opportunity_difference", "equalized_odds_difference",
        ):  # fmt: skip
            expected = getattr(fairlearn, name)(actual, predicted, sensitive_features=group)
            assert found[name] == pytest.approx(expected, abs=1e-12), name


def array(*values):
    return np.array(values, dtype=bool)


def test_rows_without_a_group_are_a_group():
    for values in ([1, None, 1, None], ["1", None, "1", np.nan]):
        found = rates.group_rates(array(0, 1, 1, 1), array(0, 1, 0, 0), pd.Series(values, name="g"))
        assert list(found) == ["1", "missing"]
        assert (found["1"]["n"], found["missing"]["tp"], found["missing"]["fn"]) == (2, 1, 1)


def test_a_group_that_has_the_name_of_those_without_is_refused():
    groups = pd.Series(["missing", None], name="g")
    with pytest.raises(InputError, match="sensitive column g has empty values and a group named"):
        rates.group_codes(groups)


def test_fractions_are_groups_of_their_own():
    _, labels = rates.group_codes(pd.Series([0.5, 1.0, np.nan]))
    assert labels == ["0.5", "1.0", "missing"]


def test_too_many_groups_are_refused():
    with pytest.raises(InputError, match="sensitive column age has 101 different values: put"):
        rates.group_codes(pd.Series(np.arange(101), name="age"))


def test_no_rows_have_no_groups():
    found = rates.fairness(rates.group_rates(array(), array(), pd.Series([], dtype=object)))
    assert set(found.pop("reasons").values()) == {"there is no group"}
    assert set(found.values()) == {None}


def test_denying_everybody_has_no_ratio():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rates.fairness(
            rates.group_rates(array(0, 1, 0, 1), array(0, 0, 0, 0), pd.Series([0, 0, 1, 1]))
        )
    assert found["demographic_parity_difference"] == 0.0
    assert found["demographic_parity_ratio"] is None
    assert found["reasons"] == {
        "predictive_parity_difference": "group 0: no row is predicted positive",
        "demographic_parity_ratio": "no row of any group is predicted positive",
    }


def test_a_rate_rests_on_the_rows_of_its_denominator():
    counts = np.array([1, 2, 4, 8])
    assert {name: int(rate.rows(counts)) for name, rate in rates.RATES.items()} == {
        "accuracy": 15, "precision": 10, "recall": 12, "false_positive_rate": 3, "f1": 14,
        "selection_rate": 15,
    }  # fmt: skip
    two = np.column_stack([counts, 2 * counts])
    assert rates.RATES["recall"].rows(two).tolist() == [12, 24]
