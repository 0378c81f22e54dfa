"""The second environment: approval."""

import http.server
import json
import os
import pty
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from world import PRODUCTION, PRODUCTION_BUCKET

from pipeline_clone import APPROVED, xtask_program


class GitHub:
    """Stands in for GitHub's API: answers who reviewed a workflow run."""

    def __init__(self):
        self.reviews, self.asked = [], []
        github = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                github.asked.append((self.path, self.headers["authorization"]))
                body = json.dumps(github.reviews).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def github() -> Iterator[GitHub]:
    github = GitHub()
    yield github
    github.server.shutdown()
    github.server.server_close()


def review(environment: str = "production", state: str = "approved", login: str = "octo") -> dict:
    return {"state": state, "comment": "looks right", "environments": [{"name": environment}], "user": {"login": login}}


def test_reviewers_of_github_approve(world, github, tmp_path):
    outputs = tmp_path / "outputs"
    actions = {"GITHUB_ACTIONS": "true", "GITHUB_API_URL": github.url, "GITHUB_REPOSITORY": "owner/repository",
               "GITHUB_RUN_ID": "77", "GITHUB_TOKEN": "secret-token", "GITHUB_OUTPUT": str(outputs),
               "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    world.xtask("gate", "--env", "production", "--run", "a", **actions)
    digest = dict(line.split("=", 1) for line in outputs.read_text().splitlines())["gate_digest"]

    def deploy(expect: int, **variables: str):
        return world.deploy("a", environment="production", expect=expect, **(actions | variables))

    assert "GATE_DIGEST is not set" in deploy(5).err
    assert "the reviewers were shown" in deploy(5, GATE_DIGEST="sha256:" + "0" * 64).err
    assert not github.asked
    for reviews in ([], [review("preprod")], [review(state="rejected")]):
        github.reviews = reviews
        assert "no reviewer of the environment `production`" in deploy(5, GATE_DIGEST=digest).err
    github.reviews = [review(), review("preprod", login="else")]
    assert "actions: read" in deploy(1, GATE_DIGEST=digest, GITHUB_TOKEN="").err
    assert deploy(1, GATE_DIGEST=digest, GITHUB_API_URL="http://127.0.0.1:9").err
    ended = deploy(0, GATE_DIGEST=digest)
    assert github.asked[-1] == ("/repos/owner/repository/actions/runs/77/approvals", "Bearer secret-token")
    record = world.record("a", "production")
    approval = record["approval"]
    assert (approval["approved_by"], approval["comment"], approval["gate"]) == (["octo"], "looks right", digest)

    # Not public: a link that is signed for an hour, and is kept out of log, summary and record.
    assert record["web_url"] is None and record["report_url"].startswith("s3://mlopswebapp-production-")
    link = (world.folder("a", "production") / "artifact.txt").read_text().strip()
    assert f"report_url={link}\n" in outputs.read_text() and "X-Amz-Expires=3600" in link
    for text in (ended.text, (tmp_path / "summary").read_text(), json.dumps(record)):
        assert "X-Amz-Signature" not in text and "secret-token" not in text
    assert requests.get(link, timeout=10).status_code == 200
    assert requests.get(link.split("?")[0], timeout=10).status_code == 403
    forged = link[:-1] + ("0" if link[-1] != "0" else "1")
    assert requests.get(forged, timeout=10).status_code == 403
    keys = {item["Key"] for item in world.cloud.client("s3").list_objects_v2(Bucket=link.split("/")[3])["Contents"]}
    assert not [key for key in keys if key.startswith("web/")]


def test_approval_of_exactly_this_verdict(world):
    world.xtask("gate", "--env", "production", "--run", "b")
    folder = world.folder("b", "production")

    def deploy(expect: int):
        return world.deploy("b", environment="production", expect=expect)

    def approve(*arguments: str, expect: int = 0):
        return world.xtask("approve", "--env", "production", "--run", "b", *arguments, expect=expect)

    assert "cargo xtask approve --env production --run b" in deploy(5).err
    assert "asks for no approval" in world.xtask("approve", "--env", "preprod", expect=1).err
    shown = json.loads(approve("--dry-run", "--json").out)
    digest = shown["gate"].removeprefix("sha256:")
    metrics = world.record("b", name="test")["metrics"]
    assert shown["figures"][0]["value"] == metrics["accuracy"]
    # What is live in production is known here, and so is how it compares.
    assert shown["live"]["run"] == "a"
    assert shown["figures"][0]["live"] == world.record("a", name="test")["metrics"]["accuracy"]
    assert shown["model"] == world.record("b")["model"] and shown["approval"] is None
    assert "Credit Card Approval Policy Set: passed" in approve("--dry-run").out
    assert not (folder / "approval.json").exists()
    refused = approve(expect=1)
    assert "no terminal" in refused.err and digest[:12] in refused.err
    assert "nothing was approved" in approve("--yes", digest[:11], expect=1).err
    assert "nothing was approved" in approve("--yes", "0" * 12, expect=1).err

    def typed(text: str) -> subprocess.CompletedProcess:
        """Approves as a person at a terminal does."""
        terminal, inside = pty.openpty()
        os.write(terminal, f"{text}\n".encode())
        command = [xtask_program(), "approve", "--env", "production", "--run", "b"]
        environment = world.clone.environment(**world.variables)
        ended = subprocess.run(command, cwd=world.clone.path, env=environment, stdin=inside, capture_output=True, text=True)
        os.close(inside)
        os.close(terminal)
        return ended

    assert typed("yes").returncode == 1
    deploy(5)
    at_terminal = typed(digest[:12])
    assert at_terminal.returncode == 0 and "Type the first 12 digits" in at_terminal.stderr, at_terminal.stderr
    (folder / "approval.json").unlink()
    deploy(5)

    approve("--yes", digest[:12])
    approval = json.loads((folder / "approval.json").read_text())
    assert approval["gate"] == shown["gate"] and "@" in approval["approved_by"][0]
    assert {"image", "model", "build.json", "test.json", "scan.json"} <= set(approval["evidence"])
    with world.clone.holding(folder / "gate.json"):
        (folder / "gate.json").write_bytes((folder / "gate.json").read_bytes() + b"\n")
        assert "bundle.json: /predicate/records/gate.json" in deploy(1).err
    with world.clone.holding(folder / "approval.json"):
        old = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 25 * 3600))
        (folder / "approval.json").write_text(json.dumps(approval | {"approved_at": old}))
        assert "has expired" in deploy(5).err
        (folder / "approval.json").write_text(json.dumps(approval | {"gate": "sha256:" + "0" * 64}))
        assert "is of another verdict" in deploy(5).err
        other = approval["evidence"] | {"test.json": "sha256:" + "0" * 64}
        (folder / "approval.json").write_text(json.dumps(approval | {"evidence": other}))
        assert "it names another test.json than gate.json" in deploy(5).err
        (folder / "approval.json").write_text("{")
        assert "is corrupted" in deploy(5).err
    assert world.alias(PRODUCTION)["version"] == "1"

    deploy(0)
    record = world.record("b", "production")
    assert record["approval"] == approval and record["version"] == "2"
    kept = json.loads(world.kept("b", "approval.json", PRODUCTION_BUCKET))
    assert kept["predicate"]["approval"] == approval and kept["predicateType"] == "urn:ccapproval:approval:v1"
    assert kept["subject"][0]["digest"]["sha256"] == record["image"].removeprefix("sha256:")
    assert [step["percent"] for step in record["rollout"]] == [50]
    answer = world.functions.invoke(FunctionName=PRODUCTION, Qualifier="live", Payload=json.dumps(APPROVED))
    assert json.loads(json.loads(answer["Payload"].read())["body"])["model"] == record["model"]
    # Nothing to do, nothing to approve.
    (folder / "approval.json").unlink()
    assert "skipped" in deploy(0).err
