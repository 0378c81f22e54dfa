"""Runs a workflow on this machine as GitHub would: by act, a runner that others wrote, with stand-ins of the actions.

Every job begins in an empty folder. What one hands to the next goes through outputs, environment files and artifacts,
and nothing else. act has no environments: their variables are given to the whole run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from pipeline_clone import ROOT, Clone, neutral_environment, xtask_program

ACTIONS = ROOT / "tests" / "actions"
REPOSITORY = "example/credit-card"
RUN_ID = "4242"
RUN = f"{RUN_ID}-1"


def load(path: Path) -> dict:
    workflow = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the bare word `on` as true.
    workflow["on"] = workflow.pop(True, workflow.get("on"))
    return workflow


def stand_in(action: str) -> Path:
    """The folder of the stand-in for `owner/repository/folder@commit`."""
    return ACTIONS / action.partition("@")[0]


class GitHub:
    """A stand-in of GitHub's API on loopback: answers what it was given, by path, and 404 to everything else."""

    def __init__(self):
        self.answers: dict[str, object] = {}
        self.asked: list[tuple[str, str | None]] = []
        github = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                github.asked.append((path, self.headers["authorization"]))
                body = json.dumps(github.answers.get(path, {"message": "Not Found"})).encode()
                self.send_response(200 if path in github.answers else 404)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> "GitHub":
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()


class Result:
    """How a run ended: jobs and steps with their results, outputs by step, summaries by job."""

    def __init__(self, code: int, text: str):
        self.code, self.text = code, text
        self.jobs: dict[str, str] = {}
        self.steps: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.outputs: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self.summaries: dict[str, str] = defaultdict(str)
        for line in text.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            job, step = event.get("jobID"), event.get("stepID") or []
            if "jobResult" in event:
                self.jobs[job] = event["jobResult"]
            elif event.get("command") == "set-output":
                self.outputs[job, step[0]][event["name"]] = event["arg"]
            elif event.get("command") == "summary":
                self.summaries[job] += event["content"]
            elif event.get("stage") == "Main" and len(step) == 1 and "stepResult" in event:
                self.steps[job].append((event["step"], event["stepResult"]))

    def log(self) -> str:
        """What the steps printed. act gives them a terminal, on which progress is written over."""
        lines = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]
        printed = "".join(line["msg"] for line in lines if line.get("raw_output") or line.get("level") == "error")
        return re.sub(r"[^\n]*\r(?=[^\n])", "", printed)


class Runner:
    """A repository made of the working tree, and where its runs put things. `variables` are of the machine."""

    def __init__(self, folder: Path, github: GitHub, **variables: str):
        self.folder = folder
        self.artifacts = folder / "artifacts"
        self.origin = Clone("origin")
        self.origin.git("remote", "add", "origin", f"https://github.com/{REPOSITORY}.git")
        # The folder that test_pipeline.py and its likes build in: the predictor is not compiled cold once more.
        self.workspace = self.origin.path.with_name("clone")
        Clone.newest[self.workspace] = self
        self.github = github
        self.variables = variables

    def environment(self) -> dict[str, str]:
        return neutral_environment() | {
            "PATH": f"{ACTIONS / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "XTASK": str(xtask_program()),
            "CARGO_TARGET_DIR": f"{self.workspace}-build",
            "LOCAL_AWS_PORT": "0",
            "NO_COLOR": "1",
            # Credentials come from the step that signs in, and from nowhere else.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "STAND_IN_ARTIFACTS": str(self.artifacts),
            "STAND_IN_ORIGIN": str(self.origin.path),
            "STAND_IN_RUST": str(Path(shutil.which("cargo")).parent),
            "STAND_IN_WORKSPACE": str(self.workspace),
        } | self.variables  # fmt: skip

    def run(self, workflow: Path, event: str = "push", job: str | None = None, **configured: str) -> Result:
        """Runs a workflow, or one job with those that it needs. `configured` are the repository's variables."""
        actions = {step["uses"] for each in load(workflow)["jobs"].values() for step in each["steps"] if "uses" in step}
        missing = [action for action in actions if not (stand_in(action) / "action.yml").is_file()]
        assert not missing, f"no stand-in for {missing}: add one to tests/actions"
        shutil.rmtree(self.artifacts, ignore_errors=True)
        self.artifacts.mkdir(parents=True)
        payload = self.folder / "event.json"
        payload.write_text(json.dumps({"ref": "refs/heads/main", "repository": {"private": False}}))
        # On this machine, from the clone alone, one job after the other, nothing fetched.
        command = [
            Path(sys.executable).with_name("act"), event, "--json",
            "--directory", self.origin.path, "--workflows", workflow, "--eventpath", payload,
            "--platform", "ubuntu-24.04=-self-hosted", "--no-skip-checkout", "--concurrent-jobs", "1",
            "--action-offline-mode", "--no-cache-server", "--action-cache-path", self.folder / "act",
            "--env", f"GITHUB_RUN_ID={RUN_ID}", "--env", f"GITHUB_API_URL={self.github.url}",
            "--secret", "GITHUB_TOKEN=a-token",
        ]  # fmt: skip
        for action in sorted(actions):
            name, _, commit = action.partition("@")
            repository = "/".join(name.split("/")[:2])
            command += ["--local-repository", f"{repository}@{commit}={ACTIONS / repository}"]
        for name, value in configured.items():
            command += ["--var", f"{name}={value}"]
        if job:
            command += ["--job", job]
        done = subprocess.run(
            command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=900,
        )  # fmt: skip
        return Result(done.returncode, done.stdout)
