"""scikit-learn's trees, forests and boosted trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import get_tags

from ccapproval import families
from ccapproval.common import InputError
from ccapproval.model_file import Decide, Refuse, Step, Trees
from ccapproval.program import Columns, Outcome, Program, TreeNodes, breadth_first


def decision_tree(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """A single classification tree: its leaves hold the probabilities."""
    require_single(program, estimator, columns)
    return Outcome(*leaves_of(program, [estimator], columns, estimator))


def forest(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """A forest: the mean of its trees' probabilities, added in their order."""
    require_single(program, estimator.estimators_[0], columns)
    summed, classes, _ = leaves_of(program, estimator.estimators_, columns, estimator)
    count = len(estimator.estimators_)
    probabilities = program.step(Step.DIVIDE, summed, len(summed), [float(count)])
    return Outcome(probabilities, classes, (Decide.GREATEST, probabilities[0], 0.0))


def require_single(program: Program, estimator: Any, columns: Columns) -> None:
    """Refuses what these estimators refuse: features are kept in single precision."""
    takes_missing = get_tags(estimator).input_tags.allow_nan and not program.sparse
    missing = Refuse(0) if takes_missing else Refuse.MISSING
    program.require(columns, Refuse.BEYOND_SINGLE | missing)


def leaves_of(
    program: Program, estimators: list[Any], columns: Columns, whole: Any
) -> tuple[Columns, np.ndarray, tuple[Decide, int, float]]:
    """Appends trees whose leaves hold rows of probabilities, which are added up."""
    if whole.n_outputs_ != 1:
        raise InputError(
            f"{type(whole).__name__} with {whole.n_outputs_} targets cannot be exported; "
            "fit one model for each target"
        )
    classes = len(whole.classes_)
    rows: list[np.ndarray] = []
    trees = []
    for estimator in estimators:
        tree = estimator.tree_
        # Leaves are numbered as the file will hold them: level by level.
        nodes = sklearn_nodes(tree, np.zeros(tree.node_count, dtype=np.int64))
        order = leaf_order(nodes)
        nodes.value[order] = np.arange(len(order)) + sum(map(len, rows))
        rows.append(tree.value[order, 0, :classes])
        trees.append(nodes)
    values = np.concatenate(rows)
    if not np.all((values >= 0) & (values <= 1)):
        raise InputError("a leaf has no probabilities in [0, 1]: are sample weights negative?")
    summed = program.forest(columns, trees, [0.0] * classes, Trees.SINGLE, values)
    return summed, whole.classes_, (Decide.GREATEST, summed[0], 0.0)


def leaf_order(tree: TreeNodes) -> np.ndarray:
    """The leaves of a tree, level by level."""
    order, _ = breadth_first(tree.left, tree.right)
    return order[tree.left[order] < 0]


def sklearn_nodes(tree: Any, value: np.ndarray) -> TreeNodes:
    """The nodes of one of scikit-learn's trees, with these values in its leaves."""
    return TreeNodes(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.missing_go_to_left.astype(bool),
        value=value,
        cover=tree.weighted_n_node_samples,
    )


def gradient_boosting(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """Gradient boosting: a prior, and the trees' values times the learning rate."""
    program.require(columns, Refuse.BEYOND_SINGLE | Refuse.MISSING)
    trees = [
        sklearn_nodes(tree.tree_, estimator.learning_rate * tree.tree_.value[:, 0, 0])
        for tree in estimator.estimators_.ravel()
    ]
    scores = program.forest(columns, trees, prior_scores(estimator), Trees.SINGLE)
    if len(scores) > 1:
        probabilities = program.step(Step.SOFTMAX_PAIRWISE, scores, len(scores))
        return Outcome(probabilities, estimator.classes_, (Decide.GREATEST, scores[0], 0.0), scores)
    # The exponential loss has half the logit as its link.
    factor = 2.0 if estimator.loss == "exponential" else 1.0
    probabilities = program.step(Step.SIGMOID, scores, 2, [factor])
    return Outcome(probabilities, estimator.classes_, (Decide.AT_LEAST, scores[0], 0.0), scores)


def prior_scores(estimator: Any) -> list[float]:
    """Where the sums of a gradient boosting begin: what it makes of a row before its first tree.

    Raises:
        InputError: that depends on the row.
    """
    if estimator.init_ != "zero" and families.full_name(estimator.init_) != (
        "sklearn.dummy.DummyClassifier"
    ):
        raise InputError(
            f"GradientBoostingClassifier with init {type(estimator.init_).__name__} cannot be "
            "exported; leave init out or set it to 'zero'"
        )
    if estimator.init_ != "zero" and estimator.init_.strategy not in ("prior", "most_frequent"):
        raise InputError(
            f"GradientBoostingClassifier whose init guesses by {estimator.init_.strategy} cannot "
            "be exported"
        )
    row = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
    return estimator._raw_predict_init(row)[0].tolist()


def histogram_boosting(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """Histogram gradient boosting: doubles, native categories, missing values."""
    if estimator._preprocessor is not None:
        columns = families.transformer(program, estimator._preprocessor, columns)
    trees = [
        histogram_nodes(predictor) for iteration in estimator._predictors for predictor in iteration
    ]
    base = np.asarray(estimator._baseline_prediction, dtype=np.float64).ravel().tolist()
    scores = program.forest(columns, trees, base, Trees.DOUBLE)
    if len(scores) > 1:
        probabilities = program.step(Step.SOFTMAX, scores, len(scores))
        return Outcome(probabilities, estimator.classes_, (Decide.GREATEST, scores[0], 0.0), scores)
    probabilities = program.step(Step.SIGMOID, scores, 2, [1.0])
    return Outcome(probabilities, estimator.classes_, (Decide.ABOVE, scores[0], 0.0), scores)


def histogram_nodes(predictor: Any) -> TreeNodes:
    """The nodes of one tree of histogram boosting.

    Categories come from the encoder before it, which makes those that training did not see missing.
    """
    nodes = predictor.nodes
    is_leaf = nodes["is_leaf"].astype(bool)
    by_category = nodes["is_categorical"].astype(bool) & ~is_leaf
    categories = {
        index: members(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][index]])
        for index in np.flatnonzero(by_category).tolist()
    }
    return TreeNodes(
        left=np.where(is_leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(is_leaf, -1, nodes["right"].astype(np.int64)),
        feature=nodes["feature_idx"],
        threshold=np.where(is_leaf, 0.0, nodes["num_threshold"]),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        value=nodes["value"],
        categories=categories,
        cover=nodes["count"],
    )


def members(words: np.ndarray) -> list[int]:
    """The members of a set that is stored as bits of 32-bit words."""
    bits = np.unpackbits(np.ascontiguousarray(words, dtype="<u4").view(np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()
