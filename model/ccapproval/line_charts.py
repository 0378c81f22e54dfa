"""Line, calibration and interval charts of the report as inline SVG, in the page's own style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Of a chart with two axes, in user units; the page scales it.
SIDE = 300
LEFT = 70
BOTTOM = 44
TOP = 8
RIGHT = 24
# Of a chart of intervals: each row has its words above its line, so that both fit a phone.
WIDTH = 400
MARGIN = 22
ROW = 52
# Of a name in letters; a longer one is cut, and whole in the tooltip.
LONGEST = 26
TICKS = 5
# Between round values of any length.
STEPS = 3


@dataclass(frozen=True)
class Line:
    """One curve: its name, the CSS class of its colour, and points (x, y) from left to right."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]
    # Whether the points are marked, as where each one stands for a bin.
    marked: bool = False


@dataclass(frozen=True)
class Interval:
    """One estimate with its interval; None where it is undefined. `style` colours it."""

    name: str
    style: str
    value: float | None
    low: float | None
    high: float | None
    text: str


def write(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.0f} %"


def place(low: float, high: float, begin: float, length: float) -> Callable[[float], float]:
    """Where a value between `low` and `high` stands on an axis; beyond it, at its end."""
    span = high - low or 1.0

    def at(value: float) -> float:
        return begin + length * (min(max(value, low), high) - low) / span

    return at


def ticks(low: float, high: float) -> list[float]:
    """A few values at equal distances, both ends among them."""
    return [low + (high - low) * index / (TICKS - 1) for index in range(TICKS)]


def round_ticks(values: Sequence[float]) -> list[float]:
    """A few values to write below an axis: all, if they are few, else round ones between them."""
    known = sorted(set(values))
    if len(known) <= TICKS:
        return known
    low, high = known[0], known[-1]
    power = 10.0 ** math.floor(math.log10((high - low) / STEPS))
    factors = (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in factors if (high - low) / (power * factor) <= STEPS)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [step * index for index in range(first, last + 1)]


def square(
    label: str,
    lines: Sequence[Line],
    axes: tuple[str, str],
    *,
    diagonal: bool = False,
    reach: tuple[float, float] = (0, 1),
    ticks_across: Sequence[float] | None = None,
    side: int = SIDE,
    write_across: Callable[[float], str] | None = None,
) -> str:
    """A chart of curves whose vertical axis runs from 0 to 1, and so the other one unless said.

    Args:
        label: what the chart shows, for those who cannot see it.
        lines: the curves, in the order in which they are drawn.
        axes: the names of the horizontal and the vertical axis.
        diagonal: whether the line of equality is drawn.
        reach: both ends of the horizontal axis.
        ticks_across: what is written below it; a few values at equal distances, if left out.
        side: length of both axes; a small chart is read at a larger scale.
        write_across: how its ticks are written; as percentages, if left out.
    """
    write_across = write_across or write
    width, height = LEFT + side + RIGHT, TOP + side + BOTTOM
    across = place(*reach, LEFT, side)
    down = place(0, 1, TOP + side, -side)
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    for tick in ticks(*reach) if ticks_across is None else ticks_across:
        x = across(tick)
        parts.append(
            f'<path class="grid" d="M{x:.1f} {TOP}V{TOP + side}"/>'
            f'<text class="tick" x="{x:.1f}" y="{TOP + side + 17}" text-anchor="middle">'
            f"{write_across(tick)}</text>"
        )
    for tick in ticks(0, 1):
        y = down(tick)
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{LEFT + side}"/>'
            f'<text class="tick" x="{LEFT - 7}" y="{y:.1f}" text-anchor="end" '
            f'dominant-baseline="central">{write(tick)}</text>'
        )
    if diagonal:
        parts.append(
            f'<path class="equal" d="M{across(0)} {down(0)}L{across(1)} {down(1)}"><title>'
            "equality</title></path>"
        )
    for line in lines:
        points = [(across(x), down(y)) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
        parts.append(f'<path class="line {line.style}" d="{path}"/>')
        if line.marked:
            parts.extend(
                f'<circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"><title>'
                f"{escape(line.name)}: {write_across(at[0])}, {write(at[1])}</title></circle>"
                for (x, y), at in zip(points, line.points, strict=True)
            )
    parts.append(
        f'<text class="axis" x="{LEFT + side / 2}" y="{height - 6}" text-anchor="middle">'
        f"{escape(axes[0])}</text>"
        f'<text class="axis" transform="translate(12 {TOP + side / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(axes[1])}</text>'
    )
    return "".join(parts) + "</svg>"


def intervals(
    label: str,
    rows: Sequence[Interval],
    low: float,
    high: float,
    *,
    write: Callable[[float], str],
    limit: float | None = None,
) -> str:
    """Estimates under each other on one scale, each a mark on the line of its interval.

    Args:
        label: what the chart shows, for those who cannot see it.
        rows: the estimates.
        low: the scale's left end.
        high: the scale's right end.
        write: how a tick is written.
        limit: a value that none should exceed, drawn as a line.
    """
    height = len(rows) * ROW + 26
    at = place(low, high, MARGIN, WIDTH - 2 * MARGIN)
    bottom = len(rows) * ROW
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">']
    for tick in ticks(low, high):
        x = at(tick)
        parts.append(
            f'<path class="grid" d="M{x:.1f} 0V{bottom}"/><text class="tick" x="{x:.1f}" '
            f'y="{bottom + 17}" text-anchor="middle">{write(tick)}</text>'
        )
    if limit is not None:
        parts.append(
            f'<path class="limit" d="M{at(limit):.1f} 0V{bottom}"><title>limit '
            f"{write(limit)}</title></path>"
        )
    for index, row in enumerate(rows):
        words, y = index * ROW + 13, index * ROW + 34
        name = row.name if len(row.name) <= LONGEST else row.name[: LONGEST - 1] + "…"
        parts.append(
            f'<text class="category" x="0" y="{words}" dominant-baseline="central">'
            f"<title>{escape(row.name)}</title>{escape(name)}</text>"
            f'<text class="value" x="{WIDTH}" y="{words}" text-anchor="end" '
            f'dominant-baseline="central">{escape(row.text)}</text>'
        )
        if row.low is not None and row.high is not None:
            parts.append(
                f'<path class="line {row.style}" d="M{at(row.low):.1f} {y}H{at(row.high):.1f}'
                f'M{at(row.low):.1f} {y - 5}v10M{at(row.high):.1f} {y - 5}v10"/>'
            )
        if row.value is not None:
            parts.append(
                f'<circle class="{row.style}" cx="{at(row.value):.1f}" cy="{y}" r="5"><title>'
                f"{escape(row.name)}: {escape(row.text)}</title></circle>"
            )
    return "".join(parts) + "</svg>"
