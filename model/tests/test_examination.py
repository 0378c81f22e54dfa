import json

import numpy as np
import pandas as pd
import pytest

from ccapproval import examination
from ccapproval.common import InputError, to_json
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
    low, high = found["interval"]
    assert low <= found["fairnessScoreEqualOpportunity"] <= high


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


def declared(tmp_path, text):
    (tmp_path / "pipeline.toml").write_text(text)
    return metrics_settings(read_tables(tmp_path / "pipeline.toml"))


def test_settings_are_read(tmp_path):
    found = declared(tmp_path, "[metrics]\nseed = 7\n[metrics.minimum]\nauc = 0.9\n")
    assert (found.seed, found.minimum, found.draws) == (7, {"auc": 0.9}, 2000)
    assert declared(tmp_path, "") == Metrics()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[metrics]\nsead = 1", r"\[metrics\] has no sead; known: seed, "),
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
