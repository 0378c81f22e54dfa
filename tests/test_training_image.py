"""The training image, built from model/Dockerfile by buildah, pushed, and the notebook's tests run in it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from base_image import settings, write_root
from cloud_support import ACCESS_KEY_ID, REPOSITORY_ROOT, SECRET_ACCESS_KEY, Cloud
from pipeline_clone import CLONES, Clone, advisory_database

DOCKERFILE = REPOSITORY_ROOT / "model" / "Dockerfile"
BUILDAH = shutil.which("buildah")
BASE = "localhost/python-stand-in:1"
NOTEBOOK = "model/credit_card_approval.ipynb"


# hadolint


def hadolint(dockerfile: str) -> tuple[int, list[str]]:
    """Its exit code, and the rules that it finds broken."""
    command = [Path(sys.executable).with_name("hadolint"), "--no-color", "--format", "json", "-"]
    ended = subprocess.run(command, input=dockerfile, capture_output=True, text=True, timeout=60)
    return ended.returncode, [finding["code"] for finding in json.loads(ended.stdout)]


def test_hadolint_finds_nothing():
    assert hadolint(DOCKERFILE.read_text()) == (0, [])


@pytest.mark.parametrize("old, new, rule", [
    ("uv==0.13.9", "uv", "DL3013"),
    ("USER 10001:10001", "USER root", "DL3002"),
    ("WORKDIR /training", "WORKDIR training", "DL3000"),
    ("RUN uv sync", "RUN cd / && uv sync", "DL3003"),
    ('CMD ["python"', 'CMD ["python"]\nCMD ["python"', "DL4003"),
])
def test_hadolint_finds_a_planted_fault(old, new, rule):
    text = DOCKERFILE.read_text()
    assert old in text
    code, found = hadolint(text.replace(old, new))
    assert code != 0 and rule in found


def test_base_is_pinned_by_digest_and_nothing_secret_is_named():
    text = DOCKERFILE.read_text()
    base = next(line for line in text.splitlines() if line.startswith("ARG BASE_IMAGE="))
    assert len(base.partition("@sha256:")[2]) == 64
    assert all(line == "FROM ${BASE_IMAGE}" or line == "FROM ${BASE_IMAGE} AS packages"
               for line in text.splitlines() if line.startswith("FROM"))
    assert (DOCKERFILE.parent / ".dockerignore").read_text().splitlines()[1] == "*"


# Built, pushed and run


class Containers:
    """buildah with a storage of its own, which goes with the tests."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.variables = {"CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"), "CONTAINER_ENGINE": "buildah"}
        folder.mkdir(parents=True)
        self.configure("overlay")
        if self.buildah("info", check=False).returncode != 0:
            self.configure("vfs")

    def configure(self, driver: str) -> None:
        places = f'graphroot = "{self.folder}/storage"\nrunroot = "{self.folder}/run"\n'
        (self.folder / "storage.conf").write_text(f'[storage]\ndriver = "{driver}"\n{places}')

    def buildah(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        return subprocess.run([BUILDAH, *arguments], env=os.environ | self.variables, capture_output=True, text=True,
                              check=check, timeout=600)

    def make_base(self) -> None:
        write_root(self.folder / "root")
        container = self.buildah("from", "scratch").stdout.strip()
        self.buildah("copy", container, str(self.folder / "root"), "/")
        for name, value in settings().items():
            self.buildah("config", "--env", f"{name}={value}", container)
        self.buildah("commit", "--rm", container, BASE)

    def remove(self) -> None:
        self.buildah("rm", "--all", check=False)
        self.buildah("rmi", "--all", "--force", check=False)
        # What an unprivileged user's containers leave belongs to users of their name space.
        remover = [] if os.geteuid() == 0 else [BUILDAH, "unshare"]
        subprocess.run([*remover, "rm", "-rf", str(self.folder)], check=True, env=os.environ | self.variables)


@pytest.fixture(scope="module")
def containers():
    if BUILDAH is None and os.environ.get("CI") != "true":
        # A laptop need not have it; in CI its absence fails.
        pytest.skip("not run: buildah is not installed")
    assert BUILDAH, "not run: buildah is not installed, and CI asks for it"
    folder = CLONES / "containers"
    shutil.rmtree(folder, ignore_errors=True)
    containers = Containers(folder)
    yield containers
    containers.remove()


@pytest.fixture(scope="module")
def account(programs, tmp_path_factory):
    cloud = Cloud.start(programs["serve"], tmp_path_factory.mktemp("account"))
    yield cloud
    cloud.stop()


class Preprod:
    """The environment `preprod` of a clone, with the embedded cloud in the place of AWS."""

    def __init__(self, clone: Clone, cloud: Cloud, variables: dict[str, str]):
        self.clone, self.cloud = clone, cloud
        self.variables = variables | {
            "AWS_ENDPOINT_URL": cloud.endpoint_url, "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY, "RUSTSEC_ADVISORY_DB": advisory_database("none-such"),
        }

    def xtask(self, *arguments: str, **options):
        return self.clone.xtask(*arguments, "--env", "preprod", **self.variables | options)

    def log(self, name: str) -> str:
        return (self.clone.run_folder() / "logs" / f"{name}.log").read_text()


def test_no_engine_is_an_error_that_says_what_to_install(account, tmp_path):
    """Where only a client of docker is installed, as on a machine whose Docker is not started."""
    clone = Clone("no engine", training_image="required")
    (tmp_path / "docker").write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    for name in ("rustc", "git", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))
    preprod = Preprod(clone, account, {"PATH": str(tmp_path)})
    ended = preprod.xtask("build", expect=1)
    assert "environment `preprod` requires the training image" in ended.err
    assert "docker is installed but does not answer, podman is not installed" in ended.err
    assert "apt-get install buildah" in ended.err
    assert "it may be docker, podman or buildah" in preprod.xtask("build", expect=1, CONTAINER_ENGINE="lxc").err


@pytest.fixture(scope="module")
def preprod(containers, account) -> Preprod:
    """The environment after its first build."""
    containers.make_base()
    # The place of the pipeline's own tests, whose compiled predictor serves here.
    clone = Clone("clone", training_image="required")
    dockerfile = clone.path / "model/Dockerfile"
    lines = [f"ARG BASE_IMAGE={BASE}" if line.startswith("ARG BASE_IMAGE=") else line
             for line in dockerfile.read_text().splitlines()]
    dockerfile.write_text("\n".join(lines) + "\n")
    clone.commit("A base that is at hand")
    preprod = Preprod(clone, account, containers.variables)
    preprod.xtask("build")
    return preprod


@pytest.mark.long
class TestBuilt:
    """One image for all of these; they run in order."""

    def test_image_is_pushed_and_recorded_with_the_registrys_digest(self, preprod):
        build = preprod.clone.record("build")
        training = build["training_image"]
        assert training["built"] and training["engine"] == "buildah"
        [pushed] = preprod.cloud.client("ecr").describe_images(repositoryName="ccapproval")["imageDetails"]
        assert training["image"] == {"repository": "ccapproval", "tag": build["run"], "digest": pushed["imageDigest"]}
        [of_run, of_sources] = sorted(pushed["imageTags"], key=lambda tag: tag.startswith("sources-"))
        assert of_run == build["run"] and of_sources.startswith("sources-")

    def test_image_has_what_training_needs_and_nothing_else(self, preprod, containers):
        [image] = [name for name in containers.buildah("images", "--format", "{{.Name}}:{{.Tag}}").stdout.split()
                   if "sources-" in name]
        config = json.loads(containers.buildah("inspect", "--type", "image", image).stdout)["OCIv1"]["config"]
        assert config["User"] == "10001:10001"
        container = containers.buildah("from", image).stdout.strip()
        listed = containers.buildah("run", container, "--", "ls", "-A", "/training", "/opt/venv/bin").stdout.split()
        containers.buildah("rm", container)
        assert {"credit_card_approval.ipynb", "ccapproval", "data", "schema.json", "pytest"} <= set(listed)
        assert not {"tests", "README.md", "Dockerfile", ".venv", "uv", "ruff", "pip"} & set(listed)

    def test_notebook_runs_in_the_image(self, preprod):
        preprod.xtask("test")
        test = preprod.clone.record("test")
        image = preprod.clone.record("build")["training_image"]["image"]["digest"]
        assert test["notebook"] == {"kind": "training image", "reason": None, "image": image, "engine": "buildah"}
        assert test["cases"]["total"] == test["cases"]["passed"] > 10
        assert "passed" in preprod.log("notebook")
        assert not list(preprod.clone.run_folder().glob(".tmp*")), "what was shared with the container is gone"

    def test_unchanged_folder_is_not_built_again(self, preprod):
        first = preprod.clone.record("build")
        preprod.xtask("build", "--run", "another", CONTAINER_ENGINE="none-such")
        second = preprod.clone.record("build")
        assert second["run"] == "another" and second["training_image"]["engine"] is None
        assert second["training_image"]["image"] == first["training_image"]["image"] | {"tag": "another"}

    def test_image_that_was_built_must_be_scanned(self, preprod):
        """A registry that has nothing to say about an image with an operating system does not vouch for it."""
        preprod.xtask("scan")
        training = preprod.clone.record("scan")["training_image"]
        assert training["image"] == preprod.clone.record("build")["training_image"]["image"]["digest"]
        assert training["registry"]["status"] == "FINDINGS_UNAVAILABLE"
        assert "The scan of the training image has no usable result" in preprod.xtask("gate", expect=3).err

    def test_cells_have_no_network_no_privilege_and_nothing_to_write_to(self, preprod):
        """Seen from inside, in a notebook with a cell that looks and one that fails; only the last layers are built."""
        path = preprod.clone.path / NOTEBOOK
        looks = ("import os, socket\nassert os.getuid() == 10001\n"
                 "assert [name for _, name in socket.if_nameindex()] == ['lo']\n"
                 "for root in ('/', '/training', '/opt/venv', '/input', '/etc'):\n    assert not os.access(root, os.W_OK), root")
        with preprod.clone.holding(path):
            notebook = json.loads(path.read_text())
            for number, source in enumerate([looks, "assert False, 'planted'"]):
                cell = {"cell_type": "code", "id": f"planted-{number}", "metadata": {}, "outputs": [],
                        "execution_count": None, "source": source}
                notebook["cells"].append(cell)
            path.write_text(json.dumps(notebook))
            preprod.xtask("build")
            log = preprod.log("training-image")
            assert log.count("Using cache") >= 8, log
            before = len(notebook["cells"])
            preprod.xtask("test")
            cases = preprod.clone.record("test")["cases"]
            assert cases["failed"] == 1 and before > cases["passed"] > 10, preprod.log("notebook")
            assert "planted" in preprod.log("notebook")
