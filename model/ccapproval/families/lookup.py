"""Steps that look values up in a table: what encoders do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccapproval.model_file import Step
from ccapproval.program import Columns, Program

REFUSE_MISSING = 1
REFUSE_UNKNOWN = 2


@dataclass(frozen=True)
class Table:
    """What becomes of the values of one column.

    Attributes:
        keys: known values, all numbers or all texts.
        values: what each becomes.
        missing, unknown: what a missing and an unknown value become; None if they are refused.
    """

    keys: Sequence[Any]
    values: Sequence[float]
    missing: float | None
    unknown: float | None

    def numbers(self, program: Program, column: int) -> list[float]:
        """Keys in ascending order, their values, the values of the missing and the unknown."""
        keys = [
            program.text(column, key) if isinstance(key, str) else float(key) for key in self.keys
        ]
        pairs = sorted(zip(keys, self.values, strict=True))
        rest = [0.0 if each is None else each for each in (self.missing, self.unknown)]
        return [key for key, _ in pairs] + [float(value) for _, value in pairs] + rest

    def refused(self) -> int:
        """The bits of what is refused."""
        missing = REFUSE_MISSING if self.missing is None else 0
        return missing | (REFUSE_UNKNOWN if self.unknown is None else 0)


def ordinal(program: Program, columns: Columns, tables: Sequence[Table]) -> Columns:
    """Replaces each column's values by what its table says."""
    return appended(program, Step.ORDINAL, columns, tables, [0] * len(tables), len(tables))


def one_hot(
    program: Program, columns: Columns, tables: Sequence[Table], widths: Sequence[int]
) -> Columns:
    """Gives every column as many outputs as its width; the value chooses one, or none if -1."""
    ends = np.cumsum(widths).tolist()
    return appended(program, Step.ONE_HOT, columns, tables, [0, *ends[:-1]], ends[-1])


def appended(
    program: Program,
    kind: Step,
    columns: Columns,
    tables: Sequence[Table],
    first: Sequence[int],
    outputs: int,
) -> Columns:
    """Appends a step that looks up."""
    numbers: list[float] = []
    indices: list[int] = []
    for column, table, output in zip(columns, tables, first, strict=True):
        numbers += table.numbers(program, column)
        indices += [len(table.keys), table.refused(), output, 0]
    return program.step(kind, columns, outputs, numbers, indices)
