"""The report's sections on groups: rates with intervals, criteria with verdicts, baselines."""

from __future__ import annotations

from html import escape
from typing import Any

from ccapproval.charts import percent
from ccapproval.line_charts import Interval, intervals
from ccapproval.report_parts import (
    LIMITS,
    ends,
    estimate,
    interval_of,
    judged,
    known,
    points,
    section,
)

COMPARED = {
    "selection_rate": "Selection rate",
    "recall": "True positive rate",
    "false_positive_rate": "False positive rate",
    "precision": "Precision",
    "accuracy": "Accuracy",
}
CRITERIA = {
    "demographic_parity_difference": ("Demographic parity", "difference in selection rates"),
    "demographic_parity_ratio": ("Demographic parity, ratio", "least over greatest rate"),
    "equal_opportunity_difference": ("Equal opportunity", "difference in true positive rates"),
    "equal_accuracy_difference": ("Equal accuracy", "difference in accuracies"),
    "equalized_odds_difference": (
        "Equalized odds",
        "greater difference of true and false positive rates",
    ),
    "predictive_parity_difference": ("Predictive parity", "difference in precisions"),
}
RATIO = "demographic_parity_ratio"


def attribute(name: str, metrics: dict[str, Any]) -> str:
    """Rates by group of one sensitive attribute, and the criteria that compare them."""
    groups, gaps = metrics["groups"][name], metrics["fairness"][name]
    charts = "".join(
        f"<figure><figcaption>{title}</figcaption>{rate_chart(name, rate, title, groups)}</figure>"
        for rate, title in COMPARED.items()
    )
    return section(
        f"Fairness by {name}",
        "Each mark is a group's rate on the test rows, the line its 95 % interval. Marks above "
        "each other mean equal treatment under that criterion. Where groups differ, no model can "
        f"keep all criteria at once. {LIMITS}",
        f'<div class="intervals">{charts}</div>{criteria(gaps)}',
    )


def rate_chart(attribute: str, rate: str, title: str, groups: dict[str, Any]) -> str:
    """One rate of every group with its interval."""
    rows = []
    for index, (label, found) in enumerate(groups.items()):
        low, high = interval_of(found, rate) or (None, None)
        name = f"{attribute} {label}"
        text = estimate(found, rate)
        rows.append(Interval(name, f"series-{index % 4}", found[rate], low, high, text))
    return intervals(f"{title} by group", rows, 0, 1, write=lambda value: f"{100 * value:.0f} %")


def criteria(gaps: dict[str, Any]) -> str:
    """The criteria as a table: value, interval, verdict."""
    rows = ""
    for key, (title, meaning) in CRITERIA.items():
        if key not in gaps:
            continue
        value = known(gaps[key], 3) if key == RATIO else points(gaps[key])
        scale, digits = (1, 3) if key == RATIO else (100, 2)
        between = ends(interval_of(gaps, key), scale, digits)
        rows += (
            f'<tr><th scope="row">{title}<br><span class="soft">{meaning}</span></th>'
            f'<td>{value}</td><td data-name="interval">{between or "none"}</td>'
            f"{judged(gaps['evidence'][key])}</tr>"
        )
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="Fairness criteria">'
        '<table class="stacked">'
        '<thead><tr><th scope="col">Criterion</th><th scope="col">Found</th>'
        '<th scope="col">95 % interval</th><th scope="col" class="said">Against its limit</th>'
        "</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def intersections(metrics: dict[str, Any]) -> str:
    """Groups by several attributes together; empty where there is only one attribute."""
    parts = []
    for name, found in metrics["intersections"].items():
        if found["reason"]:
            parts.append(f"<h3>{escape(name)}</h3><p>Not examined: {escape(found['reason'])}.</p>")
            continue
        heads = "".join(f'<th scope="col">{title}</th>' for title in COMPARED.values())
        rows = "".join(
            f'<tr><th scope="row">{escape(label)}</th><td>{each["n"]:,}</td>'
            + "".join(f"<td>{escape(estimate(each, rate))}</td>" for rate in COMPARED)
            + "</tr>"
            for label, each in found["groups"].items()
        )
        parts.append(
            f'<h3>{escape(name)}</h3><div class="scroll" tabindex="0" role="group" '
            f'aria-label="Rates by {escape(name)}"><table><thead><tr><th scope="col">Group</th>'
            f'<th scope="col">Rows</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
            f"{criteria(found['fairness'])}"
        )
    if not parts:
        return ""
    text = "Attributes that each look fair alone can hide a group that is not, where they meet."
    return section("Where attributes meet", text, "".join(parts))


def baselines(metrics: dict[str, Any]) -> str:
    """The figure that is easily taken for the model's own, beside the model's own."""
    aware = metrics["baselines"]["aware"]
    title = "Which figure is whose"
    if aware["reason"]:
        text = f"There is no baseline that sees the sensitive attributes: {aware['reason']}."
        return section(title, text, "")
    rows = ""
    drawn = []
    score = "fairnessScoreEqualOpportunity"
    for name, gap, found, accuracy, style in (
        (
            "The model that ships",
            metrics[score],
            metrics["intervals"][score],
            metrics["accuracy"],
            "series-0",
        ),
        ("Aware baseline", aware[score], aware["interval"], aware["overall"]["accuracy"], "train"),
    ):
        between = ends(tuple(found), 1) if found else "none"
        shown = "undefined" if gap is None else f"{gap:.2f} points"
        rows += (
            f'<tr><th scope="row">{name}</th><td>{percent(accuracy)}</td><td>{shown}</td>'
            f"<td>{between}</td></tr>"
        )
        drawn.append(Interval(name, style, gap, *(found or (None, None)), shown))
    widest = max((each.high or 0 for each in drawn), default=0)
    chart = intervals(
        "Equal opportunity gap of both models",
        drawn,
        0,
        max(10.0, widest * 1.1),
        write=lambda value: f"{value:.0f}",
    )
    return section(
        title,
        f"Only the first line speaks of what ships. The baseline is {aware['description']} "
        f"({', '.join(aware['features'])}); it shows what repeating history would look like, and "
        "never ships.",
        f'<figure class="chart">{chart}</figure><div class="scroll" tabindex="0" role="group" '
        'aria-label="The model that ships and the baseline"><table><thead><tr>'
        '<th scope="col">Model</th><th scope="col">Accuracy</th>'
        '<th scope="col">Equal opportunity gap</th><th scope="col">95 % interval</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>",
    )
