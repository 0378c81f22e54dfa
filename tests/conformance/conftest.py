"""The servers of the conformance suite, and the counts at its end."""

from collections import Counter
from pathlib import Path

import pytest

import servers
from cloud_support import end

RESULTS = pytest.StashKey[dict]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = {}


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> dict:
    """What became of each case on each server; printed at the end."""
    return request.config.stash[RESULTS]


@pytest.fixture(scope="module")
def running(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    """Every server, started side by side and ended with the suite."""
    folder = tmp_path_factory.mktemp("servers")
    started = {}
    try:
        for name in servers.NAMES:
            started[name] = servers.launch(name, programs["serve"], folder)
        for server in started.values():
            servers.await_start(server)
        yield started
    finally:
        for server in started.values():
            end(server.process)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    results = config.stash[RESULTS]
    if not results:
        return
    terminalreporter.section("conformance")
    for name in servers.NAMES:
        outcomes = {case: outcome for (server, case), outcome in results.items() if server == name}
        if not outcomes:
            continue
        counts = Counter(word for word, _ in outcomes.values())
        words = f"{counts['agrees']} agree, {counts['differs']} differ (listed), {counts['absent']} not there"
        absent = sorted({operation for word, operation in outcomes.values() if word == "absent"})
        terminalreporter.write_line(f"{name}: {len(outcomes)} cases, {words}" + (f": {', '.join(absent)}" if absent else ""))
        if counts["fails"]:
            terminalreporter.write_line(f"{name}: {counts['fails']} differ and are not listed so")
