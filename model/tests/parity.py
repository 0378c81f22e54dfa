"""Compares the Rust program with the libraries, bit for bit."""

import subprocess
import warnings
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ccapproval.export import export
from ccapproval.model_file import CATEGORIES, LEAF, Step, decode

F32 = np.finfo(np.float32)
GREATEST = float(F32.max)
# Halfway between the greatest float32 and the next power of two: from here on the nearest float32
# is infinite, and what computes in single precision refuses the row.
TOO_LARGE = GREATEST + 2.0**103
SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, -5e-324, 1e-300, 1e-46, 1e-45, -1e-45, 1e-40,
    1e-35, -1e-35, float(np.float32(1e-35)), -float(np.float32(1e-35)),
    np.nextafter(float(np.float32(1e-35)), 1), float(F32.tiny), -float(F32.tiny), 1e30, -1e30,
    GREATEST, -GREATEST, np.nextafter(TOO_LARGE, 0), -np.nextafter(TOO_LARGE, 0),
]  # fmt: skip
WIDE = [1e39, -1e39, 1e300, np.finfo(np.float64).max, np.finfo(np.float64).min]


@dataclass
class Case:
    """A fitted model and which values its library accepts.

    Attributes:
        model: the fitted estimator.
        values: training rows, float64; a categorical column holds the numbers of categories.
        single: whether values beyond float32 are refused.
        missing, infinite: whether NaN and infinities are accepted.
        categories: number of categories of each categorical column.
        unseen: whether categories that training did not see are accepted.
        tolerance: greatest difference of probabilities; 0 compares bits.
    """

    model: object
    values: np.ndarray
    single: bool = True
    missing: bool = True
    infinite: bool = False
    categories: dict = field(default_factory=dict)
    unseen: bool = True
    tolerance: float = 0.0
    names: list | None = None


def answers(case, rows):
    """Classes and probabilities (rows, classes) as the library gives them."""
    model = case.model
    kind = type(model).__module__.partition(".")[0]
    if type(model).__name__ == "Booster":
        if kind == "xgboost":
            import xgboost

            kinds = ["c" if each in case.categories else "q" for each in range(rows.shape[1])]
            data = xgboost.DMatrix(rows, feature_types=kinds, enable_categorical=True)
            found = model.predict(data)
        else:
            found = model.predict(rows)
        if found.ndim == 1:
            found = np.column_stack([1 - found, found])
        return np.argmax(found, axis=1), found
    table = rows
    if case.names is not None:
        table = pd.DataFrame(rows, columns=case.names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.predict(table), model.predict_proba(table)


def frame_differences(scorer, folder, model, frame, tolerance=0.0, given=None):
    """The number of rows of a data frame, which may hold texts, in which an answer differs.

    Args:
        given: the same rows as the library wants them, if that is not `frame`.
    """
    found_class, found = scored_lines(
        scorer,
        folder,
        export(model),
        frame.to_csv(index=False, float_format=lambda value: repr(float(value))),
    )
    case = Case(model, frame, tolerance=tolerance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = frame if given is None else given
        return different(case, found_class, found, model.predict(given), model.predict_proba(given))


def csv(values):
    """Lines of CSV whose numbers read back to the same bits; NaN is an empty field."""
    for row in values.tolist():
        # Quoted, because a line without anything is no row.
        yield ",".join(repr(value) if value == value else '""' for value in row)


def scored(scorer, folder, content, rows):
    """The program's answer to rows of numbers."""
    names = [feature.name for feature in decode(content).features]
    lines = "\n".join([",".join(names), *csv(rows), ""])
    return scored_lines(scorer, folder, content, lines)


def scored_lines(scorer, folder, content, lines):
    """The program's answer: classes, and probabilities as they stand in its columns."""
    file = folder / "model.bin"
    file.write_bytes(content)
    result = subprocess.run([scorer, "--model", file], input=lines, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = [line.split(",") for line in result.stdout.splitlines()]
    classes = decode(content).classes
    many = len(classes) > 2
    kinds = [f"probability_{each}" for each in classes] if many else ["probability"]
    assert found[0] == ["prediction", *kinds]
    table = np.array([[float(text) for text in line[1:]] for line in found[1:]])
    return np.array([int(line[0]) for line in found[1:]]), table


def differences(scorer, folder, case, rows, schema=None):
    """The number of rows in which class or a probability differs."""
    found_class, found = scored(scorer, folder, export(case.model, schema), rows)
    return different(case, found_class, found, *answers(case, rows))


def different(case, found_class, found, expected_class, expected):
    """The number of answers that are not the expected ones."""
    expected = np.asarray(expected, dtype=np.float64)
    if expected.shape[1] <= 2:
        expected = expected[:, -1:]
    assert found.shape == expected.shape
    if case.tolerance:
        wrong = (np.abs(found - expected) > case.tolerance).any(axis=1)
    else:
        bits = np.ascontiguousarray(expected).view(np.int64)
        wrong = (found.view(np.int64) != bits).any(axis=1)
    return int((wrong | (found_class != expected_class)).sum())


def near(threshold, single):
    """A threshold, its neighbours in float64 and float32, and where rounding turns over."""
    values = [float(threshold)]
    if abs(threshold) <= GREATEST:
        rounded = np.float32(threshold)
        steps = [rounded, np.nextafter(rounded, F32.max), np.nextafter(rounded, F32.min)]
        values += [float(step) for step in steps]
        # Halfway between two neighbours the even one is nearest.
        values += [(values[1] + other) / 2 for other in values[2:]]
    values += [np.nextafter(each, way) for each in values for way in (-np.inf, np.inf)]
    return [value for value in values if abs(value) < TOO_LARGE or not single]


def thresholds(content):
    """Pairs of feature and threshold of a model whose trees see the features as they are."""
    model = decode(content)
    if model.steps["input"][model.steps["kind"] == Step.TREES].tolist() != [0]:
        return []
    by_order = model.nodes["flags"] & (LEAF | CATEGORIES) == 0
    nodes = model.nodes[by_order & np.isfinite(model.nodes["threshold"])]
    return list(zip(nodes["feature"].tolist(), nodes["threshold"].tolist(), strict=True))


def probes(case, random, rows, cuts):
    """Rows like those of training, uniform ones, beside thresholds, and of special values."""
    values = case.values
    width = values.shape[1]
    like = np.column_stack([random.choice(values[:, each], rows) for each in range(width)])
    finite = np.nan_to_num(values, nan=0.0)
    low, high = finite.min(axis=0), finite.max(axis=0)
    uniform = low + (high - low) * random.random((rows, width))
    special = list(SPECIAL) + ([] if case.single else WIDE)
    special += [np.inf, -np.inf] if case.infinite else []
    odd = values[random.integers(len(values), size=rows)]
    odd = np.where(random.random(odd.shape) < 0.4, random.choice(special, odd.shape), odd)
    blocks = [like, uniform, odd]
    for feature, cut in cuts:
        beside = near(cut, case.single)
        block = values[random.integers(len(values), size=len(beside))]
        block[:, feature] = beside
        blocks.append(block)
    result = np.vstack(blocks)
    for column, count in case.categories.items():
        seen = random.integers(count, size=len(result)).astype(np.float64)
        if case.unseen:
            strange = random.choice([count, count + 1, 40.0, 300.0, 0.7, 1e6], len(result))
            seen = np.where(random.random(len(result)) < 0.1, strange, seen)
        result[:, column] = seen
    if case.missing:
        result[random.random(result.shape) < 0.08] = np.nan
    else:
        result = np.nan_to_num(result, nan=1.0, posinf=np.inf, neginf=-np.inf)
    return result
