"""The report of one model: a single page that loads nothing, drawn from that model's records.

    python -m ccapproval.report --run DIR --card FILE --out FILE [--live FILE]

It has a place for the verdict at its top, which the gate fills in.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shlex
import sys
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ccapproval import model_card, report_behaviour, report_curves, report_fairness
from ccapproval.charts import Series, bars, legend, percent, tree
from ccapproval.common import (
    InputError,
    command_line,
    digest,
    read_bytes,
    read_json_object,
    write_atomically,
)
from ccapproval.model_file import Decide, Model, decode
from ccapproval.report_parts import LIMITS, ends, interval_of, judged, known, section

PERFORMANCE = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"}
FIGURES = {
    **PERFORMANCE,
    "auc": "Area under the ROC curve",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
}
# An attribute of more groups has its counts in metrics.json alone.
MOST_MATRICES = 12
# Nothing may be fetched or run, whatever a feature's name contains, but the page's own script.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src '{script}'"
# Between these marks the gate writes its verdict.
UNJUDGED = (
    '<!-- verdict --><section class="verdict unjudged"><h2>Verdict: not judged yet</h2><p>The '
    "gate reads these figures after they were measured.</p></section><!-- end of verdict -->"
)


def render(
    metrics: dict[str, Any],
    behaviour: dict[str, Any],
    training: dict[str, Any],
    model: Model,
    card: dict[str, str],
    live: dict[str, Any] | None = None,
) -> str:
    """The page as HTML.

    Args:
        metrics: the content of metrics.json.
        behaviour: the content of behaviour.json.
        training: the content of training.json.
        model: the model file that both name.
        card: the owners' part of the model card.
        live: what the deployed model says of itself; None where nothing is deployed.

    Raises:
        InputError: the model card has an empty section.
    """
    positive = training["positive_class"]
    outcomes = {label: "approve" if label == positive else "deny" for label in model.classes}
    sections = (
        decision(training, model, outcomes),
        f'<div class="columns">{performance(metrics)}{importances(metrics)}</div>',
        report_curves.dependence(metrics, f"Mean probability of {outcomes[positive]}"),
        figures_table(metrics),
        confusion(metrics),
        report_curves.curves(metrics),
        report_curves.explorer(metrics, own_threshold(model)),
        *(report_fairness.attribute(name, metrics) for name in metrics["groups"]),
        report_fairness.intersections(metrics),
        report_fairness.baselines(metrics),
        report_behaviour.checks(behaviour),
        comparison(metrics, live),
        described(card, metrics, training, model),
        provenance(metrics, training, model),
    )
    style = files("ccapproval").joinpath("report.css").read_text(encoding="utf-8")
    script = base64.b64encode(hashlib.sha256(report_curves.SCRIPT.encode()).digest()).decode()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        f'content="{POLICY.format(script=f"sha256-{script}")}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(card['name'])}: model report</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{headline(metrics, training, model, card)}\n"
        f"<main>\n{chr(10).join(each for each in sections if each)}\n</main>\n"
        "<footer><p>Every figure on this page belongs to the one model named above and to its "
        "test rows, unless it says otherwise beside it.</p></footer>\n"
        f"<script>{report_curves.SCRIPT}</script>\n</body>\n</html>\n"
    )


def figure(name: str, value: str, note: str) -> str:
    """One headline figure."""
    return (
        f'<li class="figure"><span class="name">{escape(name)}</span>'
        f"<strong>{escape(value)}</strong><span>{escape(note)}</span></li>"
    )


def headline(
    metrics: dict[str, Any], training: dict[str, Any], model: Model, card: dict[str, str]
) -> str:
    """Title, the model's identity, the verdict's place and the figures that decide."""
    score = metrics["fairnessScoreEqualOpportunity"]
    parity = metrics["parity"]
    differing = max(parity["class_differences"], parity["probability_differences"])
    excluded = [name for name in training["sensitive"] if name not in training["features"]]
    how = f"within {model.tolerance}" if model.tolerance else "bit for bit"
    seen = f"does not see {', '.join(excluded)}" if excluded else "sees every recorded attribute"
    overall = metrics["overall"]
    gap = metrics["intervals"]["fairnessScoreEqualOpportunity"]
    between = f"95 % interval {ends(tuple(gap), 1)}, " if gap else ""
    cards = (
        figure(
            "Accuracy",
            percent(metrics["accuracy"]),
            f"95 % interval {ends(interval_of(overall, 'accuracy')) or 'none'}, on "
            f"{metrics['rows']:,} test rows",
        ),
        figure(
            "Equal opportunity gap",
            "undefined" if score is None else f"{score:.2f} points",
            f"{between}between the groups' true positive rates",
        ),
        figure(
            "Approved",
            percent(overall["selection_rate"]),
            f"of test rows; {percent(actual_share(overall))} in the data",
        ),
        figure(
            "Predictor parity",
            f"{differing:,} differences",
            f"in {parity['rows']:,} predictions, {how} against the trained estimator",
        ),
    )
    return (
        f"<header><h1>{escape(card['name'])}: model report</h1>"
        f'<p class="soft">{escape(training["estimator"])} that {escape(seen)}, model '
        f"<code>{escape(metrics['model'])}</code></p>{UNJUDGED}"
        f'<ul class="figures">{"".join(cards)}</ul></header>'
    )


def actual_share(rates: dict[str, Any]) -> float | None:
    """Share of rows that are actually positive."""
    return (rates["fn"] + rates["tp"]) / rates["n"] if rates["n"] else None


def decision(training: dict[str, Any], model: Model, outcomes: dict[int, str]) -> str:
    """The drawn tree."""
    if not model.is_one_tree:
        return ""
    picture, hidden = tree(model, outcomes, training.get("leaf_train_rows"))
    more = f" {hidden:,} nodes below the drawn levels are left out." if hidden else ""
    return (
        "<section><h2>How it decides</h2><p>Each box asks one question; <em>no</em> leads left, "
        "<em>yes</em> right. A leaf names the decision, the share of its training rows that were "
        f"approved, and its share of all training rows.{more}</p>"
        '<figure class="scroll" tabindex="0" role="group" aria-label="Decision tree, scrollable">'
        f"{picture}</figure></section>"
    )


def performance(metrics: dict[str, Any]) -> str:
    """Training against test rows."""
    series = [
        Series(
            f"Training rows ({metrics['train']['n']:,})",
            "train",
            [metrics["train"][name] for name in PERFORMANCE],
        ),
        Series(
            f"Test rows ({metrics['rows']:,})",
            "test",
            [metrics["overall"][name] for name in PERFORMANCE],
        ),
    ]
    chart = bars("Performance on training and test rows", list(PERFORMANCE.values()), series)
    return (
        "<section><h2>Performance</h2><p>A gap between the two would show that the model learned "
        f"its training rows by heart.</p>{legend(series)}"
        f'<figure class="chart">{chart}</figure></section>'
    )


def matrix(title: str, rates: dict[str, Any]) -> str:
    """A confusion matrix, shaded by the share of all its rows."""
    rows = []
    for actual, cells in (("denied", ("tn", "fp")), ("approved", ("fn", "tp"))):
        data = ""
        for cell in cells:
            share = rates[cell] / max(rates["n"], 1)
            data += (
                f'<td style="background:rgba(var(--heat),{0.45 * share:.3f})">'
                f"<b>{rates[cell]:,}</b>{percent(share)}</td>"
            )
        rows.append(f'<tr><th scope="row">Actually {actual}</th>{data}</tr>')
    return (
        f'<table class="matrix"><caption><b>{escape(title)}</b>, {rates["n"]:,} rows</caption>'
        '<thead><tr><td></td><th scope="col">Predicted deny</th>'
        f'<th scope="col">Predicted approve</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def confusion(metrics: dict[str, Any]) -> str:
    """Confusion matrices of all test rows and of each group."""
    tables = [matrix("All test rows", metrics["overall"])]
    for name, groups in metrics["groups"].items():
        if len(groups) <= MOST_MATRICES:
            tables.extend(matrix(f"{name} {label}", rates) for label, rates in groups.items())
    return section(
        "Confusion matrices",
        "Test rows, by what they are and what the model says of them.",
        f'<div class="matrices">{"".join(tables)}</div>',
    )


def figures_table(metrics: dict[str, Any]) -> str:
    """Every figure of all test rows with its interval and verdict."""
    overall = metrics["overall"]
    rows = ""
    for key, title in FIGURES.items():
        share = key in PERFORMANCE
        value = percent(overall[key]) if share else known(overall[key])
        between = ends(interval_of(overall, key), *((100, 2) if share else (1, 4)))
        rows += (
            f'<tr><th scope="row">{title}</th><td>{value}</td>'
            f'<td data-name="interval">{between or "none"}</td>'
            f"{judged(overall['evidence'][key])}</tr>"
        )
    method = metrics["method"]
    return section(
        "Figures with their intervals",
        f"95 % intervals: {method['intervals']}, {method['draws']:,} draws, seed "
        f"{method['seed']}. {LIMITS}",
        '<div class="scroll" tabindex="0" role="group" aria-label="Figures of all test rows">'
        '<table class="stacked"><thead><tr><th scope="col">Figure</th><th scope="col">Found</th>'
        '<th scope="col">95 % interval</th><th scope="col" class="said">Against its limit</th>'
        "</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>",
    )


def importances(metrics: dict[str, Any]) -> str:
    """What the shipped model's accuracy owes to each feature."""
    ranked = sorted(metrics["importances"].items(), key=lambda item: -item[1])
    # A feature whose shuffling happens to help is worth nothing, not less.
    series = [Series("Importance", "test", [max(0.0, value) for _, value in ranked])]
    chart = bars("Feature importances", [name for name, _ in ranked], series)
    return section(
        "Feature importances",
        "How much accuracy the model that ships loses on test rows when one feature's values are "
        "shuffled among them.",
        f'<figure class="chart">{chart}</figure>',
    )


def comparison(metrics: dict[str, Any], live: dict[str, Any] | None) -> str:
    """The candidate beside what is deployed."""
    title = "Beside the live model"
    if live is None:
        return section(title, "Nothing was deployed when this model was measured.", "")
    if live["model"] == metrics["model"]:
        return section(title, "This very model was the live one when it was measured.", "")
    rows = ""
    for name, scale, find in (
        ("Accuracy", 100, lambda of: of["accuracy"]),
        ("Precision", 100, lambda of: of["overall"]["precision"]),
        ("Recall", 100, lambda of: of["overall"]["recall"]),
        ("Approved", 100, lambda of: of["overall"]["selection_rate"]),
        ("Equal opportunity gap", 1, lambda of: of["fairnessScoreEqualOpportunity"]),
    ):
        both = [find(metrics), find(live)]
        shown = ["undefined" if each is None else f"{scale * each:.2f}" for each in both]
        change = "" if None in both else f"{scale * (both[0] - both[1]):+.2f}"
        cells = "".join(f"<td>{each}</td>" for each in (*shown, change))
        rows += f'<tr><th scope="row">{name}</th>{cells}</tr>'
    return section(
        title,
        f"In percent and points. Live is the model {live['model']}; each was measured on the "
        "test rows of its own run.",
        '<div class="scroll" tabindex="0" role="group" aria-label="Candidate and live model">'
        '<table><thead><tr><th scope="col">Figure</th><th scope="col">This model</th>'
        '<th scope="col">Live model</th><th scope="col">Change</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>",
    )


def described(
    card: dict[str, str], metrics: dict[str, Any], training: dict[str, Any], model: Model
) -> str:
    """The model card."""
    items = "".join(
        f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>"
        for title, text in model_card.sections(card, metrics, training, model)
    )
    text = "What it is for, what not, and what to know before relying on it."
    return section("Model card", text, f'<dl class="card">{items}</dl>')


def provenance(metrics: dict[str, Any], training: dict[str, Any], model: Model) -> str:
    """What the model was made from, and how to make it again."""
    data = training["dataset"]
    changed = {name: value for name, value in training["parameters"].items() if value is not None}
    entries = {
        "Model digest": f"<code>{escape(metrics['model'])}</code>",
        "Data": f"{escape(data['file'])}, {data['rows']:,} rows",
        "Data digest": f"<code>{escape(data['sha256'])}</code>",
        "Split": f"{training['train_rows']:,} training rows, {training['test_rows']:,} test rows",
        "Features": escape(", ".join(feature.name for feature in model.features)),
        "Sensitive": escape(", ".join(training["sensitive"]) or "none recorded"),
        "Parameters": escape(", ".join(f"{name} = {value}" for name, value in changed.items())),
        "Environment": escape(
            ", ".join(f"{name} {version}" for name, version in training["versions"].items())
        ),
    }
    items = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in entries.items())
    told = {feature.name: feature.reason for feature in model.features if feature.reason}
    # What denials say is a part of the model file, and so of its digest.
    texts = shlex.quote(json.dumps(told, ensure_ascii=False))
    commands = (
        "uv sync --locked\n"
        + (f"printf %s {texts} | " if told else "")
        + f"uv run python -m ccapproval.train --notebook {shlex.quote(training['notebook'])} "
        + ("--reasons /dev/stdin " if told else "")
        + "--out output\n"
        "sha256sum output/model.bin"
    )
    return (
        f"<section><h2>Where it comes from</h2><dl>{items}</dl><h3>Make it again</h3>"
        "<p>In the folder of the model; the last line prints the model digest.</p>"
        '<pre tabindex="0" role="group" aria-label="Commands"><code>'
        f"{escape(commands)}</code></pre></section>"
    )


def own_threshold(model: Model) -> float:
    """The probability from which on a model of two classes approves."""
    kind, slot, threshold = model.decision
    of_probability = slot - model.probabilities in (0, 1)
    return threshold if kind != Decide.GREATEST and of_probability else 0.5


def draw(run: Path, card: Path, live: Path | None) -> str:
    """The report of a run's records.

    Raises:
        InputError: a record is missing, speaks of another model, or leaves the card a hole.
    """
    metrics, behaviour, training = (
        read_json_object(run / f"{name}.json") for name in ("metrics", "behaviour", "training")
    )
    model = read_bytes(run / "model.bin")
    named = {metrics.get("model"), behaviour.get("model"), training["model"]["sha256"]}
    if named != {digest(model)}:
        raise InputError(
            f"the records in {run} and its model.bin speak of different models: measure again"
        )
    beside = None if live is None else read_json_object(live)
    texts = model_card.read_card(card)
    return render(metrics, behaviour, training, decode(model), texts, beside)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ccapproval.report", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="with the records of the run")
    parser.add_argument("--card", type=Path, required=True, help="the owners' part of the card")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--live", type=Path, help="what the deployed model says of itself")
    arguments = parser.parse_args()

    def run() -> None:
        page = draw(arguments.run, arguments.card, arguments.live)
        write_atomically(arguments.out, page)

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
