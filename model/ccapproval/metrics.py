"""Performance and fairness of recorded predictions, tied to the model that made them.

    python -m ccapproval.metrics --run DIR --predictions FILE --out DIR

The predictions come from the program and the model file that ship. Before they are judged, the
model file's digest is compared with the training record, and every prediction with the
estimator's own, bit for bit. A figure that the rows do not define is null with a reason: zero
would read as perfect fairness.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ccapproval.common import (
    InputError,
    command_line,
    digest,
    read_bytes,
    read_json_object,
    to_json,
    write_atomically,
)
from ccapproval.export import load_estimator
from ccapproval.model_file import decode
from ccapproval.report import render

# Fairness criterion: the rate that it compares between groups.
CRITERIA = {
    "demographic_parity_difference": "selection_rate",
    "equal_opportunity_difference": "recall",
    "equal_accuracy_difference": "accuracy",
}
RECORDED = {
    "features", "target", "sensitive", "classes", "positive_class", "test_rows", "model", "train",
}  # fmt: skip
EQUALIZED_ODDS = "equalized_odds_difference"


def rates(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Confusion counts and the rates derived from them.

    Args:
        actual: bool, shape (rows,), whether the row is of the positive class.
        predicted: bool, shape (rows,), whether it was predicted to be.

    Returns:
        Counts `n tn fp fn tp`; `accuracy`, `precision`, `recall` (true positive rate),
        `false_positive_rate`, `f1`, `selection_rate` as fractions, null where the denominator
        is zero; `reasons` says why, by the name of the rate.
    """
    tp = int(np.sum(actual & predicted))
    fp = int(np.sum(~actual & predicted))
    fn = int(np.sum(actual & ~predicted))
    tn = int(np.sum(~actual & ~predicted))
    n = tn + fp + fn + tp
    result: dict[str, Any] = {"n": n, "tn": tn, "fp": fp, "fn": fn, "tp": tp}
    reasons = {}
    for name, numerator, denominator, reason in (
        ("accuracy", tp + tn, n, "no rows"),
        ("precision", tp, tp + fp, "no row is predicted positive"),
        ("recall", tp, tp + fn, "no row is actually positive"),
        ("false_positive_rate", fp, fp + tn, "no row is actually negative"),
        ("f1", 2 * tp, 2 * tp + fp + fn, "no row is positive, actually or predicted"),
        ("selection_rate", tp + fp, n, "no rows"),
    ):
        result[name] = numerator / denominator if denominator else None
        if not denominator:
            reasons[name] = reason
    result["reasons"] = reasons
    return result


def group_rates(
    actual: np.ndarray, predicted: np.ndarray, groups: pd.Series
) -> dict[str, dict[str, Any]]:
    """`rates` of every group, in the order of the sorted group labels.

    Raises:
        InputError: a row has no group; leaving it out would hide how it is treated.
    """
    if groups.isna().any():
        raise InputError(f"sensitive column {groups.name} has empty values: fill or drop them")
    labels = groups.to_numpy()
    return {
        str(label): rates(actual[labels == label], predicted[labels == label])
        for label in sorted(groups.unique())
    }


def difference(groups: dict[str, dict[str, Any]], rate: str) -> tuple[float | None, str | None]:
    """Greatest minus least value of a rate over the groups; else None and the reason."""
    if len(groups) < 2:
        return None, "there is only one group"
    for label, each in groups.items():
        if each[rate] is None:
            return None, f"group {label}: {each['reasons'][rate]}"
    values = [each[rate] for each in groups.values()]
    return max(values) - min(values), None


def fairness(groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Differences between groups, unsigned and unrounded, as fractions.

    Demographic parity compares selection rates, equal opportunity true positive rates (Hardt,
    Price and Srebro 2016), equal accuracy accuracies; equalized odds is the greater of the
    differences in true and false positive rates (same source).

    Args:
        groups: from `group_rates`.

    Returns:
        The four differences, null where undefined; `reasons` says why, by name.
    """
    result: dict[str, Any] = {}
    reasons = {}
    for name, rate in CRITERIA.items():
        result[name], reason = difference(groups, rate)
        if reason:
            reasons[name] = reason
    odds = [difference(groups, rate) for rate in ("recall", "false_positive_rate")]
    reason = next((each for _, each in odds if each), None)
    result[EQUALIZED_ODDS] = None if reason else max(value for value, _ in odds)
    if reason:
        reasons[EQUALIZED_ODDS] = reason
    result["reasons"] = reasons
    return result


def read_predictions(file: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes (int64) and probabilities of the positive class (float64), shape (rows,) each.

    Raises:
        InputError: another header or number of rows, or a value out of place.
    """
    lines = read_bytes(file).decode("utf-8", "replace").splitlines()
    if not lines or lines[0] != "prediction,probability":
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
    csv = read_bytes(run / "test_split.csv")
    table = pd.read_csv(io.BytesIO(csv))
    needed = [*training["features"], *training["sensitive"], training["target"]]
    missing = [name for name in needed if name not in table.columns]
    if missing or len(table) != training["test_rows"]:
        raise InputError(
            f"{run / 'test_split.csv'} has {len(table)} rows and lacks {missing}; "
            f"training.json records {training['test_rows']} rows: train again"
        )
    return training, table, model


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


def measure(run: Path, predictions: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Metrics of recorded predictions; also the training record and the model file.

    Raises:
        InputError: the files do not belong together; the message names the one at fault.
    """
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
    predicted = classes == positive

    overall = rates(actual, predicted)
    groups = {name: group_rates(actual, predicted, table[name]) for name in training["sensitive"]}
    gaps = {name: fairness(each) for name, each in groups.items()}
    # The attribute with the widest gap decides; one without a figure leaves the score open.
    worst = [each["equal_opportunity_difference"] for each in gaps.values()]
    score = None if not worst or None in worst else 100 * max(worst)
    metrics = {
        "model": training["model"]["sha256"],
        "rows": len(table),
        "accuracy": overall["accuracy"],
        "fairnessScoreEqualOpportunity": score,
        "overall": overall,
        "groups": groups,
        "fairness": gaps,
        "parity": parity(
            load_estimator(run / "model.joblib"),
            table[training["features"]],
            positive,
            classes,
            chances,
            decode(model).tolerance,
        ),
        "train": training["train"],
    }
    return metrics, training, model


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
    arguments = parser.parse_args()

    def run() -> None:
        metrics, training, model = measure(arguments.run, arguments.predictions)
        page = render(metrics, training, decode(model))
        write_atomically(arguments.out / "model_metrics.html", page)
        variables = shared_variables(metrics)
        write_atomically(arguments.out / "shared_env_variables.txt", variables)
        write_atomically(arguments.out / "metrics.json", to_json(metrics))
        print(variables, end="")
        counts = ", ".join(f"{name} {count}" for name, count in metrics["parity"].items())
        print(f"parity: {counts}")
        if metrics["fairnessScoreEqualOpportunity"] is None:
            print("the equal opportunity gap is undefined; metrics.json gives the reason")

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
