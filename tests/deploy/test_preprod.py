"""The first environment: rollout, what stops it, and the way back."""

import hashlib
import json
import shutil
import signal

import pytest
import requests
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from world import BUCKET, PREPROD, PRODUCTION_BUCKET, REPOSITORY, moving, verdicts

from cloud_support import skopeo_in
from pipeline_clone import GATE_LIMIT, STRICT_LIMIT, Clone, wait_for

ERRORS = """<GetMetricStatisticsResponse><GetMetricStatisticsResult><Datapoints><member><Sum>{sum}</Sum>
<SampleCount>20</SampleCount></member></Datapoints></GetMetricStatisticsResult></GetMetricStatisticsResponse>"""


@pytest.fixture(scope="module")
def stricter(world, tmp_path_factory) -> str:
    """The folder of policies that want more of the model."""
    folder = tmp_path_factory.mktemp("policies")
    shutil.copytree(world.clone.path / "policies", folder, dirs_exist_ok=True)
    text = (folder / "model.rego").read_text()
    assert GATE_LIMIT in text
    (folder / "model.rego").write_text(text.replace(GATE_LIMIT, STRICT_LIMIT, 1))
    return str(folder)


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
    assert [entry["Key"] for entry in listed] == [f"evidence/a/{name}.json" for name in ("bundle", "decision", "deployment")]
    # The verdict, as the log has it but for its place there.
    (line,) = [line for line in verdicts(world.clone) if line["run"] == "a"]
    decision = world.kept("a", "decision.json")
    assert json.loads(decision) == line | {"previous": None} and line["input"]["accuracy"] > 0.9
    assert json.loads(bundle)["predicate"]["decision"] == "sha256:" + hashlib.sha256(decision).hexdigest()
    address = world.record("a")["report_url"].split("/harness/")[0]
    assert requests.get(f"{address}/evidence/a/bundle.json", timeout=10).status_code == 403


def test_evidence_is_in_toto_to_others(world):
    for name in ("bundle.json", "deployment.json"):
        # Refuses fields that the format does not have.
        statement = json_format.Parse(world.kept("a", name), Statement([], "", {}).pb)
        Statement.copy_from_pb(statement).validate()
    with pytest.raises(json_format.ParseError):
        json_format.Parse(world.kept("a", "bundle.json").replace(b'"subject"', b'"subjects"'), Statement([], "", {}).pb)


def test_evidence_lies_beside_the_image(world, tmp_path):
    bundle = world.kept("a", "bundle.json")
    digest = hashlib.sha256(bundle).hexdigest()
    image, tag = world.record("a")["image"], f"evidence-{digest[:12]}"
    repository, login = f"{world.cloud.endpoint_url}/v2/{REPOSITORY}", world.cloud.registry_login()
    listed = requests.get(f"{repository}/referrers/{image}", auth=login, timeout=10).json()["manifests"]
    assert [each["artifactType"] for each in listed] == ["application/vnd.in-toto+json"]
    skopeo_in(tmp_path)("copy", "--src-tls-verify=false", "--src-creds", ":".join(login),
                        f"docker://{world.cloud.host}/{REPOSITORY}:{tag}", f"dir:{tmp_path}/copied")
    manifest = (tmp_path / "copied/manifest.json").read_bytes()
    assert "sha256:" + hashlib.sha256(manifest).hexdigest() == listed[0]["digest"]
    assert json.loads(manifest)["subject"]["digest"] == image
    assert (tmp_path / "copied" / digest).read_bytes() == bundle
    assert world.status("a")["evidence"] == f"bundle.json sha256:{digest}, beside the image as {REPOSITORY}:{tag}"


def test_evidence_that_did_not_get_there_comes_with_the_next_deployment(world):
    ecr = world.cloud.client("ecr")
    tag = f"evidence-{hashlib.sha256(world.kept('a', 'bundle.json')).hexdigest()[:12]}"
    ecr.batch_delete_image(repositoryName=REPOSITORY, imageIds=[{"imageTag": tag}])
    assert "beside the image" not in world.status("a")["evidence"]
    world.proxy.before = lambda call: (403, b"") if call == f"PUT {BUCKET}/evidence" else None
    failed = world.deploy("a", expect=1).err
    assert "its evidence is not kept: run `cargo xtask deploy --env preprod --run a` again" in failed
    assert world.status("a")["evidence"].endswith(f"beside the image as {REPOSITORY}:{tag}")
    world.proxy.before = lambda call: None
    assert "unchanged since a, skipped" in world.deploy("a").err


def test_kept_verdicts_are_judged_again_in_any_clone(world, stricter):
    def replayed(clone, *arguments: str) -> list:
        ended = clone.xtask("replay", "--policy", stricter, "--env", "preprod", "--json", *arguments, **world.variables)
        return [(row["run"], row["environment"], row["was"], row["would_be"]) for row in json.loads(ended.out)]

    # Run b was not deployed; run a stands in the log and in the bucket, and is judged once.
    of_a, of_b = ((run, "preprod", "allow", "deny") for run in "ab")
    assert replayed(world.clone, "--kept") == replayed(world.clone) == [of_a, of_b]
    log = world.clone.path / "target/pipeline/decisions.ndjson"
    with world.clone.holding(log):
        log.unlink()
        assert replayed(world.clone, "--kept") == [of_a]
        assert "no verdict was ever given here" in world.xtask("replay", "--policy", stricter, expect=4).err
    # A clone that never had a run.
    other = Clone("second clone", of=world.clone)
    shutil.copy2(world.clone.path / "pipeline.toml", other.path / "pipeline.toml")
    assert replayed(other, "--kept") == [of_a]
    page = (other.path / "target/pipeline/replay.html").read_text()
    assert "of 1 past verdicts" in page and "Accuracy less than 95%" in page
    missing = world.xtask("replay", "--policy", stricter, "--kept", "--env", "production", expect=1).err
    assert f"there is no bucket `{PRODUCTION_BUCKET}`" in missing and "cargo xtask deploy --env production" in missing
    assert "cannot be used with" in world.xtask("replay", "--model", "x", "--kept", expect=2).err


def test_kept_verdict_that_was_altered_is_an_error_and_an_older_run_is_not(world, stricter):
    def replay(expect: int) -> str:
        return world.xtask("replay", "--policy", stricter, "--kept", "--env", "preprod", expect=expect).err

    s3 = world.cloud.client("s3")

    def put(run: str, name: str, content: bytes) -> None:
        s3.put_object(Bucket=BUCKET, Key=f"evidence/{run}/{name}", Body=content)

    for name, old, new in (("decision.json", b'"verdict":"allow"', b'"verdict":"deny"'),
                           ("bundle.json", b'"dirty":', b'"dirty": ')):
        kept = world.kept("a", name)
        assert old in kept
        put("a", name, kept.replace(old, new, 1))
        refused = replay(1)
        put("a", name, kept)
        assert f"run a, kept in s3://{BUCKET}/evidence/a/: {name} was altered" in refused, refused
    kept = world.kept("a", "decision.json")
    s3.delete_object(Bucket=BUCKET, Key="evidence/a/decision.json")
    assert "decision.json is missing, although bundle.json names it" in replay(1)
    put("a", "decision.json", kept)
    # As it was kept before verdicts were.
    bundle = json.loads(world.kept("a", "bundle.json"))
    del bundle["predicate"]["decision"]
    older = json.dumps(bundle).encode()
    put("old", "bundle.json", older)
    statement = {"predicate": {"evidence": f"sha256:{hashlib.sha256(older).hexdigest()}"}}
    put("old", "deployment.json", json.dumps(statement).encode())
    said = replay(0)
    for name in ("bundle.json", "deployment.json"):
        s3.delete_object(Bucket=BUCKET, Key=f"evidence/old/{name}")
    assert "warning" in said and "evidence/old/: it was kept before verdicts were, it is not judged" in said, said
    assert "evidence/a/: " not in said


def test_denial_is_kept_and_judged_again_in_any_clone(world):
    s3 = world.cloud.client("s3")

    def gate(expect: int) -> str:
        return world.xtask("gate", "--env", "preprod", "--run", "b", expect=expect).err

    def kept() -> list[str]:
        listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="evidence/b/").get("Contents", [])
        return [entry["Key"].removeprefix("evidence/b/") for entry in listed]

    with world.clone.edited("policies/model.rego", GATE_LIMIT, STRICT_LIMIT):
        world.proxy.before = lambda call: (403, b"") if call == f"PUT {BUCKET}/evidence" else None
        assert "the denial is not kept" in gate(3) and kept() == []
        # The report is another matter.
        published = requests.get(world.record("a")["report_url"], timeout=10).text
        assert 'class="verdict denied"' in published and "run <code>b</code>" in published
        world.proxy.before = lambda call: None
        assert "not kept" not in gate(3)
        (name,) = kept()
        gate(3)
        assert kept() == [name]
    document = world.kept("b", name)
    assert name == f"denied-{hashlib.sha256(document).hexdigest()}.json"
    line = verdicts(world.clone)[-1]
    assert json.loads(document) == line | {"previous": None} and line["verdict"] == "deny"
    gate(0)
    assert kept() == [name], "what is allowed is kept when it is deployed"

    other = Clone("third clone", of=world.clone)
    shutil.copy2(world.clone.path / "pipeline.toml", other.path / "pipeline.toml")
    replay = ("replay", "--policy", "policies", "--env", "preprod", "--kept")
    rows = json.loads(other.xtask(*replay, "--json", **world.variables).out)
    assert {(row["run"], row["was"], row["would_be"]) for row in rows} == {("a", "allow", "allow"), ("b", "deny", "allow")}
    s3.put_object(Bucket=BUCKET, Key=f"evidence/b/{name}", Body=document.replace(b'"deny"', b'"warn"', 1))
    assert f"evidence/b/: {name} was altered" in other.xtask(*replay, expect=1, **world.variables).err
    s3.delete_object(Bucket=BUCKET, Key=f"evidence/b/{name}")


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
