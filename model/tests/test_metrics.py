import json
import math
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import FOLDER, SMALL_CELLS, write_predictions

from ccapproval import data, metrics, model_card, report, train
from ccapproval.common import InputError, to_json, write_atomically
from ccapproval.model_file import decode


def array(*values):
    return np.array(values, dtype=bool)


def test_a_group_without_positives_has_no_gap():
    group = pd.Series([0, 0, 1, 1], name="group")
    groups = metrics.group_rates(array(0, 0, 0, 1), array(0, 1, 0, 1), group)
    assert groups["0"]["recall"] is None
    assert groups["0"]["reasons"] == {"recall": "no row is actually positive"}
    found = metrics.fairness(groups)
    assert found["equal_opportunity_difference"] is None
    assert found["equalized_odds_difference"] is None
    assert found["reasons"] == {
        "equal_opportunity_difference": "group 0: no row is actually positive",
        "equalized_odds_difference": "group 0: no row is actually positive",
    }
    assert found["demographic_parity_difference"] == 0.0
    assert found["equal_accuracy_difference"] == 0.5


def test_a_group_without_negatives_has_no_equalized_odds():
    group = pd.Series([0, 0, 1, 1], name="group")
    found = metrics.fairness(metrics.group_rates(array(1, 1, 0, 1), array(0, 1, 0, 1), group))
    assert found["equalized_odds_difference"] is None
    assert found["reasons"] == {"equalized_odds_difference": "group 0: no row is actually negative"}
    assert found["equal_opportunity_difference"] == 0.5


def test_one_group_alone_has_no_gap():
    group = pd.Series([1, 1], name="group")
    found = metrics.fairness(metrics.group_rates(array(0, 1), array(0, 1), group))
    names = [name for name in found if name != "reasons"]
    assert [found[name] for name in names] == [None] * 6
    assert set(found["reasons"].values()) == {"there is only one group"}
    assert set(found["reasons"]) == set(names)


def test_denying_everyone_is_measured_without_a_precision():
    found = metrics.rates(array(0, 1), array(0, 0))
    assert (found["precision"], found["recall"], found["f1"]) == (None, 0.0, 0.0)
    assert found["reasons"] == {"precision": "no row is predicted positive"}


def test_no_rows_have_no_rates():
    found = metrics.rates(array(), array())
    assert found["n"] == 0
    assert found["accuracy"] is None
    assert set(found["reasons"]) == {
        "accuracy", "precision", "recall", "false_positive_rate", "f1", "selection_rate",
    }  # fmt: skip


def test_differences_are_not_of_rounded_numbers():
    actual = np.ones(14, dtype=bool)
    predicted = array(*[1] * 6, 0, *[1] * 5, 0, 0)
    group = pd.Series([0] * 7 + [1] * 7, name="group")
    found = metrics.fairness(metrics.group_rates(actual, predicted, group))
    assert found["equal_opportunity_difference"] == 6 / 7 - 5 / 7


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["metrics", *map(str, arguments)])
    return metrics.main()


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_shipped_model_is_measured(run, tmp_path, monkeypatch):
    arguments = ("--run", run, "--predictions", run / "predictions.csv", "--out", tmp_path)
    assert command(monkeypatch, *arguments) == 0
    found = strict((tmp_path / "metrics.json").read_text())
    assert found["model"] == json.loads((run / "training.json").read_text())["model"]["sha256"]
    assert (found["rows"], found["accuracy"]) == (100_000, found["overall"]["accuracy"])
    assert found["accuracy"] == pytest.approx(0.9266, abs=0.002)
    gap = found["fairness"]["Group"]["equal_opportunity_difference"]
    assert found["fairnessScoreEqualOpportunity"] == 100 * gap
    assert 100 * gap == pytest.approx(7.0, abs=0.5)
    recall = [found["groups"]["Group"][label]["recall"] for label in ("0", "1")]
    assert gap == abs(recall[0] - recall[1])
    assert found["parity"] == {
        "rows": 100_000, "class_differences": 0, "probability_differences": 0,
    }  # fmt: skip
    assert found["train"]["n"] == 400_000
    # The two figures that are easily taken for each other, and which model each is of.
    aware = found["baselines"]["aware"]
    assert aware["features"] == ["Num_Children", "Income", "Own_Car", "Own_Housing", "Group"]
    assert aware["fairnessScoreEqualOpportunity"] == pytest.approx(20.8, abs=0.7)
    assert aware["overall"]["accuracy"] == pytest.approx(0.9479, abs=0.002)
    low, high = found["intervals"]["fairnessScoreEqualOpportunity"]
    assert low < found["fairnessScoreEqualOpportunity"] < high < aware["interval"][0]
    low, high = found["intervals"]["accuracy"]
    assert low < found["accuracy"] < high
    assert list(found["curves"]["groups"]["Group"]) == ["0", "1"]
    lines = (tmp_path / "shared_env_variables.txt").read_text().splitlines()
    assert lines == [
        f"ACCURACY={found['accuracy']!r}",
        f"EQUAL_OPPORTUNITY_FAIRNESS_PERCENT={found['fairnessScoreEqualOpportunity']!r}",
    ]


@pytest.fixture
def trained(small):
    out = small.folder / "out"
    train.train(small.notebook, out)
    write_predictions(out, out / "predictions.csv")
    return out


def test_differing_predictions_are_counted_not_hidden(trained, tmp_path, monkeypatch):
    lines = (trained / "predictions.csv").read_text().splitlines()
    label, chance = lines[1].split(",")
    beside = math.nextafter(float(chance), 0.5)
    lines[1] = f"{label},{beside!r}"
    label, chance = lines[2].split(",")
    lines[2] = f"{1 - int(label)},{chance}"
    (trained / "predictions.csv").write_text("\n".join(lines) + "\n")
    arguments = ("--run", trained, "--predictions", trained / "predictions.csv", "--out", tmp_path)
    assert command(monkeypatch, *arguments) == 0
    found = strict((tmp_path / "metrics.json").read_text())
    assert found["parity"] == {"rows": 50, "class_differences": 1, "probability_differences": 1}


def test_an_undefined_gap_is_null_and_not_handed_on(small, tmp_path, monkeypatch):
    source = small.folder / "small.csv"
    table = pd.read_csv(source)
    table["group"] = 1
    table.to_csv(source, index=False)
    data.describe(source)
    out = small.folder / "out"
    train.train(small.notebook, out)
    write_predictions(out, out / "predictions.csv")
    arguments = ("--run", out, "--predictions", out / "predictions.csv", "--out", tmp_path / "m")
    assert command(monkeypatch, *arguments) == 0
    found = strict((tmp_path / "m" / "metrics.json").read_text())
    assert found["fairnessScoreEqualOpportunity"] is None
    assert found["fairness"]["group"]["reasons"]["equal_opportunity_difference"]
    variables = (tmp_path / "m" / "shared_env_variables.txt").read_text()
    assert variables == f"ACCURACY={found['accuracy']!r}\n"
    write_atomically(out / "metrics.json", to_json(found))
    behaviour = {"model": found["model"], "seed": 0, "pairs": 0, "checks": []}
    write_atomically(out / "behaviour.json", to_json(behaviour))
    assert "there is only one group" in report.draw(out, FOLDER / model_card.FILE, None)


def test_probabilities_are_read_to_the_last_bit(tmp_path):
    random = np.random.default_rng(0)
    # Every exponent, down to the least numbers that there are.
    chances = random.integers(0, 0x3FF0000000000000, 100_000).view(np.float64)
    lines = [f"{place % 2},{chance!r}" for place, chance in enumerate(chances.tolist())]
    file = tmp_path / "predictions.csv"
    file.write_text("\n".join(["prediction,probability", *lines, ""]))
    classes, found = metrics.read_predictions(file, len(chances))
    assert (found.view(np.int64) == chances.view(np.int64)).all()
    assert (classes == np.arange(100_000) % 2).all()
    by_line = metrics.read_lines(file.read_bytes(), file, len(chances))
    assert (by_line[1].view(np.int64) == chances.view(np.int64)).all()


def test_rows_without_a_group_are_measured(small):
    source = small.folder / "small.csv"
    table = pd.read_csv(source)
    table["group"] = table["group"].map({0: "NA", 1: None})
    table.to_csv(source, index=False)
    data.describe(source)
    small.cells(
        SMALL_CELLS[0],
        SMALL_CELLS[1],
        SMALL_CELLS[2] + "\nrows['group'] = rows['group'].where(rows.index % 3 != 0, None)",
        SMALL_CELLS[3],
    )
    out = small.folder / "out"
    train.train(small.notebook, out)
    write_predictions(out, out / "predictions.csv")
    found = metrics.measure(out, out / "predictions.csv")[0]
    assert "missing" in found["groups"]["group"]


def without_sensitive(cell):
    return cell.replace("sensitive_train, ", "").replace("train_rows[['group']], ", "")


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (
            [*SMALL_CELLS[:2], without_sensitive(SMALL_CELLS[2]), SMALL_CELLS[3]],
            "the training rows lack group: define sensitive_train",
        ),
        (
            [*SMALL_CELLS[:2], SMALL_CELLS[2].replace("'old'", "'group'"), SMALL_CELLS[3]],
            "sees every sensitive attribute itself",
        ),
        (
            [
                *SMALL_CELLS[:3],
                "model = DecisionTreeClassifier(max_features=2).fit(X_train, y_train)\n"
                "model.max_features = -1",
            ],
            "it cannot be trained: InvalidParameterError",
        ),
    ],
)
def test_a_baseline_that_cannot_be_had_says_why(small, cells, reason):
    small.schema(
        [
            {"name": "size", "type": "number"},
            {"name": "old", "type": "flag"},
            {"name": "group", "type": "flag"},
        ]
    )
    small.cells(*cells)
    out = small.folder / "out"
    train.train(small.notebook, out)
    write_predictions(out, out / "predictions.csv")
    baseline = metrics.measure(out, out / "predictions.csv")[0]["baselines"]["aware"]
    assert reason in baseline["reason"]
    assert "overall" not in baseline


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda lines: lines[:-1], r"predictions\.csv has 49 predictions for 50 test rows"),
        (lambda lines: [*lines, lines[1]], r"predictions\.csv has 51 predictions for 50"),
        (lambda lines: ["label,p", *lines[1:]], "first line must be prediction,probability"),
        (lambda lines: [*lines[:3], "1", *lines[4:]], "line 4: cannot read '1'"),
        (lambda lines: [*lines[:3], "yes,0.5", *lines[4:]], "line 4: cannot read 'yes,0.5'"),
        (lambda lines: [*lines[:3], "1,NaN", *lines[4:]], "line 4: NaN is not a probability"),
        (lambda lines: [*lines[:3], "1,1.5", *lines[4:]], "line 4: 1.5 is not a probability"),
        (lambda lines: [*lines[:3], "7,0.5", *lines[4:]], r"predicts \[7\]"),
        (lambda lines: [], "first line must be"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(trained, alter, message, tmp_path):
    lines = (trained / "predictions.csv").read_text().splitlines()
    file = tmp_path / "altered" / "predictions.csv"
    file.parent.mkdir()
    file.write_text("\n".join(alter(lines)) + "\n")
    with pytest.raises(InputError, match=message):
        metrics.measure(trained, file)


def test_another_models_file_is_refused(run, trained, monkeypatch, capsys):
    shutil.copy(run / "model.bin", trained / "model.bin")
    out = trained / "metrics"
    arguments = ("--run", trained, "--predictions", trained / "predictions.csv", "--out", out)
    assert command(monkeypatch, *arguments) == 1
    assert "model.bin is sha256:" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "name", ["model.joblib", "model.bin", "training.json", "train_split.csv", "test_split.csv"]
)
def test_a_missing_file_is_named(trained, name):
    (trained / name).unlink()
    with pytest.raises(InputError, match=f"cannot read .*{name}"):
        metrics.measure(trained, trained / "predictions.csv")


def test_an_altered_estimator_is_not_even_loaded(trained):
    with (trained / "model.joblib").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"model\.joblib is sha256:"):
        metrics.measure(trained, trained / "predictions.csv")


def test_an_incomplete_record_is_refused(trained):
    record = json.loads((trained / "training.json").read_text())
    del record["sensitive"], record["train"]
    (trained / "training.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"training\.json lacks sensitive, train"):
        metrics.measure(trained, trained / "predictions.csv")


def test_a_test_split_of_another_length_is_refused(trained):
    lines = (trained / "test_split.csv").read_text().splitlines()
    (trained / "test_split.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=r"test_split\.csv has 49 rows"):
        metrics.measure(trained, trained / "predictions.csv")


def test_more_than_two_classes_are_refused(small):
    source = small.folder / "small.csv"
    table = pd.read_csv(source)
    table.loc[::5, "good"] = 2
    table.to_csv(source, index=False)
    data.describe(source)
    out = small.folder / "out"
    train.train(small.notebook, out)
    with pytest.raises(InputError, match="need exactly two"):
        metrics.measure(out, out / "predictions.csv")


LINEAR = (
    "from sklearn.linear_model import LogisticRegression\n"
    "from sklearn.pipeline import make_pipeline\n"
    "from sklearn.preprocessing import StandardScaler\n"
    "model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_train, y_train)"
)
SINGLE = (
    "from xgboost import XGBClassifier\n"
    "model = XGBClassifier(n_estimators=5, nthread=1).fit(X_train, y_train)"
)


@pytest.mark.parametrize(("cell", "how"), [(LINEAR, "within 1e-09"), (SINGLE, "bit for bit")])
def test_other_families_are_measured_too(small, scorer, cell, how):
    small.cells(*SMALL_CELLS[:3], cell)
    out = small.folder / "out"
    train.train(small.notebook, out)
    predictions = out / "predictions.csv"
    files = ["--model", out / "model.bin", "--input", out / "test_split.csv"]
    subprocess.run([scorer, *files, "--output", predictions], check=True)
    found, training, model = metrics.measure(out, predictions)
    assert found["parity"] == {"rows": 50, "class_differences": 0, "probability_differences": 0}
    card = model_card.read_card(FOLDER / model_card.FILE)
    behaviour = {"seed": 0, "pairs": 0, "checks": []}
    assert how in report.render(found, behaviour, training, decode(model), card)
    lines = predictions.read_text().splitlines()
    label, chance = lines[1].split(",")
    other = float(chance) + (-1e-6 if float(chance) > 0.5 else 1e-6)
    predictions.write_text("\n".join([lines[0], f"{label},{other!r}", *lines[2:], ""]))
    assert metrics.measure(out, predictions)[0]["parity"]["probability_differences"] == 1
