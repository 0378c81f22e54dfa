"""LightGBM's boosted trees, by its own interface and by the one in scikit-learn's style."""

from __future__ import annotations

from typing import Any

import numpy as np

from ccapproval.common import InputError
from ccapproval.families import lookup
from ccapproval.model_file import ZERO_IS_MISSING, Decide, Step, Trees
from ccapproval.program import Columns, Outcome, Program, TreeNodes

CATEGORICAL = 1
DEFAULT_LEFT = 2
MISSING_NONE, MISSING_ZERO, MISSING_NAN = range(3)


def classifier(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """An `LGBMClassifier`."""
    return boosted(program, estimator.booster_, columns, estimator.classes_)


def booster(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """A `Booster`, whose classes are numbered from 0."""
    return boosted(program, estimator, columns, None)


def boosted(program: Program, model: Any, columns: Columns, classes: np.ndarray | None) -> Outcome:
    """The trees, of the best iteration if there is one, which compare and add in doubles."""
    header, *trees = sections(model.model_to_string())
    outputs = int(header["num_tree_per_iteration"])
    objective, *parameters = header.get("objective", "none").split(" ")
    if objective not in ("binary", "multiclass", "multiclassova"):
        raise InputError(
            f"LightGBM's objective {objective} cannot be exported; "
            "supported are binary, multiclass and multiclassova"
        )
    if any(tree["is_linear"] != "0" for tree in trees):
        raise InputError("LightGBM's linear trees cannot be exported; train without linear_tree")
    columns = recoded(program, model, header, columns)
    scores = program.forest(
        columns, [nodes_of(tree) for tree in trees], [0.0] * outputs, Trees.TINY_IS_ZERO
    )
    if "average_output" in header:
        scores = program.step(Step.DIVIDE, scores, outputs, [len(trees) / outputs])
    settings = dict(each.split(":") for each in parameters)
    if objective == "multiclass":
        probabilities = program.step(Step.SOFTMAX, scores, outputs)
    elif objective == "multiclassova":
        factor = float(settings["sigmoid"])
        probabilities = program.step(Step.SIGMOID_EACH, scores, outputs, [factor])
    else:
        probabilities = program.step(Step.SIGMOID, scores, 2, [float(settings["sigmoid"])])
    labels = np.arange(len(probabilities)) if classes is None else classes
    return Outcome(probabilities, labels, (Decide.GREATEST, probabilities[0], 0.0), scores)


def sections(text: str) -> list[dict[str, str]]:
    """The header and the trees of a model's text, each as names and values."""
    parts = text.split("\nend of trees", 1)[0].split("\nTree=")
    return [
        {name: value for name, _, value in (line.partition("=") for line in part.splitlines())}
        for part in parts
    ]


def recoded(program: Program, model: Any, header: dict[str, str], columns: Columns) -> Columns:
    """Columns in which categories of a data frame are the numbers that training gave them."""
    known = model.pandas_categorical or []
    # Numbers have a range, categories a list, and a column of one value only has neither.
    described = header["feature_infos"].split(" ")
    places = [
        index for index, each in enumerate(described) if not each.startswith("[") and each != "none"
    ]
    if known and len(places) != len(known):
        raise InputError(
            "LightGBM's model does not tell which columns its data frame's categories belong to: "
            "leave out columns of one value, and give categories no other way"
        )
    columns = list(columns)
    for index, keys in zip(places, known, strict=False):
        table = lookup.Table(keys, range(len(keys)), missing=np.nan, unknown=np.nan)
        columns[index] = lookup.ordinal(program, [columns[index]], [table])[0]
    return columns


def nodes_of(tree: dict[str, str]) -> TreeNodes:
    """The nodes of one tree: its splits first, its leaves behind them."""

    def field(name: str, kind: type) -> np.ndarray:
        return np.array(tree.get(name, "").split(), dtype=kind)

    leaves = field("leaf_value", np.float64)
    count = len(leaves) - 1
    nothing = np.zeros(len(leaves))
    if not count:
        alone = np.array([-1])
        return TreeNodes(alone, alone, nothing, nothing, nothing, leaves, cover=np.ones(1))

    def children(name: str) -> np.ndarray:
        # A leaf is written as the complement of its number.
        child = field(name, np.int64)
        return np.concatenate([np.where(child < 0, count + ~child, child), np.full(count + 1, -1)])

    threshold = field("threshold", np.float64)
    kinds = field("decision_type", np.int64)
    missing = kinds >> 2 & 3
    by_category = kinds & CATEGORICAL != 0
    # Where nothing counts as missing, NaN is compared as zero.
    missing_left = np.where(missing == MISSING_NONE, threshold >= 0, kinds & DEFAULT_LEFT != 0)
    zero_is_missing = (missing == MISSING_ZERO) & ~by_category
    bounds = field("cat_boundaries", np.int64)
    words = field("cat_threshold", np.int64).astype("<u4")
    categories = {}
    for node in np.flatnonzero(by_category).tolist():
        own = int(threshold[node])
        bits = words[bounds[own] : bounds[own + 1]].view(np.uint8)
        categories[node] = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    return TreeNodes(
        left=children("left_child"),
        right=children("right_child"),
        feature=np.concatenate([field("split_feature", np.int64), nothing]),
        threshold=np.concatenate([threshold, nothing]),
        missing_left=np.concatenate([missing_left & ~by_category, nothing]),
        value=np.concatenate([np.zeros(count), leaves]),
        flags=np.concatenate([np.where(zero_is_missing, ZERO_IS_MISSING, 0), nothing]),
        categories=categories,
        cover=np.concatenate(
            [field("internal_count", np.float64), field("leaf_count", np.float64)]
        ),
    )
