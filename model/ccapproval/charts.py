"""Charts of the report as inline SVG: text for every value, colours from the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ccapproval.model_file import LEAF, Model

# Levels of a larger tree that are drawn; the rest is named by its number of nodes.
DRAWN_DEPTH = 4

BAR = 18
GAP = 4
ROW_GAP = 20
LABEL_WIDTH = 118
PLOT_WIDTH = 230
VALUE_WIDTH = 72
# Of a label in letters; a longer one is cut, and whole in the tooltip.
LONGEST = 14

BOX_WIDTH = 146
BOX_HEIGHT = 58
COLUMN = 156
LEVEL = 112


@dataclass(frozen=True)
class Series:
    """One colour of a bar chart: its name, the CSS class of its bars, a value per category."""

    name: str
    style: str
    values: Sequence[float | None]


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage; `undefined` for None."""
    return "undefined" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float) -> str:
    """A number with thousands separators and no superfluous zeros."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def bars(label: str, categories: Sequence[str], series: Sequence[Series]) -> str:
    """Horizontal bars from 0 to 100 %, grouped by category; values are fractions.

    Args:
        label: what the chart shows, for those who cannot see it.
        categories: names down the left side.
        series: each with a value per category; None is written as undefined.
    """
    row = len(series) * (BAR + GAP) - GAP + ROW_GAP
    height = len(categories) * row + 26
    width = LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    bottom = len(categories) * row - ROW_GAP / 2 + 4
    for tick in range(0, 101, 25):
        x = LABEL_WIDTH + PLOT_WIDTH * tick / 100
        parts.append(f'<line class="grid" x1="{x}" y1="0" x2="{x}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="middle">{tick} %</text>'
        )
    for index, category in enumerate(categories):
        top = index * row + 4
        middle = top + (row - ROW_GAP) / 2
        shown = category if len(category) <= LONGEST else category[: LONGEST - 1] + "…"
        parts.append(
            f'<text class="category" x="{LABEL_WIDTH - 12}" y="{middle}" text-anchor="end" '
            f'dominant-baseline="central"><title>{escape(category)}</title>{escape(shown)}</text>'
        )
        for place, each in enumerate(series):
            value = each.values[index]
            y = top + place * (BAR + GAP)
            length = PLOT_WIDTH * (value or 0)
            parts.append(
                f'<rect class="{each.style}" x="{LABEL_WIDTH}" y="{y}" width="{length:.2f}" '
                f'height="{BAR}" rx="3"><title>{escape(category)}, {escape(each.name)}: '
                f"{percent(value)}</title></rect>"
            )
            parts.append(
                f'<text class="value" x="{LABEL_WIDTH + length + 6:.2f}" y="{y + BAR / 2}" '
                f'dominant-baseline="central">{percent(value)}</text>'
            )
    return "".join(parts) + "</svg>"


def legend(series: Sequence[Series]) -> str:
    """Names and colours of the series."""
    items = "".join(
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true"><rect class="{each.style}" width="12" '
        f'height="12" rx="3"/></svg>{escape(each.name)}</li>'
        for each in series
    )
    return f'<ul class="legend">{items}</ul>'


def question(model: Model, index: int) -> str:
    """What a split asks; `no` leads left, `yes` right."""
    node = model.nodes[index]
    feature = model.features[int(node["feature"])]
    if feature.type == "flag":
        return f"{feature.name} = 1"
    return f"{feature.name} > {number(float(node['threshold']))}"


def tree(
    model: Model, outcomes: dict[int, str], leaf_rows: Sequence[int] | None
) -> tuple[str, int]:
    """Draws the decision tree of a model file.

    Args:
        model: of the decision tree family.
        outcomes: what each class label means.
        leaf_rows: training rows in each leaf, in the order of the leaves, if known.

    Returns:
        The SVG, and how many nodes lie below the levels that are drawn.
    """
    total = sum(leaf_rows) if leaf_rows else 0
    shapes: list[str] = []
    edges: list[str] = []
    columns = 0
    levels = 0
    hidden = 0

    def below(index: int) -> int:
        """How many nodes lie under a node; a loop, since a tree may be deeper than the stack."""
        count, open_nodes = 0, [index]
        while open_nodes:
            node = model.nodes[open_nodes.pop()]
            if not node["flags"] & LEAF:
                count += 2
                open_nodes += [int(node["child"]), int(node["child"]) + 1]
        return count

    def draw(index: int, depth: int) -> float:
        """Draws a node over its children; returns the x of its middle."""
        nonlocal columns, levels, hidden
        node = model.nodes[index]
        levels = max(levels, depth)
        y = depth * LEVEL
        if not node["flags"] & LEAF and depth < DRAWN_DEPTH:
            child = int(node["child"])
            ends = [draw(child, depth + 1), draw(child + 1, depth + 1)]
            x = sum(ends) / 2
            for end, answer in zip(ends, ("no", "yes"), strict=True):
                edges.append(
                    f'<path class="edge" d="M{x} {y + BOX_HEIGHT} L{end} {y + LEVEL}"/>'
                    f'<text class="answer" x="{(x + end) / 2}" y="{y + (BOX_HEIGHT + LEVEL) / 2}" '
                    f'text-anchor="middle" dominant-baseline="central">{answer}</text>'
                )
            asked = question(model, index)
            # Longer names are cut in the box and complete in the tooltip.
            lines = [asked if len(asked) <= 21 else asked[:20] + "…"]
            shapes.append(box(x, y, "split", lines, asked))
            return x
        x = columns * COLUMN + COLUMN / 2
        columns += 1
        if not node["flags"] & LEAF:
            count = below(index)
            hidden += count
            shapes.append(box(x, y, "split", [f"… {count:,} nodes"], question(model, index)))
            return x
        leaf = int(node["child"])
        values = model.leaves[leaf]
        label = model.classes[int(values.argmax())]
        chance = float(values[model.positive_class])
        positive = label == model.classes[model.positive_class]
        meaning = outcomes[model.classes[model.positive_class]]
        lines = [outcomes[label], f"{percent(chance)} {meaning}"]
        if leaf_rows and total:
            lines.append(f"{percent(leaf_rows[leaf] / total, 1)} of rows")
        style = "positive" if positive else "negative"
        shapes.append(box(x, y, style, lines, ", ".join(lines)))
        return x

    draw(int(model.trees["root"][0]), 0)
    width = columns * COLUMN
    height = levels * LEVEL + BOX_HEIGHT + 4
    picture = (
        f'<svg class="tree" viewBox="0 -2 {width} {height}" style="min-width:{width * 0.72:.0f}px" '
        f'role="img" aria-label="Decision tree with {len(model.leaves)} leaves">'
        f"{''.join(edges)}{''.join(shapes)}</svg>"
    )
    return picture, hidden


def box(x: float, y: float, style: str, lines: Sequence[str], title: str) -> str:
    """A box around x with lines of text, the first one stronger."""
    text = "".join(
        f'<text class="{"first" if index == 0 else "more"}" x="{x}" '
        f'y="{y + BOX_HEIGHT / 2 + (index - (len(lines) - 1) / 2) * 17}" text-anchor="middle" '
        f'dominant-baseline="central">{escape(line)}</text>'
        for index, line in enumerate(lines)
    )
    return (
        f'<g class="node {style}"><title>{escape(title)}</title><rect x="{x - BOX_WIDTH / 2}" '
        f'y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>{text}</g>'
    )
