"""The Rust predictor answers as the credit tree does, bit for bit: all rows, beside all cuts."""

import itertools
import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import parity
import pytest
from parity import TOO_LARGE, Case, csv, differences, near
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from ccapproval import data
from ccapproval.export import export

FOLDER = Path(__file__).resolve().parent.parent

# Extreme values overflow on their way to float32, in scikit-learn too.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SPECIAL = [np.nan, *parity.SPECIAL]


def run(scorer, folder, model, lines):
    """The program's answer to lines of CSV: exit code, output lines, messages."""
    file = folder / "model.bin"
    file.write_bytes(model)
    result = subprocess.run(
        [scorer, "--model", file], input="\n".join([*lines, ""]), capture_output=True, text=True
    )
    return result.returncode, result.stdout.splitlines(), result.stderr


def different(scorer, folder, estimator, values, schema=None):
    """The number of rows in which class or a probability differs in any bit."""
    names = getattr(estimator, "feature_names_in_", None)
    case = Case(estimator, values, names=None if names is None else list(names))
    return differences(scorer, folder, case, values, schema)


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
        axes[feature] |= set(near(threshold, single=True))
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
