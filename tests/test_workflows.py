"""The workflows, judged by programs of others and held against what they call."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from pipeline_clone import STAGES
from workflow_runner import load, stand_in

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
TOOLS = Path(sys.executable).parent
PIPELINE = tomllib.loads((ROOT / "pipeline.toml").read_text())

# What the program promises, for when it has not been built yet.
PROMISED = [
    "setup", *STAGES, "pipeline", "compare", "approve", "rollback", "provision", "local", "status", "replay", "check", "bench",
    "doctor",
]  # fmt: skip

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def judge(program, *arguments, **options):
    """Output and exit code of an installed judge. An absent one is an error, never a pass."""
    done = subprocess.run(
        [TOOLS / program, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, **options
    )
    return done.returncode, done.stdout + done.stderr


def actionlint(path):
    return judge("actionlint", "-shellcheck", TOOLS / "shellcheck", path)


def zizmor(path):
    # Whatever its configuration says elsewhere: offline, everything it has an opinion on.
    return judge(
        "zizmor", "--offline", "--persona=auditor", "--no-progress", "--color=never", "--no-config",
        "--strict-collection", path,
        env={name: value for name, value in os.environ.items() if name not in ("GH_TOKEN", "GITHUB_TOKEN")},
    )  # fmt: skip


def schema(path):
    return judge("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def commands():
    """Subcommands of the pipeline's own program."""
    program = ROOT / "target" / "debug" / "xtask"
    if not program.is_file():
        return PROMISED
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    listed = re.search(r"^Commands:\n((?: +.*\n)+)", text, re.MULTILINE)[1]
    return re.findall(r"^  (\w+)", listed, re.MULTILINE)


def triggers(patterns, path):
    """Whether a changed path sets off a workflow with this `paths` filter."""
    assert not any(pattern.startswith("!") or set("?[+") & set(pattern) for pattern in patterns), "not understood here"

    def expression(pattern):
        return "".join(
            {"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*)", pattern)
        )

    return any(re.fullmatch(expression(pattern), path) for pattern in patterns)


def test_there_are_workflows():
    assert {"pipeline", "checks", "monitor"} <= {path.stem for path in WORKFLOWS}


# The judges


@each_workflow
@pytest.mark.parametrize("check", [actionlint, zizmor, schema], ids=lambda check: check.__name__)
def test_judges_find_nothing(check, path):
    code, output = check(path)
    assert code == 0, output


@pytest.mark.parametrize(
    ("check", "old", "new", "found"),
    [
        (actionlint, "github.run_attempt", "github.run_atempt", "run_atempt"),
        (actionlint, "run: cargo xtask setup", "run: cargo xtask setup $UNQUOTED", "SC2086"),
        (actionlint, "runs-on: ubuntu-24.04", "runs-on: ubuntu-24.04\n    needs: nobody", "nobody"),
        (zizmor, "permissions: {}", "permissions: write-all", "excessive-permissions"),
        (zizmor, "@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2", "@v6", "unpinned-uses"),
        (zizmor, "persist-credentials: false", "persist-credentials: true", "artipacked"),
        (zizmor, "run: cargo xtask setup", "run: echo ${{ github.head_ref }}", "template-injection"),
        (schema, "timeout-minutes: 60", "timeout-minutes: soon", "timeout-minutes"),
    ],
)
def test_judges_find_what_is_planted(tmp_path, check, old, new, found):
    """A judge that finds nothing in anything would pass everything."""
    text = (FOLDER / "pipeline.yml").read_text()
    assert old in text
    planted = tmp_path / ".github" / "workflows" / "planted.yml"
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(old, new))
    code, output = check(planted)
    assert code != 0 and found in output, output


# What they call


@each_workflow
def test_every_command_exists(path):
    known = commands()
    called = [
        command
        for step in steps(load(path))
        for command in re.findall(r"^\s*cargo xtask ([\w-]+)", step.get("run", ""), re.MULTILINE)
    ]
    assert [command for command in called if command not in known] == []


def test_every_file_that_is_called_exists():
    for path in WORKFLOWS:
        for step in steps(load(path)):
            for program in re.findall(r"^\s*(\.[\w./-]+)", step.get("run", ""), re.MULTILINE):
                assert os.access(ROOT / program, os.X_OK), f"{path.name}: {program}"


@pytest.mark.parametrize(
    ("job", "environment", "stages"),
    [
        ("rehearsal", None, STAGES),
        ("preprod", "preprod", STAGES),
        ("production-gate", "production", ["gate"]),
        ("production", "production", ["deploy", "monitor"]),
    ],
)
def test_pipeline_runs_every_stage_once_and_in_order(job, environment, stages):
    named = load(FOLDER / "pipeline.yml")["jobs"][job]["steps"]
    runs = [step["run"] for step in named if "cargo" in step.get("run", "")]
    assert all(re.fullmatch(r"cargo xtask .*", run) for run in runs), "one command a step, or the wrong one is blamed"
    called = [re.match(r"cargo xtask (\w+)(?: --env (\w+))?", run).groups() for run in runs]
    assert [command for command, _ in called if command in STAGES] == stages
    assert {named for _, named in called} == {environment}


@pytest.mark.parametrize("job", ["rehearsal", "preprod", "production-gate", "production"])
def test_records_are_kept_also_of_a_run_that_was_denied(job):
    named = load(FOLDER / "pipeline.yml")["jobs"][job]["steps"]
    uploads = [step for step in named if "upload-artifact" in step.get("uses", "")]
    [kept] = [step for step in uploads if step["with"]["name"].startswith("records-")]
    assert "!cancelled()" in kept["if"]
    assert kept["with"]["if-no-files-found"] == "error"
    assert "github.run_attempt" in kept["with"]["name"], "a second attempt would overwrite the first one's evidence"


@each_workflow
def test_actions_are_called_as_their_stand_ins_understand(path):
    for step in steps(load(path)):
        if "uses" in step:
            inputs = yaml.safe_load((stand_in(step["uses"]) / "action.yml").read_text())["inputs"]
            required = {name for name, about in inputs.items() if about.get("required")}
            assert required <= set(step["with"]) <= set(inputs), step["name"]


def test_toolchain_is_the_one_that_the_workspace_asks_for():
    asked = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            if any("cargo" in step.get("run", "") or ".ci/run" in step.get("run", "") for step in job.get("steps", [])):
                assert job["env"]["RUSTUP_TOOLCHAIN"] == asked, f"{path.name}: {name}"


# What sets them off


@pytest.mark.parametrize(
    "changed",
    [
        PIPELINE["model"]["notebook"],
        f"{PIPELINE['model']['directory']}/uv.lock",
        f"{PIPELINE['model']['directory']}/pyproject.toml",
        f"{PIPELINE['model']['directory']}/Dockerfile",
        f"{PIPELINE['model']['directory']}/data/anything.parquet",
        f"{PIPELINE['model']['directory']}/{PIPELINE['model']['package']}/train.py",
        f"{PIPELINE['inference']['crate']}/src/lib.rs",
        *(policy for policy_set in PIPELINE["policy_sets"] for policy in policy_set["policies"]),
        "pipeline.toml",
        "Cargo.lock",
        "xtask/src/main.rs",
        "web/app.js",
        ".github/workflows/pipeline.yml",
    ],
)
def test_pipeline_is_triggered_by(changed):
    push = load(FOLDER / "pipeline.yml")["on"]["push"]
    assert push["branches"] == ["main"]
    assert triggers(push["paths"], changed)


@pytest.mark.parametrize("changed", ["README.md", "tests/test_workflows.py", "LICENSE", "other/model/notebook.ipynb"])
def test_pipeline_is_not_triggered_by(changed):
    assert not triggers(load(FOLDER / "pipeline.yml")["on"]["push"]["paths"], changed)


def test_pipeline_has_its_name_and_can_be_started_by_hand():
    workflow = load(FOLDER / "pipeline.yml")
    assert workflow["name"] == "trigger_on_notebook_update"
    assert "workflow_dispatch" in workflow["on"]


def test_checks_run_for_every_change():
    """A required check that a path filter skips stays pending for ever."""
    on = load(FOLDER / "checks.yml")["on"]
    assert on["push"] == {"branches": ["main"]}
    assert on["pull_request"] is None


# Rules of the house


@each_workflow
def test_permissions_are_given_job_by_job(path):
    workflow = load(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert "permissions" in job and "write-all" not in str(job["permissions"]), name
        assert job["timeout-minutes"] <= 120, name


def test_rights_beyond_reading_are_few_and_where_they_are_needed():
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            where = f"{path.name}: {name}"
            signs_in = any("configure-aws-credentials" in step.get("uses", "") for step in job["steps"])
            publishes = any("upload-sarif" in step.get("uses", "") for step in job["steps"])
            writes = {right for right, level in job["permissions"].items() if level != "read"}
            expected = ({"id-token"} if signs_in else set()) | ({"security-events"} if publishes else set())
            assert writes == expected, where
            # AWS trusts an environment of the repository, not whatever runs in it.
            assert signs_in == ("environment" in job), where


def test_secrets_are_those_of_mail_and_only_where_mail_is_sent():
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            for step in job["steps"]:
                allowed = {"SMTP_USERNAME", "SMTP_PASSWORD"} if "xtask monitor" in step.get("run", "") else set()
                assert set(re.findall(r"secrets\.(\w+)", str(step))) <= allowed, f"{path.name}: {name}"
        assert "pull_request_target" not in path.read_text()


@each_workflow
def test_actions_are_pinned_by_commit_and_say_which_version_that_is(path):
    for line in path.read_text().splitlines():
        if re.match(r"\s*(- )?uses:", line):
            assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    versions = {}
    for other in WORKFLOWS:
        for action, commit in re.findall(r"uses: ([\w./-]+)@(\S+)", other.read_text()):
            assert versions.setdefault(action, commit) == commit, f"two versions of {action}"


@each_workflow
def test_checkout_has_the_whole_history_and_keeps_no_credentials(path):
    found = [step for step in steps(load(path)) if step.get("uses", "").startswith("actions/checkout@")]
    assert found
    for step in found:
        assert step["with"]["fetch-depth"] == 0, "a shallow clone gives wrong dates to the staleness"
        assert step["with"]["persist-credentials"] is False


@each_workflow
def test_no_expression_inside_a_script(path):
    for step in steps(load(path)):
        assert "${{" not in step.get("run", ""), step["name"]


@each_workflow
def test_no_long_lived_key(path):
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret_access_key|secrets\.AWS", text, re.IGNORECASE)


def test_deployments_wait_for_each_other_and_are_never_cut_off():
    workflow = load(FOLDER / "pipeline.yml")
    assert "concurrency" not in workflow, "a run that waits for its reviewers would hold up preproduction"
    groups = set()
    for job in ("preprod", "production"):
        concurrency = workflow["jobs"][job]["concurrency"]
        assert concurrency["cancel-in-progress"] is False
        assert "${{" not in concurrency["group"], "one group, or two runs deploy at the same time"
        groups.add(concurrency["group"])
    assert len(groups) == 2


def test_production_waits_for_its_reviewers_and_is_told_what_they_approved():
    jobs = load(FOLDER / "pipeline.yml")["jobs"]
    assert jobs["production"]["environment"]["name"] == "production"
    assert jobs["production"]["needs"] == ["preprod", "production-gate"]
    assert jobs["production"]["if"] == "${{ needs.production-gate.result == 'success' }}"
    assert "environment" not in jobs["production-gate"], "whoever approves wants to know what"
    [deploy] = [step for step in jobs["production"]["steps"] if step.get("id") == "deploy"]
    assert deploy["env"]["GATE_DIGEST"] == "${{ needs.production-gate.outputs.gate_digest }}"
    assert jobs["production"]["permissions"]["actions"] == "read"


# The watcher, and who watches it


def test_monitoring_is_daily_complete_and_loud():
    workflow = load(FOLDER / "monitor.yml")
    [schedule] = workflow["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", schedule["cron"])
    runs = [step["run"] for step in steps(workflow) if "xtask monitor" in step.get("run", "")]
    watched = [name for name, environment in PIPELINE["environments"].items() if environment["cloud"] == "aws"]
    assert runs == [f"cargo xtask monitor --env {name} --fail" for name in watched]


def test_monitoring_that_stopped_fails_the_checks_of_main():
    job = load(FOLDER / "checks.yml")["jobs"]["watch-the-monitor"]
    assert "cargo xtask monitor --last-run-within 2d" in [step.get("run") for step in job["steps"]]
    assert "github.event_name == 'push'" in job["if"], "a pull request is not to blame"
