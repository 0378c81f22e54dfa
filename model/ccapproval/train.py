"""Trains the model that ships: the notebook's cells tagged `train`, and nothing else.

    python -m ccapproval.train --notebook FILE --out DIR [--reasons FILE]

Writes `model.joblib`, `model.bin`, `train_split.csv`, `test_split.csv` and, last, the record
`training.json`. The same notebook, data and environment give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import matplotlib
import numpy as np
import pandas as pd
import scipy
import sklearn

from ccapproval.common import (
    InputError,
    command_line,
    digest,
    read_bytes,
    read_json_object,
    sha256_hex,
    to_json,
    write_atomically,
)
from ccapproval.export import export
from ccapproval.model_file import LEAF, decode
from ccapproval.notebook import run_train_cells
from ccapproval.rates import rates

VARIABLES = (
    "model", "X_train", "y_train", "X_test", "y_test", "sensitive_test", "DATA_FILE",
)  # fmt: skip


@dataclass(frozen=True)
class Training:
    """What the notebook's `train` cells define.

    Attributes:
        model: the fitted estimator.
        X_train: features of the training rows, shape (rows, features), in training order.
        y_train: labels of the training rows.
        X_test: features of the test rows, the same columns.
        y_test: labels of the test rows.
        sensitive_test: sensitive attributes of the test rows, shape (rows, attributes).
        sensitive_train: the same of the training rows; None where the cells do not define it.
        data_file: the data file, relative to the notebook.
        folder: the notebook's folder.
    """

    model: Any
    X_train: pd.DataFrame
    y_train: pd.Series
    X_test: pd.DataFrame
    y_test: pd.Series
    sensitive_test: pd.DataFrame
    data_file: str
    folder: Path
    sensitive_train: pd.DataFrame | None = None

    @classmethod
    def of(cls, variables: Mapping[str, Any], folder: Path) -> Training:
        """Takes and checks the variables of a namespace.

        Raises:
            InputError: one is missing or does not fit the others.
        """
        missing = [name for name in VARIABLES if name not in variables]
        if missing:
            raise InputError(
                f"the cells tagged `train` must define {', '.join(VARIABLES)}; "
                f"missing: {', '.join(missing)}"
            )
        for name, kind in (
            ("X_train", pd.DataFrame),
            ("X_test", pd.DataFrame),
            ("sensitive_test", pd.DataFrame),
            ("y_train", pd.Series),
            ("y_test", pd.Series),
        ):
            if not isinstance(variables[name], kind):
                found = type(variables[name]).__name__
                raise InputError(f"{name} must be a pandas {kind.__name__}, not {found}")
        made = cls(
            *(variables[name] for name in VARIABLES[:-1]),
            str(variables["DATA_FILE"]),
            folder,
            variables.get("sensitive_train"),
        )
        made.check()
        return made

    def check(self) -> None:
        """Compares lengths, row labels and columns; raises InputError where they differ."""
        for name, left, right in (
            ("X_train and y_train", self.X_train, self.y_train),
            ("X_test and y_test", self.X_test, self.y_test),
            ("X_test and sensitive_test", self.X_test, self.sensitive_test),
        ):
            if not left.index.equals(right.index):
                raise InputError(f"{name} must have the same rows in the same order")
        seen = self.sensitive_train
        if seen is not None and not (
            isinstance(seen, pd.DataFrame)
            and seen.index.equals(self.X_train.index)
            and list(seen.columns) == list(self.sensitive_test.columns)
        ):
            raise InputError(
                "sensitive_train must be a pandas DataFrame with the rows of X_train and the "
                "columns of sensitive_test"
            )
        if not len(self.X_train) or not len(self.X_test):
            raise InputError("there must be training rows and test rows")
        columns = list(self.X_train.columns)
        if columns != list(self.X_test.columns):
            raise InputError("X_train and X_test must have the same columns in the same order")
        fitted = list(getattr(self.model, "feature_names_in_", columns))
        if fitted != columns:
            raise InputError(f"model was fitted on {fitted}, X_train has {columns}")


def dataset(training: Training) -> dict[str, Any]:
    """The data file as the record names it: path, SHA-256 of the file, rows."""
    content = read_bytes(training.folder / training.data_file)
    return {
        "file": training.data_file,
        "sha256": digest(content),
        "rows": len(training.X_train) + len(training.X_test),
    }


def read_schema(training: Training) -> dict[str, Any]:
    """The schema.json beside the notebook."""
    return read_json_object(training.folder / "schema.json")


def target_of(training: Training) -> str:
    """The name of the target column.

    Raises:
        InputError: the labels have no name, or another than the schema says.
    """
    name = training.y_test.name
    wanted = read_schema(training).get("target", name)
    if name is None or name != wanted:
        raise InputError(f"y_test is named {name}, schema.json says target {wanted}")
    return str(name)


def model_file(training: Training, reasons: dict[str, str] | None = None) -> bytes:
    """The model file of a training; the notebook's last cell compares it with what ships.

    Args:
        training: what the notebook defines.
        reasons: what a denial says where a feature decided, by feature.
    """
    features = set(training.X_train.columns)
    about = {
        "dataset": dataset(training),
        "train_rows": len(training.X_train),
        "test_rows": len(training.X_test),
        "excluded_sensitive": [
            str(name) for name in training.sensitive_test.columns if name not in features
        ],
    }
    return export(training.model, read_schema(training), about, training.X_train, reasons)


def reasons_in(model: bytes) -> dict[str, str]:
    """What a model file says of features that decided, by feature."""
    return {each.name: each.reason for each in decode(model).features if each.reason}


def split(X: pd.DataFrame, sensitive: pd.DataFrame | None, y: pd.Series, target: str) -> bytes:
    """Rows as CSV: features, sensitive attributes, target.

    Floats are written in the shortest form that reads back to the same bits; a missing value
    is an empty field.
    """
    table = X.copy()
    for name in () if sensitive is None else sensitive.columns:
        if name not in table.columns:
            table[name] = sensitive[name]
    table[target] = y
    flags = table.select_dtypes("bool").columns
    table[flags] = table[flags].astype(np.int64)
    return table.to_csv(index=False, lineterminator="\n").encode()


def json_safe(value: Any) -> Any:
    """A parameter as JSON: plain values as they are, all others as Python writes them."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return repr(value)


def leaf_rows(model: bytes, rows: pd.DataFrame) -> list[int] | None:
    """How many rows reach each leaf of a single tree, in the order of the leaves in its file."""
    tree = decode(model)
    if not tree.is_one_tree:
        return None
    places = tree.leaf_index(rows.to_numpy(dtype=np.float64))
    return np.bincount(places, minlength=int(np.sum(tree.nodes["flags"] & LEAF))).tolist()


def record(training: Training, notebook: str, model: bytes, pickled: bytes) -> dict[str, Any]:
    """The content of training.json."""
    estimator = training.model
    portable = decode(model)
    positive = portable.classes[portable.positive_class]
    importances = getattr(estimator, "feature_importances_", None)
    return {
        "notebook": notebook,
        "dataset": dataset(training),
        "features": [feature.name for feature in portable.features],
        "target": target_of(training),
        "sensitive": [str(name) for name in training.sensitive_test.columns],
        "classes": list(portable.classes),
        "positive_class": positive,
        "train_rows": len(training.X_train),
        "test_rows": len(training.X_test),
        "estimator": type(estimator).__name__,
        "parameters": {
            name: json_safe(value) for name, value in sorted(estimator.get_params().items())
        },
        "versions": {
            "python": platform.python_version(),
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "pandas": pd.__version__,
            "scipy": scipy.__version__,
            "joblib": joblib.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "model": {"joblib_sha256": digest(pickled), "sha256": digest(model)},
        "train": rates(
            training.y_train.to_numpy() == positive,
            estimator.predict(training.X_train) == positive,
        ),
        "importances": None
        if importances is None
        else dict(zip(training.X_train.columns, importances.tolist(), strict=True)),
        "leaf_train_rows": leaf_rows(model, training.X_train),
    }


def train(notebook: Path, out: Path, reasons: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs the notebook's `train` cells and writes the files of a run; returns the record.

    Args:
        notebook: its cells tagged `train` make the model.
        out: folder for the run's files.
        reasons: what a denial says where a feature decided, by feature.

    Raises:
        InputError: the notebook, its variables or its model cannot be used.
    """
    read_bytes(notebook)
    print(f"training: cells tagged `train` of {notebook}", flush=True)
    folder = notebook.resolve().parent
    training = Training.of(run_train_cells(notebook), folder)
    print(
        f"training: {type(training.model).__name__} on {len(training.X_train)} rows, "
        f"{len(training.X_test)} kept for the test",
        flush=True,
    )
    model = model_file(training, reasons)
    buffer = io.BytesIO()
    joblib.dump(training.model, buffer)
    pickled = buffer.getvalue()
    content = record(training, notebook.name, model, pickled)
    # The record names the digests of the others: an old one must not stand beside new files.
    (out / "training.json").unlink(missing_ok=True)
    write_atomically(out / "model.joblib", pickled)
    write_atomically(out / "model.bin", model)
    target = content["target"]
    for name, rows in (
        ("train_split.csv", (training.X_train, training.sensitive_train, training.y_train)),
        ("test_split.csv", (training.X_test, training.sensitive_test, training.y_test)),
    ):
        write_atomically(out / name, split(*rows, target))
    write_atomically(out / "training.json", to_json(content))
    print(f"training: accuracy on the training rows {content['train']['accuracy']:.5f}")
    print(f"training: {out / 'model.bin'}, {len(model)} bytes, sha256 {sha256_hex(model)}")
    return content


def main() -> int:
    """The command; 0 when the run's files were written, 1 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m ccapproval.train", description=__doc__)
    parser.add_argument("--notebook", type=Path, required=True, help="the notebook to train from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the run's files")
    parser.add_argument("--reasons", type=Path, help="a text a feature, for denials (JSON)")
    arguments = parser.parse_args()

    def run() -> None:
        reasons = read_json_object(arguments.reasons) if arguments.reasons else None
        train(arguments.notebook, arguments.out, reasons)

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
