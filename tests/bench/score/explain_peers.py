"""The peers of the explanation benchmark: the libraries' own contributions, and the package shap.

    explain_peers.py prepare FOLDER         trains the models and exports them
    explain_peers.py measure FOLDER MODEL   measures the peers of one model, as JSON

`prepare` leaves NAME.bin and NAME.rows.f64 (float64, row after row) of each model. `measure`
compares with NAME.ours.f64, the base value and then the contributions row after row. It runs where
shap is installed, which the other peers' requirements forbid: in the environment of model/.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

# Read when numba, numpy and OpenMP are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NUMBA_DISABLE_JIT"] = "1"

import joblib
import numpy as np
import shap
import xgboost
from peers import family, reason, train

MODELS = ("xgb30", "lgb30", "rf30", "few4")
ONE_ROW_CALLS = 50
PASSES = 3
# Rows of a batch, and how long one may take.
LEAST_ROWS, PASS_SECONDS = 32, 2.0


def prepare(folder):
    """Trains the models and writes what both sides read."""
    from ccapproval.export import export

    for name, (model, rows) in train().items():
        if name in MODELS:
            joblib.dump(model, folder / f"{name}.joblib")
            (folder / f"{name}.bin").write_bytes(export(model))
            rows.tofile(folder / f"{name}.rows.f64")
            (folder / f"{name}.width").write_text(str(rows.shape[1]))


# Each gives what makes of rows what is measured, and a function from that to contributions.


def xgboost_itself(model):
    """The contributions of xgboost, on rows in its own form."""
    booster = model.get_booster()
    booster.set_param({"nthread": 1})
    return xgboost.DMatrix, lambda rows: booster.predict(rows, pred_contribs=True)[:, :-1]


def lightgbm_itself(model):
    """The contributions of lightgbm."""

    def contributions(rows):
        return model.booster_.predict(rows, pred_contrib=True, num_threads=1)[:, :-1]

    return np.ascontiguousarray, contributions


def shap_trees(model):
    """shap's explainer of trees, which for xgboost and lightgbm calls the library."""
    explainer = shap.TreeExplainer(model)

    def contributions(rows):
        found = explainer.shap_values(rows, check_additivity=False)
        found = found[1] if isinstance(found, list) else found
        return found[:, :, 1] if found.ndim == 3 else found

    return np.ascontiguousarray, contributions


PEERS = {
    "xgboost": (xgboost_itself, ("xgboost",)),
    "lightgbm": (lightgbm_itself, ("lightgbm",)),
    "shap": (shap_trees, ("xgboost", "lightgbm", "sklearn")),
}


def seconds(call, *arguments):
    """How long a call takes, and what it gives."""
    begun = time.perf_counter()
    found = call(*arguments)
    return time.perf_counter() - begun, found


def timed(make, model, rows):
    """Median time of one row and least of a row of a batch, in nanoseconds; and contributions."""
    form, explain = make(model)
    explain(form(rows[:1]))
    took, _ = seconds(explain, form(rows[:LEAST_ROWS]))
    count = min(len(rows), max(LEAST_ROWS, int(PASS_SECONDS / took * LEAST_ROWS)))
    batch = form(rows[:count])
    passes = [seconds(explain, batch) for _ in range(PASSES)]
    ones = [form(rows[row : row + 1]) for row in range(ONE_ROW_CALLS)]
    one_row = statistics.median(seconds(explain, one)[0] for one in ones)
    least = min(took for took, _ in passes) / count
    return {"one_row": one_row * 1e9, "batch": least * 1e9}, passes[0][1]


def measure(folder, name):
    """The peers of a model: times and the greatest difference of a contribution, or why not."""
    model = joblib.load(folder / f"{name}.joblib")
    width = int((folder / f"{name}.width").read_text())
    rows = np.fromfile(folder / f"{name}.rows.f64").reshape(-1, width)
    ours = np.fromfile(folder / f"{name}.ours.f64")[1:].reshape(-1, width)
    found = []
    for peer, (make, families) in PEERS.items():
        if family(model) not in families:
            continue
        try:
            times, contributions = timed(make, model, rows)
            difference = np.abs(contributions - ours[: len(contributions)]).max()
            found.append({"peer": peer, "difference": float(difference)} | times)
        except Exception as error:  # A peer may refuse a model in any way that it likes.
            found.append({"peer": peer, "error": reason(error)})
    return found


if __name__ == "__main__":
    task, folder, *names = sys.argv[1:]
    if task == "prepare":
        prepare(Path(folder))
    else:
        print(json.dumps(measure(Path(folder), *names)))
