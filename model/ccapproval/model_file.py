"""The portable model file: its sections in memory, written, read and checked.

The layout is that of MODEL_FORMAT.md beside the predictor. Reading serves the tests and the
report; the predictor that answers requests reads the same file by itself.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np

from ccapproval.common import InputError, parse_json_object

MAGIC = b"TABMODEL"
VERSION = 3
HEADER_SIZE = 64
ENTRY_SIZE = 32

(
    METADATA,
    STRINGS,
    FEATURES,
    TEXTS,
    MODEL,
    CLASSES,
    STEPS,
    NUMBERS,
    INDICES,
    TREES,
    NODES,
    BITSETS,
    COVERS,
    MEANS,
    REASONS,
) = range(1, 16)

LEAF = 1
MISSING_GOES_LEFT = 2
CATEGORIES = 4
ZERO_IS_MISSING = 8

FEATURE_TYPES = ("number", "integer", "flag", "text")


class Step(IntEnum):
    """What a step does with its inputs."""

    REQUIRE = 1
    SELECT = 2
    IMPUTE = 3
    STANDARDIZE = 4
    RESCALE = 5
    ORDINAL = 6
    ONE_HOT = 7
    TREES = 8
    LINEAR = 9
    DIVIDE = 10
    SIGMOID = 11
    SIGMOID_SINGLE = 12
    SOFTMAX = 13
    SOFTMAX_PAIRWISE = 14
    SOFTMAX_SINGLE = 15
    SIGMOID_EACH = 16
    COMPLEMENT = 17
    NORMALIZE = 18
    CAP = 19
    INTERPOLATE = 20
    PLATT = 21
    MEAN = 22
    MARK_MISSING = 23


class Refuse(IntFlag):
    """Values that a step of the kind `REQUIRE` refuses."""

    MISSING = 1
    INFINITE = 2
    BEYOND_SINGLE = 4


class Trees(IntFlag):
    """How a step of the kind `TREES` compares and adds; without a conversion as doubles."""

    DOUBLE = 0
    SINGLE = 1
    TINY_IS_ZERO = 2
    ONE_VALUE = 4
    SUM_SINGLE = 8


class Decide(IntEnum):
    """How the class follows from the slots."""

    GREATEST = 0
    ABOVE = 1
    AT_LEAST = 2
    FIRST_AT_LEAST = 3


FEATURE_DTYPE = np.dtype(
    [
        ("name_offset", "<u4"),
        ("name_length", "<u4"),
        ("type", "<u4"),
        ("text_count", "<u4"),
        ("required", "<u8"),
        ("minimum", "<f8"),
        ("maximum", "<f8"),
    ]
)
TEXT_DTYPE = np.dtype([("offset", "<u4"), ("length", "<u4")])
MODEL_DTYPE = np.dtype(
    [
        ("slots", "<u4"),
        ("probabilities", "<u4"),
        ("positive_class", "<u4"),
        ("decision", "<u4"),
        ("decision_slot", "<u4"),
        ("zero", "<u4"),
        ("threshold", "<f8"),
    ]
)
STEP_DTYPE = np.dtype(
    [
        ("kind", "<u4"),
        ("argument", "<u4"),
        ("input", "<u4"),
        ("inputs", "<u4"),
        ("outputs", "<u4"),
        ("numbers", "<u4"),
        ("indices", "<u4"),
        ("trees", "<u4"),
    ]
)
TREE_DTYPE = np.dtype([("root", "<u4"), ("depth", "<u4")])
NODE_DTYPE = np.dtype(
    [("threshold", "<f8"), ("feature", "<u2"), ("flags", "<u2"), ("child", "<u4")]
)
DTYPES = {
    FEATURES: FEATURE_DTYPE,
    TEXTS: TEXT_DTYPE,
    MODEL: MODEL_DTYPE,
    CLASSES: np.dtype("<i8"),
    STEPS: STEP_DTYPE,
    NUMBERS: np.dtype("<f8"),
    INDICES: np.dtype("<u4"),
    TREES: TREE_DTYPE,
    NODES: NODE_DTYPE,
    BITSETS: np.dtype("<u4"),
    COVERS: np.dtype("<f8"),
    MEANS: np.dtype("<f8"),
    REASONS: TEXT_DTYPE,
}
ELEMENT_SIZES = {METADATA: 1, STRINGS: 1} | {kind: each.itemsize for kind, each in DTYPES.items()}


@dataclass(frozen=True)
class Feature:
    """One input of the model; `minimum` and `maximum` are inclusive, infinite without a bound.

    `required`: whether a request must have a value for it; scoring never looks at that.
    `reason` is what a denial says where this feature decided; empty for its name.
    """

    name: str
    type: str = "number"
    minimum: float = float("-inf")
    maximum: float = float("inf")
    texts: tuple[str, ...] = ()
    reason: str = ""
    required: bool = False


@dataclass(frozen=True)
class Model:
    """A model as the file holds it.

    Attributes:
        features: in training order.
        classes: labels in the library's order.
        positive_class: index into `classes`.
        steps: `STEP_DTYPE`, what leads from a row to probabilities.
        numbers: float64, `indices`: uint32, what the steps refer to.
        trees: `TREE_DTYPE`, one element a tree.
        nodes: `NODE_DTYPE`; children lie side by side, after their parent.
        bitsets: uint32, the sets of splits by categories.
        covers: float64, the training weight of each node; empty without explanations.
        means: float64, the training means of what linear steps read; empty without explanations.
        slots: how many values the steps write, the row included.
        probabilities: the first slot of the class probabilities.
        decision: how the class is decided, by which slot, with which threshold.
        metadata: what the file says of itself to people and tools.
    """

    features: tuple[Feature, ...]
    classes: tuple[int, ...]
    positive_class: int
    steps: np.ndarray
    numbers: np.ndarray
    indices: np.ndarray
    trees: np.ndarray
    nodes: np.ndarray
    bitsets: np.ndarray
    covers: np.ndarray
    means: np.ndarray
    slots: int
    probabilities: int
    decision: tuple[Decide, int, float]
    metadata: dict[str, Any]

    @property
    def is_one_tree(self) -> bool:
        """Whether the model is one decision tree and nothing else, which can be drawn."""
        return (
            self.steps["kind"].tolist() == [Step.REQUIRE, Step.TREES]
            and self.steps["argument"][1] == Trees.SINGLE
            and len(self.trees) == 1
            and self.decision == (Decide.GREATEST, self.probabilities, 0.0)
        )

    @property
    def tolerance(self) -> float:
        """How far its probabilities may be from the library's; 0 where bits are compared.

        Linear models are added up by BLAS, whose order is its own: scikit-learn's answers for a
        row depend on the rows beside it.
        """
        return 1e-9 if Step.LINEAR in self.steps["kind"] else 0.0

    @property
    def leaves(self) -> np.ndarray:
        """The class probabilities of a single tree's leaves, shape (leaves, classes)."""
        return self.numbers.reshape(-1, len(self.classes))[1:]

    def leaf_index(self, rows: np.ndarray) -> np.ndarray:
        """The leaf of a single tree that each row reaches: its row in `leaves`, shape (rows,).

        Args:
            rows: float64, shape (rows, features); NaN is a missing value.

        Raises:
            InputError: the model is not one tree.
        """
        if not self.is_one_tree:
            raise InputError("the model file does not hold one decision tree alone")
        values = np.asarray(rows, dtype=np.float64).astype(np.float32).astype(np.float64)
        at = np.full(len(values), self.trees["root"][0], dtype=np.int64)
        line = np.arange(len(values))
        for _ in range(int(self.trees["depth"][0])):
            node = self.nodes[at]
            value = values[line, node["feature"]]
            left = np.where(
                np.isnan(value),
                node["flags"] & MISSING_GOES_LEFT != 0,
                value <= node["threshold"],
            )
            child = node["child"].astype(np.int64) + ~left
            at = np.where(node["flags"] & LEAF != 0, at, child)
        return self.nodes["child"][at]

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Class probabilities of a single tree by the rules of the format.

        Args:
            rows: float64, shape (rows, features); NaN is a missing value.

        Returns:
            float64, shape (rows, classes).

        Raises:
            InputError: the model is not one tree.
        """
        return self.leaves[self.leaf_index(rows)]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The first class with the greatest probability, int64, shape (rows,)."""
        return np.asarray(self.classes)[np.argmax(self.predict_proba(rows), axis=1)]


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no white space."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def encode(model: Model) -> bytes:
    """The file of a model; the same model gives the same bytes."""
    strings = b""

    def place(text: str) -> tuple[int, int]:
        nonlocal strings
        encoded = text.encode()
        strings += encoded
        return len(strings) - len(encoded), len(encoded)

    features = np.zeros(len(model.features), dtype=FEATURE_DTYPE)
    texts = []
    for record, feature in zip(features, model.features, strict=True):
        record["name_offset"], record["name_length"] = place(feature.name)
        record["type"] = FEATURE_TYPES.index(feature.type)
        record["text_count"] = len(feature.texts)
        record["minimum"], record["maximum"] = feature.minimum, feature.maximum
        record["required"] = feature.required
        texts += [place(text) for text in feature.texts]
    told = any(feature.reason for feature in model.features)
    reasons = [place(feature.reason) for feature in model.features] if told else []

    record = np.zeros(1, dtype=MODEL_DTYPE)
    record["slots"] = model.slots
    record["probabilities"] = model.probabilities
    record["positive_class"] = model.positive_class
    record["decision"], record["decision_slot"], record["threshold"] = model.decision

    contents = {
        FEATURES: features,
        TEXTS: texts,
        MODEL: record,
        CLASSES: model.classes,
        STEPS: model.steps,
        NUMBERS: model.numbers,
        INDICES: model.indices,
        TREES: model.trees,
        NODES: model.nodes,
        BITSETS: model.bitsets,
        COVERS: model.covers,
        MEANS: model.means,
        REASONS: reasons,
    }
    sections = {
        kind: np.asarray(content, dtype=DTYPES[kind]).tobytes()
        for kind, content in contents.items()
    }
    return assemble({METADATA: canonical_json(model.metadata), STRINGS: strings} | sections)


def assemble(sections: dict[int, bytes]) -> bytes:
    """Header, section table and sections, each section at a multiple of 8 bytes."""
    table = b""
    body = b""
    start = HEADER_SIZE + ENTRY_SIZE * len(sections)
    for kind, content in sorted(sections.items()):
        table += struct.pack(
            "<IIQQQ", kind, ELEMENT_SIZES[kind], start + len(body), len(content), 0
        )
        body += content + b"\0" * (-len(content) % 8)
    payload = table + body
    length = HEADER_SIZE + len(payload)
    checksum = zlib.crc32(payload)
    header = struct.pack("<8sIIQI36x", MAGIC, VERSION, len(sections), length, checksum)
    return header + payload


def sections_of(content: bytes) -> dict[int, bytes]:
    """The sections by kind, after checking the frame of the file.

    Raises:
        InputError: another format or version, cut short, altered, or badly laid out.
    """
    if len(content) < HEADER_SIZE or content[:8] != MAGIC:
        raise InputError("not a model file: it does not begin with TABMODEL")
    version, count, length, checksum = struct.unpack_from("<IIQI", content, 8)
    if version != VERSION:
        raise InputError(f"model file of format version {version}; this reader knows {VERSION}")
    if length != len(content):
        raise InputError(f"model file has {len(content)} bytes, its header says {length}")
    if any(content[28:HEADER_SIZE]) or zlib.crc32(content[HEADER_SIZE:]) != checksum:
        raise InputError("model file was altered: its checksum does not match")
    end = HEADER_SIZE + ENTRY_SIZE * count
    if end > length:
        raise InputError("model file: the section table reaches past the end")
    sections: dict[int, bytes] = {}
    previous = 0
    for index in range(count):
        kind, size, offset, extent, zero = struct.unpack_from(
            "<IIQQQ", content, HEADER_SIZE + ENTRY_SIZE * index
        )
        if kind <= previous or ELEMENT_SIZES.get(kind) != size or zero or extent % size:
            raise InputError(f"model file: section {index} of kind {kind} is malformed")
        if offset % 8 or offset != end + -end % 8 or offset + extent > length:
            raise InputError(f"model file: section {index} of kind {kind} is misplaced")
        if any(content[end:offset]):
            raise InputError(f"model file: bytes before section {index} are not zero")
        sections[kind] = content[offset : offset + extent]
        previous, end = kind, offset + extent
    if length != end + -end % 8 or any(content[end:]):
        raise InputError("model file: bytes after the last section")
    missing = sorted(set(ELEMENT_SIZES) - set(sections))
    if missing:
        raise InputError(f"model file: sections {missing} are missing")
    return sections


def decode(content: bytes) -> Model:
    """Reads a model file and checks what drawing and walking a single tree relies on.

    Raises:
        InputError: the file breaks a rule of the format; the message says which.
    """
    sections = sections_of(content)
    if len(sections[MODEL]) != MODEL_DTYPE.itemsize:
        raise InputError("model file: there must be exactly one model record")
    parts = {kind: np.frombuffer(sections[kind], dtype=dtype) for kind, dtype in DTYPES.items()}
    record = parts[MODEL][0]
    classes = tuple(int(label) for label in parts[CLASSES])
    if record["positive_class"] >= len(classes):
        raise InputError("model file: the positive class is not one of the classes")
    if record["decision"] not in list(Decide):
        raise InputError(f"model file: there is no decision {record['decision']}")
    unknown = set(parts[STEPS]["kind"].tolist()) - set(Step)
    if unknown:
        raise InputError(f"model file: there are no steps of kind {sorted(unknown)}")
    model = Model(
        features=features_of(parts[FEATURES], parts[TEXTS], parts[REASONS], sections[STRINGS]),
        classes=classes,
        positive_class=int(record["positive_class"]),
        steps=parts[STEPS],
        numbers=parts[NUMBERS],
        indices=parts[INDICES],
        trees=parts[TREES],
        nodes=parts[NODES],
        bitsets=parts[BITSETS],
        covers=parts[COVERS],
        means=parts[MEANS],
        slots=int(record["slots"]),
        probabilities=int(record["probabilities"]),
        decision=(
            Decide(record["decision"]),
            int(record["decision_slot"]),
            float(record["threshold"]),
        ),
        metadata=parse_json_object(sections[METADATA], "the model file's metadata"),
    )
    if model.is_one_tree:
        check_tree(model)
    return model


def features_of(
    records: np.ndarray, texts: np.ndarray, reasons: np.ndarray, strings: bytes
) -> tuple[Feature, ...]:
    """The features from their records, the places of their texts and the section of strings."""
    features = []
    texts = texts.tolist()
    if len(reasons) not in (0, len(records)):
        raise InputError("model file: the reasons are not one a feature")
    places = reasons.tolist() or [(0, 0)] * len(records)
    for record, reason in zip(records, places, strict=True):
        if record["type"] >= len(FEATURE_TYPES) or record["required"] > 1:
            raise InputError("model file: a feature record is malformed")
        count = int(record["text_count"])
        own, texts = texts[:count], texts[count:]
        name = string_at(strings, int(record["name_offset"]), int(record["name_length"]))
        features.append(
            Feature(
                name,
                FEATURE_TYPES[record["type"]],
                float(record["minimum"]),
                float(record["maximum"]),
                tuple(string_at(strings, *place) for place in own),
                string_at(strings, *reason),
                bool(record["required"]),
            )
        )
    return tuple(features)


def string_at(strings: bytes, start: int, length: int) -> str:
    """A part of the section of strings."""
    if start + length > len(strings):
        raise InputError("model file: a string lies outside its section")
    try:
        return strings[start : start + length].decode()
    except UnicodeDecodeError as error:
        raise InputError("model file: a feature's name is not UTF-8") from error


def check_tree(model: Model) -> None:
    """Every index of a single tree stays inside its section and every walk ends.

    Raises:
        InputError: an index is out of range, or a child does not come after its parent.
    """
    nodes = model.nodes
    if not len(model.classes) or len(model.numbers) % len(model.classes):
        raise InputError("model file: the leaves do not match the classes")
    if not len(nodes) or model.trees["root"][0] != 0:
        raise InputError("model file: a root lies outside the nodes")
    leaf = nodes["flags"] & LEAF != 0
    child = nodes["child"].astype(np.int64)
    if (nodes["flags"] & ~np.uint16(LEAF | MISSING_GOES_LEFT)).any():
        raise InputError("model file: a node has unknown flags")
    if (child[leaf] >= len(model.leaves)).any():
        raise InputError("model file: a node refers to a leaf that does not exist")
    split = ~leaf
    if (child[split] <= np.flatnonzero(split)).any() or (child[split] + 1 >= len(nodes)).any():
        raise InputError("model file: a child must come after its parent, inside the nodes")
    inside = nodes["feature"][split] < len(model.features)
    if not inside.all() or np.isnan(nodes["threshold"][split]).any():
        raise InputError("model file: a split has no such feature or no threshold")
