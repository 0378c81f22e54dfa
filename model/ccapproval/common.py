"""What every command shares: errors for bad input, digests, atomic and strict JSON files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class InputError(Exception):
    """Input that cannot be used. The message names the input and how to put it right."""


def sha256_hex(content: bytes) -> str:
    """SHA-256 of `content` as 64 lower-case hexadecimal digits, as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()


def digest(content: bytes) -> str:
    """SHA-256 of `content` in the form that records use: `sha256:<64 hexadecimal digits>`."""
    return "sha256:" + sha256_hex(content)


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader finds the old content or the new, never a part of it."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes the file private; records are read by other users, containers too.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def to_json(value: Any) -> str:
    """JSON for a record: readable, in the order given, and without NaN or infinities.

    Raises:
        ValueError: a float is not finite; other JSON parsers refuse what Python would write.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_json_object(text: bytes | str, source: str) -> dict[str, Any]:
    """A JSON object; `source` names it in errors.

    Raises:
        InputError: not JSON, not an object, or it holds NaN or an infinity.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{source} must hold a JSON object, not {type(value).__name__}")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        InputError: the file is missing, or `parse_json_object` refuses its content.
    """
    return parse_json_object(read_bytes(path), str(path))


def command_line(run: Callable[[], None]) -> int:
    """Runs a command; an `InputError` becomes one line on standard error and exit code 1."""
    try:
        run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
