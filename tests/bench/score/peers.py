"""The peers of the scoring benchmark.

    peers.py prepare FOLDER    trains three models, exports them and writes rows and answers
    peers.py measure FOLDER    measures the libraries and what compiles their models, as JSON

Rows and answers are float64, row after row; an answer is the probability of the positive class.
All peers are called from Python, with one thread, on one processor.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

# Read when numpy and OpenMP are loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import joblib
import lightgbm
import numpy as np
import xgboost
from sklearn.ensemble import RandomForestClassifier

ROWS = 20_000
WIDTH = 30
ONE_ROW_CALLS = 300
BATCHES = 3


def train():
    """The models by name, and the rows."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(ROWS, WIDTH))
    score = np.sin(rows[:, 0] * 2) + rows[:, 1] * rows[:, 2] + random.normal(size=ROWS)
    target = (score > 0.3).astype(int)
    models = {
        "xgb30": xgboost.XGBClassifier(n_estimators=300, max_depth=6, nthread=1),
        "lgb30": lightgbm.LGBMClassifier(
            n_estimators=300, num_leaves=63, num_threads=1, verbose=-1
        ),
        "rf30": RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1),
    }
    return {name: model.fit(rows, target) for name, model in models.items()}, rows


def prepare(folder):
    """Writes models, rows and the libraries' own answers."""
    from ccapproval.export import export

    models, rows = train()
    rows.tofile(folder / "rows.f64")
    joblib.dump(models, folder / "models.joblib")
    for name, model in models.items():
        (folder / f"{name}.bin").write_bytes(export(model))
        model.predict_proba(rows)[:, 1].astype(np.float64).tofile(folder / f"{name}.expected.f64")


def onnx_session(name, model):
    """The model converted and loaded by onnxruntime."""
    import onnxmltools
    import onnxruntime
    import skl2onnx
    from onnxmltools.convert.common.data_types import FloatTensorType

    kind = [("rows", FloatTensorType([None, WIDTH]))]
    if name == "rf30":
        options = {id(model): {"zipmap": False}}
        kind = [("rows", skl2onnx.common.data_types.FloatTensorType([None, WIDTH]))]
        converted = skl2onnx.to_onnx(model, initial_types=kind, options=options)
    elif name == "xgb30":
        converted = onnxmltools.convert_xgboost(model, initial_types=kind)
    else:
        converted = onnxmltools.convert_lightgbm(model, initial_types=kind, zipmap=False)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(converted.SerializeToString(), settings)


def peers_of(name, model, folder):
    """What predicts a matrix of float64 with a peer, by its name; made when it is called."""

    def library():
        if name == "xgb30":
            booster = model.get_booster()
            booster.set_param({"nthread": 1})
            return booster.inplace_predict
        if name == "lgb30":
            return lambda rows: model.booster_.predict(rows, num_threads=1)
        return model.predict_proba

    def onnxruntime():
        session = onnx_session(name, model)
        return lambda rows: session.run(None, {"rows": rows.astype(np.float32)})

    def lleaves():
        import lleaves

        model.booster_.save_model(folder / "lgb30.txt")
        compiled = lleaves.Model(model_file=str(folder / "lgb30.txt"))
        compiled.compile()
        return lambda rows: compiled.predict(rows, n_jobs=1)

    def tl2cgen():
        import tl2cgen
        import treelite

        forest = treelite.frontend.from_xgboost(model.get_booster())
        library = folder / "xgb30.so"
        tl2cgen.export_lib(forest, toolchain="gcc", libpath=str(library), nthread=1)
        predictor = tl2cgen.Predictor(str(library), nthread=1)
        return lambda rows: predictor.predict(tl2cgen.DMatrix(rows.astype(np.float32)))

    peers = {"the library": library, "onnxruntime": onnxruntime}
    return peers | {"lgb30": {"lleaves": lleaves}, "xgb30": {"tl2cgen": tl2cgen}}.get(name, {})


def timed(predict, rows):
    """Median time of one row in nanoseconds, and of a row in a batch."""
    predict(rows[:100])
    single = []
    for row in range(ONE_ROW_CALLS):
        one = rows[row : row + 1]
        begun = time.perf_counter_ns()
        predict(one)
        single.append(time.perf_counter_ns() - begun)
    batch = []
    for _ in range(BATCHES):
        begun = time.perf_counter_ns()
        predict(rows)
        batch.append((time.perf_counter_ns() - begun) / len(rows))
    return {"one_row": statistics.median(single), "batch": statistics.median(batch)}


def measure(folder):
    """Every peer of every model, or why it could not be measured."""
    models = joblib.load(folder / "models.joblib")
    rows = np.fromfile(folder / "rows.f64").reshape(-1, WIDTH)
    found = []
    for name, model in models.items():
        for peer, make in peers_of(name, model, folder).items():
            try:
                times = timed(make(), rows)
            except Exception as error:  # A peer may refuse a model in any way that it likes.
                times = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            found.append({"model": name, "peer": peer} | times)
    return found


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2])
    if task == "prepare":
        prepare(place)
    else:
        print(json.dumps(measure(place)))
