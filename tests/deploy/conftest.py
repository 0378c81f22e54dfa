"""Deploy, rollback and approve from outside: an AWS environment, served by the embedded cloud behind a proxy that can meddle.

The tests share one clone with two built runs, `a` and `b`, and one cloud. They run in order, preprod, production, zip: each
begins where the one before ended.
"""

from collections.abc import Iterator

import pytest
from world import World

from cloud_support import Cloud
from pipeline_clone import PARAMETER


@pytest.fixture(scope="session")
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
