"""Performance and fairness of recorded predictions, tied to the model that made them.

    python -m ccapproval.metrics --run DIR --predictions FILE --out DIR [--settings pipeline.toml]

The predictions come from the program and the model file that ship. Before they are judged, the
model file's digest is compared with the training record, and every prediction with the
estimator's own, bit for bit. A figure that the rows do not define is null with a reason: zero
would read as perfect fairness. The same model trained with the sensitive attributes is examined
beside it, under a name of its own, so that nobody takes the figures of one for the other's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ccapproval.baselines import aware
from ccapproval.common import (
    InputError,
    command_line,
    digest,
    read_bytes,
    read_json_object,
    to_json,
    write_atomically,
)
from ccapproval.curves import CALIBRATION
from ccapproval.examination import Examination, drawn
from ccapproval.export import load_estimator
from ccapproval.importance import dependence, importances
from ccapproval.intervals import CONFIDENCE
from ccapproval.model_file import decode
from ccapproval.rates import fairness, group_rates, rates
from ccapproval.settings import Metrics, metrics_settings, read_tables

# The notebook takes the figures of its tables from here.
__all__ = ["fairness", "group_rates", "measure", "rates"]

HEADER = b"prediction,probability"

RECORDED = {
    "features", "target", "sensitive", "classes", "positive_class", "test_rows", "model", "train",
    "train_rows",
}  # fmt: skip


def read_predictions(file: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes (int64) and probabilities of the positive class (float64), shape (rows,) each.

    Raises:
        InputError: another header or number of rows, or a value out of place.
    """
    content = read_bytes(file)
    if content.startswith(HEADER + b"\n") and content.count(b"\n") == rows + 1:
        with contextlib.suppress(ValueError, OverflowError):
            table = pd.read_csv(
                io.BytesIO(content),
                dtype={"prediction": np.int64, "probability": np.float64},
                skip_blank_lines=False,
            )
            classes, chances = table["prediction"].to_numpy(), table["probability"].to_numpy()
            if len(table) == rows and ((chances >= 0) & (chances <= 1)).all():
                return classes, chances
    return read_lines(content, file, rows)


def read_lines(content: bytes, file: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """`read_predictions` line by line, which can say what is wrong and where."""
    lines = content.decode("utf-8", "replace").splitlines()
    if not lines or lines[0] != HEADER.decode():
        raise InputError(f"{file}: the first line must be prediction,probability")
    if len(lines) - 1 != rows:
        raise InputError(f"{file} has {len(lines) - 1} predictions for {rows} test rows")
    classes = np.empty(rows, dtype=np.int64)
    probabilities = np.empty(rows)
    for index, line in enumerate(lines[1:]):
        label, _, probability = line.partition(",")
        try:
            # float() reads the nearest double, so the shortest form gives back the same bits.
            classes[index], probabilities[index] = int(label), float(probability)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{file}, line {index + 2}: cannot read {line!r}") from error
        if not 0 <= probabilities[index] <= 1:
            raise InputError(f"{file}, line {index + 2}: {probability} is not a probability")
    return classes, probabilities


def read_split(run: Path, name: str, training: dict[str, Any]) -> pd.DataFrame:
    """The rows of `train_split.csv` or `test_split.csv` of a run; `name` is `train` or `test`.

    Raises:
        InputError: the file is missing, or does not have the recorded rows and columns.
    """
    file = run / f"{name}_split.csv"
    # An empty field is missing, and nothing else: a group may be called NA or None.
    table = pd.read_csv(io.BytesIO(read_bytes(file)), keep_default_na=False, na_values=[""])
    # Of the training rows the sensitive attributes may be unknown.
    needed = [*training["features"], training["target"]]
    needed += training["sensitive"] if name == "test" else []
    missing = [column for column in needed if column not in table.columns]
    rows = training[f"{name}_rows"]
    if missing or len(table) != rows:
        raise InputError(
            f"{file} has {len(table)} rows and lacks {missing}; "
            f"training.json records {rows} rows: train again"
        )
    return table


def read_run(run: Path) -> tuple[dict[str, Any], pd.DataFrame, bytes]:
    """Training record, test rows and model file of a run, after comparing their digests.

    Raises:
        InputError: a file is missing, or is not the one that the training record names.
    """
    training = read_json_object(run / "training.json")
    absent = sorted(RECORDED - set(training))
    if absent:
        raise InputError(f"{run / 'training.json'} lacks {', '.join(absent)}: train again")
    model = read_bytes(run / "model.bin")
    recorded = training["model"]
    for name, content, key in (
        ("model.bin", model, "sha256"),
        ("model.joblib", read_bytes(run / "model.joblib"), "joblib_sha256"),
    ):
        if digest(content) != recorded.get(key):
            raise InputError(
                f"{run / name} is {digest(content)}, training.json records {recorded.get(key)}: "
                "train again, the files of a run belong together"
            )
    return training, read_split(run, "test", training), model


def parity(
    estimator: Any,
    rows: pd.DataFrame,
    positive: int,
    classes: np.ndarray,
    chances: np.ndarray,
    tolerance: float = 0.0,
) -> dict[str, int]:
    """How often recorded predictions differ from the estimator's own.

    Args:
        estimator: fitted, with `predict` and `predict_proba`.
        rows: the features, in training order.
        positive: the label of the positive class.
        classes: recorded labels, int64, shape (rows,).
        chances: recorded probabilities of the positive class, float64, shape (rows,).
        tolerance: how far probabilities may be from each other; 0 compares bit for bit.
    """
    column = list(estimator.classes_).index(positive)
    own = np.ascontiguousarray(estimator.predict_proba(rows)[:, column], dtype=np.float64)
    different = own.view(np.int64) != chances.view(np.int64)
    if tolerance:
        different = ~(np.abs(own - chances) <= tolerance)
    return {
        "rows": len(rows),
        "class_differences": int(np.sum(estimator.predict(rows) != classes)),
        "probability_differences": int(np.sum(different)),
    }


def measure(
    run: Path, predictions: Path, settings: Metrics | None = None
) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Metrics of recorded predictions; also the training record and the model file.

    Raises:
        InputError: the files do not belong together; the message names the one at fault.
    """
    settings = settings or Metrics()
    training, table, model = read_run(run)
    if len(training["classes"]) != 2:
        raise InputError(
            f"{run / 'training.json'} has classes {training['classes']}: "
            "approval metrics need exactly two"
        )
    classes, chances = read_predictions(predictions, len(table))
    positive = training["positive_class"]
    unknown = sorted(set(np.unique(classes).tolist()) - set(training["classes"]))
    if unknown:
        raise InputError(f"{predictions} predicts {unknown}, which are not classes of the model")
    actual = table[training["target"]].to_numpy() == positive
    sensitive, rows = table[training["sensitive"]], table[training["features"]]
    estimator = load_estimator(run / "model.joblib")
    examination = Examination(settings)
    found = examination.of(actual, classes == positive, chances, sensitive)
    overall = found["overall"]
    metrics = {
        "model": training["model"]["sha256"],
        "rows": len(table),
        "accuracy": overall["accuracy"],
        "fairnessScoreEqualOpportunity": found["fairnessScoreEqualOpportunity"],
        "intervals": {
            "accuracy": overall["evidence"]["accuracy"]["interval"],
            "fairnessScoreEqualOpportunity": found["interval"],
        },
        "method": method(settings),
        "overall": overall,
        "groups": found["groups"],
        "fairness": found["fairness"],
        "intersections": found["intersections"],
        "baselines": {
            "aware": aware(
                estimator, training, read_split(run, "train", training), table, examination
            )
        },
        "curves": drawn(actual, chances, sensitive),
        "importances": importances(estimator, rows, table[training["target"]], settings.seed),
        "dependence": dependence(
            estimator, rows, list(estimator.classes_).index(positive), settings.seed
        ),
        "parity": parity(
            estimator,
            rows,
            positive,
            classes,
            chances,
            decode(model).tolerance,
        ),
        "train": training["train"],
    }
    return metrics, training, model


def method(settings: Metrics) -> dict[str, Any]:
    """How the figures were come by, with everything needed to come by them again."""
    return {
        "confidence": CONFIDENCE,
        "intervals": "Bayesian bootstrap of the table of outcomes",
        "seed": settings.seed,
        "draws": settings.draws,
        "minimum_positives": settings.minimum_positives,
        "minimum_negatives": settings.minimum_negatives,
        "minimum": dict(settings.minimum),
        "maximum": dict(settings.maximum),
        "calibration_error": CALIBRATION,
    }


def shared_variables(metrics: dict[str, Any]) -> str:
    """The two figures for later steps, `NAME=value` a line; an undefined one is left out."""
    values = {
        "ACCURACY": metrics["accuracy"],
        "EQUAL_OPPORTUNITY_FAIRNESS_PERCENT": metrics["fairnessScoreEqualOpportunity"],
    }
    return "".join(f"{name}={value!r}\n" for name, value in values.items() if value is not None)


def main() -> int:
    """The command; 0 when measured, also if predictions differ: the record carries the counts."""
    parser = argparse.ArgumentParser(prog="python -m ccapproval.metrics", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="what ccapproval.train wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="of the test rows, CSV")
    parser.add_argument("--out", type=Path, required=True, help="where to write")
    parser.add_argument("--settings", type=Path, help="a pipeline.toml with the table [metrics]")
    arguments = parser.parse_args()

    def run() -> None:
        settings = metrics_settings(read_tables(arguments.settings))
        metrics, _, _ = measure(arguments.run, arguments.predictions, settings)
        variables = shared_variables(metrics)
        write_atomically(arguments.out / "shared_env_variables.txt", variables)
        write_atomically(arguments.out / "metrics.json", to_json(metrics))
        print(variables, end="")
        counts = ", ".join(f"{name} {count}" for name, count in metrics["parity"].items())
        print(f"parity: {counts}")
        beside = metrics["baselines"]["aware"]
        if beside["reason"] is None and beside["fairnessScoreEqualOpportunity"] is not None:
            print(
                f"equal opportunity gap: {metrics['fairnessScoreEqualOpportunity']} points; of the "
                f"baseline that sees the groups: {beside['fairnessScoreEqualOpportunity']} points"
            )
        if metrics["fairnessScoreEqualOpportunity"] is None:
            print("the equal opportunity gap is undefined; metrics.json gives the reason")

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
