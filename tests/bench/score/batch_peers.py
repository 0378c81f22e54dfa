"""The batch files of the scoring benchmark, and a peer that scores them with pandas and the library.

    batch_peers.py prepare FOLDER           trains a forest, exports it and writes the same rows in each format
    batch_peers.py score FOLDER FORMAT OUT  reads the rows of a format, predicts, and writes them as the scorer does

The model is as deep as the worked example's, so that reading and writing are what is measured. `score` prints the seconds that it took
without its imports, and its peak memory, as JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

ROWS = 1_000_000
NAMES = ["Num_Children", "Income", "Own_Car", "Own_Housing"]
READERS = {
    "csv": pd.read_csv,
    "ndjson": lambda path: pd.read_json(path, lines=True),
    "parquet": pd.read_parquet,
}


def table(count):
    """Random applications."""
    random = np.random.default_rng(0)
    greatest = [6, 300_000, 2, 2]
    return pd.DataFrame(
        {name: random.integers(0, bound, count) for name, bound in zip(NAMES, greatest, strict=True)}
    )


def prepare(folder):
    """Writes `model.joblib`, `model.bin` and `rows.<format>`."""
    from ccapproval.export import export
    from sklearn.tree import DecisionTreeClassifier

    rows = table(ROWS)
    score = rows["Income"] / 1e5 + rows["Own_Car"] + rows["Own_Housing"]
    target = (score + np.random.default_rng(1).normal(size=ROWS) > 3).astype(int)
    model = DecisionTreeClassifier(max_depth=4, random_state=0).fit(rows[:20_000], target[:20_000])
    joblib.dump(model, folder / "model.joblib")
    (folder / "model.bin").write_bytes(export(model))
    rows.to_csv(folder / "rows.csv", index=False)
    rows.to_json(folder / "rows.ndjson", orient="records", lines=True)
    rows.to_parquet(folder / "rows.parquet", index=False)


def score(folder, kind, out):
    """Seconds and peak memory (MiB) of reading, predicting and writing."""
    begun = time.perf_counter()
    model = joblib.load(folder / "model.joblib")
    rows = READERS[kind](folder / f"rows.{kind}")
    probability = model.predict_proba(rows[NAMES])[:, 1]
    predicted = {"prediction": model.classes_[(probability > 0.5) * 1], "probability": probability}
    pd.DataFrame(predicted).to_csv(out, index=False)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2])
    if task == "prepare":
        prepare(place)
    else:
        score(place, sys.argv[3], Path(sys.argv[4]))
