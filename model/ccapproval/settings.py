"""What pipeline.toml declares of the examination: seeds, limits, checks."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ccapproval.common import InputError, read_bytes
from ccapproval.curves import SCORE_FIGURES
from ccapproval.rates import FAIRNESS, RATES

JUDGED = (*RATES, *SCORE_FIGURES, *FAIRNESS)


@dataclass(frozen=True)
class Metrics:
    """The table `[metrics]`.

    Attributes:
        seed: of the bootstrap.
        draws: of the bootstrap.
        minimum_positives: rows that are actually positive, without which a group proves nothing.
        minimum_negatives: the same of rows that are actually negative.
        minimum: what a figure must not fall below, by name, as a fraction.
        maximum: what a figure must not exceed.
    """

    seed: int = 0
    draws: int = 2000
    minimum_positives: int = 30
    minimum_negatives: int = 30
    minimum: Mapping[str, float] = field(default_factory=lambda: {"demographic_parity_ratio": 0.8})
    maximum: Mapping[str, float] = field(
        default_factory=lambda: {name: 0.1 for name in FAIRNESS if name.endswith("_difference")}
    )


def number(value: Any, name: str, least: float = 0, whole: bool = False) -> Any:
    """A number of at least `least`, as it is.

    Raises:
        InputError: it is none, or too small; the message says `name`.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
        what = "a whole number" if whole else "a number"
        raise InputError(f"{name} must be {what} of at least {least}, not {value!r}")
    return value


def known_keys(table: Any, known: Any, name: str) -> dict[str, Any]:
    """The table, if it is one and has no other keys.

    Raises:
        InputError: it is none, or it has; the message says `name` and what is known.
    """
    if not isinstance(table, dict):
        raise InputError(f"{name} must be a table, not {table!r}")
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise InputError(f"{name} has no {', '.join(unknown)}; known: {', '.join(known)}")
    return table


def read_tables(file: Path | None) -> dict[str, Any]:
    """The content of a pipeline.toml; without a file, nothing is declared.

    Raises:
        InputError: the file is missing or is not TOML.
    """
    if file is None:
        return {}
    try:
        return tomllib.loads(read_bytes(file).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error


def metrics_settings(tables: Mapping[str, Any]) -> Metrics:
    """The table `[metrics]`, checked.

    Raises:
        InputError: a key or a figure is unknown, or a value is out of place.
    """
    keys = [each.name for each in fields(Metrics)]
    table = known_keys(tables.get("metrics", {}), keys, "[metrics]")
    for name, value in table.items():
        if name in ("minimum", "maximum"):
            limits = known_keys(value, JUDGED, f"[metrics] {name}")
            for figure, limit in limits.items():
                number(limit, f"[metrics] {name}.{figure}")
        else:
            least = 100 if name == "draws" else 0
            number(value, f"[metrics] {name}", least, whole=True)
    return Metrics(**table)
