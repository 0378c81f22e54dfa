"""The report on behaviour: what was tried, how often it went wrong, and the worst of it."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from ccapproval.report_parts import section, word

KINDS = {
    "monotone": "More of one thing must not turn an approval into a denial",
    "invariant": "Another value of this changes nothing",
    "cases": "Declared cases have their declared answers",
    "overfit": "As good on unseen rows as in training",
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
        '<div class="scroll" tabindex="0" role="group" aria-label="Checks of behaviour"><table>'
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
        f'<tr><th scope="row">{escape(check["name"])}{about}</th><td>{check["n"]:,}</td>'
        f'<td>{check["violations"]:,}</td><td class="said">{word(check["status"])}{warns}<br>'
        f'<span class="soft">{escape(check["reason"])}</span></td></tr>'
    )


def worst(check: dict[str, Any]) -> str:
    """The worst examples of one check, as the record has them."""
    lines = "\n".join(json.dumps(example, ensure_ascii=False) for example in check["examples"])
    name = escape(check["name"])
    return (
        f"<details><summary>The worst examples of {name}</summary>"
        f'<pre tabindex="0" role="group" aria-label="Examples of {name}"><code>{escape(lines)}'
        "</code></pre></details>"
    )
