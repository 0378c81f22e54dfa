"""What the pipeline does when network and services fail it: a sample of what `cargo xtask bench faults` tries."""

import json


def test_no_fault_kill_or_race_leaves_anything_half_done(clone):
    ended = clone.xtask("bench", "faults", "--quick", "--json", expect=None)
    assert ended.code == 0, ended.text
    figures = {figure["name"]: figure["value"] for figure in json.loads(ended.out)["figures"]}
    # Every second call of provision, build, scan and deploy has one fault here.
    assert figures["cases"] >= 100 and figures["survived"] == figures["cases"], ended.text
    assert figures["kill_points"] == 20 and figures["converged"] == 20, ended.text
    assert figures["races"] == 10 and figures["lost_updates"] == 0, ended.text
    assert not list((clone.path / "target/bench").iterdir()), "the cases' folders are removed"
