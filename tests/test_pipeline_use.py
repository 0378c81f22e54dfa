"""Where, when and how the pipeline is called: staleness, GitHub Actions, faults around it, and another model."""

import email.policy
import json
import os
import signal
import socket
import subprocess
import time
from email import message_from_bytes

import pytest

from pipeline_clone import (
    APPROVED,
    DENIED,
    GATE_LIMIT,
    PARAMETER,
    STAGES,
    STRICT_LIMIT,
    Clone,
    Served,
    answer_of,
    live_model,
    wait_for,
    xtask_program,
)

# Staleness.


def test_monitor_says_stale_and_writes_the_mail(clone):
    outbox = clone.path / ".local/outbox"
    fresh = json.loads(clone.xtask("monitor", "--json").out)
    assert (fresh["model_stale"], fresh["healthy"], fresh["mail"]) == (False, True, None)
    history = clone.path / "target/pipeline/monitor-history.ndjson"
    rows = len(history.read_text().splitlines())

    head = clone.git("rev-parse", "HEAD")
    old = "2026-01-01T00:00:00Z"
    clone.git("commit", "--quiet", "--amend", "--no-edit", "--date", old, GIT_COMMITTER_DATE=old)
    stale = json.loads(clone.xtask("monitor", "--json").out)
    assert stale["model_stale"] and stale["notebook"]["changed_at"].startswith("2026-01-01")
    assert len(history.read_text().splitlines()) == rows + 1
    assert stale["mail"]["outcome"] == "written"
    mail = message_from_bytes((clone.path / stale["mail"]["file"]).read_bytes(), policy=email.policy.default)
    assert mail["Subject"] == "Credit card approval ML model has not been updated in a week."
    text = "It has been 7 days since the credit card approval ML model was updated. Please update the model."
    assert mail.get_content().strip() == text
    clone.xtask("monitor", "--fail", expect=3)
    assert clone.record("monitor")["mail"]["outcome"] == "already_told"
    assert len(list(outbox.iterdir())) == 1

    (clone.path / ".git/shallow").write_text(clone.git("rev-parse", "HEAD") + "\n")
    shallow = clone.xtask("pipeline", "--json")
    record = json.loads(shallow.out)["monitor"]
    assert record["model_stale"] and "shallow" in record["notebook"]["reason"] and "shallow" in shallow.err
    (clone.path / ".git/shallow").unlink()

    (clone.path / ".git").rename(clone.path / "git-away")
    unknown = json.loads(clone.xtask("monitor", "--json").out)
    assert unknown["model_stale"] and unknown["notebook"]["changed_at"] is None
    (clone.path / "git-away").rename(clone.path / ".git")
    clone.git("reset", "--quiet", "--soft", head)


# GitHub Actions.


def test_github_outputs_summary_and_annotations(clone, tmp_path):
    run = clone.record("build")["run"]
    variables = {"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": str(tmp_path / "out"),
                 "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    for stage in STAGES:
        ended = clone.xtask(stage, "--run", run, **variables)
        assert "::group::" + stage in ended.out and "::endgroup::" in ended.out
    outputs = dict(line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines())
    assert {"ACCURACY", "EQUAL_OPPORTUNITY_FAIRNESS_PERCENT", "model_stale", "image_digest", "model_digest", "verdict",
            "function_url", "report_url"} <= set(outputs)
    assert (outputs["verdict"], outputs["model_stale"]) == ("allow", "false")
    assert outputs["image_digest"] == clone.record("build")["image"]["digest"]
    assert "### Gate: allow" in (tmp_path / "summary").read_text()

    with clone.edited("policies/model.rego", GATE_LIMIT, STRICT_LIMIT):
        denied = clone.xtask("gate", "--run", run, expect=3, **variables)
    assert "title=model.accuracy::Deny: Accuracy less than 95%25" in denied.out
    clone.xtask("pipeline")


# Where and how it is called.


def test_not_in_the_clone(clone, tmp_path):
    ended = clone.xtask("status", expect=1, cwd=tmp_path)
    assert "change into the clone" in ended.err
    clone.xtask("status", cwd=clone.path / "model")


def test_usage(clone):
    clone.xtask("no-such-command", expect=2)
    assert "has no environment `staging`" in clone.xtask("status", "--env", "staging", expect=1).err
    assert "no run id" in clone.xtask("status", "--run", "../x", expect=1).err
    assert "there is no run `none-such`" in clone.xtask("scan", "--run", "none-such", expect=1).err


def test_python_absent_or_too_old(clone, tmp_path):
    bare = Clone("bare")
    assert "Python 3.11 or newer is needed" in bare.xtask("setup", expect=1, PYTHON="/nonexistent/python3").err
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 3 9 /usr/bin/python3\n")
    old.chmod(0o755)
    ended = bare.xtask("setup", expect=1, PYTHON=str(old))
    assert "is 3.9" in ended.err and "apt-get install" in ended.err
    assert "there is no run yet" in bare.xtask("gate", expect=1).err


def test_no_network_for_the_first_installation(tmp_path):
    bare = Clone("bare")
    nowhere = "http://127.0.0.1:9/simple"
    ended = bare.xtask("pipeline", expect=1, PIP_INDEX_URL=nowhere, PIP_FIND_LINKS="", PIP_NO_CACHE_DIR="1",
                       PIP_RETRIES="0", UV_INDEX_URL=nowhere, UV_CACHE_DIR=str(tmp_path),
                       PATH=os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep)
                                            if not os.path.exists(os.path.join(p, "uv"))))
    assert "needs the network" in ended.err and "cargo xtask setup" in ended.err
    assert not (bare.path / "model/.venv/.locked").exists()
    assert not list((bare.path / "target/tools").glob("uv-*"))


def test_taken_port(clone):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        bare = Clone("bare")
        refused = bare.xtask("local", "--port", port, expect=1)
        assert f"port {port} is taken" in refused.err and "--port 0" in refused.err
        # One command of the pipeline needs no certain port.
        ended = bare.xtask("status", LOCAL_AWS_PORT=port)
        assert "using a free one" in ended.err


def test_full_disk_leaves_no_half_record(clone):
    """A file size limit of one block stands in for a full disk: a write fails in the middle."""
    (clone.run_folder() / "gate.json").unlink()
    command = f"trap '' XFSZ; ulimit -f 1; exec {xtask_program()} gate"
    ended = subprocess.run(["bash", "-c", command], cwd=clone.path, env=clone.environment(), capture_output=True, text=True)
    assert ended.returncode == 1 and "/gate." in ended.stderr and "disk full" in ended.stderr, ended.stderr
    assert not (clone.run_folder() / "gate.json").exists()
    assert not list(clone.run_folder().glob(".new-*"))
    clone.xtask("pipeline")


def test_two_pipelines_at_once_the_second_waits(clone):
    for file in ("scan.json", "gate.json"):
        (clone.run_folder() / file).unlink(missing_ok=True)
    processes = [clone.start("pipeline") for _ in range(2)]
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert sum("waiting for `cargo xtask pipeline` (process" in err for _, err in ends) <= 1
    assert clone.record("deploy")["failure"] is None


@pytest.mark.parametrize("stage, forget", [
    ("scan", ["scan.json"]), ("test", ["test.json"]), ("gate", ["gate.json"]), ("deploy", ["deploy.json"])])
def test_interrupted_stage_is_done_again(clone, stage, forget):
    for file in forget:
        (clone.run_folder() / file).unlink(missing_ok=True)
    process = clone.start("pipeline")
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.strip() == stage:
            break
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    clone.xtask("pipeline")
    assert clone.record("deploy")["failure"] is None
    assert live_model(clone) == clone.record("build")["model"]["digest"]


def test_build_that_was_not_pushed_goes_on_there(clone):
    before = clone.record("build")
    (clone.run_folder() / "build.json").unlink()
    assert "going on with the push" in clone.xtask("build").err
    after = clone.record("build")
    assert (after["run"], after["image"]["digest"]) == (before["run"], before["image"]["digest"])
    clone.xtask("pipeline")


# Another model. These tests retrain, so they come last.


def test_changed_parameter_retrains_and_redeploys(clone):
    before = clone.record("build")
    with clone.edited("model/credit_card_approval.ipynb", PARAMETER, "MAX_DEPTH = 4"):
        # Interrupted in the middle of the build, and begun again.
        process = clone.start("pipeline")
        wait_for(lambda: clone.run_folder().name != before["run"])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert not (clone.run_folder() / "build.json").exists()

        clone.xtask("pipeline")
        after = clone.record("build")
        assert after["model"]["digest"] != before["model"]["digest"] and after["run"] != before["run"]
        pushed = [layer["pushed"] for layer in after["image"]["layers"]]
        assert pushed == [False, True], "only the model layer is pushed"
        assert after["image"]["layers"][0]["digest"] == before["image"]["layers"][0]["digest"]
        assert live_model(clone) == after["model"]["digest"]
        assert clone.record("deploy")["previous_version"] is not None
    clone.xtask("pipeline")
    assert clone.record("build")["image"]["digest"] == before["image"]["digest"], "training twice gives the same bytes"


def test_another_clone_elsewhere_gives_the_same_image(clone):
    clone.commit("The tree as it is now")
    other = Clone("another clone", of=clone)
    other.xtask("build")
    assert other.record("build")["image"]["digest"] == clone.record("build")["image"]["digest"]


@pytest.mark.long
def test_another_notebook_ships_by_one_line_of_pipeline_toml(clone):
    before = clone.record("build")
    with clone.edited("pipeline.toml", "credit_card_approval.ipynb", "credit_card_approval_boosting.ipynb"):
        clone.xtask("pipeline")
        build, test = clone.record("build"), clone.record("test")
        assert build["model"]["digest"] != before["model"]["digest"]
        assert test["cases"]["total"] > 0 and test["cases"]["failed"] == 0
        assert test["metrics"]["parity"] == {"rows": 100_000, "class_differences": 0, "probability_differences": 0}
        assert test["metrics"]["accuracy"] > 0.93
        with Served(clone) as urls:
            answers = [answer_of(urls["function_url"], event)[1] for event in (APPROVED, DENIED)]
        assert [answer["prediction"] for answer in answers] == [1, 0]
        assert {answer["model"] for answer in answers} == {build["model"]["digest"]}
