"""What the gate lets pass and what it does not, and evidence that was tampered with."""

import json
import re
from xml.etree import ElementTree

import pytest

from pipeline_clone import GATE_LIMIT, PARAMETER, STRICT_LIMIT, advisory_database, live_model


def test_denied_model_is_not_deployed_and_warned_one_is(clone):
    before = clone.record("build")["model"]["digest"]
    with clone.edited("policies/model.rego", GATE_LIMIT, STRICT_LIMIT):
        denied = clone.xtask("pipeline", expect=3)
        assert "Deny: Accuracy less than 95% or fairness score difference greater than 21%" in denied.err
        assert clone.record("gate")["verdict"] == "deny"
        assert not (clone.run_folder() / "deploy.json").exists(), "an older answer must not outlive the question"
        clone.xtask("deploy", expect=3)
        assert live_model(clone) == before, "the old version keeps answering"

        # The model's policy set is the first of the file.
        with clone.edited("pipeline.toml", 'on_failure = "error"', 'on_failure = "warn"'):
            warned = clone.xtask("pipeline")
        assert clone.record("gate")["verdict"] == "warn" and "Deny: Accuracy less than 95%" in warned.err
        assert clone.record("deploy")["verdict"] == "warn"
    clone.xtask("pipeline")
    assert clone.record("gate")["verdict"] == "allow"


def test_stricter_policy_set_beside_the_others_warns(clone):
    strict = """
[[policy_sets]]
name = "Stricter Policy Set"
package = "strict"
policies = ["policies/model.rego", "policies/strict.rego"]
on_failure = "warn"
"""
    with clone.edited("pipeline.toml", "\n[monitor]", strict + "\n[monitor]"):
        warned = clone.xtask("pipeline")
        assert "Deny: Accuracy less than 95% or fairness score difference greater than 19%" in warned.err
        outcomes = {outcome["policy_set"]: outcome["denials"] for outcome in clone.record("gate")["outcomes"]}
        assert outcomes["Stricter Policy Set"] and not outcomes["Credit Card Approval Policy Set"]
        assert (clone.record("gate")["verdict"], clone.record("deploy")["verdict"]) == ("warn", "warn")
    clone.xtask("pipeline")


@pytest.mark.parametrize("policy, reason", [
    ("", "understand policies/model.rego"),
    ("package main\ndeny contains {", "understand policies/model.rego"),
    ("package elsewhere\ndeny contains \"x\" if false\n", "no policy has the package `main`"),
    ("package main\nallow := true\n", "no rule named `deny`"),
])
def test_policy_that_cannot_be_asked_denies(clone, policy, reason):
    path = clone.path / "policies/model.rego"
    with clone.holding(path):
        path.write_text(policy)
        assert reason in clone.xtask("gate", expect=3).err
        path.unlink()
        assert "cannot be read" in clone.xtask("gate", expect=3).err
    clone.xtask("gate")


def test_no_policy_set_is_nothing_checked(clone):
    path = clone.path / "pipeline.toml"
    with clone.holding(path):
        path.write_text(re.sub(r"\[\[policy_sets\]\].*?(?=\n\[monitor\])", "", path.read_text(), flags=re.S))
        assert "names no policy set" in clone.xtask("gate", expect=4).err


WAIVER = """
[[waivers]]
id = "{id}"
owner = "ann@example.com"
reason = "agreed until the next model"
expires = "{expires}"
"""


def with_waiver(clone, id="model.accuracy", expires="2999-12-31"):
    return clone.edited("pipeline.toml", "\n[monitor]", WAIVER.format(id=id, expires=expires) + "\n[monitor]")


def test_waived_denial_passes_and_is_shown_with_its_owner(clone):
    with clone.edited("policies/model.rego", GATE_LIMIT, STRICT_LIMIT):
        with with_waiver(clone):
            waived = clone.xtask("gate")
            assert "waived by ann@example.com until 2999-12-31 (agreed until the next model): model.accuracy" in waived.err
            assert "waived   model.accuracy" in waived.out
            record = clone.record("gate")
            (rule,) = (rule for rule in record["outcomes"][0]["rules"] if rule["id"] == "model.accuracy")
            assert rule["messages"][0]["waived"]["owner"] == "ann@example.com"
            assert (record["verdict"], record["outcomes"][0]["denials"]) == ("allow", [])
        with with_waiver(clone, id="model.fairness"):
            assert "Deny: Accuracy less than 95%" in clone.xtask("gate", expect=3).err
    with with_waiver(clone):
        assert "The waiver of model.accuracy by ann@example.com is not needed" in clone.xtask("gate").err
    with with_waiver(clone, expires="2026-01-31"):
        assert "expired on 2026-01-31" in clone.xtask("gate", expect=3).err
        clone.xtask("deploy", expect=3)
    clone.xtask("gate")


def test_verdict_in_every_form(clone):
    with clone.edited("policies/model.rego", GATE_LIMIT, STRICT_LIMIT):
        table, report, sarif, annotations = (
            clone.xtask("gate", "--output", form, expect=3).out for form in ("table", "junit", "sarif", "github"))
        record = json.loads(clone.xtask("gate", "--json", expect=3).out)
    message = "Deny: Accuracy less than 95% or fairness score difference greater than 21%"
    assert any(line.startswith("denied   model.accuracy") and message in line for line in table.splitlines())
    failures = ElementTree.fromstring(report).findall(".//failure")
    assert [failure.get("message") for failure in failures] == [f"denied: {message}"]
    results = json.loads(sarif)["runs"][0]["results"]
    assert ("model.accuracy", message) in [(result["ruleId"], result["message"]["text"]) for result in results]
    assert f"title=model.accuracy::{message.replace('%', '%25')}" in annotations
    assert record == clone.record("gate") and record["verdict"] == "deny"
    clone.xtask("gate")


def test_denial_can_stop_one_environment_and_warn_in_another(clone):
    by_name = 'on_failure = {{ default = "{}", local = "{}" }}'
    with clone.edited("policies/model.rego", GATE_LIMIT, STRICT_LIMIT):
        with clone.edited("pipeline.toml", 'on_failure = "error"', by_name.format("error", "warn")):
            assert "verdict: warn" in clone.xtask("gate").err
        with clone.edited("pipeline.toml", 'on_failure = "error"', by_name.format("warn", "error")):
            clone.xtask("gate", expect=3)
    clone.xtask("gate")


def test_every_verdict_is_logged_and_a_changed_log_shows(clone):
    log = clone.path / "target/pipeline/decisions.ndjson"
    with clone.edited("policies/model.rego", GATE_LIMIT, STRICT_LIMIT):
        clone.xtask("gate", expect=3)
    clone.xtask("gate")
    denied, allowed = (json.loads(line) for line in log.read_text().splitlines()[-2:])
    assert (denied["verdict"], allowed["verdict"]) == ("deny", "allow")
    assert denied["policy_digest"] != allowed["policy_digest"] and denied["input"] == allowed["input"]
    assert "and the log of them is whole" in clone.xtask("status").out
    with clone.holding(log):
        log.write_text(log.read_text().replace('"verdict":"deny"', '"verdict":"allow"', 1))
        assert "a line was changed or taken out" in clone.xtask("status").out
        assert "a line was changed or taken out" in clone.xtask("deploy", expect=1).err
    # No line follows the last one, but the run's record says the same.
    with clone.holding(log):
        before, last = log.read_text().rstrip("\n").rsplit("\n", 1)
        altered = last.replace('"verdict":"allow"', '"verdict":"warn"', 1)
        log.write_text(f"{before}\n{altered}\n")
        for said in (clone.xtask("status").out, clone.xtask("deploy", expect=1).err):
            assert f"is not what gate.json of run {clone.run_folder().name} says" in said and f"move {log} away" in said
    clone.xtask("deploy")


def test_vulnerable_crate_in_the_program_denies_and_a_clean_scan_passes(clone):
    (clone.run_folder() / "scan.json").unlink()
    vulnerable = {"RUSTSEC_ADVISORY_DB": advisory_database("serde_json")}
    denied = clone.xtask("pipeline", expect=3, **vulnerable)
    assert "vulnerabilities" in denied.err
    summary = clone.record("scan")["summary"]
    assert (summary["status"], summary["issuesCount"]) == ("Succeeded", 1)
    assert summary["issuesBySeverityCount"]["Critical"] == summary["issuesBySeverityCount"]["NewCritical"] == 1

    (clone.run_folder() / "scan.json").unlink()
    clone.xtask("pipeline", RUSTSEC_ADVISORY_DB=advisory_database("not-in-the-program"))
    assert clone.record("scan")["crates"]["status"] == "done"


# Evidence that was tampered with.


def tampered(clone, file, change, command, code, text):
    path = clone.run_folder() / file
    with clone.holding(path):
        path.write_bytes(change(path.read_bytes()))
        ended = clone.xtask(command, expect=code)
        assert text in ended.err and file in ended.err, ended.err


def flip(data: bytes) -> bytes:
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


def test_a_verdict_that_cannot_be_logged_is_none(clone):
    log = clone.path / "target/pipeline/decisions.ndjson"
    with clone.holding(log):
        log.write_bytes(log.read_bytes()[:-10])
        with clone.edited("policies/model.rego", GATE_LIMIT, "minimum_accuracy := 0.91"):
            for _ in range(2):
                assert "is not whole: move the file away" in clone.xtask("gate", expect=1).err
            assert not (clone.run_folder() / "gate.json").exists()
            assert "gate.json is missing" in clone.xtask("deploy", expect=1).err
    clone.xtask("pipeline")


@pytest.mark.parametrize("file, change, command, code, text", [
    ("build.json", lambda data: data[: len(data) // 2], "scan", 1, "is corrupted"),
    ("build.json", lambda data: b"", "deploy", 1, "is not the one that the gate judged"),
    ("model.bin", flip, "scan", 1, "was changed"),
    ("model.bin", flip, "test", 1, "was changed"),
    ("scan.json", lambda data: data[:100], "gate", 3, "is corrupted"),
    ("test.json", lambda data: data[:100], "gate", 3, "is corrupted"),
    ("metrics.json", lambda data: data.replace(b"sha256:", b"sha256:0"), "gate", 3, "was changed"),
    ("metrics.json", lambda data: data.replace(b"0.92", b"0.99"), "deploy", 1, "was changed"),
    ("gate.json", lambda data: data[:-10], "deploy", 1, "is corrupted"),
    ("predictions.csv", flip, "gate", 3, "was changed"),
    ("bundle.json", lambda data: data.replace(b'"verdict":"allow"', b'"verdict":"warn"'), "deploy", 1, "the records say"),
    ("bundle.json", lambda data: data[:200], "deploy", 1, "is corrupted"),
])
def test_tampered_evidence_is_refused_by_name(clone, file, change, command, code, text):
    tampered(clone, file, change, command, code, text)
    clone.xtask("pipeline")


def test_no_byte_that_the_evidence_names_may_change_before_deploy(clone):
    evidence = json.loads((clone.run_folder() / "bundle.json").read_text())["predicate"]
    files = {name: stage for stage, names in evidence["files"].items() for name in names}
    assert {"model.bin", "metrics.json", "report.xml", "sbom.cdx.json", "gate.junit.xml", "test_split.csv"} <= set(files)
    records = {name: "gate" for name in evidence["records"]}
    run = clone.run_folder().name
    for name, stage in (files | records | {"bundle.json": "gate"}).items():
        path = clone.run_folder() / name
        with clone.holding(path):
            data = path.read_bytes()
            middle = len(data) // 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:])
            ended = clone.xtask("deploy", expect=1)
        assert name in ended.err and f"cargo xtask {stage}" in ended.err, f"{name}: {ended.err}"
    for name in evidence["policies"]:
        path = clone.path / name
        with clone.holding(path):
            path.write_bytes(path.read_bytes() + b"\n")
            ended = clone.xtask("deploy", expect=1)
        mended = f"{name} changed since the gate judged by it: run `cargo xtask gate --env local --run {run}` again"
        assert mended in ended.err, ended.err
    assert "skipped" in clone.xtask("deploy").err


def test_records_that_speak_of_other_bytes_are_refused(clone):
    other = b"sha256:" + b"0" * 64
    model = clone.record("build")["model"]["digest"].encode()
    image = clone.record("build")["image"]["digest"].encode()
    # A changed build.json no longer is the one that the evidence rests on.
    tampered(clone, "build.json", lambda data: data.replace(image, other), "gate", 3, "rests on another build.json")
    clone.xtask("pipeline")
    # Metrics of another model, in a record that is otherwise in order.
    path = clone.run_folder() / "test.json"
    with clone.holding(path):
        path.write_bytes(path.read_bytes().replace(model, other))
        assert "The metrics belong to another model than the image" in clone.xtask("gate", expect=3).err
    clone.xtask("pipeline")
    # After the gate has judged, deploy takes no other record than the one that was judged.
    path = clone.run_folder() / "scan.json"
    with clone.holding(path):
        path.write_bytes(path.read_bytes() + b"\n")
        assert "scan.json is not the one that the gate judged" in clone.xtask("deploy", expect=1).err
    clone.xtask("pipeline")


def test_image_that_differs_from_the_record_is_refused(clone):
    path = clone.run_folder() / "build.json"
    with clone.holding(path):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"image": record["image"] | {"digest": "sha256:" + "0" * 64}}))
        for command in ("scan", "test"):
            assert "sha256:0000" in clone.xtask(command, expect=1).err
        path.write_text(json.dumps(record | {"model": record["model"] | {"digest": "sha256:" + "1" * 64}}))
        assert "build.json says sha256:1111" in clone.xtask("test", expect=1).err
    clone.xtask("pipeline")


def test_changed_sources_are_not_tested_as_the_built_ones(clone):
    with clone.edited("model/credit_card_approval.ipynb", PARAMETER, "MAX_DEPTH = 4"):
        assert "changed since run" in clone.xtask("test", expect=1).err
