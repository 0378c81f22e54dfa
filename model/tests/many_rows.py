"""Makes a folder of a run whose test split has as many rows as one likes, drawn from the run's own.

    python tests/many_rows.py RUN OUT ROWS

Predictions are not among its files. `cargo xtask bench test` measures on it.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd

KEPT = ("model.joblib", "model.bin", "train_split.csv")


def many_rows(run: Path, out: Path, rows: int) -> None:
    """Writes the folder; the rows are drawn with replacement, from a fixed seed."""
    for name in KEPT:
        shutil.copyfile(run / name, out / name)
    table = pd.read_csv(run / "test_split.csv", dtype=str, keep_default_na=False)
    table.sample(rows, replace=True, random_state=0).to_csv(out / "test_split.csv", index=False)
    training = json.loads((run / "training.json").read_text())
    (out / "training.json").write_text(json.dumps({**training, "test_rows": rows}))


if __name__ == "__main__":
    many_rows(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
