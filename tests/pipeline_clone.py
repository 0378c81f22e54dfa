"""A fresh clone of the working tree, and `cargo xtask` in it, for the tests that use the pipeline as a person would."""

import json
import os
import shutil
import signal
import subprocess
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import requests

ROOT = Path(__file__).resolve().parent.parent
CLONES = ROOT / "target" / "tests"
APPROVED = {"Num_Children": 2, "Income": 500000, "Own_Car": 1, "Own_Housing": 1}
DENIED = {"Num_Children": 2, "Income": 50000, "Own_Car": 1, "Own_Housing": 0}
STAGES = ["build", "scan", "test", "gate", "deploy", "monitor"]
GATE_LIMIT = "minimum_accuracy := 0.9"
STRICT_LIMIT = "minimum_accuracy := 0.95"
PARAMETER = "MAX_DEPTH = 3"


def xtask_program() -> Path:
    """The program under test: $XTASK, or the one that `cargo build -p xtask` left."""
    program = Path(os.environ.get("XTASK", ROOT / "target" / "debug" / "xtask"))
    assert program.is_file(), f"{program} is missing: run `cargo build -p xtask`, or name it with XTASK"
    return program


def neutral_environment() -> dict[str, str]:
    """This process's variables without those that a pipeline listens to."""
    listened_to = ("GITHUB_", "LOCAL_AWS", "CARGO_", "RUSTSEC_", "AWS_", "MLFLOW_", "SMTP_")
    return {name: value for name, value in os.environ.items() if not name.startswith(listened_to) or name == "CARGO_HOME"}


class Clone:
    """A clone at a fixed place, so that cargo's cache serves every time; everything else begins empty.

    Who makes one takes the place from whoever had it, and that one is used no more: files of tests run one after the other.
    """

    newest: ClassVar[dict[Path, object]] = {}

    def __init__(self, name: str, of: "Clone | None" = None, training_image: str = "off"):
        self.path = CLONES / name
        self.build = CLONES / f"{name}-build"
        Clone.newest[self.path] = self
        if self.path.exists():
            shutil.rmtree(self.path)
        if of:
            subprocess.run(["git", "clone", "--quiet", of.path, self.path], check=True)
            return
        self.path.mkdir(parents=True)
        # What git would hand out if the working tree were committed as it is.
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout
        for file in filter(None, listed.split("\0")):
            source = ROOT / file
            if source.is_file():
                target = self.path / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        # Building the training image takes a container engine and minutes: for the tests that are about it.
        pipeline = self.path / "pipeline.toml"
        required = 'training_image = "required"'
        assert required in pipeline.read_text()
        text = pipeline.read_text().replace(required, f'training_image = "{training_image}"')
        # A service in the internet; the tests that are about it name one of their own.
        asked = next(line for line in text.splitlines(keepends=True) if line.startswith("python_advisories = "))
        pipeline.write_text(text.replace(asked, ""))
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("First commit")

    def git(self, *arguments: str, **variables: str) -> str:
        identity = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com",
                    "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.com"}
        return subprocess.run(["git", *arguments], cwd=self.path, check=True, capture_output=True, text=True,
                              env=os.environ | identity | variables).stdout.strip()

    def commit(self, subject: str, **variables: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject, **variables)

    def environment(self, **variables: str) -> dict[str, str]:
        return neutral_environment() | {"CARGO_TARGET_DIR": str(self.build), "LOCAL_AWS_PORT": "0", "NO_COLOR": "1"} | variables

    def start(self, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.Popen:
        assert Clone.newest[self.path] is self, f"{self.path} belongs to another test by now"
        # A job of a shell that runs in the background ignores Ctrl-C, and so would all that it starts.
        return subprocess.Popen([str(xtask_program()), *arguments], cwd=cwd or self.path, text=True,
                                env=self.environment(**variables), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def xtask(self, *arguments: str, expect: int | None = 0, cwd: Path | None = None, **variables: str) -> "Ended":
        process = self.start(*arguments, cwd=cwd, **variables)
        out, err = process.communicate(timeout=1500)
        ended = Ended(process.returncode, out, err)
        if expect is not None:
            assert ended.code == expect, f"exit code {ended.code}, expected {expect}\n{out}\n{err}"
        return ended

    def record(self, stage: str) -> dict:
        return json.loads((self.path / "target/pipeline/latest" / f"{stage}.json").read_text())

    def run_folder(self) -> Path:
        return (self.path / "target/pipeline/latest").resolve()

    @contextmanager
    def edited(self, file: str, old: str, new: str):
        """The file with the first `old` replaced; as it was, afterwards."""
        path = self.path / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r}"
        with self.holding(path):
            path.write_text(text.replace(old, new, 1))
            yield

    @contextmanager
    def holding(self, path: Path):
        """Puts a file back as it is now, whatever happens to it meanwhile."""
        kept = path.read_bytes()
        try:
            yield
        finally:
            path.write_bytes(kept)


class Ended:
    """How a command ended, and all that it said."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err
        self.text = out + err


class Served:
    """`cargo xtask local` in the background, ended with the test."""

    def __init__(self, clone: Clone, *arguments: str):
        self.process = clone.start("local", "--json", *arguments)
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=10)[1]
        self.urls = json.loads(line)

    def __enter__(self) -> dict:
        return self.urls

    def __exit__(self, *_) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert self.process.returncode == 0


def advisory_database(package: str) -> str:
    """A database with one made-up advisory, against `package`."""
    folder = CLONES / f"advisories-{package}"
    advisory = folder / "crates" / package
    advisory.mkdir(parents=True, exist_ok=True)
    (advisory / "RUSTSEC-2020-9999.md").write_text(textwrap.dedent(f"""\
        ```toml
        [advisory]
        id = "RUSTSEC-2020-9999"
        package = "{package}"
        date = "2020-01-01"
        cvss = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"

        [versions]
        patched = []
        ```

        # A made-up fault

        For the test.
        """))
    return str(folder)


def wait_for(condition, timeout_s: float = 60) -> None:
    """Waits until `condition()` is true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def answer_of(url: str, event: object) -> tuple[int, dict]:
    body = event if isinstance(event, (str, bytes)) else json.dumps(event)
    response = requests.post(url, data=body, headers={"content-type": "application/json"}, timeout=10)
    return response.status_code, response.json()


def live_model(clone: Clone) -> str:
    with Served(clone) as urls:
        return answer_of(urls["function_url"], APPROVED)[1]["model"]
