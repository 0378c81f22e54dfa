"""Logs a measured run to MLflow, once.

    python -m ccapproval.tracking --run DIR --experiment NAME --run-name NAME --store DIR
        --tag pipeline_id=ID [--tag NAME=VALUE ...] --out FILE

Reads `training.json`, `metrics.json` and the model's files of the run. `MLFLOW_TRACKING_URI` says
where to; without it, an sqlite store in the folder `--store`. A finished run of the experiment with
all the same tags is this one, so it is not logged again.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ccapproval.common import (
    InputError,
    command_line,
    digest,
    read_bytes,
    read_json_object,
    to_json,
    write_atomically,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

RATES = ("accuracy", "precision", "recall", "f1", "false_positive_rate", "selection_rate")
RECORDS = ("training.json", "metrics.json", "model_metrics.html")
MODEL_FILES = ("model.bin", "model.joblib")
# What MLflow would wait for a server is minutes; nobody waits for tracking that long.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MPLBACKEND": "Agg",
}


def plain(name: str) -> str:
    """A name without the letters that MLflow refuses; columns may be called anything."""
    return re.sub(r"[^\w\-. ]", "_", name)


def parameters(training: Mapping[str, Any]) -> dict[str, str]:
    """The estimator, its parameters and what it was trained on, as MLflow shows them."""
    about = {
        "estimator": training["estimator"],
        "features": ", ".join(training["features"]),
        "dataset": training["dataset"]["file"],
        "train_rows": training["train_rows"],
        "test_rows": training["test_rows"],
    }
    return {name: str(value) for name, value in {**about, **training["parameters"]}.items()}


def measurements(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Rates of the training and test rows and of each group, and the differences between groups.

    A figure that the rows do not define is left out: MLflow knows no null.
    """
    found: dict[str, float | None] = {
        "fairnessScoreEqualOpportunity": metrics["fairnessScoreEqualOpportunity"]
    }
    for rows, rates in (("train", metrics["train"]), ("test", metrics["overall"])):
        found |= {f"{rows}_{name}": rates[name] for name in RATES}
    for attribute, groups in metrics["groups"].items():
        for label, rates in groups.items():
            found |= {f"test_{attribute}_{label}_{name}": rates[name] for name in RATES}
        for name, value in metrics["fairness"][attribute].items():
            if name not in ("reasons", "evidence"):
                found[f"test_{attribute}_{name}"] = value
    return {
        plain(name): value
        for name, value in found.items()
        if value is not None and math.isfinite(value)
    }


def draw(run: Path, training: Mapping[str, Any], metrics: Mapping[str, Any], folder: Path) -> None:
    """Draws the plots of the model that ships: confusion matrices, bars, tree, importances."""
    import pandas as pd

    from ccapproval import plots
    from ccapproval.model_file import decode
    from ccapproval.report import PERFORMANCE
    from ccapproval.report_fairness import COMPARED

    plots.style()

    def bars(title: str, names: Mapping[str, str], columns: Mapping[str, Any], colors: Any) -> Any:
        table = pd.DataFrame(
            {key: [rates[name] for name in names] for key, rates in columns.items()},
            index=list(names.values()),
            dtype=float,
        )
        return plots.grouped_bars(table, title, list(islice(cycle(colors), len(columns))))

    both = {"Training rows": metrics["train"], "Test rows": metrics["overall"]}
    figures = {
        "performance": bars(
            "Performance of the model that ships", PERFORMANCE, both, (plots.PALE, plots.GROUPS[0])
        )
    }
    matrices = {"All test rows": metrics["overall"]}
    for attribute, groups in metrics["groups"].items():
        named = {f"{attribute} {label}": rates for label, rates in groups.items()}
        matrices |= named
        figures[f"fairness_{attribute}"] = bars(
            f"The model that ships, by {attribute}", COMPARED, named, plots.GROUPS
        )
    figures["confusion_matrices"] = plots.confusion_matrices({"The model that ships": matrices})
    if training["importances"]:
        figures["importances"] = plots.importances(pd.Series(training["importances"]))
    model = decode(read_bytes(run / "model.bin"))
    if model.is_one_tree:
        positive = training["positive_class"]
        names = {label: "approve" if label == positive else "deny" for label in model.classes}
        figures["tree"] = plots.tree_of(model, names)
    for name, figure in figures.items():
        figure.savefig(folder / f"{plain(name)}.png")


def connect(store: Path) -> tuple[MlflowClient, str | None]:
    """A client, and the place for the artifacts of a new experiment if the store is local."""
    from mlflow import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return MlflowClient(uri), None
    artifacts = store.resolve() / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    return MlflowClient(f"sqlite:///{store.resolve() / 'mlflow.db'}"), artifacts.as_uri()


def earlier_run(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> str | None:
    """The finished run with these tags, if there is one; those that did not finish are deleted."""
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    for found in client.search_runs([experiment], wanted):
        if found.info.status == "FINISHED":
            return found.info.run_id
        client.delete_run(found.info.run_id)
    return None


def log(
    run: Path, experiment_name: str, run_name: str, tags: Mapping[str, str], store: Path
) -> dict[str, str]:
    """Logs a run unless it was; which MLflow run it is, and whether it was there.

    Raises:
        InputError: the run's files are missing or do not belong together.
    """
    training = read_json_object(run / "training.json")
    metrics = read_json_object(run / "metrics.json")
    found = digest(read_bytes(run / "model.bin"))
    if found != metrics["model"]:
        raise InputError(f"{run / 'model.bin'} is {found}, metrics.json speaks of another model")
    client, artifacts = connect(store)
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        experiment_id = client.create_experiment(experiment_name, artifact_location=artifacts)
    else:
        experiment_id = experiment.experiment_id
    answer = {"state": "already_logged", "experiment_id": experiment_id}
    earlier = earlier_run(client, experiment_id, tags)
    if earlier is None:
        answer["state"] = "logged"
        earlier = write(client, experiment_id, run_name, tags, (run, training, metrics))
    return answer | {"run_id": earlier}


def write(
    client: MlflowClient,
    experiment_id: str,
    run_name: str,
    tags: Mapping[str, str],
    evidence: tuple[Path, Mapping[str, Any], Mapping[str, Any]],
) -> str:
    """Writes one run with everything that belongs to it, and only then calls it finished."""
    from mlflow.entities import Metric, Param

    run, training, metrics = evidence
    made = client.create_run(experiment_id, run_name=run_name, tags=dict(tags)).info.run_id
    try:
        now = int(time.time() * 1000)
        client.log_batch(
            made,
            metrics=[Metric(name, value, now, 0) for name, value in measurements(metrics).items()],
            params=[Param(name, value) for name, value in parameters(training).items()],
        )
        for name in MODEL_FILES:
            client.log_artifact(made, str(run / name), "model")
        for name in RECORDS:
            client.log_artifact(made, str(run / name))
        with tempfile.TemporaryDirectory() as folder:
            draw(run, training, metrics, Path(folder))
            client.log_artifacts(made, folder, "plots")
    except BaseException:
        with contextlib.suppress(Exception):
            client.set_terminated(made, "FAILED")
        raise
    client.set_terminated(made)
    return made


def tag(text: str) -> tuple[str, str]:
    """`NAME=VALUE` as the command line gives it."""
    name, separator, value = text.partition("=")
    if not separator or not re.fullmatch(r"[\w.]+", name) or "'" in value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def without_credentials(text: str) -> str:
    """The text without the user and password of the tracking server's address."""
    user, separator, _ = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).netloc.rpartition("@")
    return text.replace(user + separator, "") if separator else text


def main() -> int:
    """The command; 0 when the run is in MLflow, 1 with one line of explanation when it is not."""
    parser = argparse.ArgumentParser(prog="python -m ccapproval.tracking", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="what train and metrics wrote")
    parser.add_argument("--experiment", required=True, help="made if it does not exist")
    parser.add_argument("--run-name", required=True, help="MLflow's name for the run")
    parser.add_argument("--store", type=Path, required=True, help="folder of the local store")
    parser.add_argument("--tag", type=tag, action="append", required=True, help="NAME=VALUE")
    parser.add_argument("--out", type=Path, required=True, help="where to write which run it is")
    arguments = parser.parse_args()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)

    def run() -> None:
        try:
            answer = log(
                arguments.run,
                arguments.experiment,
                arguments.run_name,
                dict(arguments.tag),
                arguments.store,
            )
        except InputError:
            raise
        except Exception as error:
            # MLflow, its stores and their drivers raise whatever they like.
            lines = without_credentials(f"{type(error).__name__}: {error}").split()
            raise InputError(f"cannot log to MLflow: {' '.join(lines)}") from error
        write_atomically(arguments.out, to_json(answer))

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
