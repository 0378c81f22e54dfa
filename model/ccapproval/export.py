"""Writes a fitted estimator as the portable model file that the predictor serves.

    python -m ccapproval.export MODEL.joblib --out FILE [--schema FILE] [--training FILE]
        [--background FILE] [--reasons FILE]

joblib files hold pickled Python objects, and reading one runs code: export only your own.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.exceptions import InconsistentVersionWarning

from ccapproval import families
from ccapproval.common import (
    InputError,
    command_line,
    digest,
    read_bytes,
    read_json_object,
    write_atomically,
)
from ccapproval.model_file import FEATURE_TYPES, Feature, Model, encode
from ccapproval.program import Program

MOST_FEATURES = 1 << 16


def export(
    estimator: Any,
    schema: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    background: Any = None,
    reasons: dict[str, str] | None = None,
) -> bytes:
    """The model file of a fitted estimator; the same estimator gives the same bytes.

    Args:
        estimator: of a supported family, see `families.CLASSIFIERS`.
        schema: the content of a schema.json: types and ranges of the features and the positive
            class. Without it every feature is a number without bounds and the last class is
            the positive one.
        training: what the file shall say of the data, as JSON-ready values.
        background: the training rows as the estimator takes them. Linear models are explained
            against their means, and have no explanations without; tree models need none.
        reasons: what a denial says where a feature decided, by feature.

    Raises:
        InputError: the estimator, or a part of it, is unsupported or not fitted, or the schema
            does not fit it.
    """
    names = feature_names(estimator)
    program = Program(len(names), background)
    outcome = families.classifier(program, estimator, list(range(len(names))))
    classes = class_labels(outcome.classes)
    positive = positive_class(classes, schema)
    features = with_reasons(features_of(names, program, schema), reasons or {})
    return encode(
        Model(
            features=features,
            classes=classes,
            positive_class=positive,
            slots=program.slots,
            probabilities=outcome.probabilities[0],
            decision=outcome.decision,
            metadata={
                "family": type(estimator).__name__,
                "library": library(estimator),
                "features": [feature.name for feature in features],
                "classes": list(classes),
                "positive_class": classes[positive],
                "training": training or {},
            },
            **program.records(),
        )
    )


def library(estimator: Any) -> dict[str, str]:
    """Name and version of the library that an estimator comes from."""
    package = type(estimator).__module__.partition(".")[0]
    name = {"sklearn": "scikit-learn"}.get(package, package)
    module = sys.modules[package]
    return {"name": name, "version": getattr(module, "__version__", None) or version(name)}


def feature_names(estimator: Any) -> list[str]:
    """The features in training order; columns of an array get the library's own names.

    Raises:
        InputError: the estimator's type is not supported or not fitted; too many features, or
            one without a name of its own.
    """
    families.exporter_of(families.CLASSIFIERS, estimator)
    name = families.full_name(estimator)
    if name == "xgboost.core.Booster":
        names = estimator.feature_names or [f"f{i}" for i in range(estimator.num_features())]
    elif name == "lightgbm.basic.Booster":
        names = estimator.feature_name()
    else:
        names = learned_names(estimator)
    if len(names) > MOST_FEATURES:
        raise InputError(f"{len(names)} features are too many; the format holds {MOST_FEATURES}")
    names = [str(name) for name in names]
    if "" in names or len(set(names)) < len(names):
        raise InputError("every feature needs a name of its own: rename the training columns")
    return names


def learned_names(estimator: Any) -> list[str]:
    """The features of an estimator in scikit-learn's style, or of the one within it."""
    both = [estimator, getattr(estimator, "estimator_", None)]
    for each in both:
        names = getattr(each, "feature_names_in_", None)
        if names is not None:
            return list(names)
    for each in both:
        count = getattr(each, "n_features_in_", None)
        if count is not None:
            return [f"x{index}" for index in range(count)]
    raise InputError(f"{type(estimator).__name__} does not tell how many features it has")


def class_labels(labels: np.ndarray) -> tuple[int, ...]:
    """Class labels as the integers that the file can hold.

    Raises:
        InputError: a label is not a whole number of 64 bits.
    """
    values = np.asarray(labels)
    if values.dtype.kind in "biuf":
        try:
            whole = values.astype(np.int64)
        except (OverflowError, ValueError):
            whole = np.zeros_like(values)
        if np.array_equal(whole, values):
            return tuple(int(label) for label in whole)
    raise InputError(
        f"class labels {values.tolist()} cannot be exported; encode them as whole numbers"
    )


def positive_class(classes: tuple[int, ...], schema: dict[str, Any] | None) -> int:
    """The index of the positive class: what the schema names, else the last."""
    if schema is None or "positive_class" not in schema:
        return len(classes) - 1
    label = schema["positive_class"]
    if label not in classes:
        raise InputError(f"schema: positive_class {label} is not one of the classes {classes}")
    return classes.index(label)


def features_of(
    names: list[str], program: Program, schema: dict[str, Any] | None
) -> tuple[Feature, ...]:
    """The features in training order, with types and ranges where a schema is given.

    Raises:
        InputError: a feature is missing or malformed in the schema.
    """
    texts = [tuple(program.texts.get(index, ())) for index in range(len(names))]
    if schema is None:
        return tuple(
            Feature(name, "text", texts=known) if known else Feature(name)
            for name, known in zip(names, texts, strict=True)
        )
    entries = schema.get("features")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError("schema: features must be a list of objects")
    described = {entry.get("name"): entry for entry in entries}
    missing = [name for name in names if name not in described]
    if missing:
        raise InputError(
            f"schema: the model uses {', '.join(missing)}; add name, type, minimum and maximum"
        )
    return tuple(
        feature_from(described[name], known) for name, known in zip(names, texts, strict=True)
    )


def feature_from(entry: dict[str, Any], texts: tuple[str, ...]) -> Feature:
    """One feature from its entry in the schema; absent bounds are infinite.

    A request must have the feature unless the entry says `"optional": true`: most models predict
    something for a missing value, but that does not make an application without it a whole one.
    """
    name = entry["name"]
    kind = entry.get("type", "text" if texts else "number")
    if kind not in FEATURE_TYPES:
        raise InputError(f"schema: type of {name} is {kind!r}; it must be one of {FEATURE_TYPES}")
    if (kind == "text") != bool(texts):
        told = "texts" if texts else "numbers"
        raise InputError(f"schema: type of {name} is {kind!r}, but the model was trained on {told}")
    bounds = (0, 1) if kind == "flag" else (-math.inf, math.inf)
    low, high = entry.get("minimum", bounds[0]), entry.get("maximum", bounds[1])
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (low, high)):
        raise InputError(f"schema: minimum and maximum of {name} must be numbers")
    if low > high:
        raise InputError(f"schema: minimum of {name} is greater than its maximum")
    if kind == "flag" and (low, high) != (0, 1):
        raise InputError(f"schema: a flag is 0 or 1, so {name} needs minimum 0 and maximum 1")
    optional = entry.get("optional", False)
    if not isinstance(optional, bool):
        raise InputError(f"schema: optional of {name} must be true or false")
    return Feature(name, kind, float(low), float(high), texts, required=not optional)


def with_reasons(features: tuple[Feature, ...], reasons: dict[str, str]) -> tuple[Feature, ...]:
    """The features with what a denial says of them.

    Raises:
        InputError: a reason of no feature, or without a text.
    """
    names = [feature.name for feature in features]
    unknown = [name for name in reasons if name not in names]
    if unknown:
        raise InputError(
            f"reasons: the model has no feature {', '.join(unknown)}; it has {', '.join(names)}"
        )
    for name, text in reasons.items():
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"reasons: {name} needs a text")
    return tuple(replace(each, reason=reasons.get(each.name, "")) for each in features)


def load_estimator(path: Path) -> Any:
    """The estimator in a joblib file.

    Raises:
        InputError: unreadable, or written by another version of scikit-learn, whose
            internal arrays may mean something else.
    """
    read_bytes(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        try:
            return joblib.load(path)
        except InconsistentVersionWarning as warning:
            raise InputError(
                f"{path} was written by scikit-learn {warning.original_sklearn_version}, this is "
                f"{warning.current_sklearn_version}: train it again in this environment"
            ) from warning
        except Exception as error:
            # Unpickling raises whatever the content provokes.
            raise InputError(
                f"{path} is not a joblib file this environment reads: {error}"
            ) from error


def main() -> int:
    """The command; 0 when the file was written, 1 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m ccapproval.export", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL.joblib")
    parser.add_argument("--out", type=Path, required=True, help="the model file to write")
    parser.add_argument("--schema", type=Path, help="types and ranges of the features")
    parser.add_argument("--training", type=Path, help="what the file shall say of the data")
    parser.add_argument(
        "--background", type=Path, help="training rows as CSV, to explain linear models against"
    )
    parser.add_argument("--reasons", type=Path, help="a text a feature, for denials (JSON)")
    arguments = parser.parse_args()

    def run() -> None:
        schema = read_json_object(arguments.schema) if arguments.schema else None
        training = read_json_object(arguments.training) if arguments.training else None
        reasons = read_json_object(arguments.reasons) if arguments.reasons else None
        background = None
        if arguments.background:
            background = pd.read_csv(io.BytesIO(read_bytes(arguments.background)))
        estimator = load_estimator(arguments.model)
        content = export(estimator, schema, training, background, reasons)
        write_atomically(arguments.out, content)
        print(f"{arguments.out}: {len(content)} bytes, {digest(content)}")

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
