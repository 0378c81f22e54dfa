"""The report's curves and its threshold explorer, drawn from the record's `curves`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Any

from ccapproval.charts import Series, legend, number, percent
from ccapproval.line_charts import Line, round_ticks, square
from ccapproval.report_parts import MOST_DRAWN_GROUPS, section

SCRIPT = files("ccapproval").joinpath("explorer.js").read_text(encoding="utf-8")
# Of the axes of a chart that stands beside three others.
SMALL = 212
SWEPT = {"selection_rate": "Approved", "accuracy": "Accuracy", "recall": "True positive rate"}


def parts(metrics: dict[str, Any]) -> Iterator[tuple[str, str, str | None, dict[str, Any]]]:
    """All rows, then each group: name, CSS class, attribute and curves."""
    curves = metrics["curves"]
    yield "All test rows", "all", None, curves["overall"]
    for attribute, groups in curves["groups"].items():
        for index, (label, found) in enumerate(groups.items()):
            yield f"{attribute} {label}", f"series-{index % 4}", attribute, found


def drawn(metrics: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """What is drawn as lines: all rows, and the first attribute's groups if they are few."""
    groups = metrics["curves"]["groups"]
    first = next((name for name, each in groups.items() if len(each) <= MOST_DRAWN_GROUPS), None)
    return [
        (name, style, found)
        for name, style, attribute, found in parts(metrics)
        if attribute in (None, first)
    ]


def pairs(found: dict[str, Any] | None, across: str, up: str) -> list[tuple[float, float]]:
    """The points of a curve; none where it is undefined."""
    return [] if found is None else list(zip(found[across], found[up], strict=True))


def curves(metrics: dict[str, Any]) -> str:
    """ROC, precision-recall and calibration, of all rows and by group."""
    lines = drawn(metrics)

    def lined(kind: str, across: str, up: str) -> list[Line]:
        return [Line(name, style, pairs(each[kind], across, up)) for name, style, each in lines]

    calibrated = [
        Line(
            name,
            style,
            [(each["probability"], each["positive"]) for each in found["calibration"]],
            marked=True,
        )
        for name, style, found in lines
    ]
    charts = (
        (
            "ROC",
            square(
                "ROC curves",
                lined("roc", "false_positive_rate", "true_positive_rate"),
                ("False positive rate", "True positive rate"),
                diagonal=True,
            ),
        ),
        (
            "Precision and recall",
            square(
                "Precision-recall curves",
                lined("precision_recall", "recall", "precision"),
                ("Recall", "Precision"),
            ),
        ),
        (
            "Calibration",
            square(
                "Calibration",
                calibrated,
                ("Mean predicted probability", "Share that is positive"),
                diagonal=True,
            ),
        ),
    )
    figures = "".join(
        f'<figure class="chart"><figcaption>{title}</figcaption>{chart}</figure>'
        for title, chart in charts
    )
    names = legend([Series(name, style, ()) for name, style, _ in lines])
    return section(
        "Curves",
        "Over all thresholds: what is gained and what it costs; and whether a probability means "
        "what it says, each mark being a tenth of the rows.",
        f'{names}<div class="curves">{figures}</div>',
    )


def dependence(metrics: dict[str, Any], chance: str) -> str:
    """How the mean probability follows each feature; empty where no feature is a number."""
    figures = ""
    for name, found in metrics["dependence"].items():
        reach = (found["value"][0], found["value"][-1])
        line = Line(name, "series-0", pairs(found, "value", "probability"), marked=True)
        chart = square(
            f"Mean probability by {name}",
            [line],
            (name, chance),
            reach=reach,
            ticks_across=round_ticks(found["value"]),
            write_across=number,
            side=SMALL,
        )
        figures += f'<figure class="chart"><figcaption>{escape(name)}</figcaption>{chart}</figure>'
    if not figures:
        return ""
    return section(
        "How the answer follows each feature",
        "The mean probability over test rows while one feature is set to a value in all of them, "
        "the others left as they are.",
        f'<div class="curves">{figures}</div>',
    )


def explorer(metrics: dict[str, Any], own: float) -> str:
    """Rates by threshold, with a slider where scripts run, else at the model's own threshold.

    Args:
        metrics: the content of metrics.json.
        own: the probability from which on the model that ships approves.
    """
    every = list(parts(metrics))
    thresholds = metrics["curves"]["overall"]["sweep"]["threshold"]
    current = min(range(len(thresholds)), key=lambda index: abs(thresholds[index] - own))
    data = {
        "thresholds": thresholds,
        "digits": 2,
        "current": current,
        "series": [
            {"attribute": attribute, **{rate: found["sweep"][rate] for rate in SWEPT}}
            for _, _, attribute, found in every
        ],
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f'<td data-series="{index}" data-rate="{rate}">'
            f"{percent(found['sweep'][rate][current])}</td>"
            for rate in SWEPT
        )
        + "</tr>"
        for index, (name, _, _, found) in enumerate(every)
    )
    gaps = "".join(
        f'<tr class="gap"><th scope="row">Widest gap by {escape(attribute)}</th>'
        + "".join(
            f'<td data-gap="{escape(attribute)}" data-rate="{rate}">'
            f"{gap(groups, rate, current)}</td>"
            for rate in SWEPT
        )
        + "</tr>"
        for attribute, groups in metrics["curves"]["groups"].items()
    )
    heads = "".join(f'<th scope="col">{title}</th>' for title in SWEPT.values())
    # In a script element only `</` could end it early.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return section(
        "Threshold explorer",
        "What if every row were approved whose probability is at least the threshold? Looking "
        f"changes nothing: the model that ships decides at {own:.2f}.",
        f'<div class="explorer"><script type="application/json">{text}</script>'
        '<p class="controls" hidden><label>Threshold '
        f'<input type="range" min="0" max="{len(thresholds) - 1}" value="{current}"></label> '
        f'<output>{own:.2f}</output> <button type="button">Back to {own:.2f}</button></p>'
        '<p class="now soft">Where the model that ships decides.</p>'
        '<div class="scroll" tabindex="0" role="group" aria-label="Rates at the threshold">'
        f'<table><thead><tr><th scope="col">Rows</th>{heads}</tr></thead>'
        f"<tbody>{rows}{gaps}</tbody></table></div></div>",
    )


def gap(groups: dict[str, Any], rate: str, index: int) -> str:
    """Greatest minus least rate of the groups at one threshold."""
    values = [each["sweep"][rate][index] for each in groups.values()]
    if len(values) < 2 or None in values:
        return "undefined"
    return f"{100 * (max(values) - min(values)):.2f} points"
