"""Writes a fitted estimator as the portable model file that the predictor serves.

    python -m ccapproval.export MODEL.joblib --out FILE [--schema FILE] [--training FILE]

joblib files hold pickled Python objects, and reading one runs code: export only your own.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import sklearn
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier
from sklearn.utils.validation import check_is_fitted

from ccapproval.common import (
    InputError,
    command_line,
    digest,
    read_bytes,
    read_json_object,
    write_atomically,
)
from ccapproval.model_file import (
    DECISION_TREE,
    FEATURE_TYPES,
    LEAF,
    MISSING_GOES_LEFT,
    NODE_DTYPE,
    TREE_DTYPE,
    Feature,
    Model,
    encode,
)

MOST_FEATURES = 1 << 16


def export(
    estimator: Any,
    schema: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> bytes:
    """The model file of a fitted estimator; the same estimator gives the same bytes.

    Args:
        estimator: of a supported family, see `FAMILIES`.
        schema: the content of a schema.json: types and ranges of the features and the positive
            class. Without it every feature is a number without bounds and the last class is
            the positive one.
        training: what the file shall say of the data, as JSON-ready values.

    Raises:
        InputError: the estimator is unsupported or not fitted, or the schema does not fit it.
    """
    converter = FAMILIES.get(type(estimator))
    if converter is None:
        supported = ", ".join(sorted(family.__name__ for family in FAMILIES))
        raise InputError(
            f"{type(estimator).__module__}.{type(estimator).__qualname__} cannot be exported; "
            f"supported are {supported}"
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise InputError(f"{type(estimator).__name__} is not fitted: call fit first") from error
    return encode(converter(estimator, schema, training or {}))


def decision_tree(
    estimator: DecisionTreeClassifier, schema: dict[str, Any] | None, training: dict[str, Any]
) -> Model:
    """The model of one of scikit-learn's classification trees.

    Nodes are stored breadth first, so that siblings lie side by side and after their parent.
    Leaf values are the rows of `tree_.value`, which is what `predict_proba` returns.
    """
    if estimator.n_outputs_ != 1:
        raise InputError(
            f"{type(estimator).__name__} with {estimator.n_outputs_} targets cannot be exported; "
            "fit one model for each target"
        )
    tree = estimator.tree_
    order = breadth_first(tree.children_left, tree.children_right)
    place = np.empty(tree.node_count, dtype=np.int64)
    place[order] = np.arange(tree.node_count)

    is_leaf = tree.children_left[order] < 0
    nodes = np.zeros(tree.node_count, dtype=NODE_DTYPE)
    nodes["threshold"] = np.where(is_leaf, 0.0, tree.threshold[order])
    nodes["feature"] = np.where(is_leaf, 0, tree.feature[order])
    nodes["child"] = np.where(is_leaf, np.cumsum(is_leaf) - 1, place[tree.children_left[order]])
    # scikit-learn sets this field for splits only; in a leaf it may hold anything.
    missing_left = tree.missing_go_to_left[order].astype(bool) & ~is_leaf
    nodes["flags"] = np.where(is_leaf, LEAF, 0) | np.where(missing_left, MISSING_GOES_LEFT, 0)

    classes = class_labels(estimator.classes_)
    positive = positive_class(classes, schema)
    features = features_of(estimator, schema)
    leaves = tree.value[order[is_leaf], 0, : len(classes)]
    if not np.all((leaves >= 0) & (leaves <= 1)):
        raise InputError("a leaf has no probabilities in [0, 1]: are sample weights negative?")
    trees = np.array([(0, tree.max_depth)], dtype=TREE_DTYPE)
    return Model(
        family=DECISION_TREE,
        features=features,
        classes=classes,
        positive_class=positive,
        trees=trees,
        nodes=nodes,
        leaves=leaves,
        metadata={
            "family": "decision tree",
            "library": {"name": "scikit-learn", "version": sklearn.__version__},
            "features": [feature.name for feature in features],
            "classes": list(classes),
            "positive_class": classes[positive],
            "training": training,
        },
    )


# Exact types: a subclass may answer differently from the family it extends.
FAMILIES: dict[type, Callable[[Any, dict[str, Any] | None, dict[str, Any]], Model]] = {
    DecisionTreeClassifier: decision_tree,
    ExtraTreeClassifier: decision_tree,
}


def breadth_first(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Node indices level by level, each split's two children side by side; -1 marks leaves."""
    order = []
    level = np.array([0])
    while len(level):
        order.append(level)
        splits = level[left[level] >= 0]
        level = np.column_stack([left[splits], right[splits]]).ravel()
    return np.concatenate(order)


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


def features_of(estimator: Any, schema: dict[str, Any] | None) -> tuple[Feature, ...]:
    """The features in training order, with types and ranges where a schema is given.

    Raises:
        InputError: too many features, or one is missing or malformed in the schema.
    """
    count = int(estimator.n_features_in_)
    if count > MOST_FEATURES:
        raise InputError(f"{count} features are too many; the format holds {MOST_FEATURES}")
    # scikit-learn's own names for the columns of an array.
    names = getattr(estimator, "feature_names_in_", [f"x{index}" for index in range(count)])
    if "" in names or len(set(names)) < count:
        raise InputError("every feature needs a name of its own: rename the training columns")
    if schema is None:
        return tuple(Feature(str(name)) for name in names)
    entries = schema.get("features")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError("schema: features must be a list of objects")
    known = {entry.get("name"): entry for entry in entries}
    missing = [str(name) for name in names if name not in known]
    if missing:
        raise InputError(
            f"schema: the model uses {', '.join(missing)}; add name, type, minimum and maximum"
        )
    return tuple(feature_from(known[name]) for name in names)


def feature_from(entry: dict[str, Any]) -> Feature:
    """One feature from its entry in the schema; absent bounds are infinite."""
    name = entry["name"]
    kind = entry.get("type", "number")
    if kind not in FEATURE_TYPES:
        raise InputError(f"schema: type of {name} is {kind!r}; it must be one of {FEATURE_TYPES}")
    bounds = (0, 1) if kind == "flag" else (-math.inf, math.inf)
    low, high = entry.get("minimum", bounds[0]), entry.get("maximum", bounds[1])
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (low, high)):
        raise InputError(f"schema: minimum and maximum of {name} must be numbers")
    if low > high:
        raise InputError(f"schema: minimum of {name} is greater than its maximum")
    if kind == "flag" and (low, high) != (0, 1):
        raise InputError(f"schema: a flag is 0 or 1, so {name} needs minimum 0 and maximum 1")
    return Feature(name, kind, float(low), float(high))


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
    arguments = parser.parse_args()

    def run() -> None:
        schema = read_json_object(arguments.schema) if arguments.schema else None
        training = read_json_object(arguments.training) if arguments.training else None
        content = export(load_estimator(arguments.model), schema, training)
        write_atomically(arguments.out, content)
        print(f"{arguments.out}: {len(content)} bytes, {digest(content)}")

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
