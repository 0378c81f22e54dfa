"""The portable model file: its sections in memory, written, read and checked.

The layout is that of MODEL_FORMAT.md beside the predictor. Reading serves the tests and the
report; the predictor that answers requests reads the same file by itself.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccapproval.common import InputError, parse_json_object

MAGIC = b"TABMODEL"
VERSION = 1
HEADER_SIZE = 64
ENTRY_SIZE = 32

DECISION_TREE = 1

METADATA, STRINGS, FEATURES, MODEL, CLASSES, TREES, NODES, LEAVES = range(1, 9)

LEAF = 1
MISSING_GOES_LEFT = 2

FEATURE_TYPES = ("number", "integer", "flag")

FEATURE_DTYPE = np.dtype(
    [
        ("name_offset", "<u4"),
        ("name_length", "<u4"),
        ("type", "<u4"),
        ("zero", "<u4"),
        ("minimum", "<f8"),
        ("maximum", "<f8"),
    ]
)
MODEL_DTYPE = np.dtype(
    [
        ("family", "<u4"),
        ("feature_count", "<u4"),
        ("class_count", "<u4"),
        ("tree_count", "<u4"),
        ("positive_class", "<u4"),
        ("zero", "<u4"),
        ("node_count", "<u8"),
        ("leaf_count", "<u8"),
        ("zero_2", "<u8"),
    ]
)
TREE_DTYPE = np.dtype([("root", "<u4"), ("depth", "<u4")])
NODE_DTYPE = np.dtype(
    [("threshold", "<f8"), ("feature", "<u2"), ("flags", "<u2"), ("child", "<u4")]
)
ELEMENT_SIZES = {
    METADATA: 1,
    STRINGS: 1,
    FEATURES: FEATURE_DTYPE.itemsize,
    MODEL: MODEL_DTYPE.itemsize,
    CLASSES: 8,
    TREES: TREE_DTYPE.itemsize,
    NODES: NODE_DTYPE.itemsize,
    LEAVES: 8,
}


@dataclass(frozen=True)
class Feature:
    """One input of the model; `minimum` and `maximum` are inclusive, infinite without a bound."""

    name: str
    type: str = "number"
    minimum: float = float("-inf")
    maximum: float = float("inf")


@dataclass(frozen=True)
class Model:
    """A model as the file holds it.

    Attributes:
        family: `DECISION_TREE`.
        features: in training order.
        classes: labels in the library's order.
        positive_class: index into `classes`.
        trees: `TREE_DTYPE`, one element a tree.
        nodes: `NODE_DTYPE`; children lie side by side, after their parent.
        leaves: float64, shape (leaves, classes).
        metadata: what the file says of itself to people and tools.
    """

    family: int
    features: tuple[Feature, ...]
    classes: tuple[int, ...]
    positive_class: int
    trees: np.ndarray
    nodes: np.ndarray
    leaves: np.ndarray
    metadata: dict[str, Any]

    def leaf_index(self, rows: np.ndarray) -> np.ndarray:
        """The leaf that each row reaches: its row in `leaves`, uint32, shape (rows,).

        Args:
            rows: float64, shape (rows, features); NaN is a missing value.
        """
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
        """Class probabilities by the rules of the format.

        Args:
            rows: float64, shape (rows, features); NaN is a missing value.

        Returns:
            float64, shape (rows, classes).
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
    names = [feature.name.encode() for feature in model.features]
    features = np.zeros(len(names), dtype=FEATURE_DTYPE)
    offset = 0
    for record, feature, name in zip(features, model.features, names, strict=True):
        record["name_offset"], record["name_length"] = offset, len(name)
        record["type"] = FEATURE_TYPES.index(feature.type)
        record["minimum"], record["maximum"] = feature.minimum, feature.maximum
        offset += len(name)

    record = np.zeros(1, dtype=MODEL_DTYPE)
    record["family"] = model.family
    record["feature_count"] = len(model.features)
    record["class_count"] = len(model.classes)
    record["tree_count"] = len(model.trees)
    record["positive_class"] = model.positive_class
    record["node_count"] = len(model.nodes)
    record["leaf_count"] = len(model.leaves)

    return assemble(
        {
            METADATA: canonical_json(model.metadata),
            STRINGS: b"".join(names),
            FEATURES: features.tobytes(),
            MODEL: record.tobytes(),
            CLASSES: np.asarray(model.classes, dtype="<i8").tobytes(),
            TREES: model.trees.tobytes(),
            NODES: model.nodes.tobytes(),
            LEAVES: np.ascontiguousarray(model.leaves, dtype="<f8").tobytes(),
        }
    )


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
    header = struct.pack("<8sIIQQ", MAGIC, VERSION, len(sections), length, 0)
    return header + hashlib.sha256(payload).digest() + payload


def sections_of(content: bytes) -> dict[int, bytes]:
    """The sections by kind, after checking the frame of the file.

    Raises:
        InputError: another format or version, cut short, altered, or badly laid out.
    """
    if len(content) < HEADER_SIZE or content[:8] != MAGIC:
        raise InputError("not a model file: it does not begin with TABMODEL")
    version, count, length, zero = struct.unpack_from("<IIQQ", content, 8)
    if version != VERSION:
        raise InputError(f"model file of format version {version}; this reader knows {VERSION}")
    if length != len(content) or zero:
        raise InputError(f"model file has {len(content)} bytes, its header says {length}")
    if hashlib.sha256(content[HEADER_SIZE:]).digest() != content[32:HEADER_SIZE]:
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
    """Reads and checks a model file.

    Raises:
        InputError: the file breaks a rule of the format; the message says which.
    """
    sections = sections_of(content)
    if len(sections[MODEL]) != MODEL_DTYPE.itemsize:
        raise InputError("model file: there must be exactly one model record")
    record = np.frombuffer(sections[MODEL], dtype=MODEL_DTYPE)[0]
    records = np.frombuffer(sections[FEATURES], dtype=FEATURE_DTYPE)
    classes = np.frombuffer(sections[CLASSES], dtype="<i8")
    trees = np.frombuffer(sections[TREES], dtype=TREE_DTYPE)
    nodes = np.frombuffer(sections[NODES], dtype=NODE_DTYPE)
    leaves = np.frombuffer(sections[LEAVES], dtype="<f8")
    counts = {
        "feature_count": len(records),
        "class_count": len(classes),
        "tree_count": len(trees),
        "node_count": len(nodes),
    }
    for field, count in counts.items():
        if record[field] != count:
            raise InputError(f"model file: {field} is {record[field]}, the section has {count}")
    if record["family"] != DECISION_TREE or len(trees) != 1:
        raise InputError(f"model file: family {record['family']} with {len(trees)} trees")
    if not len(classes) or len(leaves) != record["leaf_count"] * len(classes):
        raise InputError("model file: the leaves do not match the leaf and class counts")
    if record["positive_class"] >= len(classes):
        raise InputError("model file: the positive class is not one of the classes")
    check_nodes(nodes, trees, int(record["leaf_count"]), len(records))
    return Model(
        family=int(record["family"]),
        features=tuple(feature_of(each, sections[STRINGS]) for each in records),
        classes=tuple(int(label) for label in classes),
        positive_class=int(record["positive_class"]),
        trees=trees,
        nodes=nodes,
        leaves=leaves.reshape(-1, len(classes)),
        metadata=parse_json_object(sections[METADATA], "the model file's metadata"),
    )


def feature_of(record: np.void, strings: bytes) -> Feature:
    """One feature from its record and the section of names."""
    start, length = int(record["name_offset"]), int(record["name_length"])
    if start + length > len(strings) or record["type"] >= len(FEATURE_TYPES) or record["zero"]:
        raise InputError("model file: a feature record is malformed")
    try:
        name = strings[start : start + length].decode()
    except UnicodeDecodeError as error:
        raise InputError("model file: a feature's name is not UTF-8") from error
    kind = FEATURE_TYPES[record["type"]]
    return Feature(name, kind, float(record["minimum"]), float(record["maximum"]))


def check_nodes(nodes: np.ndarray, trees: np.ndarray, leaves: int, features: int) -> None:
    """Every index stays inside its section and every walk ends.

    Raises:
        InputError: an index is out of range, or a child does not come after its parent.
    """
    if not len(nodes) or (trees["root"] >= len(nodes)).any():
        raise InputError("model file: a root lies outside the nodes")
    leaf = nodes["flags"] & LEAF != 0
    child = nodes["child"].astype(np.int64)
    if (nodes["flags"] & ~np.uint16(LEAF | MISSING_GOES_LEFT)).any():
        raise InputError("model file: a node has unknown flags")
    if (child[leaf] >= leaves).any():
        raise InputError("model file: a node refers to a leaf that does not exist")
    split = ~leaf
    if (child[split] <= np.flatnonzero(split)).any() or (child[split] + 1 >= len(nodes)).any():
        raise InputError("model file: a child must come after its parent, inside the nodes")
    if (nodes["feature"][split] >= features).any() or np.isnan(nodes["threshold"][split]).any():
        raise InputError("model file: a split has no such feature or no threshold")
