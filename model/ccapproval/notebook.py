"""The notebook as a program: its cells tagged `train`, executed in order in a fresh namespace."""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccapproval.common import InputError, read_json_object

TAG = "train"


@dataclass(frozen=True)
class Cell:
    """A code cell; `number` counts all cells of the notebook from 1, as a reader does."""

    number: int
    source: str


def train_cells(notebook: Path) -> list[Cell]:
    """The code cells tagged `train`, in the order of the notebook.

    Raises:
        InputError: not a notebook of format 4, or no cell has the tag.
    """
    cells = read_json_object(notebook).get("cells")
    if not isinstance(cells, list):
        raise InputError(f"{notebook} is not a notebook of format 4: it has no list of cells")
    tagged = []
    for number, cell in enumerate(cells, start=1):
        if cell.get("cell_type") == "code" and TAG in cell.get("metadata", {}).get("tags", []):
            source = cell.get("source", "")
            tagged.append(Cell(number, source if isinstance(source, str) else "".join(source)))
    if not tagged:
        raise InputError(
            f"{notebook} has no code cell with the tag `{TAG}`: tag the cells that make the model"
        )
    return tagged


def run_train_cells(notebook: Path) -> dict[str, Any]:
    """Executes the tagged cells and returns their namespace.

    The working directory is the notebook's folder, as in Jupyter, and plots open no window.

    Raises:
        InputError: see `train_cells`; or a cell is not plain Python, or raises.
    """
    cells = train_cells(notebook)
    # As in Jupyter, so that a guard for `__main__` in a cell means the same.
    namespace: dict[str, Any] = {"__name__": "__main__"}
    folder = str(notebook.resolve().parent)
    before = os.getcwd()  # noqa: PTH109 - restored by os.chdir below
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.chdir(folder)
    sys.path.insert(0, folder)
    try:
        for cell in cells:
            run_cell(cell, notebook.name, namespace)
    finally:
        sys.path.remove(folder)
        os.chdir(before)
    return namespace


def run_cell(cell: Cell, name: str, namespace: dict[str, Any]) -> None:
    """Executes one cell in a namespace.

    Raises:
        InputError: the cell cannot be compiled, or raised; the message names cell and line.
    """
    file = f"{name}, cell {cell.number}"
    lines = cell.source.splitlines(keepends=True)
    # Known to linecache, a cell's lines appear in tracebacks.
    linecache.cache[file] = (len(cell.source), None, lines, file)
    try:
        code = compile(cell.source, file, "exec")
    except SyntaxError as error:
        line = (error.text or "").strip()
        if line.startswith(("%", "!", "?")) or line.endswith("?"):
            problem = f"`{line}` is an IPython command; cells tagged `{TAG}` hold plain Python"
        else:
            problem = f"{error.msg}: `{line}`"
        raise InputError(f"{file}, line {error.lineno}: {problem}") from error
    try:
        exec(code, namespace)  # noqa: S102 - running the notebook's code is the purpose
    except (Exception, SystemExit) as error:
        here = [
            frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file
        ]
        line = f", line {here[-1].lineno}: `{here[-1].line}`" if here else ""
        raise InputError(f"{file}{line} raised {type(error).__name__}: {error}") from error
