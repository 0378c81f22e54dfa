import json

import numpy as np
import pandas as pd
import pytest

from ccapproval import examination
from ccapproval.common import InputError, to_json
from ccapproval.curves import Scores
from ccapproval.examination import FAIL, INSUFFICIENT, PASS, Examination
from ccapproval.settings import Metrics, metrics_settings, read_tables

SETTINGS = Metrics(draws=300)


def applicants(seed=0, rows=2000, **attributes):
    random = np.random.default_rng(seed)
    chances = random.random(rows)
    actual = random.random(rows) < chances
    sensitive = pd.DataFrame(
        {name: random.choice(values, rows) for name, values in attributes.items()},
        index=range(rows),
    )
    return actual, chances >= 0.5, chances, sensitive


def examine(*given, settings=SETTINGS):
    found = Examination(settings).of(*given)
    # What cannot be recorded cannot be judged.
    return json.loads(to_json(found))


def test_every_figure_has_rows_an_interval_and_a_verdict():
    found = examine(*applicants(group=["a", "b"]))
    parts = [found["overall"], *found["groups"]["group"].values(), found["fairness"]["group"]]
    for part in parts:
        figures = set(part) - {"n", "tn", "fp", "fn", "tp", "reasons", "evidence"}
        assert figures == set(part["evidence"])
        for name, behind in part["evidence"].items():
            low, high = behind["interval"]
            assert 0 <= low <= part[name] <= high <= 1, name
            assert 0 < behind["n"] <= 2000
            assert behind["verdict"] in (None, PASS, FAIL, INSUFFICIENT)
            assert (behind["verdict"] == PASS) == (behind["reason"] is None)
    assert found["fairnessScoreEqualOpportunity"] == pytest.approx(
        100 * found["fairness"]["group"]["equal_opportunity_difference"]
    )
    behind = found["fairness"]["group"]["evidence"]["equal_opportunity_difference"]
    assert found["interval"] == [100 * end for end in behind["interval"]]


def test_the_same_seed_gives_the_same_and_another_seed_other_intervals():
    given = applicants(group=["a", "b"])
    assert examine(*given) == examine(*given)
    other = examine(*given, settings=Metrics(draws=300, seed=1))
    assert other["overall"]["accuracy"] == examine(*given)["overall"]["accuracy"]
    assert other["overall"]["evidence"] != examine(*given)["overall"]["evidence"]


def test_a_group_of_one_is_no_evidence():
    actual, predicted, chances, sensitive = applicants(group=["a", "b"])
    sensitive.loc[0, "group"] = "c"
    found = examine(actual, predicted, chances, sensitive)
    alone = found["groups"]["group"]["c"]
    assert alone["n"] == 1
    assert alone["auc"] is None
    assert alone["reasons"]["auc"].startswith("no row is actually ")
    gaps = found["fairness"]["group"]
    for behind in gaps["evidence"].values():
        assert behind["verdict"] == INSUFFICIENT
        assert "group c: " in behind["reason"]
    assert gaps["evidence"]["equal_accuracy_difference"]["interval"] is not None


def test_a_group_without_positives_has_no_gap_rather_than_none():
    actual, predicted, chances, sensitive = applicants(group=["a", "b"])
    actual = actual & (sensitive["group"] == "a").to_numpy()
    found = examine(actual, predicted, chances, sensitive)
    gaps = found["fairness"]["group"]
    assert gaps["equal_opportunity_difference"] is None
    assert gaps["evidence"]["equal_opportunity_difference"] == {
        "n": 2000, "interval": None, "verdict": INSUFFICIENT,
        "reason": "group b: no row is actually positive",
    }  # fmt: skip
    assert gaps["evidence"]["demographic_parity_difference"]["reason"] == (
        "group b: 0 positives, at least 30 are needed"
    )
    assert (found["fairnessScoreEqualOpportunity"], found["interval"]) == (None, None)


def test_one_group_alone_is_no_evidence_of_fairness():
    found = examine(*applicants(group=["a"]))
    for name, behind in found["fairness"]["group"]["evidence"].items():
        assert found["fairness"]["group"][name] is None
        assert (behind["verdict"], behind["reason"]) == (INSUFFICIENT, "there is only one group")


def test_the_score_is_that_of_the_widest_gap_and_open_where_one_is():
    name = "equal_opportunity_difference"
    gaps = {
        attribute: {name: value, "evidence": {name: {"interval": [value / 2, 2 * value]}}}
        for attribute, value in (("a", 0.125), ("b", 0.25), ("c", 0.0625))
    }
    assert examination.score_of(gaps) == (25.0, [12.5, 50.0])
    assert examination.score_of({**gaps, "d": {name: None}}) == (None, None)


def test_a_figure_that_is_undefined_says_why_and_one_of_few_rows_that():
    actual, _, chances, sensitive = applicants()
    settings = Metrics(draws=100, minimum={"precision": 0.5, "recall": 0.5})
    nobody = np.zeros(2000, bool)
    found = examine(actual, nobody, chances, sensitive, settings=settings)["overall"]["evidence"]
    reason = "no row is predicted positive"
    assert (found["precision"]["verdict"], found["precision"]["reason"]) == (INSUFFICIENT, reason)
    assert found["recall"]["verdict"] == FAIL
    few = [each[:20] for each in (actual, nobody, chances, sensitive)]
    found = examine(*few, settings=settings)["overall"]["evidence"]
    for name in ("precision", "recall"):
        assert "positives, at least 30 are needed" in found[name]["reason"]


def test_thirty_of_each_are_enough():
    counts = {"fn": 10, "tp": 20, "tn": 29, "fp": 1}
    assert examination.scarcity(counts, Metrics()) is None
    assert examination.scarcity({**counts, "tp": 19, "fp": 0}, Metrics()) == (
        "29 positives, at least 30 are needed; 29 negatives, at least 30 are needed"
    )


def test_curves_are_drawn_of_the_rows_of_each_group():
    actual, _, chances, sensitive = applicants(group=["a", "b"])
    found = examination.drawn(actual, chances, sensitive)
    rows = (sensitive["group"] == "a").to_numpy()
    alone = Scores.of(actual[rows], chances[rows])
    assert found["groups"]["group"]["a"] == examination.curves(alone)
    assert list(found["groups"]["group"]) == ["a", "b"]
    assert found["overall"] == examination.curves(Scores.of(actual, chances))


def test_without_attributes_there_is_no_score():
    found = examine(*applicants())
    assert (found["groups"], found["fairnessScoreEqualOpportunity"]) == ({}, None)


def test_rows_without_a_group_are_examined_as_one():
    actual, predicted, chances, sensitive = applicants(group=[1.0, 2.0])
    sensitive.loc[sensitive.index[::4], "group"] = np.nan
    found = examine(actual, predicted, chances, sensitive)
    assert list(found["groups"]["group"]) == ["1", "2", "missing"]
    assert found["groups"]["group"]["missing"]["n"] == 500


def test_attributes_are_examined_together_too():
    given = applicants(group=["a", "b"], age=["old", "young"], region=[1, 2])
    found = examine(*given)["intersections"]
    assert list(found) == [
        "group × age", "group × region", "age × region", "group × age × region",
    ]  # fmt: skip
    actual, predicted, _, sensitive = given
    rows = ((sensitive["group"] == "a") & (sensitive["age"] == "young")).to_numpy()
    part = found["group × age"]["groups"]["a × young"]
    assert part["n"] == rows.sum()
    assert part["accuracy"] == (actual == predicted)[rows].mean()
    everybody = found["group × age × region"]["groups"]
    assert sum(each["n"] for each in everybody.values()) == 2000
    assert found["group × age × region"]["fairness"]["equal_accuracy_difference"] > 0


def test_too_many_meetings_are_not_examined_and_say_so():
    found = examine(*applicants(a=range(15), b=range(15)))["intersections"]["a × b"]
    assert (found["groups"], found["fairness"]) == ({}, None)
    assert "more than 100" in found["reason"]
    most = examine(*applicants(a=range(10), b=range(10)))["intersections"]["a × b"]
    assert (len(most["groups"]), most["reason"]) == (100, None)


@pytest.mark.parametrize(
    ("value", "interval", "scarce", "expected"),
    [
        (0.05, (0.02, 0.08), None, (PASS, None)),
        (0.05, (0.02, 0.12), None, (INSUFFICIENT, "the interval reaches beyond")),
        (0.11, (0.08, 0.14), None, (FAIL, "0.11 is not at most 0.1")),
        (0.1, (0.1, 0.1), None, (PASS, None)),
        (0.05, (0.02, 0.08), "too few", (INSUFFICIENT, "too few")),
        (0.5, (0.4, 0.6), "too few", (INSUFFICIENT, "too few")),
        (None, None, None, (INSUFFICIENT, "undefined")),
        (0.05, None, None, (INSUFFICIENT, "undefined")),
        (None, (0.02, 0.08), None, (INSUFFICIENT, "undefined")),
    ],
)
def test_verdicts(value, interval, scarce, expected):
    name = "equal_opportunity_difference"
    found, reason = examination.verdict(name, value, interval, scarce, Metrics())
    assert found == expected[0]
    assert (reason or "").startswith(expected[1] or "")
    assert (reason is None) == (expected[1] is None)


def test_a_figure_without_a_limit_has_no_verdict():
    assert examination.verdict("auc", 0.9, (0.8, 1), None, Metrics()) == (
        None, "no limit is declared",
    )  # fmt: skip
    limited = Metrics(minimum={"auc": 0.85})
    assert examination.verdict("auc", 0.9, (0.8, 1), None, limited)[0] == INSUFFICIENT
    assert examination.verdict("auc", 0.9, (0.86, 1), None, limited)[0] == PASS
    assert examination.verdict("auc", 0.8, (0.75, 0.84), None, limited)[0] == FAIL
    assert examination.verdict("auc", 0.85, (0.85, 1), None, limited)[0] == PASS


def test_only_a_figure_has_an_interval():
    for value, interval in ((None, (0.1, 0.2)), (0.1, None), (None, None)):
        assert examination.evidence("auc", value, 5, interval, (None, None))["interval"] is None
    assert examination.evidence("auc", 0.1, 5, (0, 0.2), (None, None))["interval"] == [0, 0.2]


def declared(tmp_path, text):
    (tmp_path / "pipeline.toml").write_text(text)
    return metrics_settings(read_tables(tmp_path / "pipeline.toml"))


def test_settings_are_read(tmp_path):
    found = declared(tmp_path, "[metrics]\nseed = 7\n[metrics.minimum]\nauc = 0.9\n")
    assert (found.seed, found.minimum, found.draws) == (7, {"auc": 0.9}, 2000)
    assert declared(tmp_path, "") == Metrics()
    least = "seed = 0\ndraws = 100\nminimum_positives = 0\nmaximum = {brier = 0}\n"
    found = declared(tmp_path, f"[metrics]\n{least}")
    assert (found.draws, found.minimum_positives, found.maximum) == (100, 0, {"brier": 0})
    assert read_tables(None) == {}


def test_what_is_not_declared_is_as_documented():
    assert Metrics() == Metrics(
        seed=0,
        draws=2000,
        minimum_positives=30,
        minimum_negatives=30,
        minimum={"demographic_parity_ratio": 0.8},
        maximum={
            "demographic_parity_difference": 0.1,
            "equal_opportunity_difference": 0.1,
            "equal_accuracy_difference": 0.1,
            "equalized_odds_difference": 0.1,
            "predictive_parity_difference": 0.1,
        },
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[metrics]\nsead = 1", r"\[metrics\] has no sead; known: seed, "),
        ("[metrics]\nz = 1\na = 1\ns = 1\nf = 1", r"\[metrics\] has no a, f, s, z; known: "),
        ("[metrics]\nseed = -1", "seed must be a whole number of at least 0, not -1"),
        ("[metrics.minimum]\nauk = 1", r"\[metrics\] minimum has no auk; known: accuracy, "),
        ("[metrics.maximum]\nbrier = '1'", r"\[metrics\] maximum.brier must be a number"),
        ("[metrics.maximum]\nbrier = nan", r"\[metrics\] maximum.brier must be a number"),
        ("[metrics]\ndraws = 10", "draws must be a whole number of at least 100, not 10"),
        ("[metrics]\nseed = true", "seed must be a whole number"),
        ("metrics = 3", r"\[metrics\] must be a table"),
        ("metrics = ", "is not valid TOML"),
    ],
)
def test_settings_out_of_place_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        declared(tmp_path, text)
