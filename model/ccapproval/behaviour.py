"""How the model that ships behaves, whatever its accuracy, and whether its data can be trusted.

    python -m ccapproval.behaviour --run DIR --predictions FILE --score PROGRAM --model FILE
        --settings pipeline.toml --out DIR

Rows are generated in pairs that differ in one value, and both are given to the program and the
model file that ship. Every check has a name, a kind, a status (`pass`, `fail` or `insufficient
evidence`), what it looked at, how often it was violated, and the worst examples. It only
measures; policies judge. What is declared in `[behaviour]` of pipeline.toml is described at
`Behaviour`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ccapproval import datachecks
from ccapproval.common import (
    InputError,
    command_line,
    digest,
    read_bytes,
    to_json,
    write_atomically,
)
from ccapproval.examination import FAIL, INSUFFICIENT, PASS
from ccapproval.metrics import read_predictions, read_run, read_split
from ccapproval.model_file import decode
from ccapproval.rates import rates
from ccapproval.settings import Behaviour, Check, behaviour_settings, read_tables

EXAMPLES = 3
# Pairs that are written to the program at once.
CHUNK = 100_000


class Predictor:
    """The program and the model file that ship."""

    def __init__(self, program: Path, model: Path):
        """Nothing is started yet."""
        self.program, self.model = program, model

    def predict(self, chunks: Iterable[bytes], rows: int, form: str) -> tuple[np.ndarray, ...]:
        """Classes and probabilities of rows that are streamed to the program.

        Args:
            chunks: the program's input, in order.
            rows: how many rows they are.
            form: `csv` or `ndjson`.

        Raises:
            InputError: the program cannot be started or refuses a row; the message has its words.
        """
        arguments = [self.program, "--model", self.model, "--format", form]
        with tempfile.TemporaryDirectory() as folder:
            answers = Path(folder) / "predictions.csv"
            arguments += ["--input", "-", "--output", answers]
            errors = Path(folder) / "errors"
            with errors.open("wb") as stderr:
                try:
                    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=stderr)  # noqa: S603
                except OSError as error:
                    raise InputError(f"cannot start {self.program}: {error.strerror}") from error
                try:
                    for chunk in chunks:
                        process.stdin.write(chunk)
                    process.stdin.close()
                except BrokenPipeError:
                    pass
                code = process.wait()
            if code:
                words = errors.read_text(errors="replace").strip()
                raise InputError(f"{self.program} ended with {code}: {words}")
            return read_predictions(answers, rows)


def quoted(text: str) -> str:
    """A text as a field of CSV."""
    return '"' + text.replace('"', '""') + '"'


def fields(column: pd.Series | np.ndarray, missing: str = "") -> np.ndarray:
    """Values as fields of CSV, each different one written once; object, same shape.

    Numbers are in the shortest form that reads back to the same bits.
    """
    codes, values = pd.factorize(column)
    texts = [quoted(each) if isinstance(each, str) else str(each) for each in values.tolist()]
    # A value that is missing has the code -1, the last place.
    return np.array([*texts, missing], dtype=object)[codes]


def written(columns: Iterable[np.ndarray]) -> bytes:
    """Rows as the program reads them, from the fields of each column, shape (rows,) each."""
    return "\n".join([*map(",".join, zip(*columns, strict=True)), ""]).encode()


@dataclass(frozen=True)
class Pairs:
    """Rows in pairs that differ in one column.

    Attributes:
        column: which one.
        base: the rows, shape (pairs, columns); the values of `column` do not matter.
        first: values of `column` in the first member, shape (pairs,).
        second: in the second.
    """

    column: str
    base: pd.DataFrame
    first: np.ndarray
    second: np.ndarray

    def chunks(self) -> Iterable[bytes]:
        """All first members, then all second ones."""
        names = list(self.base.columns)
        # An empty line is no row.
        missing = "" if len(names) > 1 else '""'
        columns = {name: fields(self.base[name], missing) for name in names if name != self.column}
        yield ",".join(map(quoted, names)).encode() + b"\n"
        for values in (self.first, self.second):
            columns[self.column] = fields(values, missing)
            for start in range(0, len(self.base), CHUNK):
                yield written([columns[name][start : start + CHUNK] for name in names])

    def predict(self, predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
        """Classes and probabilities, shape (2, pairs) each."""
        classes, chances = predictor.predict(self.chunks(), 2 * len(self.base), "csv")
        return classes.reshape(2, -1), chances.reshape(2, -1)

    def example(self, place: int, chances: np.ndarray) -> dict[str, Any]:
        """A pair with its values, ready for a record."""
        row = json.loads(self.base.iloc[[place]].to_json(orient="records"))[0]
        both = pd.DataFrame({self.column: [self.first[place], self.second[place]]})
        values = json.loads(both.to_json(orient="values"))
        return {
            "values": {name: value for name, value in row.items() if name != self.column},
            self.column: [value[0] for value in values],
            "probability": chances[:, place].tolist(),
        }


def sampled(
    rows: pd.DataFrame, column: str, pairs: int, random: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Test rows, and two different values of a column for each, drawn from its observed values.

    Every second pair of a number lies close together (within a hundredth of the observed
    range), where the steps of a model are.
    """
    base = rows.iloc[random.integers(0, len(rows), pairs)].reset_index(drop=True)
    observed = rows[column].dropna().to_numpy()
    first = observed[random.integers(0, len(observed), pairs)]
    second = observed[random.integers(0, len(observed), pairs)]
    if observed.dtype.kind in "if" and len(np.unique(observed)) > 100:
        step = np.ptp(observed) / 100 * random.random(pairs)
        whole = observed.dtype.kind == "i"
        near = first + 1 + step.astype(np.int64) if whole else np.nextafter(first + step, np.inf)
        even = (np.arange(pairs) % 2 == 0) & (first != second)
        second = np.where(even, second, near)
    elif len(values := np.unique(observed)) > 1:
        places = random.integers(0, len(values), pairs)
        others = (places + random.integers(1, len(values), pairs)) % len(values)
        first, second = values[places], values[others]
    return base, first, second


def monotone(
    predictor: Predictor,
    rows: pd.DataFrame,
    column: str,
    direction: int,
    pairs: int,
    positive: int,
    random: np.random.Generator,
) -> Check:
    """More (or, with direction -1, less) of a feature never turns an approval into a denial."""
    base, first, second = sampled(rows, column, pairs, random)
    less, more = np.minimum(first, second), np.maximum(first, second)
    worse, better = (less, more) if direction > 0 else (more, less)
    differ = worse != better
    pair = Pairs(column, base[differ].reset_index(drop=True), worse[differ], better[differ])
    if not len(pair.base):
        return Check(
            "monotone", f"monotone {column}", INSUFFICIENT, 0, 0, f"{column} has only one value"
        )
    classes, chances = pair.predict(predictor)
    flips = (classes[0] == positive) & (classes[1] != positive)
    falls = np.where(flips, chances[0] - chances[1], -np.inf)
    worst = np.argsort(-falls, kind="stable")[: min(EXAMPLES, int(flips.sum()))]
    falling = int(np.sum(chances[1] < chances[0]))
    word = "more" if direction > 0 else "less"
    return Check(
        "monotone",
        f"monotone {column}",
        FAIL if flips.any() else PASS,
        len(pair.base),
        int(flips.sum()),
        f"{word} {column} turned an approval into a denial in {int(flips.sum())} pairs",
        [pair.example(place, chances) for place in worst.tolist()],
        {
            "lower_probabilities": falling,
            "largest_fall": float(np.maximum(chances[0] - chances[1], 0).max()),
        },
    )


def invariant(
    predictor: Predictor,
    rows: pd.DataFrame,
    column: str,
    pairs: int,
    random: np.random.Generator,
) -> Check:
    """Another value of a feature or sensitive attribute changes nothing at all."""
    name = f"invariant {column}"
    values = rows[column].dropna().unique()
    if len(values) < 2:
        return Check("invariant", name, INSUFFICIENT, 0, 0, f"{column} has only one value")
    base = rows.iloc[random.integers(0, len(rows), pairs)].reset_index(drop=True)
    first = random.integers(0, len(values), pairs)
    second = (first + random.integers(1, len(values), pairs)) % len(values)
    pair = Pairs(column, base, values[first], values[second])
    classes, chances = pair.predict(predictor)
    differs = (classes[0] != classes[1]) | (chances[0] != chances[1])
    distance = np.where(differs, np.abs(chances[0] - chances[1]), -1.0)
    worst = np.argsort(-distance, kind="stable")[: min(EXAMPLES, int(differs.sum()))]
    return Check(
        "invariant",
        name,
        FAIL if differs.any() else PASS,
        pairs,
        int(differs.sum()),
        f"another {column} changed the answer in {int(differs.sum())} pairs",
        [pair.example(place, chances) for place in worst.tolist()],
        {"flips": int(np.sum(classes[0] != classes[1]))},
    )


def cases(predictor: Predictor, tests: list[dict[str, Any]], features: list[str]) -> Check:
    """The declared cases have their declared answers."""
    kind = "cases"
    if not tests:
        return Check(kind, "minimum cases", INSUFFICIENT, 0, 0, "no [[smoke_tests]] is declared")
    for test in tests:
        absent = sorted(set(features) - set(test["event"]))
        if absent:
            raise InputError(f"[[smoke_tests]] {test['name']} lacks {', '.join(absent)}")
    lines = "".join(json.dumps(test["event"]) + "\n" for test in tests)
    classes, chances = predictor.predict([lines.encode()], len(tests), "ndjson")
    wrong = [
        {"name": test["name"], "event": test["event"], "expected": test["prediction"],
         "prediction": int(label), "probability": float(chance)}
        for test, label, chance in zip(tests, classes, chances, strict=True)
        if label != test["prediction"]
    ]  # fmt: skip
    status = FAIL if wrong else PASS
    reason = f"{len(wrong)} of {len(tests)} cases have another answer than declared"
    return Check(kind, "minimum cases", status, len(tests), len(wrong), reason, wrong[:EXAMPLES])


def pair_checks(
    predictor: Predictor,
    table: pd.DataFrame,
    training: Mapping[str, Any],
    settings: Behaviour,
) -> list[Check]:
    """The checks of generated pairs, which share `settings.pairs`; the unseen ones come last.

    Raises:
        InputError: a declared feature is unknown or is no number.
    """
    features = training["features"]
    known = [*features, *(name for name in training["sensitive"] if name not in features)]
    named = [*settings.increasing, *settings.decreasing]
    for key, names, allowed in (
        ("increasing and decreasing", named, features),
        ("invariant", settings.invariant, known),
    ):
        unknown = sorted(set(names) - set(allowed))
        if unknown:
            raise InputError(
                f"[behaviour] {key}: there is no {', '.join(unknown)}; there are "
                f"{', '.join(allowed)}"
            )
    words = [name for name in named if table[name].dtype.kind not in "iuf"]
    if words:
        raise InputError(f"[behaviour] {', '.join(words)}: only numbers have a direction")
    constant = list(dict.fromkeys([*settings.invariant, *training["sensitive"]]))
    each = -(-settings.pairs // max(1, len(named) + len(constant)))
    random = np.random.default_rng(settings.seed)
    rows, positive = table[features], training["positive_class"]
    checks = [
        monotone(predictor, rows, name, direction, each, positive, random)
        for direction, names in ((1, settings.increasing), (-1, settings.decreasing))
        for name in names
    ]
    for name in constant:
        columns = features if name in features else [*features, name]
        checks.append(invariant(predictor, table[columns], name, each, random))
    return checks


def overfit(train: Mapping[str, Any], test: Mapping[str, Any], settings: Behaviour) -> Check:
    """The model is not much better on the rows that it was trained on."""
    gap = train["accuracy"] - test["accuracy"]
    limit = settings.maximum_overfit
    fails = gap > limit
    return Check(
        "overfit",
        "train/test accuracy",
        FAIL if fails else PASS,
        test["n"],
        int(fails),
        f"accuracy in training {train['accuracy']:.4f}, in the test {test['accuracy']:.4f}; the "
        f"difference may be {limit:g}",
        measured={"difference": gap, "limit": limit},
    )


def examine(
    run: Path, predictions: Path, predictor: Predictor, tables: Mapping[str, Any]
) -> dict[str, Any]:
    """All checks; the content of behaviour.json.

    Raises:
        InputError: the files do not belong together, or what is declared does not fit them.
    """
    settings = behaviour_settings(tables)
    training, table, model = read_run(run)
    shipped = digest(read_bytes(predictor.model))
    if shipped != digest(model):
        raise InputError(f"{predictor.model} is {shipped}, model.bin of the run is {digest(model)}")
    train = read_split(run, "train", training)
    classes, chances = read_predictions(predictions, len(table))
    positive = training["positive_class"]
    actual = (table[training["target"]] == positive).to_numpy()
    predicted = classes == positive
    smoke_tests = tables.get("smoke_tests", [])
    checks = [
        *pair_checks(predictor, table, training, settings),
        cases(predictor, smoke_tests, training["features"]),
        overfit(training["train"], rates(actual, predicted), settings),
        *datachecks.simple_models(train, table, training, (actual, predicted, chances), settings),
        *datachecks.slices(table, training, actual == predicted, settings),
        *datachecks.data(train, table, training, decode(model), settings),
    ]
    names = [check.name for check in checks]
    unknown = sorted(set(settings.warn_only) - set(names))
    if unknown:
        raise InputError(
            f"[behaviour] warn_only: there is no check {', '.join(unknown)}; there are "
            f"{', '.join(names)}"
        )
    return {
        "model": shipped,
        "seed": settings.seed,
        "pairs": sum(check.n for check in checks if check.kind in ("monotone", "invariant")),
        "checks": [
            {**vars(check), "severity": "warn" if check.name in settings.warn_only else "error"}
            for check in checks
        ],
    }


def main() -> int:
    """The command; 0 when measured, also where checks fail: the record carries them."""
    parser = argparse.ArgumentParser(prog="python -m ccapproval.behaviour", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="what ccapproval.train wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="of the test rows, CSV")
    parser.add_argument("--score", type=Path, required=True, help="the program `score`")
    parser.add_argument("--model", type=Path, required=True, help="the model file that ships")
    parser.add_argument("--settings", type=Path, help="a pipeline.toml with [behaviour]")
    parser.add_argument("--out", type=Path, required=True, help="where to write")
    arguments = parser.parse_args()

    def run() -> None:
        predictor = Predictor(arguments.score, arguments.model)
        tables = read_tables(arguments.settings)
        found = examine(arguments.run, arguments.predictions, predictor, tables)
        write_atomically(arguments.out / "behaviour.json", to_json(found))
        for check in found["checks"]:
            print(f"{check['status']}: {check['name']}: {check['reason']}")

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
