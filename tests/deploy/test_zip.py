"""Both environments with a zip package for an image."""

import base64
import hashlib
import io
import json
import shutil
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from world import PREPROD, PRODUCTION, reseal

from pipeline_clone import APPROVED

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
