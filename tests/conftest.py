"""Fixtures: the embedded cloud on a free port with state of its own, an image whose program speaks the Runtime API, and a clone
with a deployed model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_support import Cloud, Image, build_image, built_programs, layer, machine
from pipeline_clone import Clone


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the tests that take minutes, too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--full"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="not run: takes minutes, `cargo xtask check --full` runs it"))


def pytest_terminal_summary(terminalreporter):
    """Shows what a test counted besides itself."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "counts" and report.when == "call":
                terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    return built_programs()


@pytest.fixture
def cloud(programs: dict[str, Path], tmp_path: Path) -> Iterator[Cloud]:
    running = Cloud.start(programs["serve"], tmp_path / "cloud")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def clone() -> Clone:
    """A fresh clone after its first `cargo xtask pipeline`."""
    clone = Clone("clone")
    clone.first = clone.xtask("pipeline", "--json")
    return clone


@pytest.fixture(scope="session")
def echo_layer(programs: dict[str, Path]) -> bytes:
    return layer({"var/task/bootstrap": (programs["echo_runtime"].read_bytes(), 0o755)})


@pytest.fixture(scope="session")
def echo_image(echo_layer: bytes):
    """Makes images that differ by a model file."""

    def make(model: str = "1", **config) -> Image:
        options = {"Entrypoint": ["/var/task/bootstrap"], "WorkingDir": "/var/task", "Env": [f"MODEL={model}"], **config}
        return build_image([echo_layer, layer({"var/task/model.txt": model.encode()})], machine(), **options)

    return make


@pytest.fixture
def ecr(cloud: Cloud):
    return cloud.client("ecr")


@pytest.fixture
def functions(cloud: Cloud):
    return cloud.client("lambda")


@pytest.fixture
def s3(cloud: Cloud):
    return cloud.client("s3")
