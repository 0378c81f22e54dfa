"""Deploy, rollback and approve from outside: an AWS environment, served by the embedded cloud behind a proxy that can meddle.

The tests share one clone with two built runs, `a` and `b`, and one cloud. They run in order: each begins where the one before
ended.
"""

import base64
import hashlib
import http.client
import http.server
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
from pipeline_clone import Clone, wait_for, xtask_program
from test_pipeline import APPROVED, PARAMETER, advisory_database

from cloud_support import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Cloud

BUCKET, PRODUCTION_BUCKET = "mlopswebapp-000000000000", "mlopswebapp-production-000000000000"
PREPROD, PRODUCTION = "creditcardapplicationlambda", "creditcardapplicationlambda-production"
ERRORS = """<GetMetricStatisticsResponse><GetMetricStatisticsResult><Datapoints><member><Sum>{sum}</Sum>
<SampleCount>20</SampleCount></member></Datapoints></GetMetricStatisticsResult></GetMetricStatisticsResponse>"""


class Proxy:
    """Hands every request on to the cloud. `before` may answer instead, `after` may change or drop the answer."""

    def __init__(self, host: str):
        self.host, self.calls = host, []
        self.before: Callable = lambda call: None
        self.after: Callable = lambda call, status, body: (status, body)
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                call = operation(self.command, self.path, body)
                proxy.calls.append(call)
                headers = []
                answer = proxy.before(call)
                if answer is None:
                    status, headers, content = proxy.forward(self, body)
                    answer = proxy.after(call, status, content)
                if answer is None:
                    # The reply is lost.
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(answer[0])
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(answer[1])))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer[1])

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_one

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # Clients that are killed, and replies that are lost on purpose.
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def forward(self, request, body: bytes):
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def count(self, call: str) -> int:
        return self.calls.count(call)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def operation(method: str, path: str, body: bytes) -> str:
    """`PUT aliases`, `POST versions`, …; CloudWatch's metric by its name."""
    if b"Action=GetMetricStatistics" in body:
        return "metric " + body.split(b"MetricName=")[1].split(b"&")[0].decode()
    parts = path.split("?")[0].strip("/").split("/")
    named = parts[1:2] == ["functions"] and len(parts) > 3
    return f"{method} {parts[3] if named else '/'.join(parts[:2]) or '/'}"


class World:
    """The clone, the cloud and the proxy between them."""

    def __init__(self, cloud: Cloud):
        self.cloud, self.proxy = cloud, Proxy(cloud.host)
        self.functions = cloud.client("lambda")
        self.clone = Clone("clone")
        path = self.clone.path / "pipeline.toml"
        text = path.read_text()
        text = text.replace("steps = [10, 50]\npause_seconds = 5", "steps = [10, 50]\npause_seconds = 1")
        text = text.replace('strategy = "Canary10Percent5Minutes"', "steps = [50]\npause_seconds = 1")
        path.write_text(text)
        self.variables = {
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "RUSTSEC_ADVISORY_DB": advisory_database("not-in-the-program"),
        }

    @contextmanager
    def zipped(self, suffix: str = ""):
        """Both environments deploy zip packages, to functions whose names end in `suffix`."""
        path = self.clone.path / "pipeline.toml"
        text = path.read_text()
        with self.clone.holding(path):
            for environment, function in (("preprod", PREPROD), ("production", PRODUCTION)):
                head, table = text.split(f"[environments.{environment}]\n")
                table = table.replace(f'function = "{function}"', f'function = "{function}{suffix}"', 1)
                text = f'{head}[environments.{environment}]\npackage = "zip"\n{table}'
            path.write_text(text)
            yield

    def xtask(self, *arguments: str, expect: int = 0, **variables: str):
        return self.clone.xtask(*arguments, expect=expect, **(self.variables | variables))

    def deploy(self, run: str, *arguments: str, environment: str = "preprod", expect: int = 0, **variables: str):
        return self.xtask("deploy", "--env", environment, "--run", run, *arguments, expect=expect, **variables)

    def start(self, *arguments: str):
        return self.clone.start(*arguments, **self.variables)

    def alias(self, function: str = PREPROD) -> dict:
        alias = self.functions.get_alias(FunctionName=function, Name="live")
        return {
            "version": alias["FunctionVersion"],
            "weights": alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}),
            "description": alias["Description"],
        }

    def folder(self, run: str, environment: str = "preprod") -> Path:
        folder = self.clone.path / "target/pipeline" / run
        return folder if environment == "preprod" else folder / environment

    def record(self, run: str, environment: str = "preprod", name: str = "deploy") -> dict:
        return json.loads((self.folder(run, environment) / f"{name}.json").read_text())

    def kept(self, run: str, name: str, bucket: str = BUCKET) -> bytes:
        return self.cloud.client("s3").get_object(Bucket=bucket, Key=f"evidence/{run}/{name}")["Body"].read()

    def status(self, run: str) -> dict:
        return json.loads(self.xtask("status", "--json", "--env", "preprod", "--run", run).out)


@pytest.fixture(scope="module")
def world(programs, tmp_path_factory) -> Iterator[World]:
    cloud = Cloud.start(programs["serve"], tmp_path_factory.mktemp("deploy") / "cloud")
    world = World(cloud)
    try:
        # Zip packages are built beside the images, for the tests at the end.
        with world.zipped():
            world.xtask("build", "--env", "preprod", "--run", "a")
        assert "unchanged since a, skipped" in world.xtask("pipeline", "--env", "preprod", "--run", "a").err
        notebook = world.clone.path / "model/credit_card_approval.ipynb"
        notebook.write_text(notebook.read_text().replace(PARAMETER, "MAX_DEPTH = 4", 1))
        with world.zipped():
            world.xtask("build", "--env", "preprod", "--run", "b")
        for stage in ("scan", "test", "gate"):
            world.xtask(stage, "--env", "preprod", "--run", "b")
        yield world
    finally:
        world.proxy.stop()
        cloud.stop()


@pytest.fixture(autouse=True)
def honest(world) -> None:
    """Every test begins with a proxy that only hands on."""
    world.proxy.before = lambda call: None
    world.proxy.after = lambda call, status, body: (status, body)
    world.proxy.calls.clear()


def test_first_version_of_all_goes_straight(world):
    deployed = world.record("a")
    assert (deployed["version"], deployed["rollout"], deployed["failure"]) == ("1", [], None)
    assert world.alias()["version"] == "1" and world.alias()["description"].startswith("run a; deployer ")
    assert requests.get(deployed["report_url"], timeout=10).status_code == 200
    assert (world.folder("a") / "artifact.txt").read_text().strip() == deployed["report_url"]


def test_evidence_is_kept_in_the_bucket_and_not_published(world):
    bundle = world.kept("a", "bundle.json")
    assert bundle == (world.folder("a") / "bundle.json").read_bytes()
    deployment = json.loads(world.kept("a", "deployment.json"))
    digest = hashlib.sha256(bundle).hexdigest()
    assert deployment["subject"] == json.loads(bundle)["subject"]
    assert deployment["predicate"]["evidence"] == f"sha256:{digest}"
    record = hashlib.sha256((world.folder("a") / "deploy.json").read_bytes()).hexdigest()
    assert (deployment["predicate"]["record"], deployment["predicate"]["version"]) == (f"sha256:{record}", "1")
    assert world.record("a")["approval"] is None
    listed = world.cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="evidence/")["Contents"]
    assert [entry["Key"] for entry in listed] == ["evidence/a/bundle.json", "evidence/a/deployment.json"]
    address = world.record("a")["report_url"].split("/harness/")[0]
    assert requests.get(f"{address}/evidence/a/bundle.json", timeout=10).status_code == 403


def test_plan_has_the_shape_of_the_result_and_changes_nothing(world):
    before = world.alias()
    planned = json.loads(world.deploy("b", "--dry-run", "--json").out)
    assert set(planned) == set(world.record("a")) and planned["dry_run"] is True
    assert planned["previous_version"] == "1" and [step["percent"] for step in planned["rollout"]] == [10, 50]
    assert "would move traffic: 10 %, 50 %" in world.deploy("b", "--dry-run").out
    assert world.alias() == before and not (world.folder("b") / "deploy.json").exists()


def test_production_takes_only_what_preprod_deployed(world):
    world.xtask("gate", "--env", "production", "--run", "b")
    refused = world.deploy("b", environment="production", expect=1)
    assert "takes over only what `preprod` deployed" in refused.err and "cargo xtask deploy --env preprod" in refused.err


def test_version_that_fails_its_smoke_test_gets_no_traffic(world):
    before = world.alias()
    with world.clone.edited("pipeline.toml", "prediction = 1", "prediction = 0"):
        failed = world.deploy("b", expect=1)
    assert "failed smoke test `testmodel`" in failed.err and "version 1 keeps answering" in failed.err
    assert world.alias() == before and world.proxy.count("PUT aliases") == 0
    record = world.record("b")
    assert "failed smoke test" in record["failure"] and record["version"] == "1"


@pytest.mark.parametrize("metric, total, reason", [
    ("Errors", "3", "3 of 20 invocations failed"),
    ("Duration", "200000", "10000.0 ms on average"),
    ("Errors", "NaN", "understand the Errors"),
])
def test_unhealthy_version_goes_back_with_one_call(world, metric, total, reason):
    before = world.alias()
    seen = []

    def instead(call):
        if call.startswith("metric"):
            seen.append(world.alias())
            answer = {metric: total, "Invocations": "20"}.get(call.split()[1], "0")
            return 200, ERRORS.format(sum=answer).encode()

    world.proxy.before = instead
    failed = world.deploy("b", expect=1)
    assert reason in failed.err
    assert seen[0]["weights"] == {"2": 0.1} and "moving to 2 until" in seen[0]["description"]
    assert world.alias() == before
    # One step forward, one call back.
    assert world.proxy.count("PUT aliases") == 2
    assert reason in world.record("b")["failure"]


def test_metrics_that_cannot_be_had_are_not_healthy(world):
    before = world.alias()
    world.proxy.before = lambda call: (403, b"<Error><Code>AccessDenied</Code></Error>") if "metric" in call else None
    assert "AccessDenied" in world.deploy("b", expect=1).err
    assert world.alias() == before


def test_preprod_that_failed_is_not_promoted(world):
    assert "`preprod` could not deploy this run" in world.deploy("b", environment="production", expect=1).err


def moving(world) -> bool:
    return bool(world.alias()["weights"])


def test_interrupted_rollout_goes_back(world):
    before = world.alias()
    process = world.start("deploy", "--env", "preprod", "--run", "b")
    wait_for(lambda: moving(world))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (1, 130) and "interrupted while version 2" in err, err
    assert world.alias() == before
    assert "interrupted" in world.record("b")["failure"]


def test_another_rollout_in_progress_is_named_and_left_alone(world):
    original = world.alias()["description"]
    other = "run 4711-1; deployer 0123456789ab; moving to 2 until 2999-01-01T00:00:00Z; before 1"
    weighted = {"AdditionalVersionWeights": {"2": 0.3}}
    world.functions.update_alias(FunctionName=PREPROD, Name="live", Description=other, RoutingConfig=weighted)
    before = world.alias()
    refused = world.deploy("b", expect=1)
    assert "run 4711-1 is moving traffic from version 1 to 2" in refused.err and "nothing was changed" in refused.err
    assert world.alias() == before and world.proxy.count("PUT code") == 0
    assert "run 4711-1 is moving traffic" in world.deploy("b", "--dry-run").out

    # Rollback ends it; nobody else has to wait for the year 2999.
    world.xtask("rollback", "--env", "preprod")
    assert world.alias()["version"] == "1" and not moving(world)
    world.functions.update_alias(FunctionName=PREPROD, Name="live", Description=original)


def test_killed_rollout_is_put_right_by_the_next_deploy(world):
    process = world.start("deploy", "--env", "preprod", "--run", "b")
    wait_for(lambda: moving(world))
    process.kill()
    process.communicate(timeout=60)
    assert moving(world) and not (world.folder("b") / "deploy.json").exists()
    live = world.status("b")["live"]
    assert (live["version"], live["moving"]) == ("1", {"version": "2", "weight": 0.1})

    # Every reply that matters is lost once, after the cloud did what it was asked.
    lost = set()

    def lose(call, status, body):
        if call in ("PUT aliases", "PUT code", "POST versions") and call not in lost:
            lost.add(call)
            return None
        return status, body

    world.proxy.after = lose
    world.deploy("b")
    assert lost == {"PUT aliases", "POST versions"}, "the function had the image already"
    assert world.alias()["version"] == "2" and not moving(world)
    assert "before 1" in world.alias()["description"]
    assert not (world.clone.path / "target/pipeline/deployer-preprod").exists()
    record = world.record("b")
    assert (record["version"], record["previous_version"], record["failure"]) == ("2", "1", None)
    assert any("earlier rollout had left 10 % on version 2" in decision for decision in record["decisions"])
    assert [step["percent"] for step in record["rollout"]] == [10, 50]
    assert "skipped" in world.deploy("b").err


def test_rollback_and_back_again(world):
    planned = json.loads(world.xtask("rollback", "--env", "preprod", "--dry-run", "--json").out)
    assert (planned["from"], planned["version"], planned["dry_run"]) == ("2", "1", True)
    assert world.alias()["version"] == "2"
    world.proxy.calls.clear()
    world.xtask("rollback", "--env", "preprod")
    assert world.proxy.count("PUT aliases") == 1
    assert world.alias()["version"] == "1" and "rolled back 2 of b" in world.alias()["description"]
    rolled_back = world.record("b", name="rollback")
    assert rolled_back["from_run"] == "b" and rolled_back["model"] == world.record("a")["model"]
    status = world.status("b")["live"]
    assert status["rolled_back"] == {"version": "2", "run": "b"}
    page = requests.get(world.record("a")["web_url"].replace("index.html", "config.json"), timeout=10).json()
    assert page["model"] == world.record("a")["model"]
    assert world.record("a")["model"] in requests.get(world.record("a")["report_url"], timeout=10).text

    refused = world.deploy("b", expect=3)
    assert "run b was rolled back" in refused.err and "--again" in refused.err
    # Also where no file tells of it.
    (world.folder("b") / "rollback.json").rename(world.folder("b") / "kept")
    assert "run b was rolled back" in world.deploy("b", expect=3).err
    (world.folder("b") / "kept").rename(world.folder("b") / "rollback.json")
    assert "was rolled back from this run" in world.deploy("b", environment="production", expect=1).err

    assert "does not remember" in world.xtask("rollback", "--env", "preprod", expect=1).err
    assert "has no version 9" in world.xtask("rollback", "--env", "preprod", "--to", "9", expect=1).err
    assert "has all traffic already" in world.xtask("rollback", "--env", "preprod", "--to", "1", expect=1).err

    world.deploy("b", "--again")
    assert world.alias()["version"] == "2" and not (world.folder("b") / "rollback.json").exists()


def test_rollback_needs_the_image(world):
    image = world.record("a")["image"]
    details = {"repositoryName": "ccapproval-deploy", "imageIds": [{"imageDigest": image}]}
    ecr = world.cloud.client("ecr")
    manifest = ecr.batch_get_image(**details)["images"][0]
    ecr.batch_delete_image(**details)
    assert "no longer has image" in world.xtask("rollback", "--env", "preprod", expect=1).err
    assert world.alias()["version"] == "2"
    ecr.put_image(repositoryName="ccapproval-deploy", imageManifest=manifest["imageManifest"], imageTag="a",
                  imageManifestMediaType=manifest["imageManifestMediaType"])


def test_two_deployers_one_wins_and_the_other_says_who(world):
    world.xtask("rollback", "--env", "preprod")
    other = Clone("second clone", of=world.clone)
    # What is not committed belongs to the deployers' sources, too.
    for name in ("pipeline.toml", "model/credit_card_approval.ipynb"):
        shutil.copy2(world.clone.path / name, other.path / name)
    shutil.copytree(world.clone.path / "target/pipeline", other.path / "target/pipeline", symlinks=True)
    command = ("deploy", "--env", "preprod", "--run", "b", "--again")
    processes = [clone.start(*command, **world.variables) for clone in (world.clone, other)]
    ends = [process.communicate(timeout=120)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1], ends
    loser = ends[codes.index(1)]
    assert "run b" in loser and ("another deployer" in loser or "is moving traffic" in loser), loser
    assert world.alias()["version"] == "2" and not moving(world)
    if codes[0] == 1:
        world.deploy("b", "--again")


# Production: approval.


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


def reseal(folder: Path) -> None:
    """Makes bundle.json agree with the records beside it, as somebody would who altered them."""
    path = folder / "bundle.json"
    statement = json.loads(path.read_text())
    records = statement["predicate"]["records"]
    for name in records:
        if (folder / name).exists():
            records[name] = "sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


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


ZIP = f"{PREPROD}-zip"


def stored(world, run: str) -> tuple[dict, bytes]:
    """The zip package of a run: what build.json says, and the object."""
    package = world.record(run, name="build")["package"]
    return package, object_of(world, package)


def object_of(world, package: dict) -> bytes:
    return world.cloud.client("s3").get_object(Bucket=package["bucket"], Key=package["key"])["Body"].read()


def put(world, package: dict, content: bytes) -> None:
    world.cloud.client("s3").put_object(Bucket=package["bucket"], Key=package["key"], Body=content)


def code_sha256(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def rewrite(path: Path, **members) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


def repacked(content: bytes, **changed: bytes) -> bytes:
    """A package of the right form with another program or another model, and that one's digest, in it."""
    files = {"bootstrap": changed.get("bootstrap")}
    if model := changed.get("model"):
        files |= {"model.bin": model, "model.bin.sha256": f"{hashlib.sha256(model).hexdigest()}  model.bin\n".encode()}
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(held, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, files.get(entry.filename) or old.read(entry))
    return held.getvalue()


def test_zip_package_has_the_files_of_the_image_and_no_date(world):
    package, content = stored(world, "b")
    build = world.record("b", name="build")
    assert package["digest"] == "sha256:" + hashlib.sha256(content).hexdigest() and package["bytes"] == len(content)
    assert package["key"] == f"packages/{package['digest'].removeprefix('sha256:')}.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        files = {entry.filename: entry for entry in archive.infolist()}
        modes = {name: oct(entry.external_attr >> 16) for name, entry in files.items()}
        assert modes == {"bootstrap": "0o100755", "model.bin": "0o100644", "model.bin.sha256": "0o100644"}
        assert {entry.date_time for entry in files.values()} == {(1980, 1, 1, 0, 0, 0)}
        for name, part in (("bootstrap", "program"), ("model.bin", "model")):
            assert "sha256:" + hashlib.sha256(archive.read(name)).hexdigest() == build[part]["digest"]
    assert requests.get(f"{world.cloud.endpoint_url}/{package['bucket']}/{package['key']}", timeout=10).status_code == 403


def test_function_of_an_image_does_not_become_one_of_a_zip(world):
    before = world.alias()
    with world.zipped():
        refused = world.deploy("b", "--again", expect=1)
        assert "is made of an image" in refused.err and 'write package = "image"' in refused.err
        assert "is made of an image" in world.deploy("b", "--dry-run").out
    assert world.alias() == before and world.proxy.count("PUT code") == 0


@pytest.mark.parametrize("file, part", [("bootstrap", "program"), ("model", "model")])
def test_package_with_other_files_than_the_image_is_refused(world, file, part):
    package, content = stored(world, "b")
    other = repacked(content, **{file: b"another"})
    named = package | {"digest": "sha256:" + hashlib.sha256(other).hexdigest(), "key": f"packages/other-{part}.zip"}
    put(world, named, other)
    folder = world.folder("b")
    with world.zipped("-zip"), ExitStack() as held:
        for record in ("build", "scan", "test", "gate", "bundle"):
            held.enter_context(world.clone.holding(folder / f"{record}.json"))
        rewrite(folder / "build.json", package=named)
        assert "build.json is not the one that the gate judged" in world.deploy("b", expect=1).err
        # And if somebody made all records agree: the bytes themselves are looked at.
        for record in ("scan", "test", "gate"):
            inputs = world.record("b", name=record)["inputs"]
            files = {name: folder / name for name in inputs if name in ("build.json", "scan.json", "test.json")}
            digests = {name: "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
            rewrite(folder / f"{record}.json", inputs=inputs | digests)
        reseal(folder)
        refused = world.deploy("b", "--again", expect=1)
        assert f"the {part} in the zip package is sha256:" in refused.err
    assert world.proxy.count("POST 2015-03-31/functions") == 0


def test_altered_package_is_refused_before_and_after_lambda_reads_it(world):
    package, content = stored(world, "b")
    altered = repacked(content, model=b"another")
    try:
        with world.zipped("-zip"):
            put(world, package, altered)
            assert "was altered: its digest is" in world.deploy("b", "--again", expect=1).err
            assert world.proxy.count("POST 2015-03-31/functions") == 0
            # A build does not write over it, and does not take it for its own.
            shutil.copytree(world.folder("b"), world.folder("c"), ignore=shutil.ignore_patterns("build.json"))
            refused = world.xtask("build", "--env", "preprod", "--run", "c", expect=1)
            assert "was altered" in refused.err and object_of(world, package) == altered
            shutil.rmtree(world.folder("c"))
            put(world, package, content)
            # Between the look at it and Lambda's.
            world.proxy.before = lambda call: put(world, package, altered) if call == "POST 2015-03-31/functions" else None
            refused = world.deploy("b", "--again", expect=1)
            assert code_sha256(altered) in refused.err and "was altered" in refused.err
        assert world.functions.list_versions_by_function(FunctionName=ZIP)["Versions"][1:] == []
    finally:
        put(world, package, content)
        world.functions.delete_function(FunctionName=ZIP)


def test_zip_package_is_deployed_rolled_back_and_promoted(world):
    with world.zipped("-zip"):
        for run in ("a", "b"):
            planned = world.deploy(run, "--again", "--dry-run").out
            assert f"package: zip {stored(world, run)[0]['digest']}" in planned
            world.deploy(run, "--again")
        record, (package, content) = world.record("b"), stored(world, "b")
        assert (record["package"], record["zip"], record["version"]) == ("zip", package["digest"], "2")
        configuration = world.functions.get_function_configuration(FunctionName=ZIP, Qualifier="live")
        expected = {
            "PackageType": "Zip", "Runtime": "provided.al2023", "Handler": "bootstrap", "Version": "2",
            "CodeSha256": code_sha256(content), "CodeSize": len(content),
        }
        assert {name: configuration[name] for name in expected} == expected
        answer = world.functions.invoke(FunctionName=ZIP, Qualifier="live", Payload=json.dumps(APPROVED))
        assert json.loads(json.loads(answer["Payload"].read())["body"])["model"] == record["model"]
        assert requests.post(record["function_url"], json=APPROVED, timeout=10).json()["model"] == record["model"]
        assert "skipped" in world.deploy("b").err
        live = world.status("b")["live"]
        assert (live["package"], live["code"], live["image"]) == ("zip", package["digest"], record["image"])
        assert json.loads(world.xtask("monitor", "--env", "preprod", "--run", "b", "--json").out)["package"] == "zip"
        assert "package" in world.xtask("doctor", "--env", "preprod", expect=None).out

        world.xtask("gate", "--env", "production", "--run", "b")
        approve = ("approve", "--env", "production", "--run", "b")
        shown = json.loads(world.xtask(*approve, "--dry-run", "--json").out)
        assert (shown["package"], shown["zip"]["digest"]) == ("zip", package["digest"])
        world.xtask(*approve, "--yes", shown["gate"].removeprefix("sha256:")[:12])
        world.deploy("b", "--again", environment="production")
        assert world.record("b", "production")["zip"] == package["digest"]
        promoted = world.functions.get_function_configuration(FunctionName=f"{PRODUCTION}-zip", Qualifier="live")
        assert promoted["CodeSha256"] == code_sha256(content)

        world.xtask("rollback", "--env", "preprod")
        assert world.alias(ZIP)["version"] == "1"
        taken_back = json.loads((world.folder("b") / "rollback.json").read_text())
        assert (taken_back["package"], taken_back["code"]) == ("zip", stored(world, "a")[0]["digest"])
        assert taken_back["image"] == world.record("a")["image"]
