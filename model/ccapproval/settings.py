"""What pipeline.toml declares of the examination: seeds, limits, checks."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ccapproval.common import InputError, read_bytes
from ccapproval.curves import SCORE_FIGURES
from ccapproval.rates import FAIRNESS, RATES

SIMPLE_MODELS = ("majority", "stump", "logistic regression")
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


@dataclass(frozen=True)
class Behaviour:
    """The table `[behaviour]`.

    Attributes:
        seed: of the generated pairs and of the intervals.
        pairs: how many are generated, shared by the checks that use them.
        increasing: features of which more never turns an approval into a denial.
        decreasing: features of which less never does.
        invariant: features that change nothing; the sensitive attributes always belong to them.
        margins: by how much of accuracy each simple model must be beaten.
        maximum_overfit: how much the accuracy in training may exceed that of the test.
        slice_rows: rows below which a slice is left out.
        slice_accuracy: what no slice may surely be below.
        minimum_class_share: share of the rarer class.
        maximum_duplicates: share of training rows that repeat an earlier one.
        maximum_overlap: share of test rows that are among the training rows.
        maximum_feature_auc: above it a feature alone tells the target.
        warn_only: names of checks whose failure warns and denies nothing.
    """

    seed: int = 0
    pairs: int = 1_000_000
    increasing: Sequence[str] = ()
    decreasing: Sequence[str] = ()
    invariant: Sequence[str] = ()
    margins: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SIMPLE_MODELS, 0.0))
    maximum_overfit: float = 0.02
    slice_rows: int = 500
    slice_accuracy: float = 0.5
    minimum_class_share: float = 0.01
    maximum_duplicates: float = 0.5
    maximum_overlap: float = 0.5
    maximum_feature_auc: float = 0.99
    warn_only: Sequence[str] = ()


@dataclass(frozen=True)
class Check:
    """What came of a check of the behaviour.

    Attributes:
        kind: which sort of check it is.
        name: of the check; unique.
        status: `pass`, `fail` or `insufficient evidence`.
        n: how many pairs, rows, slices, features or cases were looked at.
        violations: how many of them are not as they should be.
        reason: in words.
        examples: the worst ones, with their values.
        measured: figures behind the status, by name.
    """

    kind: str
    name: str
    status: str
    n: int
    violations: int
    reason: str
    examples: list[Any] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)


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


def behaviour_settings(tables: Mapping[str, Any]) -> Behaviour:
    """The table `[behaviour]`, checked but for the names of features and checks.

    Raises:
        InputError: a key is unknown, or a value is out of place.
    """
    keys = [each.name for each in fields(Behaviour)]
    table = known_keys(tables.get("behaviour", {}), keys, "[behaviour]")
    for name, value in table.items():
        place = f"[behaviour] {name}"
        if name in ("increasing", "decreasing", "invariant", "warn_only"):
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise InputError(f"{place} must be a list of names, not {value!r}")
        elif name == "margins":
            for model, margin in known_keys(value, SIMPLE_MODELS, place).items():
                number(margin, f"{place}.{model}", least=-1)
        else:
            number(value, place, whole=name in ("seed", "pairs", "slice_rows"))
    return Behaviour(**table)
