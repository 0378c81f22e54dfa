"""A model file's steps while they are being put together.

A row's values are the first slots; every step appends the slots that it computes. Exporters pass
columns around as lists of slots and never see how they lie in the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccapproval.common import InputError
from ccapproval.model_file import (
    CATEGORIES,
    LEAF,
    MISSING_GOES_LEFT,
    NODE_DTYPE,
    STEP_DTYPE,
    TREE_DTYPE,
    Decide,
    Refuse,
    Step,
    Trees,
)

Columns = list[int]

# How far a split's weight may be from the sum of its children's: XGBoost keeps them in float32.
COVER_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Outcome:
    """What a classifier leaves in the slots.

    Attributes:
        probabilities: one slot a class.
        classes: the labels, in the library's order.
        decision: how the class follows.
        scores: the slots of `decision_function`, where the library has one.
        single: whether the library computes the probabilities in single precision.
    """

    probabilities: Columns
    classes: np.ndarray
    decision: tuple[Decide, int, float]
    scores: Columns | None = None
    single: bool = False


@dataclass(frozen=True)
class TreeNodes:
    """One tree in the order and numbering of its library; -1 marks a leaf in `left`.

    Attributes:
        left, right: the children of a split.
        feature: what a split asks for.
        threshold: of a split by order: values up to and including it go left.
        missing_left: whether missing values go left.
        value: of a leaf: its value, or the row of its values.
        flags: further flags of the file's nodes.
        categories: of a split by categories: those that go left.
        cover: the training weight that reached each node, as the library's own explanations
            take it; None where it is not known.
    """

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    flags: np.ndarray | None = None
    categories: dict[int, Sequence[int]] | None = None
    cover: np.ndarray | None = None


class Program:
    """The steps of one model.

    Args:
        features: how many values a row has.
        background: training rows as the estimator takes them, whose means linear models are
            explained against; None without explanations.
    """

    def __init__(self, features: int, background: Any = None) -> None:  # noqa: D107
        self.features = features
        self.slots = features
        self.steps: list[tuple[int, ...]] = []
        self.numbers: list[float] = []
        self.indices: list[int] = []
        self.trees: list[tuple[int, int]] = []
        self.nodes: list[np.ndarray] = []
        self.node_count = 0
        self.bitsets: list[int] = []
        # The nodes' training weights, and means for linear steps: None once one is not known.
        self.covers: list[np.ndarray] | None = []
        self.means: list[float] | None = []
        self.background = background
        # Texts of a feature, in the order in which they were met, which is their code.
        self.texts: dict[int, dict[str, int]] = {}
        # Whether the library hands the columns on as a sparse matrix.
        self.sparse = False
        # Which feature's text a slot holds.
        self.text_of: dict[int, int] = {}

    def step(
        self,
        kind: Step,
        columns: Columns,
        outputs: int,
        numbers: Sequence[float] | np.ndarray = (),
        indices: Sequence[int] = (),
        argument: int = 0,
        trees: int = 0,
    ) -> Columns:
        """Appends a step that reads these columns; gives the slots that it writes."""
        columns = self.adjacent(columns)
        numbers = np.asarray(numbers, dtype=np.float64).ravel().tolist()
        begin = columns[0] if columns else 0
        self.steps.append(
            (kind, argument, begin, len(columns), outputs, len(numbers), len(indices), trees)
        )
        self.numbers += numbers
        self.indices += indices
        self.slots += outputs
        return list(range(self.slots - outputs, self.slots))

    def adjacent(self, columns: Columns) -> Columns:
        """The same columns in slots that lie side by side, copied there if need be."""
        if len(runs(columns)) <= 1:
            return columns
        self.steps.append((Step.SELECT, 0, 0, 0, len(columns), 0, len(columns), 0))
        self.indices += columns
        fresh = list(range(self.slots, self.slots + len(columns)))
        self.slots += len(columns)
        self.text_of |= {
            slot: self.text_of[column]
            for slot, column in zip(fresh, columns, strict=True)
            if column in self.text_of
        }
        return fresh

    def require(self, columns: Columns, refuse: Refuse) -> None:
        """Makes the predictor refuse rows with such values, as the library does."""
        texts = [column for column in columns if column in self.text_of]
        numbers = [column for column in columns if column not in self.text_of]
        for chosen, refused in ((numbers, refuse), (texts, refuse & Refuse.MISSING)):
            for run in runs(chosen) if refused else ():
                self.step(Step.REQUIRE, run, 0, argument=refused)

    def mark_missing(self, columns: Columns, value: float, single: bool = False) -> Columns:
        """Columns in which a value that stands for a missing one is missing."""
        return self.step(Step.MARK_MISSING, columns, len(columns), [value], argument=int(single))

    def text(self, slot: int, text: str) -> int:
        """The code of a text in a column of texts; the column becomes one by this."""
        if slot not in self.text_of:
            if slot >= self.features:
                raise InputError(
                    f"the category {text!r} of a column that was computed cannot be exported: "
                    "encode texts before they are changed"
                )
            self.text_of[slot] = slot
        known = self.texts.setdefault(self.text_of[slot], {})
        return known.setdefault(text, len(known))

    def forest(
        self,
        columns: Columns,
        trees: Sequence[TreeNodes],
        base: Sequence[float],
        argument: Trees,
        rows: np.ndarray | None = None,
    ) -> Columns:
        """Appends trees whose leaves are added to `base`, in order.

        Args:
            columns: what the trees see.
            trees: with one value a leaf, tree `i` adds to output `i % len(base)`.
            base: where the sums begin, one for each output.
            argument: how values are compared and added.
            rows: the rows of values that the trees' leaves name, shape (rows, outputs).
        """
        for tree in trees:
            self.trees.append((self.node_count, self.add_tree(tree, one_value=rows is None)))
        numbers = np.asarray(base, dtype=np.float64)
        if rows is None:
            argument |= Trees.ONE_VALUE
        else:
            numbers = np.concatenate([numbers, np.asarray(rows, dtype=np.float64).ravel()])
        return self.step(
            Step.TREES, columns, len(base), numbers, argument=argument, trees=len(trees)
        )

    def add_tree(self, tree: TreeNodes, one_value: bool) -> int:
        """Appends the nodes of a tree, breadth first; gives its depth."""
        order, depth = breadth_first(tree.left, tree.right)
        place = np.empty(len(tree.left), dtype=np.int64)
        place[order] = np.arange(len(order))
        left = np.asarray(tree.left)[order]
        is_leaf = left < 0
        nodes = np.zeros(len(order), dtype=NODE_DTYPE)
        value = np.asarray(tree.value)[order]
        child = self.node_count + place[left]
        if one_value:
            # Minus zero adds nothing either, and no leaf needs it.
            nodes["threshold"] = np.where(is_leaf, value + 0.0, np.asarray(tree.threshold)[order])
            nodes["child"] = np.where(is_leaf, 0, child)
        else:
            nodes["threshold"] = np.where(is_leaf, 0.0, np.asarray(tree.threshold)[order])
            nodes["child"] = np.where(is_leaf, value, child)
        nodes["feature"] = np.where(is_leaf, 0, np.asarray(tree.feature)[order])
        missing_left = np.asarray(tree.missing_left, dtype=bool)[order] & ~is_leaf
        nodes["flags"] = np.where(is_leaf, LEAF, 0) | np.where(missing_left, MISSING_GOES_LEFT, 0)
        if tree.flags is not None:
            nodes["flags"] |= np.where(is_leaf, 0, np.asarray(tree.flags)[order]).astype("<u2")
        for index, node in enumerate(order.tolist()):
            if tree.categories and node in tree.categories:
                nodes["flags"][index] |= CATEGORIES
                nodes["threshold"][index] = self.add_set(tree.categories[node])
        self.check_finite(nodes, is_leaf)
        self.add_cover(tree, order, left >= 0)
        self.nodes.append(nodes)
        self.node_count += len(nodes)
        return depth

    def add_cover(self, tree: TreeNodes, order: np.ndarray, is_split: np.ndarray) -> None:
        """Appends the training weights of a tree's nodes, in the file's order.

        Explanations divide by them: without sound ones the model has no explanations.
        """
        if self.covers is None:
            return
        if tree.cover is None:
            self.covers = None
            return
        cover = np.asarray(tree.cover, dtype=np.float64)
        splits = order[is_split]
        below = cover[tree.left[splits]] + cover[tree.right[splits]]
        sound = np.isfinite(cover[order]).all() and (cover[order] > 0).all()
        if sound and (np.abs(below - cover[splits]) <= COVER_TOLERANCE * cover[splits]).all():
            self.covers.append(cover[order])
        else:
            self.covers = None

    def linear(self, columns: Columns, weights: np.ndarray) -> Columns:
        """Appends a linear step, and the training means of what it reads.

        Args:
            columns: what is weighted.
            weights: shape (outputs, columns + 1), the intercepts first.
        """
        if self.background is None:
            self.means = None
        elif self.means is not None:
            self.means += (
                np.asarray(self.background.mean(axis=0), dtype=np.float64).ravel().tolist()
            )
        return self.step(Step.LINEAR, columns, len(weights), weights)

    def add_set(self, categories: Sequence[int]) -> float:
        """Appends a set of categories; gives its place as a node holds it."""
        members = np.unique(np.asarray(categories, dtype=np.int64))
        words = np.zeros(int(members.max()) // 32 + 1 if len(members) else 0, dtype=np.uint32)
        np.bitwise_or.at(words, members // 32, np.uint32(1) << (members % 32).astype(np.uint32))
        place = np.array([len(self.bitsets), len(words)], dtype="<u4")
        self.bitsets += words.tolist()
        return float(place.view("<f8")[0])

    @staticmethod
    def check_finite(nodes: np.ndarray, is_leaf: np.ndarray) -> None:
        """Refuses what no walk and no sum can be made of."""
        by_order = ~is_leaf & (nodes["flags"] & CATEGORIES == 0)
        if np.isnan(nodes["threshold"][by_order]).any():
            raise InputError("a split of a tree has no threshold")
        if not np.isfinite(nodes["threshold"][is_leaf]).all():
            raise InputError("a leaf of a tree is not finite")

    def records(self) -> dict[str, np.ndarray]:
        """The sections that the steps made, by the names of the model's fields."""
        nodes = np.concatenate(self.nodes) if self.nodes else np.zeros(0, dtype=NODE_DTYPE)
        return {
            "steps": np.array(self.steps, dtype=STEP_DTYPE),
            "numbers": np.array(self.numbers, dtype="<f8"),
            "indices": np.array(self.indices, dtype="<u4"),
            "trees": np.array(self.trees, dtype=TREE_DTYPE),
            "nodes": nodes,
            "bitsets": np.array(self.bitsets, dtype="<u4"),
            "covers": np.concatenate(self.covers) if self.covers else np.zeros(0, dtype="<f8"),
            "means": np.array(self.means or [], dtype="<f8"),
        }


def runs(columns: Columns) -> list[Columns]:
    """The columns in pieces that lie side by side."""
    pieces: list[Columns] = []
    for column in columns:
        if pieces and column == pieces[-1][-1] + 1:
            pieces[-1].append(column)
        else:
            pieces.append([column])
    return pieces


def breadth_first(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, int]:
    """Node indices level by level, each split's two children side by side, and the depth."""
    order = []
    level = np.array([0])
    while len(level):
        order.append(level)
        splits = level[left[level] >= 0]
        level = np.column_stack([left[splits], right[splits]]).ravel()
    return np.concatenate(order), len(order) - 1


def strictly_below(thresholds: np.ndarray) -> np.ndarray:
    """For float32 thresholds of `<` those that `<=` compares alike with, as float64."""
    single = np.asarray(thresholds, dtype=np.float32)
    return np.nextafter(single, np.float32(-math.inf)).astype(np.float64)
