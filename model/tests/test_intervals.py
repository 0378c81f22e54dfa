import warnings

import fairness_coverage
import numpy as np
import pytest

from ccapproval import intervals


def weights(counts, draws=4000, seed=0):
    return intervals.outcome_weights(np.array(counts), draws, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("signed", "expected"),
    [
        ((-0.1, 0.3), (0.0, 0.3)),
        ((-0.4, 0.1), (0.0, 0.4)),
        ((0.1, 0.3), (0.1, 0.3)),
        ((-0.3, -0.1), (0.1, 0.3)),
    ],
)
def test_folding_takes_the_sign_away(signed, expected):
    assert intervals.folded(*signed) == expected


def recall(drawn):
    return drawn[3] / (drawn[2] + drawn[3])


def test_the_gap_of_equal_groups_reaches_zero_and_that_of_unequal_ones_does_not():
    equal = recall(weights([[50, 50], [5, 5], [20, 20], [80, 80]]))
    low, high = intervals.gap([equal], 0.0)
    assert low == 0.0
    assert 0.08 < high < 0.14
    unequal = recall(weights([[50, 50], [5, 5], [20, 80], [80, 20]]))
    low, high = intervals.gap([unequal], 0.6)
    assert 0.4 < low < 0.55
    assert 0.65 < high < 0.72


def test_a_gap_of_several_groups_is_wider_than_that_of_two_of_them():
    three = recall(weights([[50] * 3, [5] * 3, [20, 20, 35], [80, 80, 65]]))
    low, high = intervals.gap([three], 0.15)
    pair = intervals.gap([three[1:]], 0.15)
    assert low < pair[0] < 0.15 < pair[1] < high


def test_nothing_missed_is_no_certainty():
    drawn = recall(weights([[9], [0], [0], [40]]))[0]
    low, high = intervals.percentile(drawn, 1.0)
    # The exact interval of 40 of 40 (Clopper and Pearson 1934) begins at 0.912.
    assert low == pytest.approx(0.912, abs=0.01)
    assert high == 1.0


def test_the_ratio_is_the_gap_of_logarithms():
    drawn = weights([[500, 500], [0, 0], [0, 0], [500, 500]])
    share = drawn[3] / drawn.sum(axis=0)
    low, high = intervals.ratio(share, 1.0)
    assert (high, 0.8 < low < 0.95) == (1.0, True)
    assert intervals.ratio(share, 0.0)[0] == 0.0


@pytest.mark.parametrize("gap", [0.0, 0.2])
def test_the_truth_is_covered_as_often_as_is_said(gap):
    found = fairness_coverage.coverage(np.random.default_rng(1), gap=gap, models=1000, draws=500)
    # Three standard errors of a share of 1000 around 95 %.
    assert found == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / 1000))


def test_three_groups_cover_too():
    shares = (0.6, 0.25, 0.15)
    found = fairness_coverage.coverage(
        np.random.default_rng(2), models=500, draws=500, shares=shares
    )
    assert found == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / 500))


def test_the_middle_95_percent_holds_the_estimate():
    drawn = np.arange(1001.0)
    assert intervals.percentile(drawn, 500.0) == pytest.approx((25.0, 975.0))
    assert intervals.percentile(drawn, 3.0) == (3.0, 975.0)
    assert intervals.percentile(drawn, 998.0) == pytest.approx((25.0, 998.0))


def test_two_groups_have_the_percentiles_of_their_difference():
    random = np.random.default_rng(3)
    lower, upper = random.normal(0.2, 0.05, 4000), random.normal(0.5, 0.02, 4000)
    low, high = np.quantile(upper - lower, [0.025, 0.975])
    for rates in ([lower, upper], [upper, lower]):
        assert intervals.gap([np.array(rates)], 0.3) == pytest.approx((low, high), abs=1e-12)


def test_several_pairs_hold_together_as_defined():
    random = np.random.default_rng(4)
    # Very different spreads, and differences of both signs.
    rates = random.normal([[0.7], [0.2], [0.4]], [[0.01], [0.05], [0.1]], (3, 2000))
    pairs = [rates[a] - rates[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    deviations = [np.abs(pair - pair.mean()) / pair.std() for pair in pairs]
    reach = np.quantile(np.max(deviations, axis=0), 0.95)
    ends = [(abs(p.mean()) - reach * p.std(), abs(p.mean()) + reach * p.std()) for p in pairs]
    expected = max(low for low, _ in ends), max(high for _, high in ends)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert intervals.gap([rates[order]], 0.5) == pytest.approx(expected, abs=1e-12)


def test_a_ratio_lies_between_the_percentiles_of_the_quotient():
    random = np.random.default_rng(5)
    rates = np.array([random.normal(0.4, 0.01, 4000), random.normal(0.5, 0.01, 4000)])
    expected = np.quantile(rates[0] / rates[1], [0.025, 0.975])
    assert intervals.ratio(rates, 0.8) == pytest.approx(expected, rel=1e-3)
    # Without a row that is selected in one group.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert intervals.ratio(rates, 0.0)[0] == 0.0
