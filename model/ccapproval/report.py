"""The report of one model: a single page that loads nothing, drawn from that model's records."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import Any

from ccapproval.charts import Series, bars, legend, percent, tree
from ccapproval.model_file import Model

COMPARED = {
    "selection_rate": "Selection rate",
    "recall": "True positive rate",
    "false_positive_rate": "False positive rate",
    "accuracy": "Accuracy",
}
PERFORMANCE = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"}
DIFFERENCES = {
    "demographic_parity_difference": ("Demographic parity", "difference in selection rates"),
    "equal_opportunity_difference": ("Equal opportunity", "difference in true positive rates"),
    "equal_accuracy_difference": ("Equal accuracy", "difference in accuracies"),
    "equalized_odds_difference": (
        "Equalized odds",
        "greater difference of true and false positive rates",
    ),
}
# Nothing may be fetched, whatever a feature's name contains.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points."""
    return "undefined" if value is None else f"{100 * value:.2f} points"


def render(metrics: dict[str, Any], training: dict[str, Any], model: Model) -> str:
    """The page as HTML.

    Args:
        metrics: the content of metrics.json.
        training: the content of training.json.
        model: the model file that both name.
    """
    positive = training["positive_class"]
    outcomes = {label: "approve" if label == positive else "deny" for label in model.classes}
    sections = (
        decision(training, model, outcomes),
        f'<div class="columns">{performance(metrics)}{importances(training)}</div>',
        confusion(metrics),
        *(fair(name, metrics) for name in metrics["groups"]),
        provenance(metrics, training, model),
    )
    style = files("ccapproval").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Credit card approval: model report</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{headline(metrics, training, model)}\n"
        f"<main>\n{chr(10).join(sections)}\n</main>\n"
        "<footer><p>Every figure on this page belongs to the one model named above and to its "
        "test rows.</p></footer>\n</body>\n</html>\n"
    )


def figure(name: str, value: str, note: str) -> str:
    """One headline figure."""
    return (
        f'<li class="figure"><span class="name">{escape(name)}</span>'
        f"<strong>{escape(value)}</strong><span>{escape(note)}</span></li>"
    )


def headline(metrics: dict[str, Any], training: dict[str, Any], model: Model) -> str:
    """Title, the model's identity and the figures that decide."""
    score = metrics["fairnessScoreEqualOpportunity"]
    parity = metrics["parity"]
    differing = max(parity["class_differences"], parity["probability_differences"])
    excluded = [name for name in training["sensitive"] if name not in training["features"]]
    how = f"within {model.tolerance}" if model.tolerance else "bit for bit"
    seen = f"does not see {', '.join(excluded)}" if excluded else "sees every recorded attribute"
    cards = (
        figure("Accuracy", percent(metrics["accuracy"]), f"on {metrics['rows']:,} test rows"),
        figure(
            "Equal opportunity gap",
            "undefined" if score is None else f"{score:.2f} points",
            "between the groups' true positive rates",
        ),
        figure(
            "Approved",
            percent(metrics["overall"]["selection_rate"]),
            f"of test rows; {percent(actual_share(metrics['overall']))} in the data",
        ),
        figure(
            "Predictor parity",
            f"{differing:,} differences",
            f"in {parity['rows']:,} predictions, {how} against the trained estimator",
        ),
    )
    return (
        "<header><h1>Credit card approval: model report</h1>"
        f'<p class="soft">{escape(training["estimator"])} that {escape(seen)}, model '
        f"<code>{escape(metrics['model'])}</code></p>"
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
        tables.extend(matrix(f"{name} {label}", rates) for label, rates in groups.items())
    return (
        "<section><h2>Confusion matrices</h2><p>Test rows, by what they are and what the model "
        f'says of them.</p><div class="matrices">{"".join(tables)}</div></section>'
    )


def fair(name: str, metrics: dict[str, Any]) -> str:
    """Rates by group of one sensitive attribute, and the differences between groups."""
    groups = metrics["groups"][name]
    gaps = metrics["fairness"][name]
    series = [
        Series(f"{name} {label} ({rates['n']:,} rows)", f"series-{index % 4}",
               [rates[rate] for rate in COMPARED])
        for index, (label, rates) in enumerate(groups.items())
    ]  # fmt: skip
    chart = bars(f"Rates by {name}", list(COMPARED.values()), series)
    rows = "".join(
        f'<tr><th scope="row">{title}<br><span class="soft">{meaning}</span></th>'
        f"<td>{points(gaps[key])}"
        + (
            f'<br><span class="soft">{escape(gaps["reasons"][key])}</span>'
            if gaps[key] is None
            else ""
        )
        + "</td></tr>"
        for key, (title, meaning) in DIFFERENCES.items()
    )
    return (
        f"<section><h2>Fairness by {escape(name)}</h2><p>Equal bars mean equal treatment under "
        f'that criterion.</p><div class="columns"><div>{legend(series)}'
        f'<figure class="chart">{chart}</figure></div><div><table><thead><tr>'
        '<th scope="col">Criterion</th><th scope="col">Greatest minus least</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div></section>"
    )


def importances(training: dict[str, Any]) -> str:
    """Importances of the features in the model that ships."""
    values = training.get("importances")
    if not values:
        return ""
    ranked = sorted(values.items(), key=lambda item: -item[1])
    series = [Series("Importance", "test", [value for _, value in ranked])]
    chart = bars("Feature importances", [name for name, _ in ranked], series)
    return (
        "<section><h2>Feature importances</h2><p>Share of the impurity that the splits of this "
        f'model remove, by feature.</p><figure class="chart">{chart}</figure></section>'
    )


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
    commands = (
        "uv sync --locked\n"
        "uv run python -m ccapproval.train --notebook credit_card_approval.ipynb --out output\n"
        "sha256sum output/model.bin"
    )
    return (
        f"<section><h2>Where it comes from</h2><dl>{items}</dl><h3>Make it again</h3>"
        "<p>In the folder of the model; the last line prints the model digest.</p>"
        f"<pre><code>{commands}</code></pre></section>"
    )
