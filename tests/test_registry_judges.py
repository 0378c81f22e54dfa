"""The image that xtask assembles, before judges that others wrote: the reference registry, skopeo, umoci, podman and runc."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from cloud_support import Cloud, end, free_port, skopeo_in
from pipeline_clone import APPROVED, Clone, Served
from registry_support import PASSWORD, PUSHED, USER, Podman, Registry, RuntimeApi, can_be_root, cloud_with_registry

JUDGES = ("docker-registry", "skopeo", "umoci", "podman", "runc")
ABSENT = [judge for judge in JUDGES if shutil.which(judge) is None] + ([] if can_be_root() else ["a superuser for podman"])
NOT_RUN = f"not run: there is no {', no '.join(ABSENT)}"
REPOSITORY = "ccapproval-deploy"
LOGIN = f"{USER}:{PASSWORD}"
# What Lambda sets; the address comes with each run.
LAMBDA = {
    "AWS_LAMBDA_FUNCTION_NAME": "judged",
    "AWS_LAMBDA_FUNCTION_VERSION": "1",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
}

if ABSENT and os.environ.get("CI") != "true":
    # A laptop need not have them; in CI their absence fails.
    pytest.skip(NOT_RUN, allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert not ABSENT, f"{NOT_RUN}, and CI asks for them"
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def registry(folder: Path):
    running = Registry(folder, free_port())
    yield running
    end(running.process)


@pytest.fixture(scope="module")
def skopeo(folder: Path):
    return skopeo_in(folder)


@pytest.fixture(scope="module")
def built(clone: Clone) -> dict:
    """The record of the clone's build."""
    clone.xtask("build")
    return clone.record("build")


@pytest.fixture(scope="module")
def reference(registry: Registry, built: dict, clone: Clone, skopeo) -> str:
    """The image in the reference registry, by digest; copied there from the embedded one."""
    digest = built["image"]["digest"]
    with Served(clone) as urls:
        cloud = Cloud(urls["endpoint_url"], clone.path / ".local", None)
        skopeo(
            "copy", "--preserve-digests",
            "--src-tls-verify=false", "--src-creds", ":".join(cloud.registry_login()),
            "--dest-tls-verify=false", "--dest-creds", LOGIN,
            f"docker://{cloud.host}/{REPOSITORY}@{digest}", f"docker://{registry.host}/{REPOSITORY}:copied",
        )
    return f"{registry.host}/{REPOSITORY}@{digest}"


def test_there_and_back_it_has_the_same_digest(reference: str, registry: Registry, built: dict, cloud: Cloud, skopeo):
    found = registry.manifest(REPOSITORY, "copied")
    digest = built["image"]["digest"]
    assert found.headers["docker-content-digest"] == digest
    assert "sha256:" + hashlib.sha256(found.content).hexdigest() == digest
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", "--creds", LOGIN, f"docker://{reference}"))
    assert inspected["Digest"] == digest and inspected["Os"] == "linux"
    assert inspected["Layers"] == [layer["digest"] for layer in built["image"]["layers"]]
    cloud.client("ecr").create_repository(repositoryName="back", imageTagMutability="IMMUTABLE")
    skopeo(
        "copy", "--preserve-digests",
        "--src-tls-verify=false", "--src-creds", LOGIN,
        "--dest-tls-verify=false", "--dest-creds", ":".join(cloud.registry_login()),
        f"docker://{reference}", f"docker://{cloud.host}/back:1",
    )
    details = cloud.client("ecr").describe_images(repositoryName="back")["imageDetails"]
    assert [detail["imageDigest"] for detail in details] == [digest]


def test_xtask_pushes_into_the_reference_registry_and_reads_it(registry: Registry, built: dict, clone: Clone):
    digest, repository = built["image"]["digest"], f"{PUSHED}/{REPOSITORY}"
    with cloud_with_registry(clone, registry.host) as asked:
        clone.xtask("build", "--run", "judged")
        record = clone.record("build")
        assert record["run"] == "judged" and record["image"]["digest"] == digest
        assert "DescribeRepositories" in asked and "GetAuthorizationToken" in asked
        found = registry.manifest(repository, "judged")
        assert found.headers["docker-content-digest"] == digest, found.text
        for layer in record["image"]["layers"]:
            assert layer["pushed"], layer
            blob = registry.session.get(f"http://{registry.host}/v2/{repository}/blobs/{layer['digest']}", timeout=30)
            assert "sha256:" + hashlib.sha256(blob.content).hexdigest() == layer["digest"]
        # The registry has it, so there is nothing left to do.
        assert "skipped" in clone.xtask("build", "--run", "judged").text
        with registry.closed():
            refused = clone.xtask("build", "--run", "judged", expect=1)
        assert f"read {repository}@{digest}" in refused.err and "uthor" in refused.err, refused.err
    # The clone goes on with the run that it had.
    clone.xtask("build", "--run", built["run"])
    assert clone.record("build") == built


def test_umoci_unpacks_what_was_built(reference: str, built: dict, folder: Path, skopeo):
    skopeo("copy", "--src-tls-verify=false", "--src-creds", LOGIN, f"docker://{reference}", f"oci:{folder}/layout:judged")
    command = ["umoci", "unpack", "--image", f"{folder}/layout:judged", str(folder / "bundle")]
    if os.geteuid() != 0:
        command.insert(2, "--rootless")
    unpacked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert unpacked.returncode == 0, unpacked.stderr
    root = folder / "bundle" / "rootfs"
    modes = {str(path.relative_to(root)): stat.filemode(path.lstat().st_mode) for path in root.rglob("*")}
    assert modes == {
        "var": "drwxr-xr-x",
        "var/task": "drwxr-xr-x",
        "var/task/bootstrap": "-rwxr-xr-x",
        "var/task/model.bin": "-rw-r--r--",
        "var/task/model.bin.sha256": "-rw-r--r--",
    }
    for name, part in {"bootstrap": "program", "model.bin": "model"}.items():
        content = (root / "var" / "task" / name).read_bytes()
        assert "sha256:" + hashlib.sha256(content).hexdigest() == built[part]["digest"], name
    digest = subprocess.run(["sha256sum", "--check", "model.bin.sha256"], cwd=root / "var" / "task", capture_output=True)
    assert digest.returncode == 0, digest.stderr
    process = json.loads((folder / "bundle" / "config.json").read_text())["process"]
    assert process["args"] == ["/var/task/bootstrap"] and process["cwd"] == "/var/task"


@pytest.fixture(scope="module")
def podman(folder: Path, reference: str):
    (folder / "podman").mkdir()
    podman = Podman(folder / "podman")
    podman.pull(reference)
    return podman


def test_it_answers_read_only_and_without_a_network(podman: Podman, reference: str, built: dict):
    api = RuntimeApi(APPROVED)
    try:
        ended = podman.run(reference, api.namespace, {**LAMBDA, "AWS_LAMBDA_RUNTIME_API": api.address})
    finally:
        answers = api.stop()
    assert api.interfaces == ["lo"], "the namespace reaches nothing"
    assert [answer["statusCode"] for answer in answers] == [200], ended.stderr
    body = json.loads(answers[0]["body"])
    assert body["prediction"] == 1 and body["model"] == built["model"]["digest"]


def test_without_a_runtime_api_it_says_so(podman: Podman, reference: str):
    ended = podman.run(reference, "none", LAMBDA)
    assert ended.returncode == 1
    assert ended.stderr.strip() == "AWS_LAMBDA_RUNTIME_API is not set: Lambda starts this program"
    # The model is read and accepted before anybody is asked for an event.
    ended = podman.run(reference, "none", {**LAMBDA, "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9"})
    assert ended.returncode == 1 and "speak to the Runtime API" in ended.stderr, ended.stderr
    ended = podman.run(reference, "none", {**LAMBDA, "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9", "MODEL_PATH": "/absent"})
    assert ended.returncode == 1 and "read the model /absent" in ended.stderr, ended.stderr
