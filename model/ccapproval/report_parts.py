"""What the sections of the report share: how figures, intervals and verdicts are written."""

from __future__ import annotations

from html import escape
from typing import Any

from ccapproval.charts import percent

# Attributes with more groups get tables, but no lines or bars of their own.
MOST_DRAWN_GROUPS = 4
# Why a figure can fail in a model that may ship.
LIMITS = (
    "A figure passes if its whole interval keeps the limit of pipeline.toml, and fails if it does "
    "not itself. These limits inform; the rules of the verdict above decide what may ship."
)
VERDICTS = {"pass": "pass", "fail": "fail", "insufficient evidence": "unproven"}


def section(title: str, text: str, content: str) -> str:
    """A section with a title, a sentence on how to read it, and HTML."""
    anchor = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    return (
        f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2><p>{escape(text)}</p>'
        f"{content}</section>"
    )


def known(value: float | None, digits: int = 4) -> str:
    """A figure that is no percentage."""
    return "undefined" if value is None else f"{value:.{digits}f}"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points."""
    return "undefined" if value is None else f"{100 * value:.2f} points"


def interval_of(found: dict[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % interval of a figure, where it has one."""
    ends = found.get("evidence", {}).get(name, {}).get("interval")
    return None if ends is None else (ends[0], ends[1])


def ends(interval: tuple[float, float] | None, scale: float = 100, digits: int = 2) -> str:
    """An interval between two words; empty without one."""
    if interval is None:
        return ""
    low, high = (f"{scale * end:.{digits}f}" for end in interval)
    return f"{low} to {high}"


def estimate(found: dict[str, Any], name: str) -> str:
    """A rate with its interval in percent."""
    between = ends(interval_of(found, name))
    return percent(found[name]) + (f" ({between})" if between else "")


def word(verdict: str) -> str:
    """A verdict in its colour."""
    return f'<span class="word {VERDICTS[verdict]}">{escape(verdict)}</span>'


def judged(evidence: dict[str, Any]) -> str:
    """A verdict as a table's cell: a word, a colour, and why."""
    verdict = evidence.get("verdict")
    if verdict is None:
        return '<td class="said soft">no limit</td>'
    reason = evidence.get("reason")
    why = f'<br><span class="soft">{escape(reason)}</span>' if reason else ""
    return f'<td class="said">{word(verdict)}{why}</td>'
