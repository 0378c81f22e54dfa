import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import FOLDER
from mlflow import MlflowClient

from ccapproval import metrics, plots, tracking
from ccapproval.common import InputError, to_json, write_atomically
from ccapproval.model_card import FILE
from ccapproval.report import draw

TAGS = {"pipeline_id": "20261124T031522Z-abc1234", "model": "sha256:1", "commit": "abc1234"}
NOWHERE = "http://ann:secret@127.0.0.1:9"


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    """A run after its measuring: what the tracking reads."""
    folder = tmp_path_factory.mktemp("measured")
    for file in run.iterdir():
        shutil.copy(file, folder)
    found, _, _ = metrics.measure(folder, folder / "predictions.csv")
    write_atomically(folder / "metrics.json", to_json(found))
    behaviour = {"model": found["model"], "seed": 0, "pairs": 0, "checks": []}
    write_atomically(folder / "behaviour.json", to_json(behaviour))
    write_atomically(folder / "model_metrics.html", draw(folder, FOLDER / FILE, None))
    return folder


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """An sqlite store without a run; making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("empty")
    assert len(client_of(folder).search_experiments()) == 1
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    return folder


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in tracking.SETTINGS.items():
        monkeypatch.setenv(name, value)


def log(measured, store, tags=TAGS):
    return tracking.log(measured, "Example MLOps", "Initial Model", tags, store)


def client_of(store):
    return MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def runs(client):
    (experiment,) = [each for each in client.search_experiments() if each.name == "Example MLOps"]
    return client.search_runs([experiment.experiment_id])


def test_everything_of_a_run_can_be_read_back(measured, store):
    answer = log(measured, store)
    client = client_of(store)
    (found,) = runs(client)
    assert (answer["state"], answer["run_id"]) == ("logged", found.info.run_id)
    assert (found.info.run_name, found.info.status) == ("Initial Model", "FINISHED")
    assert TAGS.items() <= found.data.tags.items()

    training = json.loads((measured / "training.json").read_text())
    assert found.data.params["max_depth"] == "3" and found.data.params["criterion"] == "gini"
    assert set(training["parameters"]) < set(found.data.params)
    assert found.data.params["estimator"] == "DecisionTreeClassifier"
    recorded = json.loads((measured / "metrics.json").read_text())
    assert found.data.metrics["test_accuracy"] == recorded["accuracy"]
    assert found.data.metrics["train_accuracy"] == recorded["train"]["accuracy"]
    score = recorded["fairnessScoreEqualOpportunity"]
    assert found.data.metrics["fairnessScoreEqualOpportunity"] == score
    groups = recorded["groups"]["Group"]
    assert found.data.metrics["test_Group_1_recall"] == groups["1"]["recall"]
    gap = found.data.metrics["test_Group_equal_opportunity_difference"]
    assert gap == pytest.approx(score / 100)

    copy = client.download_artifacts(found.info.run_id, "", str(store / "copy"))
    files = {os.path.relpath(each, copy) for each in walk(copy)}
    plot_names = ("confusion_matrices", "fairness_Group", "importances", "performance", "tree")
    assert files == {
        "metrics.json", "model/model.bin", "model/model.joblib", "model_metrics.html",
        "training.json", *(f"plots/{name}.png" for name in plot_names),
    }  # fmt: skip
    for name in ("model.bin", "model.joblib"):
        logged = (store / "copy" / "model" / name).read_bytes()
        assert logged == (measured / name).read_bytes()
    for name in plot_names:
        picture = (store / "copy" / "plots" / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 5_000


def walk(folder):
    return [
        os.path.join(place, name)  # noqa: PTH118
        for place, _, names in os.walk(folder)
        for name in names
    ]


def test_a_run_is_logged_once(measured, store, monkeypatch):
    monkeypatch.setattr(tracking, "draw", lambda *_: None)
    first = log(measured, store)
    assert log(measured, store) == first | {"state": "already_logged"}
    other = log(measured, store, TAGS | {"pipeline_id": "20261125T031522Z-abc1234"})
    again = log(measured, store, TAGS | {"model": "sha256:2"})
    assert other["state"] == again["state"] == "logged"
    assert len(runs(client_of(store))) == 3


def test_a_run_that_was_cut_off_is_logged_anew(measured, store, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(tracking, "draw", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log(measured, store)
    (failed,) = runs(client_of(store))
    assert failed.info.status == "FAILED"
    monkeypatch.setattr(tracking, "draw", lambda *_: None)
    answer = log(measured, store)
    assert [each.info.run_id for each in runs(client_of(store))] == [answer["run_id"]]
    assert answer["state"] == "logged"


def test_undefined_figures_and_odd_names_are_left_out(measured):
    recorded = json.loads((measured / "metrics.json").read_text())
    recorded["fairnessScoreEqualOpportunity"] = None
    recorded["groups"] = {"a&b": {"<30": recorded["overall"] | {"recall": None}}}
    recorded["fairness"] = {"a&b": {"equal_opportunity_difference": None, "reasons": {"x": "y"}}}
    found = tracking.measurements(recorded)
    assert "fairnessScoreEqualOpportunity" not in found
    assert found["test_a_b__30_accuracy"] == recorded["accuracy"]
    assert "test_a_b__30_recall" not in found and not any("reasons" in name for name in found)


def test_more_groups_than_colours_are_all_drawn(measured, tmp_path, monkeypatch):
    training = json.loads((measured / "training.json").read_text())
    recorded = json.loads((measured / "metrics.json").read_text())
    recorded["groups"]["Group"] = {str(each): recorded["overall"] for each in range(6)}
    seen = []
    bars = plots.grouped_bars
    monkeypatch.setattr(plots, "grouped_bars", lambda *all_: seen.append(all_) or bars(*all_))
    tracking.draw(measured, training, recorded, tmp_path)
    table, _, colors = seen[-1]
    assert len(table.columns) == len(colors) == 6


def test_files_that_do_not_belong_together_are_refused(measured, tmp_path):
    for file in ("training.json", "metrics.json", "model.bin"):
        shutil.copy(measured / file, tmp_path)
    (tmp_path / "model.bin").write_bytes(b"another")
    with pytest.raises(InputError, match=r"model\.bin is sha256:.* another model"):
        log(tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def command(measured, folder, **variables):
    arguments = ["--run", measured, "--experiment", "Example MLOps", "--run-name", "Initial Model"]
    arguments += ["--store", folder / "store", "--tag", "pipeline_id=1", "--out", folder / "out"]
    return subprocess.run(
        [sys.executable, "-m", "ccapproval.tracking", *arguments],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in tracking.SETTINGS}
        | variables,
        timeout=100,
    )


def test_an_unreachable_server_is_said_in_one_line_without_its_password(measured, tmp_path):
    done = command(measured, tmp_path, MLFLOW_TRACKING_URI=NOWHERE)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: cannot log to MLflow: ") and "127.0.0.1" in last
    assert "secret" not in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("server", ["nonsense://somewhere", "sqlite:////proc/none/mlflow.db"])
def test_a_server_that_is_none_is_said(measured, tmp_path, server):
    done = command(measured, tmp_path, MLFLOW_TRACKING_URI=server)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot log to MLflow: ")


def test_a_store_that_cannot_be_written_is_said(measured, tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")
    done = command(measured, tmp_path)
    assert done.returncode == 1 and "store" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("text", ["pipeline_id", "pipeline id=1", "a=it's", "a`b=1"])
def test_tags_that_would_change_the_question_are_refused(text, capsys):
    with pytest.raises(SystemExit) as ended:
        sys.argv = ["tracking", "--tag", text]
        tracking.main()
    assert ended.value.code == 2
    assert "is not NAME=VALUE" in capsys.readouterr().err
