"""The embedded registry by skopeo: push, inspect and pull, with the same digests on both sides."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from cloud_support import Cloud, build_image, layer, skopeo_in

SKOPEO = shutil.which("skopeo")
NOT_RUN = "not run: skopeo is not installed"

if SKOPEO is None and os.environ.get("CI") != "true":
    # A laptop need not have it; in CI its absence fails.
    pytest.skip(NOT_RUN, allow_module_level=True)


@pytest.fixture
def skopeo(cloud: Cloud, tmp_path: Path):
    assert SKOPEO, f"{NOT_RUN}, and CI asks for it"
    return skopeo_in(tmp_path)


@pytest.fixture
def login(cloud: Cloud) -> str:
    cloud.client("ecr").create_repository(repositoryName="team/app", imageTagMutability="IMMUTABLE")
    return ":".join(cloud.registry_login())


def test_push_inspect_and_pull(cloud: Cloud, skopeo, login: str, echo_image, tmp_path: Path):
    image = echo_image()
    image.write_directory(tmp_path / "image")
    reference = f"docker://{cloud.host}/team/app:1"
    source, target = ["--src-tls-verify=false", "--src-creds", login], ["--dest-tls-verify=false", "--dest-creds", login]
    skopeo("copy", *target, "--preserve-digests", f"dir:{tmp_path}/image", reference)
    assert cloud.client("ecr").describe_images(repositoryName="team/app")["imageDetails"][0]["imageDigest"] == image.digest
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", "--creds", login, reference))
    assert inspected["Digest"] == image.digest and inspected["RepoTags"] == ["1"]
    assert inspected["Layers"] == [found["digest"] for found in json.loads(image.manifest)["layers"]]
    assert json.loads(skopeo("inspect", "--config", "--tls-verify=false", "--creds", login, reference))["config"]["Entrypoint"]
    skopeo("copy", *source, "--preserve-digests", reference, f"dir:{tmp_path}/back")
    for digest in image.blobs:
        blob = (tmp_path / "back" / digest.removeprefix("sha256:")).read_bytes()
        assert "sha256:" + hashlib.sha256(blob).hexdigest() == digest
    assert (tmp_path / "back" / "manifest.json").read_bytes() == image.manifest
    # By digest, converted, and back again as an OCI image.
    skopeo("copy", *source, f"docker://{cloud.host}/team/app@{image.digest}", f"oci:{tmp_path}/oci:1")
    skopeo("copy", *target, f"oci:{tmp_path}/oci:1", f"docker://{cloud.host}/team/app:oci")
    details = cloud.client("ecr").describe_images(repositoryName="team/app", imageIds=[{"imageTag": "oci"}])["imageDetails"]
    assert details[0]["imageManifestMediaType"] == "application/vnd.oci.image.manifest.v1+json"
    tags = json.loads(skopeo("list-tags", "--tls-verify=false", "--creds", login, f"docker://{cloud.host}/team/app"))
    assert tags["Tags"] == ["1", "oci"]


def test_refusals(cloud: Cloud, skopeo, login: str, echo_image, tmp_path: Path):
    echo_image("1").write_directory(tmp_path / "one")
    echo_image("2").write_directory(tmp_path / "two")
    target = ["--dest-tls-verify=false", "--dest-creds", login]
    reference = f"docker://{cloud.host}/team/app:1"
    skopeo("copy", *target, f"dir:{tmp_path}/one", reference)
    skopeo("copy", *target, f"dir:{tmp_path}/one", reference)
    moved = skopeo("copy", *target, f"dir:{tmp_path}/two", reference, check=False)
    assert moved.returncode != 0 and "immutable" in moved.stderr
    absent = skopeo("copy", *target, f"dir:{tmp_path}/one", f"docker://{cloud.host}/absent:1", check=False)
    assert absent.returncode != 0 and "does not exist" in absent.stderr
    unknown = skopeo("inspect", "--tls-verify=false", "--creds", login, f"docker://{cloud.host}/team/app:absent", check=False)
    assert unknown.returncode != 0 and "manifest unknown" in unknown.stderr.lower()
    wrong = skopeo("inspect", "--tls-verify=false", "--creds", "AWS:wrong", reference, check=False)
    assert wrong.returncode != 0 and "unauthorized" in wrong.stderr.lower()


def test_copies_between_repositories_and_large_layers(cloud: Cloud, skopeo, login: str, tmp_path: Path):
    ecr = cloud.client("ecr")
    ecr.create_repository(repositoryName="other")
    image = build_image([layer({"model.bin": os.urandom(64 << 20)})])
    image.write_directory(tmp_path / "image")
    source, target = ["--src-tls-verify=false", "--src-creds", login], ["--dest-tls-verify=false", "--dest-creds", login]
    skopeo("copy", *target, f"dir:{tmp_path}/image", f"docker://{cloud.host}/team/app:1")
    skopeo("copy", *source, *target, f"docker://{cloud.host}/team/app:1", f"docker://{cloud.host}/other:1")
    assert ecr.describe_images(repositoryName="other")["imageDetails"][0]["imageDigest"] == image.digest
    ecr.delete_repository(repositoryName="team/app", force=True)
    skopeo("copy", *source, f"docker://{cloud.host}/other:1", f"dir:{tmp_path}/back")
    assert (tmp_path / "back" / "manifest.json").read_bytes() == image.manifest
    assert not list((cloud.root / "uploads").iterdir()), "uploads leave nothing behind"
