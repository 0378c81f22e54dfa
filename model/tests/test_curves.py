import numpy as np
import pytest
from sklearn import metrics as scikit_learn

from ccapproval import curves


def sample(seed, rows=2000, different=None):
    random = np.random.default_rng(seed)
    chances = random.random(rows)
    if different:
        chances = np.round(chances * different) / different
    return random.random(rows) < chances, chances


def figures(actual, chances, draws=500, seed=0):
    scores = curves.Scores.of(actual, chances)
    return curves.score_figures(scores, draws, np.random.default_rng(seed))


@pytest.mark.parametrize("different", [None, 7])
@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn(seed, different):
    actual, chances = sample(seed, different=different)
    found, _, reasons = figures(actual, chances)
    assert found["auc"] == pytest.approx(scikit_learn.roc_auc_score(actual, chances), abs=1e-12)
    brier = scikit_learn.brier_score_loss(actual, chances)
    assert found["brier"] == pytest.approx(brier, abs=1e-12)
    assert reasons == {}


def test_the_calibration_error_is_that_of_its_definition():
    actual, chances = sample(3, rows=1000)
    order = np.argsort(chances)
    parts = np.array_split(order, 10)
    expected = np.mean([abs(chances[part].mean() - actual[part].mean()) for part in parts])
    assert figures(actual, chances)[0]["calibration_error"] == pytest.approx(expected, abs=1e-12)


def test_rows_with_one_score_stay_in_one_bin():
    scores = curves.Scores.of(*sample(1, different=4))
    bins = curves.calibration_bins(scores)
    assert [each["probability"] for each in bins] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert sum(each["n"] for each in bins) == 2000


def test_without_positives_there_is_no_auc_and_with_no_rows_nothing():
    found, intervals, reasons = figures(np.zeros(5, bool), np.full(5, 0.25))
    assert (found["auc"], found["brier"], found["calibration_error"]) == (None, 0.0625, 0.25)
    assert set(intervals) == {"brier", "calibration_error"}
    assert reasons == {"auc": "no row is actually positive"}
    assert figures(np.ones(5, bool), np.full(5, 0.25))[2] == {"auc": "no row is actually negative"}
    found, intervals, reasons = figures(np.zeros(0, bool), np.zeros(0))
    assert set(found.values()) == {None}
    assert intervals == {}
    assert set(reasons.values()) == {"no rows"}
    drawn = curves.curves(curves.Scores.of(np.zeros(0, bool), np.zeros(0)))
    assert (drawn["roc"], drawn["precision_recall"], drawn["calibration"]) == (None, None, [])


def test_intervals_are_those_of_resampled_rows():
    actual, chances = sample(2, rows=1000)
    _, found, _ = figures(actual, chances, draws=2000)
    random = np.random.default_rng(0)
    drawn = {"auc": [], "brier": []}
    for _ in range(400):
        rows = random.integers(0, 1000, 1000)
        drawn["auc"].append(scikit_learn.roc_auc_score(actual[rows], chances[rows]))
        drawn["brier"].append(scikit_learn.brier_score_loss(actual[rows], chances[rows]))
    for name, values in drawn.items():
        expected = np.quantile(values, [0.025, 0.975])
        width = expected[1] - expected[0]
        assert found[name] == pytest.approx(expected, abs=0.12 * width), name


def test_many_scores_are_put_into_bins_for_the_bootstrap_alone(monkeypatch):
    actual, chances = sample(4, rows=5000)
    binned = figures(actual, chances)
    monkeypatch.setattr(curves, "MOST_SCORES", 10_000)
    exact = figures(actual, chances)
    assert binned[0] == exact[0]
    for name, (low, high) in exact[1].items():
        assert binned[1][name] == pytest.approx((low, high), abs=0.15 * (high - low)), name


def test_the_interval_of_the_calibration_error_knows_that_samples_look_worse():
    covered = 0
    for seed in range(200):
        # Calibrated by construction, so the truth is zero.
        _, found, _ = figures(*sample(seed, different=50), draws=300)
        covered += found["calibration_error"][0] == 0.0
    assert covered / 200 >= 0.92


def test_curves_are_those_of_scikit_learn():
    actual, chances = sample(5, rows=150)
    drawn = curves.curves(curves.Scores.of(actual, chances))
    false, true, thresholds = scikit_learn.roc_curve(actual, chances, drop_intermediate=False)
    assert drawn["roc"]["false_positive_rate"] == pytest.approx(false)
    assert drawn["roc"]["true_positive_rate"] == pytest.approx(true)
    assert drawn["roc"]["threshold"][1:] == thresholds[1:].tolist()
    precision, recall, _ = scikit_learn.precision_recall_curve(actual, chances)
    assert drawn["precision_recall"]["precision"] == pytest.approx(precision[-2::-1])
    assert drawn["precision_recall"]["recall"] == pytest.approx(recall[-2::-1])


def test_long_curves_are_thinned_between_their_ends():
    drawn = curves.curves(curves.Scores.of(*sample(6, rows=30_000)))
    roc = drawn["roc"]
    assert len(roc["threshold"]) == curves.MOST_POINTS + 1
    assert (roc["false_positive_rate"][-1], roc["true_positive_rate"][-1]) == (1.0, 1.0)


def test_the_sweep_approves_from_the_threshold_up():
    actual, chances = sample(7, different=20)
    drawn = curves.curves(curves.Scores.of(actual, chances))["sweep"]
    for place in (0, 25, 50, 99, 100):
        approved = chances >= drawn["threshold"][place]
        assert drawn["selection_rate"][place] == approved.mean()
        assert drawn["accuracy"][place] == (approved == actual).mean()
        assert drawn["recall"][place] == pytest.approx(approved[actual].mean(), abs=1e-15)


def test_the_histogram_counts_every_row():
    actual, chances = sample(8, different=20)
    drawn = curves.curves(curves.Scores.of(actual, chances))["histogram"]
    assert sum(drawn["positive"]) == actual.sum()
    assert sum(drawn["negative"]) == (~actual).sum()


def test_scores_are_counted_by_class_and_put_into_bins_of_equal_mass():
    actual = np.array([0, 1, 1, 0, 1, 0], bool)
    scores = curves.Scores.of(actual, np.array([0.2, 0.2, 0.9, 0.5, 0.9, 0.9]))
    assert scores.values.tolist() == [0.2, 0.5, 0.9]
    assert scores.counts.tolist() == [[1, 1, 1], [1, 0, 2]]
    # Two rows, one and three: halves of three rows each.
    assert scores.bins(2).tolist() == [0, 0, 1]
    assert scores.bins(3).tolist() == [0, 1, 1]
    assert curves.bin_starts(np.array([0, 0, 1, 3, 3])).tolist() == [0, 2, 3]


def test_calibration_gaps_are_those_of_each_bin():
    weights = np.array([[1.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    scores = np.array([[0.25, 0.5, 0.75]] * 2)
    gaps = curves.calibration_gaps(weights, scores, np.array([0, 2]))
    # Three of six are positive, the mean probability is (4 * 0.25 + 2 * 0.5) / 6.
    assert gaps.tolist() == [(3 - 2) / 8, (1 - 1.5) / 8]
    assert curves.calibration_gaps(np.stack([weights] * 4), scores, np.array([0])).shape == (4, 1)


def test_bins_for_the_bootstrap_keep_means_and_the_calibration():
    actual, chances = sample(9, rows=3000)
    scores = curves.Scores.of(actual, chances)
    values = scores.values
    both, error = np.stack([values] * 2), np.stack([values**2, (1 - values) ** 2])
    counts, means, errors, starts = curves.compressed(scores, both, error)
    assert counts.shape == means.shape == errors.shape == (2, curves.MOST_SCORES)
    assert counts.sum(axis=1).tolist() == [(~actual).sum(), actual.sum()]
    assert (counts.sum(axis=0) == 3).all()
    assert np.sum(counts * means) == pytest.approx(chances.sum())
    assert np.sum(counts * errors) == pytest.approx(((chances - actual) ** 2).sum())
    # A bin's mean is over the rows of the class, zero without any.
    first, of_first = values[:3], scores.counts[:, :3]
    for row in (0, 1):
        held = first[of_first[row] > 0]
        assert means[row, 0] == pytest.approx(held.mean() if len(held) else 0.0)
    assert starts.tolist() == list(range(0, 1000, 100))


@pytest.mark.parametrize("rows", [1000, 1001])
def test_more_than_a_thousand_scores_are_too_many(rows, monkeypatch):
    asked = []
    compressed = curves.compressed
    monkeypatch.setattr(curves, "compressed", lambda *of: asked.append(1) or compressed(*of))
    figures(*sample(10, rows=rows), draws=10)
    assert len(asked) == rows - 1000


def test_the_calibration_interval_is_as_wide_as_the_errors_of_the_bins():
    # One bin: the gap's error has the law of a share of n rows.
    actual = np.arange(400) < 200
    found, intervals, _ = figures(actual, np.full(400, 0.3), draws=4000)
    assert found["calibration_error"] == pytest.approx(0.2)
    low, high = intervals["calibration_error"]
    reach = 1.96 * np.sqrt(0.25 / 400)
    assert (low, high) == pytest.approx((0.2 - reach, 0.2 + reach), abs=0.006)


def test_intervals_stay_between_zero_and_one():
    actual = np.array([0, 0, 0, 1, 1, 1], bool)
    _, intervals, _ = figures(actual, actual.astype(float))
    assert intervals == {"auc": (1, 1), "brier": (0, 0), "calibration_error": (0, 0)}
    _, intervals, _ = figures(actual, 1 - actual.astype(float))
    assert (intervals["auc"], intervals["brier"]) == ((0, 0), (1, 1))
    assert intervals["calibration_error"][1] == 1.0


def test_curves_begin_with_nobody_approved_and_end_with_all():
    actual = np.array([0, 1, 1, 0, 1], bool)
    drawn = curves.curves(curves.Scores.of(actual, np.array([0.2, 0.2, 0.9, 0.5, 0.9])))
    assert drawn["roc"] == {
        "threshold": [None, 0.9, 0.5, 0.2],
        "false_positive_rate": [0, 0, 0.5, 1],
        "true_positive_rate": [0, 2 / 3, 2 / 3, 1],
    }
    assert drawn["precision_recall"] == {
        "threshold": [0.9, 0.5, 0.2], "recall": [2 / 3, 2 / 3, 1], "precision": [1, 2 / 3, 3 / 5],
    }  # fmt: skip
    assert drawn["calibration"] == [
        {"n": 2, "probability": 0.2, "positive": 0.5},
        {"n": 1, "probability": 0.5, "positive": 0.0},
        {"n": 2, "probability": 0.9, "positive": 1.0},
    ]
    histogram, sweep = drawn["histogram"], drawn["sweep"]
    assert histogram["edges"] == pytest.approx(np.arange(21) / 20)
    assert (sum(histogram["negative"]), histogram["positive"][18]) == (2, 2)
    assert sweep["threshold"] == pytest.approx(np.arange(101) / 100)
    assert (sweep["selection_rate"][0], sweep["recall"][51], sweep["accuracy"][51]) == (
        1,
        2 / 3,
        0.8,
    )


def test_without_negatives_there_is_no_roc_but_a_precision():
    drawn = curves.curves(curves.Scores.of(np.ones(3, bool), np.array([0.2, 0.4, 0.4])))
    assert drawn["roc"] is None
    assert drawn["precision_recall"]["precision"] == [1, 1]
    drawn = curves.curves(curves.Scores.of(np.zeros(3, bool), np.array([0.2, 0.4, 0.4])))
    assert (drawn["roc"], drawn["precision_recall"]) == (None, None)
    assert set(drawn["sweep"]["recall"]) == {None}
    assert drawn["sweep"]["selection_rate"][30] == pytest.approx(2 / 3)


def test_points_of_a_curve_are_thinned_evenly():
    assert curves.thinned(5).tolist() == [0, 1, 2, 3, 4]
    assert len(curves.thinned(200)) == 200
    places = curves.thinned(1000)
    assert (len(places), places[0], places[-1]) == (200, 0, 999)
    assert set(np.diff(places)) == {5, 6}
