import json
import os
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import NOTEBOOK, SMALL_CELLS

from ccapproval import train
from ccapproval.common import InputError, digest
from ccapproval.model_file import decode

SPLIT, FIT = SMALL_CELLS[2:]
FILES = ("model.joblib", "model.bin", "train_split.csv", "test_split.csv", "training.json")


def test_record_names_the_files_that_lie_beside_it(run):
    record = json.loads((run / "training.json").read_text())
    assert record["model"]["sha256"] == digest((run / "model.bin").read_bytes())
    assert record["model"]["joblib_sha256"] == digest((run / "model.joblib").read_bytes())
    assert record["notebook"] == NOTEBOOK.name
    data = (NOTEBOOK.parent / record["dataset"]["file"]).read_bytes()
    assert record["dataset"]["sha256"] == digest(data)
    assert (record["dataset"]["rows"], record["train_rows"], record["test_rows"]) == (
        500_000, 400_000, 100_000,
    )  # fmt: skip
    assert record["features"] == ["Num_Children", "Income", "Own_Car", "Own_Housing"]
    assert (record["target"], record["sensitive"]) == ("Target", ["Group"])
    assert (record["classes"], record["positive_class"]) == ([0, 1], 1)
    assert record["parameters"]["max_depth"] == 3
    assert sum(record["importances"].values()) == pytest.approx(1)
    assert sum(record["leaf_train_rows"]) == 400_000
    assert sorted(path.name for path in run.iterdir()) == sorted([*FILES, "predictions.csv"])


def test_leaf_rows_are_those_the_estimator_counted(run):
    tree = joblib.load(run / "model.joblib").tree_
    counted = tree.n_node_samples[tree.children_left < 0]
    record = json.loads((run / "training.json").read_text())
    assert sorted(record["leaf_train_rows"]) == sorted(counted.tolist())


def test_model_file_says_what_it_was_trained_on(run):
    model = decode((run / "model.bin").read_bytes())
    record = json.loads((run / "training.json").read_text())
    assert model.metadata["training"] == {
        "dataset": record["dataset"],
        "train_rows": 400_000,
        "test_rows": 100_000,
        "excluded_sensitive": ["Group"],
    }
    ranges = {each.name: (each.type, each.minimum, each.maximum) for each in model.features}
    assert ranges == {
        "Num_Children": ("integer", 0, 20),
        "Income": ("number", 0, 100_000_000),
        "Own_Car": ("flag", 0, 1),
        "Own_Housing": ("flag", 0, 1),
    }


def test_the_published_example_events_are_answered(run):
    model = decode((run / "model.bin").read_bytes())
    assert model.predict([[2, 500_000, 1, 1], [2, 50_000, 1, 0]]).tolist() == [1, 0]


def test_training_again_gives_the_same_bytes(run, tmp_path):
    command = [sys.executable, "-m", "ccapproval.train", "--notebook", NOTEBOOK, "--out", tmp_path]
    # Another process, folder and hash seed: nothing may depend on them.
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes(), name


def test_test_split_reads_back_exactly(small):
    cells = list(SMALL_CELLS)
    cells[2] += "\nX_test = X_test.astype({'size': float})\nX_test.iloc[0, 0] = float('nan')"
    cells[2] += "\nX_test['old'] = X_test['old'] == 1"
    small.cells(*cells)
    train.train(small.notebook, small.folder / "out")
    table = pd.read_csv(small.folder / "out" / "test_split.csv")
    assert list(table.columns) == ["size", "old", "group", "good"]
    source = pd.read_csv(small.folder / "small.csv")[150:]
    assert np.isnan(table["size"][0])
    assert table["size"][1:].tolist() == source["size"][1:].tolist()
    assert table["old"].tolist() == source["old"].tolist()
    assert table["good"].tolist() == source["good"].tolist()


def test_a_changed_parameter_ships_another_model(small):
    first = train.train(small.notebook, small.folder / "out")
    small.cells(*(cell.replace("MAX_DEPTH = 2", "MAX_DEPTH = 4") for cell in SMALL_CELLS))
    second = train.train(small.notebook, small.folder / "out")
    assert (first["parameters"]["max_depth"], second["parameters"]["max_depth"]) == (2, 4)
    assert first["model"]["sha256"] != second["model"]["sha256"]


def test_an_aware_model_is_recorded_as_such(small):
    small.schema([{"name": "size"}, {"name": "old"}, {"name": "group", "type": "flag"}])
    small.cells(*(cell.replace("'old']]", "'old', 'group']]") for cell in SMALL_CELLS))
    record = train.train(small.notebook, small.folder / "out")
    assert record["features"] == ["size", "old", "group"]
    assert record["sensitive"] == ["group"]
    model = decode((small.folder / "out" / "model.bin").read_bytes())
    assert model.metadata["training"]["excluded_sensitive"] == []
    table = pd.read_csv(small.folder / "out" / "test_split.csv")
    assert list(table.columns) == ["size", "old", "group", "good"]


def test_only_tagged_cells_run(small):
    small.cells(*SMALL_CELLS, tags=("train",))
    notebook = json.loads(small.notebook.read_text())
    notebook["cells"].append(
        {"cell_type": "code", "metadata": {}, "source": ["1 / 0"], "outputs": []}
    )
    small.notebook.write_text(json.dumps(notebook))
    assert train.train(small.notebook, small.folder / "out")["test_rows"] == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: "%matplotlib inline"}, r"cell 3, line 1: `%matplotlib inline` is an IPython command"),
        ({1: "x = 1\n!ls"}, r"cell 3, line 2: `!ls` is an IPython command"),
        ({1: "data.load?"}, r"cell 3, line 1: `data.load\?` is an IPython command"),
        ({1: "x = (1"}, r"cell 3, line 1: '\(' was never closed"),
        ({3: "x = 1\n1 / 0"}, "cell 5, line 2: `1 / 0` raised ZeroDivisionError: division"),
        ({3: "raise SystemExit(0)"}, "cell 5, line 1: .* raised SystemExit"),
        ({1: "DATA_FILE = 'none.csv'"}, "cell 4, line 1: .* InputError: cannot read none"),
        ({3: "fitted = 1"}, "missing: model"),
        ({1: "MAX_DEPTH = 2", 2: SPLIT.replace("DATA_FILE", "'small.csv'")}, "missing: DATA_FILE"),
        ({2: SPLIT + "\ny_test = y_test.tolist()"}, "must be a pandas Series, not list"),
        ({2: SPLIT + "\ny_test = y_test[::-1]"}, "X_test and y_test must have the same rows"),
        ({2: SPLIT + "\nsensitive_test = sensitive_test[1:]"}, "X_test and sensitive_test"),
        ({2: SPLIT + "\nX_test = X_test[['old', 'size']]"}, "same columns in the same order"),
        ({3: FIT + "\nX_train = X_test = X_train.rename(columns={'old': 'new'})"
          "\ny_test, sensitive_test = y_train, train_rows[['group']]"}, "model was fitted on"),
        ({2: SPLIT + "\ny_test = y_test.rename('other')"}, "y_test is named other"),
        ({3: "from sklearn.svm import SVC\nmodel = SVC().fit(X_train, y_train)"}, "SVC cannot be"),
        ({2: SPLIT.replace("'old']]", "'group']]")}, "the model uses group; add"),
    ],
)  # fmt: skip
def test_a_notebook_that_cannot_train_is_explained(small, change, message):
    small.cells(*(change.get(index, cell) for index, cell in enumerate(SMALL_CELLS)))
    with pytest.raises(InputError, match=message):
        train.train(small.notebook, small.folder / "out")
    assert not (small.folder / "out" / "training.json").exists()


def test_a_notebook_without_the_tag_is_explained(small):
    small.cells(*SMALL_CELLS, tags=("training",))
    with pytest.raises(InputError, match="no code cell with the tag `train`"):
        train.train(small.notebook, small.folder / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "not a notebook of format 4"),
    ],
)
def test_a_file_that_is_no_notebook_is_refused(small, content, message):
    small.notebook.write_text(content)
    with pytest.raises(InputError, match=message):
        train.train(small.notebook, small.folder / "out")


def test_the_command_fails_in_one_line(small):
    small.cells("1 / 0")
    command = [sys.executable, "-m", "ccapproval.train", "--notebook", small.notebook]
    done = subprocess.run([*command, "--out", small.folder / "out"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: small.ipynb, cell 2, line 1: `1 / 0` raised")
    assert done.stderr.count("\n") == 1


def test_a_failed_training_leaves_no_record_of_an_older_one(small, monkeypatch):
    out = small.folder / "out"
    train.train(small.notebook, out)
    monkeypatch.setattr(train, "split", lambda *rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.train(small.notebook, out)
    assert not (out / "training.json").exists()


def test_working_directory_and_path_are_restored(small):
    before = (os.getcwd(), list(sys.path))  # noqa: PTH109
    train.train(small.notebook, small.folder / "out")
    assert (os.getcwd(), list(sys.path)) == before  # noqa: PTH109
