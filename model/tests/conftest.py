import json
import os
from pathlib import Path

# Threads would only wait for each other on models this small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before numpy, of which it chooses the arithmetic.
import ccapproval  # noqa: F401, I001
import nbformat
import numpy as np
import pandas as pd
import pytest

from ccapproval import data, train
from ccapproval.model_file import Model, decode

FOLDER = Path(__file__).resolve().parent.parent
NOTEBOOK = FOLDER / "credit_card_approval.ipynb"


def write_predictions(run: Path, file: Path) -> None:
    """Predictions of a run's test rows, by the reader of the model file."""
    model: Model = decode((run / "model.bin").read_bytes())
    table = pd.read_csv(run / "test_split.csv")
    rows = table[[feature.name for feature in model.features]].to_numpy(dtype=np.float64)
    chances = model.predict_proba(rows)[:, model.positive_class].tolist()
    lines = [
        f"{label},{chance!r}" for label, chance in zip(model.predict(rows), chances, strict=True)
    ]
    file.write_text("\n".join(["prediction,probability", *lines]) + "\n")


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
    build = "cargo build -p lambda-inference --bin score"
    return pytest.fail(f"no program at {' or '.join(map(str, places))}: build it with `{build}`")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The files of one training from the notebook, with predictions beside them."""
    out = tmp_path_factory.mktemp("run")
    train.train(NOTEBOOK, out)
    write_predictions(out, out / "predictions.csv")
    return out


SMALL_CELLS = (
    "from sklearn.tree import DecisionTreeClassifier\nfrom ccapproval import data",
    "DATA_FILE = 'small.csv'\nMAX_DEPTH = 2",
    "rows = data.load(DATA_FILE)\ntrain_rows, test_rows = rows[:150], rows[150:]\n"
    "X_train, y_train = train_rows[['size', 'old']], train_rows['good']\n"
    "X_test, y_test = test_rows[['size', 'old']], test_rows['good']\n"
    "sensitive_train, sensitive_test = train_rows[['group']], test_rows[['group']]",
    "model = DecisionTreeClassifier(max_depth=MAX_DEPTH, random_state=0).fit(X_train, y_train)",
)


class SmallProject:
    """A notebook, a schema and a table of 200 rows in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.notebook = folder / "small.ipynb"
        random = np.random.default_rng(3)
        size = random.normal(5, 2, 200)
        old = random.integers(0, 2, 200)
        table = pd.DataFrame({"size": size, "old": old, "group": random.integers(0, 2, 200)})
        table["good"] = (size + old + random.normal(0, 0.5, 200) > 5.5).astype(int)
        table.to_csv(folder / "small.csv", index=False)
        data.describe(folder / "small.csv")
        self.schema(
            [
                {"name": "size", "type": "number", "minimum": -100, "maximum": 100},
                {"name": "old", "type": "flag"},
            ]
        )
        self.cells(*SMALL_CELLS)

    def schema(self, features: list[dict], **more) -> None:
        content = {"features": features, "target": "good", "positive_class": 1, **more}
        (self.folder / "schema.json").write_text(json.dumps(content))

    def cells(self, *sources: str, tags: tuple[str, ...] = ("train",)) -> None:
        """A notebook of a heading and these code cells."""
        cells = [nbformat.v4.new_markdown_cell("# Small")]
        for source in sources:
            cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)}))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), self.notebook)


@pytest.fixture
def small(tmp_path):
    return SmallProject(tmp_path)
