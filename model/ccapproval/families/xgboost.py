"""XGBoost's boosted trees, by its own interface and by the one in scikit-learn's style."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np

from ccapproval.common import InputError
from ccapproval.families import lookup
from ccapproval.model_file import Decide, Refuse, Step, Trees
from ccapproval.program import Columns, Outcome, Program, TreeNodes, strictly_below

OBJECTIVES = ("binary:logistic", "multi:softprob")


def classifier(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """An `XGBClassifier`, with the iterations that it predicts with."""
    program.require(columns, Refuse.BEYOND_SINGLE)
    if program.sparse:
        # What a sparse matrix leaves out is missing to XGBoost.
        columns = program.mark_missing(columns, 0.0, single=True)
    if not np.isnan(estimator.missing):
        columns = program.mark_missing(columns, float(estimator.missing), single=True)
    begin, end = estimator._get_iteration_range(None)
    model = estimator.get_booster()
    return boosted(program, model[begin:end] if end else model, columns, estimator.classes_)


def booster(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """A `Booster`, whose classes are numbered from 0, with all its iterations."""
    program.require(columns, Refuse.BEYOND_SINGLE)
    return boosted(program, estimator, columns, None)


def boosted(program: Program, model: Any, columns: Columns, classes: np.ndarray | None) -> Outcome:
    """The trees, which compare and add in single precision."""
    content = json.loads(model.save_raw("json"))["learner"]
    name = content["gradient_booster"]["name"]
    if name != "gbtree":
        raise InputError(f"XGBoost's booster {name} cannot be exported; supported is gbtree")
    objective = content["objective"]["name"]
    if objective not in OBJECTIVES:
        raise InputError(
            f"XGBoost's objective {objective} cannot be exported; "
            f"supported are {' and '.join(OBJECTIVES)}"
        )
    forest = content["gradient_booster"]["model"]
    if any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in forest["trees"]):
        raise InputError("XGBoost's trees with vectors in their leaves cannot be exported")
    base = base_margins(model)
    columns = recoded(program, forest["cats"], columns)
    groups = np.asarray(forest["tree_info"], dtype=np.int64)
    # Each output's trees in their order, in turns.
    order = np.argsort(groups, kind="stable").reshape(len(base), -1).T.ravel()
    trees = [nodes_of(forest["trees"][index]) for index in order.tolist()]
    scores = program.forest(columns, trees, base, Trees.SINGLE | Trees.SUM_SINGLE)
    if len(scores) > 1:
        probabilities = program.step(Step.SOFTMAX_SINGLE, scores, len(scores))
        decision = (Decide.GREATEST, probabilities[0], 0.0)
    else:
        probabilities = program.step(Step.SIGMOID_SINGLE, scores, 2)
        decision = (Decide.ABOVE, probabilities[1], 0.5)
    labels = np.arange(len(probabilities)) if classes is None else classes
    return Outcome(probabilities, labels, decision, single=True)


def base_margins(model: Any) -> list[float]:
    """Where the sums begin: what XGBoost answers once all leaves are zero."""
    import xgboost

    whole = json.loads(model.save_raw("json"))
    for tree in whole["learner"]["gradient_booster"]["model"]["trees"]:
        tree["split_conditions"] = [
            0.0 if child < 0 else condition
            for child, condition in zip(
                tree["left_children"], tree["split_conditions"], strict=True
            )
        ]
    empty = xgboost.Booster(model_file=bytearray(json.dumps(whole).encode()))
    row = np.full((1, model.num_features()), np.nan)
    found = empty.inplace_predict(row, predict_type="margin", validate_features=False)
    return np.ravel(found).tolist()


def recoded(program: Program, categories: dict[str, Any], columns: Columns) -> Columns:
    """Columns in which categories of a data frame are the numbers that training gave them."""
    columns = list(columns)
    for index, known in enumerate(categories.get("enc", [])):
        keys = category_values(known)
        if keys:
            values = range(len(keys))
            table = lookup.Table(keys, values, missing=np.nan, unknown=None)
            columns[index] = lookup.ordinal(program, [columns[index]], [table])[0]
    return columns


def category_values(known: dict[str, Any]) -> list[Any]:
    """The categories of one column, texts or numbers, in the order of their codes."""
    if "offsets" not in known:
        return list(known["values"])
    if any(byte < 0 for byte in known["values"]):
        # XGBoost counts letters where it should count bytes, and keeps other texts than it got.
        raise InputError(
            "XGBoost's categories with letters beyond ASCII cannot be exported; "
            "rename the categories and train again"
        )
    text = bytes(known["values"]).decode("ascii")
    bounds = known["offsets"]
    return [text[begin:end] for begin, end in pairwise(bounds)]


def nodes_of(tree: dict[str, Any]) -> TreeNodes:
    """The nodes of one tree. Categories of its sets go right, so such a split's children change."""
    left = np.asarray(tree["left_children"], dtype=np.int64)
    right = np.asarray(tree["right_children"], dtype=np.int64)
    missing_left = np.asarray(tree["default_left"], dtype=bool)
    conditions = np.asarray(tree["split_conditions"], dtype=np.float32)
    by_category = (np.asarray(tree["split_type"]) == 1) & (left >= 0)
    left, right = np.where(by_category, right, left), np.where(by_category, left, right)
    categories = {}
    for node, begin, size in zip(
        tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
    ):
        categories[node] = tree["categories"][begin : begin + size]
    return TreeNodes(
        left=left,
        right=right,
        feature=np.asarray(tree["split_indices"], dtype=np.int64),
        threshold=strictly_below(conditions),
        missing_left=missing_left ^ by_category,
        value=conditions.astype(np.float64),
        categories=categories,
        cover=np.asarray(tree["sum_hessian"], dtype=np.float64),
    )
