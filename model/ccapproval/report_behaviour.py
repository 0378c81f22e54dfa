"""The report on behaviour: what was tried, how often it went wrong, and the worst of it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from ccapproval.report_parts import section, word

KINDS = {
    "monotone": "More of one thing must not turn an approval into a denial",
    "invariant": "Another value of this changes nothing",
    "cases": "Declared cases have their declared answers",
    "overfit": "As good on unseen rows as in training",
    "baseline": "More often right than a simpler model",
    "slices": "No value or range of a feature is served badly",
    "data": "The rows can be trusted",
    "leakage": "No feature alone gives the answer away",
}


def checks(behaviour: dict[str, Any]) -> str:
    """All checks of behaviour.json, failed ones first, with their worst examples."""
    order = ("fail", "insufficient evidence", "pass")
    ranked = sorted(behaviour["checks"], key=lambda check: order.index(check["status"]))
    rows = "".join(row(check) for check in ranked)
    examples = "".join(worst(check) for check in ranked if check["examples"])
    return section(
        "Behaviour",
        f"{behaviour['pairs']:,} pairs of applications that differ in one value, seed "
        f"{behaviour['seed']}, went through the program and the model file that ship; the other "
        "checks look at slices of the test rows and at the data.",
        '<div class="scroll" tabindex="0" role="group" aria-label="Checks of behaviour">'
        '<table class="stacked">'
        '<thead><tr><th scope="col">Check</th><th scope="col">Looked at</th>'
        '<th scope="col">Violations</th><th scope="col" class="said">Result</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{examples}",
    )


def row(check: dict[str, Any]) -> str:
    """One check: name, rows or pairs, violations, result with its reason."""
    meaning = KINDS.get(check["kind"])
    about = f'<br><span class="soft">{meaning}</span>' if meaning else ""
    warns = " (only warns)" if check["severity"] == "warn" else ""
    return (
        f'<tr><th scope="row">{escape(check["name"])}{about}</th>'
        f'<td data-name="looked at">{check["n"]:,}</td>'
        f'<td data-name="violations">{check["violations"]:,}</td>'
        f'<td class="said">{word(check["status"])}{warns}<br>'
        f'<span class="soft">{escape(check["reason"])}</span></td></tr>'
    )


def worst(check: dict[str, Any]) -> str:
    """The worst examples of one check as a table; open where it is about slices or failed."""
    name = escape(check["name"])
    keys = dict.fromkeys(key for example in check["examples"] for key in example)
    heads = "".join(f'<th scope="col">{escape(key)}</th>' for key in keys)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(told(example.get(key)))}</td>" for key in keys) + "</tr>"
        for example in check["examples"]
    )
    opened = " open" if check["kind"] == "slices" or check["status"] != "pass" else ""
    return (
        f"<details{opened}><summary>The worst examples of {name}</summary>"
        f'<div class="scroll" tabindex="0" role="group" aria-label="Examples of {name}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def told(value: object) -> str:
    """A value of an example in words: figures short, several one after the other."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{name} {told(each)}" for name, each in value.items())
    if isinstance(value, Iterable):
        return ", ".join(map(told, value))
    if isinstance(value, float) and abs(value) >= 1e-4:
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{value:,}" if type(value) is int else str(value)
