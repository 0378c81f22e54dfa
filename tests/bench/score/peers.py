"""The peers of the scoring benchmark.

    peers.py prepare FOLDER [TEXT]   trains the models whose names contain TEXT, and makes what the
                                     peers need
    peers.py export FOLDER OUT       writes the trained models in the predictor's format
    peers.py measure FOLDER OUT      measures the peers that are called from Python, as JSON

Rows and answers are float64, row after row; an answer is the probability of the positive class.
`prepare` leaves NAME.rows.f64 and NAME.expected.f64 (the library's own answers) of each model, and
peers.json, which says how each peer is called or why there is none.
"""

import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Read when numpy and OpenMP are loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import joblib
import lightgbm
import numpy as np
import pandas
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

DATA = Path(__file__).parents[3] / "model/data/credit_card_approval.csv.xz"
CREDIT = ["Num_Children", "Income", "Own_Car", "Own_Housing"]
ROWS = 20_000
WIDTH = 30
ONE_ROW_CALLS = 300
PASSES = 3
# What the generators' own manuals compile with.
COMPILE = ["cc", "-O3", "-fPIC", "-shared", "-o"]


def train(only=""):
    """The models whose names contain a text, by name, each with the rows that it is asked about."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(ROWS, WIDTH))
    score = np.sin(rows[:, 0] * 2) + rows[:, 1] * rows[:, 2] + random.normal(size=ROWS)
    target = (score > 0.3).astype(int)
    data = pandas.read_csv(DATA, nrows=5 * ROWS)
    credit, decided = data[CREDIT].to_numpy(np.float64), data["Target"].to_numpy()

    def boosting():
        return lightgbm.LGBMClassifier(n_estimators=300, num_leaves=63, num_threads=1, verbose=-1)

    forest = RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1)
    trees = xgboost.XGBClassifier(n_estimators=300, max_depth=6, nthread=1)
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    models = {
        "xgb30": (trees, rows, target),
        "lgb30": (boosting(), rows, target),
        "rf30": (forest, rows, target),
        "few4": (boosting(), credit, decided),
        "credit": (tree, credit, decided),
    }
    return {
        name: (model.fit(rows, target), rows[:ROWS])
        for name, (model, rows, target) in models.items()
        if only in name
    }


def family(model):
    """The library that a model comes from."""
    return type(model).__module__.split(".")[0]


# What peers are made of. Each gives how the C driver calls the peer: its kind, its library, and the
# model's file where that is another one. Names without a folder are of files in FOLDER.


def compiled(sources, library):
    """Compiles generated C."""
    if shutil.which("cc") is None:
        raise RuntimeError("there is no C compiler: install one")
    subprocess.run([*COMPILE, library, *sources, "-lm"], check=True, capture_output=True)
    return library.name


def m2cgen(name, model, rows, folder):
    """C of m2cgen: nested ifs in double precision."""
    import m2cgen

    if family(model) == "xgboost":
        # m2cgen asks for the parameter, which is only set where the user chose it.
        config = json.loads(model.get_booster().save_config())["learner"]["learner_model_param"]
        model.base_score = float(config["base_score"].strip("[]"))
    sys.setrecursionlimit(1 << 20)
    source = folder / f"{name}.m2cgen.c"
    source.write_text(m2cgen.export_to_c(model))
    return {"kind": "m2cgen", "library": compiled([source], folder / f"{name}.m2cgen.so")}


def tl2cgen(name, model, rows, folder):
    """C of tl2cgen with both means that its manual advises for speed: integers for thresholds, and
    the compiler told which way most rows go."""
    import tl2cgen
    import treelite

    forest = {
        "xgboost": lambda: treelite.frontend.from_xgboost(model.get_booster()),
        "lightgbm": lambda: treelite.frontend.from_lightgbm(model.booster_),
        "sklearn": lambda: treelite.sklearn.import_model(model),
    }[family(model)]()
    single = family(model) == "xgboost"
    sources, counts = folder / f"{name}.tl2cgen", folder / f"{name}.tl2cgen.json"
    matrix = tl2cgen.DMatrix(rows.astype(np.float32) if single else rows)
    tl2cgen.annotate_branch(forest, dmat=matrix, path=counts)
    params = {"quantize": 1, "annotate_in": str(counts)}
    tl2cgen.generate_c_code(forest, dirpath=sources, params=params)
    library = compiled(sorted(sources.glob("*.c")), folder / f"{name}.tl2cgen.so")
    kind = "tl2cgen-float" if single else "tl2cgen"
    return {"kind": kind, "library": library}


def lleaves(name, model, rows, folder):
    """The object file of lleaves, linked to a library."""
    import lleaves

    stem = folder / f"{name}.lleaves"
    model.booster_.save_model(f"{stem}.txt")
    lleaves.Model(model_file=f"{stem}.txt").compile(cache=f"{stem}.o")
    return {"kind": "lleaves", "library": compiled([f"{stem}.o"], Path(f"{stem}.so"))}


def onnxruntime(name, model, rows, folder):
    """The model as ONNX, and onnxruntime's library."""
    import onnxmltools
    import onnxruntime
    import skl2onnx
    from onnxmltools.convert.common.data_types import FloatTensorType

    kind = [("rows", FloatTensorType([None, rows.shape[1]]))]
    if family(model) == "sklearn":
        kind = [("rows", skl2onnx.common.data_types.FloatTensorType([None, rows.shape[1]]))]
        options = {id(model): {"zipmap": False}}
        converted = skl2onnx.to_onnx(model, initial_types=kind, options=options)
    elif family(model) == "xgboost":
        converted = onnxmltools.convert_xgboost(model, initial_types=kind)
    else:
        converted = onnxmltools.convert_lightgbm(model, initial_types=kind, zipmap=False)
    file = folder / f"{name}.onnx"
    file.write_bytes(converted.SerializeToString())
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if not libraries:
        raise RuntimeError("the package onnxruntime brings no library that C can call")
    return {"kind": "onnxruntime", "library": str(libraries[0]), "file": file.name}


FROM_C = {
    "onnxruntime": (onnxruntime, ("xgboost", "lightgbm", "sklearn")),
    "tl2cgen": (tl2cgen, ("xgboost", "lightgbm", "sklearn")),
    "m2cgen": (m2cgen, ("xgboost", "lightgbm", "sklearn")),
    "lleaves": (lleaves, ("lightgbm",)),
}


def reason(error):
    """Why something failed, in one line."""
    said = getattr(error, "stderr", None) or str(error)
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return f"{type(error).__name__}: {text.strip()}".splitlines()[0][:200]


def made(peer, make, name, model, rows, folder):
    """How a peer is called, or why it cannot be."""
    begun = time.monotonic()
    try:
        call = make(name, model, rows, folder)
    except Exception as error:  # A peer may refuse a model in any way that it likes.
        call = {"error": reason(error)}
    print(f"{name} for {peer}: {time.monotonic() - begun:.0f} s", flush=True)
    return {"model": name, "peer": peer} | call


def prepare(folder, only):
    """Trains, and makes everything that takes long."""
    print("training", flush=True)
    models = train(only)
    joblib.dump({name: model for name, (model, _) in models.items()}, folder / "models.joblib")
    for name, (model, rows) in models.items():
        rows.tofile(folder / f"{name}.rows.f64")
        answers = model.predict_proba(rows)[:, 1].astype(np.float64)
        answers.tofile(folder / f"{name}.expected.f64")
    # Compilers are programs of their own: threads are enough to keep every processor busy.
    # Deeply nested expressions are written recursively, which takes stack.
    threading.stack_size(256 << 20)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        making = [
            pool.submit(made, peer, make, name, model, rows, folder)
            for name, (model, rows) in models.items()
            for peer, (make, families) in FROM_C.items()
            if family(model) in families
        ]
        calls = [future.result() for future in making]
    widths = {name: rows.shape[1] for name, (_, rows) in models.items()}
    text = json.dumps({"widths": widths, "peers": calls})
    (folder / "peers.json").write_text(text)


def export_all(folder, out):
    """Writes the models as the predictor reads them."""
    from ccapproval.export import export

    for name, model in joblib.load(folder / "models.joblib").items():
        (out / f"{name}.bin").write_bytes(export(model))


# What is measured from Python: each gives a function from rows to probabilities.


def the_library(model):
    """The library that trained the model, by its quickest way to an answer."""
    if family(model) == "xgboost":
        booster = model.get_booster()
        booster.set_param({"nthread": 1})
        return booster.inplace_predict
    if family(model) == "lightgbm":
        return lambda rows: model.booster_.predict(rows, num_threads=1)
    return lambda rows: model.predict_proba(rows)[:, 1]


def daal4py(model):
    """oneDAL's own trees."""
    daal = importlib.import_module("daal4py")
    daal.daalinit(1)
    booster = model.get_booster() if family(model) == "xgboost" else model.booster_
    converted = daal.mb.convert_model(booster)
    return lambda rows: converted.predict_proba(rows)[:, 1]


FROM_PYTHON = {
    "the library": (the_library, ("xgboost", "lightgbm", "sklearn")),
    "daal4py": (daal4py, ("xgboost", "lightgbm")),
}


def timed(predict, rows):
    """Median time of one row in nanoseconds, and the least of a row in a batch; and the answers."""
    answers = predict(rows)
    single = []
    for row in range(ONE_ROW_CALLS):
        one = rows[row : row + 1]
        begun = time.perf_counter_ns()
        predict(one)
        single.append(time.perf_counter_ns() - begun)
    batch = []
    for _ in range(PASSES):
        begun = time.perf_counter_ns()
        predict(rows)
        batch.append((time.perf_counter_ns() - begun) / len(rows))
    return {"one_row": statistics.median(single), "batch": min(batch)}, answers


def measure(folder, out):
    """Every peer of every model, or why it could not be measured."""
    widths = json.loads((folder / "peers.json").read_text())["widths"]
    found = []
    for name, model in joblib.load(folder / "models.joblib").items():
        rows = np.fromfile(folder / f"{name}.rows.f64").reshape(-1, widths[name])
        for peer, (make, families) in FROM_PYTHON.items():
            if family(model) not in families:
                continue
            print(f"{name} with {peer}", flush=True)
            try:
                times, answers = timed(make(model), rows)
                answers.astype(np.float64).tofile(out / f"{name}.{peer}.f64")
            except Exception as error:  # As above.
                times = {"error": reason(error)}
            found.append({"model": name, "peer": peer} | times)
    return found


if __name__ == "__main__":
    task, folder, *more = sys.argv[1:]
    if task == "prepare":
        prepare(Path(folder), *(more or [""]))
    elif task == "export":
        export_all(Path(folder), Path(*more))
    else:
        print(json.dumps(measure(Path(folder), Path(*more))))
