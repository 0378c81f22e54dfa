"""The notebook's plots: one style, one colour for each group and variant throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, PercentFormatter

from ccapproval.model_file import LEAF, Model, decode

GROUPS = ("#2f6fb5", "#c96a12", "#23806a", "#7a5aa6")
VARIANTS = ("#7b8794", "#2f6fb5", "#c96a12")
PALE = "#9aa8b8"
APPROVE = ("#dff0ea", "#23806a")
DENY = ("#f8e6e0", "#b5532f")
THOUSANDS = FuncFormatter(lambda value, _: f"{value / 1000:,.0f}k")
DRAWN_DEPTH = 4


def style() -> None:
    """Sets the style of all plots that follow."""
    plt.rcParams.update(
        {
            "figure.dpi": 96,
            "savefig.bbox": "tight",
            "font.size": 10.5,
            "axes.titlesize": 11.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#8a95a3",
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": "#e3e7ec",
            "legend.frameon": False,
        }
    )


def applicants(table: pd.DataFrame, group: str, income: str, target: str) -> Figure:
    """Incomes by group, and the share approved at each income by group."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.7), layout="constrained")
    edges = np.arange(0, 180_001, 4_000)
    middle = (edges[:-1] + edges[1:]) / 2
    for color, (label, rows) in zip(GROUPS, table.groupby(group), strict=False):
        name = f"{group} {label}"
        left.hist(rows[income], edges, histtype="stepfilled", alpha=0.18, color=color)
        left.hist(rows[income], edges, histtype="step", lw=1.8, color=color, label=name)
        count, _ = np.histogram(rows[income], edges)
        approved, _ = np.histogram(rows.loc[rows[target] == 1, income], edges)
        known = count >= 50
        right.plot(
            middle[known], approved[known] / count[known], "o-", ms=3, color=color, label=name
        )
    left.set(title="Applicants by income", xlabel="Income a year", ylabel="Applications")
    left.yaxis.set_major_formatter("{x:,.0f}")
    right.set(title="Approved at the same income", xlabel="Income a year", ylabel="Share approved")
    right.set_xlim(40_000, 120_000)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (left, right):
        axes.xaxis.set_major_formatter(THOUSANDS)
        axes.legend()
    plt.close(figure)
    return figure


def grouped_bars(table: pd.DataFrame, title: str, colors: Sequence[str], unit: float = 1) -> Figure:
    """Vertical bars: rows of the table along the axis, one colour a column; fractions as %.

    Args:
        table: the values to draw.
        title: of the plot.
        colors: one for each column.
        unit: greatest value of the axis, as a fraction.
    """
    figure, axes = plt.subplots(figsize=(11, 3.6), layout="constrained")
    width = 0.8 / len(table.columns)
    for index, (name, color) in enumerate(zip(table.columns, colors, strict=False)):
        at = np.arange(len(table)) + (index - (len(table.columns) - 1) / 2) * width
        bars = axes.bar(at, table[name], width * 0.92, color=color, label=str(name))
        axes.bar_label(bars, labels=[f"{100 * value:.2f}" for value in table[name]], padding=2)
    axes.set(title=title, ylim=(0, unit * 1.12), xticks=np.arange(len(table)), ylabel="Percent")
    axes.set_xticklabels(table.index)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    axes.grid(visible=False, axis="x")
    # Beside the bars, where it covers none.
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.close(figure)
    return figure


def confusion_matrices(variants: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """A confusion matrix for each variant (down) and each set of rows (across).

    Args:
        variants: by name, then by the name of the rows: counts `tn fp fn tp`.
    """
    across = list(next(iter(variants.values())))
    figure, grid = plt.subplots(
        len(variants),
        len(across),
        figsize=(3.1 * len(across) + 1.4, 2.6 * len(variants)),
        layout="constrained",
        squeeze=False,
    )
    for row, (variant, matrices) in zip(grid, variants.items(), strict=True):
        for axes, name in zip(row, across, strict=True):
            each = matrices[name]
            counts = np.array([[each["tn"], each["fp"]], [each["fn"], each["tp"]]])
            shares = counts / max(counts.sum(), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for (y, x), count in np.ndenumerate(counts):
                axes.text(
                    x,
                    y,
                    f"{count:,}\n{100 * shares[y, x]:.1f} %",
                    ha="center",
                    va="center",
                    color="white" if shares[y, x] > 0.55 else "#17202b",
                )
            axes.set_xticks([0, 1], ["deny", "approve"])
            axes.set_yticks([0, 1], ["denied", "approved"])
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(f"{name} ({counts.sum():,})", fontweight="normal")
        row[0].set_ylabel(variant, fontweight="bold", labelpad=12)
    figure.supxlabel("Columns: the model's decision. Rows: what happened.", fontsize=9.5)
    plt.close(figure)
    return figure


def importances(values: pd.Series) -> Figure:
    """Feature importances, the greatest on top."""
    ordered = values.sort_values()
    figure, axes = plt.subplots(figsize=(7.5, 0.5 * len(ordered) + 1.1), layout="constrained")
    bars = axes.barh(ordered.index, ordered, color=GROUPS[0], height=0.62)
    axes.bar_label(bars, labels=[f"{100 * value:.2f} %" for value in ordered], padding=4)
    axes.set(title="Feature importances of the model that ships", xlim=(0, 1.12))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xticks(np.linspace(0, 1, 5))
    axes.grid(visible=False, axis="y")
    plt.close(figure)
    return figure


def tree(estimator: Any, names: Mapping[int, str]) -> Figure:
    """The decision tree as the predictor sees it; levels below the fourth are not drawn.

    Args:
        estimator: a fitted classification tree.
        names: what each class label means.
    """
    # scikit-learn takes a second to import, and only this needs it.
    from ccapproval.export import export

    return tree_of(decode(export(estimator)), names)


def tree_of(model: Model, names: Mapping[int, str]) -> Figure:
    """As `tree`, of a model file."""
    figure, axes = plt.subplots(layout="constrained")
    axes.axis("off")
    columns = draw_node(axes, model, names, 0, 0, 0)[1]
    depth = min(int(model.trees["depth"][0]), DRAWN_DEPTH)
    axes.set(xlim=(0, columns), ylim=(-depth - 0.35, 0.35))
    figure.set_size_inches(1.63 * columns, 1.3 * (depth + 1))
    plt.close(figure)
    return figure


def draw_node(
    axes: plt.Axes, model: Model, names: Mapping[int, str], index: int, depth: int, column: int
) -> tuple[float, int]:
    """Draws a node over its children from a column on; its middle and the next free column."""
    node = model.nodes[index]
    if node["flags"] & LEAF or depth == DRAWN_DEPTH:
        x, column = column + 0.5, column + 1
        if not node["flags"] & LEAF:
            box(axes, x, -depth, "…", ("white", PALE))
            return x, column
        values = model.leaves[int(node["child"])]
        label = model.classes[int(values.argmax())]
        positive = label == model.classes[model.positive_class]
        share = f"{100 * values[model.positive_class]:.2f} % approved"
        box(axes, x, -depth, f"{names[label]}\n{share}", APPROVE if positive else DENY)
        return x, column
    child = int(node["child"])
    left, column = draw_node(axes, model, names, child, depth + 1, column)
    right, column = draw_node(axes, model, names, child + 1, depth + 1, column)
    x = (left + right) / 2
    for end, answer in ((left, "no"), (right, "yes")):
        axes.plot([x, end], [-depth - 0.22, -depth - 0.78], color=PALE, lw=1.3, zorder=0)
        axes.text(
            (x + end) / 2, -depth - 0.5, answer, ha="center", va="center", fontsize=9,
            bbox={"fc": "white", "ec": "none", "pad": 1.5},
        )  # fmt: skip
    name = model.features[int(node["feature"])].name
    box(axes, x, -depth, f"{name}\n> {node['threshold']:,.1f}", ("white", "#566273"))
    return x, column


def box(axes: plt.Axes, x: float, y: float, text: str, colors: tuple[str, str]) -> None:
    """A rounded box around text, filled and framed in two colours."""
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.42, y - 0.2), 0.84, 0.4, boxstyle="round,pad=0.02,rounding_size=0.06",
            fc=colors[0], ec=colors[1], lw=1.3,
        )
    )  # fmt: skip
    axes.text(x, y, text, ha="center", va="center", fontsize=9.5)
