"""What the pipeline does when network and services fail it: a sample of what `cargo xtask bench faults` tries; with `--full`, all
of it."""

import json


def test_no_fault_kill_or_race_leaves_anything_half_done(clone, pytestconfig, record_property):
    full = pytestconfig.getoption("--full")
    ended = clone.xtask("bench", "faults", *([] if full else ["--quick"]), "--json", expect=None)
    assert ended.code == 0, ended.text
    figures = {figure["name"]: figure["value"] for figure in json.loads(ended.out)["figures"]}
    record_property("counts", "faults: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    # In the sample, every second call of every command that is tried has one fault.
    cases, kills, races = (800, 80, 100) if full else (100, 20, 10)
    assert figures["cases"] >= cases and figures["survived"] == figures["cases"], ended.text
    assert figures["kill_points"] >= kills and figures["converged"] == figures["kill_points"], ended.text
    assert figures["races"] == races and figures["lost_updates"] == 0, ended.text
    assert not list((clone.path / "target/bench").iterdir()), "the cases' folders are removed"
