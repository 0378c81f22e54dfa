"""The Rust predictor answers as scikit-learn does, bit for bit."""

import itertools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from ccapproval import data
from ccapproval.export import export

FOLDER = Path(__file__).resolve().parent.parent
BUILD = "cargo build -p lambda-inference --bin score"

# Extreme values overflow on their way to float32, in scikit-learn too.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

F32 = np.finfo(np.float32)
GREATEST = float(F32.max)
# Halfway between the greatest float32 and the next power of two: from here on the nearest float32
# is infinite, and scikit-learn refuses the row.
TOO_LARGE = GREATEST + 2.0**103
SPECIAL = [
    np.nan, 0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, -5e-324, 1e-300, 1e-46, 1e-45, -1e-45, 1e-40,
    float(F32.tiny), -float(F32.tiny), 1e30, -1e30, GREATEST, -GREATEST,
    np.nextafter(TOO_LARGE, 0), -np.nextafter(TOO_LARGE, 0),
]  # fmt: skip


@pytest.fixture(scope="session")
def scorer():
    """The Rust program `score`."""
    if "SCORE_BIN" in os.environ:
        places = [Path(os.environ["SCORE_BIN"])]
    else:
        target = FOLDER.parent / os.environ.get("CARGO_TARGET_DIR", "target")
        places = [target / profile / "score" for profile in ("release", "debug")]
    for place in places:
        if place.is_file():
            return place
    return pytest.fail(f"no program at {' or '.join(map(str, places))}: build it with `{BUILD}`")


def run(scorer, folder, model, lines):
    """The program's answer to lines of CSV: exit code, output lines, messages."""
    file = folder / "model.bin"
    file.write_bytes(model)
    result = subprocess.run(
        [scorer, "--model", file], input="\n".join([*lines, ""]), capture_output=True, text=True
    )
    return result.returncode, result.stdout.splitlines(), result.stderr


def csv(values):
    """Lines of CSV whose numbers read back to the same bits; NaN is an empty field."""
    for row in values.tolist():
        # Quoted, because a line without anything is no row.
        yield ",".join(repr(value) if value == value else '""' for value in row)


def different(scorer, folder, estimator, values, schema=None):
    """The number of rows in which class or a probability differs in any bit."""
    names = getattr(estimator, "feature_names_in_", [f"x{each}" for each in range(values.shape[1])])
    code, lines, messages = run(
        scorer, folder, export(estimator, schema), itertools.chain([",".join(names)], csv(values))
    )
    assert code == 0, messages
    assert len(lines) == len(values) + 1

    classes = estimator.classes_
    if len(classes) > 2:
        assert lines[0] == ",".join(["prediction", *(f"probability_{each}" for each in classes)])
    else:
        assert lines[0] == "prediction,probability"
    fields = [line.split(",") for line in lines[1:]]
    found_class = np.array([int(row[0]) for row in fields])
    found = np.array([[float(text) for text in row[1:]] for row in fields])

    table = values
    if hasattr(estimator, "feature_names_in_"):
        table = pd.DataFrame(values, columns=names)
    expected = estimator.predict_proba(table)
    if len(classes) <= 2:
        expected = expected[:, -1:]
    assert found.shape == expected.shape
    bits = (found.view(np.int64) != np.ascontiguousarray(expected).view(np.int64)).any(axis=1)
    return int((bits | (found_class != estimator.predict(table))).sum())


def near(threshold):
    """A threshold, its neighbours in float64 and float32, and where rounding turns over."""
    single = np.float32(threshold)
    steps = [single, np.nextafter(single, F32.max), np.nextafter(single, F32.min)]
    values = [float(step) for step in steps]
    # Halfway between two neighbours the even one is nearest.
    values += [(values[0] + other) / 2 for other in values[1:]]
    values += [float(threshold)]
    values += [np.nextafter(each, way) for each in values for way in (-np.inf, np.inf)]
    return [value for value in values if abs(value) < TOO_LARGE]


def thresholds(estimator):
    """Pairs of feature and threshold; a split that only asks for missing values has none."""
    tree = estimator.tree_
    splits = (tree.children_left >= 0) & np.isfinite(tree.threshold)
    return list(zip(tree.feature[splits].tolist(), tree.threshold[splits].tolist(), strict=True))


@pytest.fixture(scope="session")
def credit():
    """The credit tree as the notebook trains it, its schema, and all rows."""
    schema = json.loads((FOLDER / "schema.json").read_text())
    rows = data.load()
    features = rows[[feature["name"] for feature in schema["features"]]]
    split = train_test_split(features, rows["Target"], test_size=0.2, random_state=0)
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(split[0], split[2])
    return tree, schema, features.to_numpy(dtype=np.float64)


def test_all_rows_of_the_data(scorer, credit, tmp_path):
    tree, schema, values = credit
    assert len(values) == 500_000
    assert different(scorer, tmp_path, tree, values, schema) == 0


def test_around_every_threshold_of_the_credit_tree(scorer, credit, tmp_path):
    tree, schema, values = credit
    axes = [{0.0, 1.0} for _ in schema["features"]]
    axes[0] |= {2.0, 3.0, 20.0}
    axes[1] |= set(np.quantile(values[:, 1], np.linspace(0, 1, 9)).tolist())
    found = thresholds(tree)
    assert len(found) >= 5
    for feature, threshold in found:
        axes[feature] |= set(near(threshold))
    grid = np.array(list(itertools.product(*map(sorted, axes))))
    assert len(grid) > 2_000
    assert different(scorer, tmp_path, tree, grid, schema) == 0


def test_missing_and_extreme_values(scorer, credit, tmp_path):
    tree, schema, values = credit
    grid = [np.full((1, 4), np.nan)]
    for feature in range(4):
        block = np.repeat(values[::5_000], len(SPECIAL), axis=0)
        block[:, feature] = np.tile(SPECIAL, len(values[::5_000]))
        grid.append(block)
    grid.append(np.array(list(itertools.product(SPECIAL, SPECIAL, [0, 1, np.nan], SPECIAL))))
    rows = np.vstack(grid)
    assert len(rows) > 30_000
    assert different(scorer, tmp_path, tree, rows, schema) == 0


@pytest.mark.parametrize("value", [TOO_LARGE, -TOO_LARGE, 1e39, 1e300, np.inf, -np.inf])
def test_both_refuse_what_is_infinite_in_single_precision(scorer, credit, tmp_path, value):
    tree, schema, values = credit
    rows = values[:3].copy()
    rows[1, 1] = value
    with pytest.raises(ValueError, match="infinity or a value too large"):
        tree.predict(pd.DataFrame(rows, columns=tree.feature_names_in_))
    lines = [",".join(tree.feature_names_in_), *csv(rows)]
    code, output, messages = run(scorer, tmp_path, export(tree, schema), lines)
    assert code == 1
    assert output[2] == ","
    assert "line 3: Income is" in messages
    assert all(output[line] != "," for line in (1, 3))


def test_one_class_alone(scorer, tmp_path):
    tree = DecisionTreeClassifier().fit(np.zeros((5, 1)), np.full(5, 7))
    rows = np.array([[0.0], [np.nan], [1e30]])
    assert different(scorer, tmp_path, tree, rows) == 0


def random_values(random, rows, features):
    """Columns of many kinds: whole numbers, steps of one float32, magnitudes, few values."""
    columns = []
    for _ in range(features):
        kind = random.integers(5)
        scale = 10.0 ** random.uniform(-30, 30)
        if kind == 0:
            column = random.integers(-5, 6, rows).astype(np.float64)
        elif kind == 1:
            # Neighbours in float32, between which a threshold is a float64 of its own.
            start = np.float32(random.normal() * scale).view(np.int32)
            column = (start + random.integers(0, 40, rows)).astype(np.int32).view(np.float32)
        elif kind == 2:
            column = random.normal(size=rows) * 10.0 ** random.uniform(-44, 37, rows)
        elif kind == 3:
            column = random.choice([0.1, 0.2, 0.3, 1 / 3, 1e-45, -0.0, 2.0**24 + 1], rows)
        else:
            column = random.normal(size=rows) * scale
        columns.append(np.asarray(column, dtype=np.float64))
    return np.column_stack(columns)


def random_tree(seed):
    """A fitted tree of random shape, and its training rows."""
    random = np.random.default_rng(seed)
    features = 1 + seed * 39 // 59
    values = random_values(random, int(random.integers(50, 1_500)), features)
    missing = (0.0, 0.15, 0.6)[seed % 3]
    values[random.random(values.shape) < missing] = np.nan
    labels = np.sort(random.choice(np.arange(-50, 50), 2 + seed % 4, replace=False))
    target = random.choice(labels, len(values), p=random.dirichlet(np.ones(len(labels))))
    target[: len(labels)] = labels
    family = ExtraTreeClassifier if seed % 7 == 3 else DecisionTreeClassifier
    estimator = family(
        max_depth=(None, *range(1, 13))[seed % 13],
        criterion=("gini", "entropy", "log_loss")[random.integers(3)],
        min_samples_leaf=int(random.integers(1, 6)),
        class_weight=(None, "balanced")[random.integers(2)],
        random_state=seed,
    )
    weights = random.exponential(size=len(values)) * 10.0 ** random.uniform(-6, 6, len(values))
    estimator.fit(values, target, sample_weight=weights if seed % 2 else None)
    return estimator, values


def test_random_trees(scorer, tmp_path):
    compared = deepest = probes = 0
    for seed in range(60):
        estimator, values = random_tree(seed)
        random = np.random.default_rng(1_000 + seed)
        fresh = random_values(random, 500, values.shape[1])
        fresh[random.random(fresh.shape) < 0.1] = np.nan
        special = random.choice(SPECIAL, (200, values.shape[1]))
        blocks = [values, fresh, special]
        for feature, threshold in thresholds(estimator)[:300]:
            beside = near(threshold)
            block = values[random.integers(len(values), size=len(beside))]
            block[:, feature] = beside
            blocks.append(block)
            probes += len(beside)
        rows = np.vstack(blocks)
        assert different(scorer, tmp_path, estimator, rows) == 0, f"seed {seed}"
        compared += len(rows)
        deepest = max(deepest, estimator.get_depth())
    assert compared > 100_000
    assert probes > 50_000
    assert deepest > 12
