"""Where the marks of the report's charts stand: what is drawn is what the figures say."""

import re
from xml.etree import ElementTree

import pytest
from sklearn.tree import DecisionTreeClassifier

from ccapproval import charts, export, line_charts, metrics, report_curves
from ccapproval.line_charts import Interval, Line
from ccapproval.model_file import decode


def elements(svg, tag, style):
    """The elements of a class, in the order in which they are drawn."""
    found = ElementTree.fromstring(svg).iter(tag)  # noqa: S314, our own drawing
    return [each for each in found if each.get("class") == style]


def points(path):
    """The points of a path of absolute `M`, `L`, `H` and `V`."""
    found, at = [], (0.0, 0.0)
    for step, numbers in re.findall(r"([MLHV])([-\d. ]+)", path):
        values = [float(each) for each in numbers.split()]
        at = {"H": (values[0], at[1]), "V": (at[0], values[0])}.get(step, tuple(values))
        found.append(at)
    return found


def scale(svg, axis):
    """Between which ends of the drawing an axis lies, by its grid: across 0, down 1."""
    lines = [points(each.get("d")) for each in elements(svg, "path", "grid")]
    # A line across an axis keeps its place on it.
    places = [line[0][axis] for line in lines if line[0][axis] == line[1][axis]]
    return places[0], places[-1]


def on(ends, share):
    return pytest.approx(ends[0] + share * (ends[1] - ends[0]), abs=0.06)


def test_intervals_lie_between_their_ends_on_the_scale_that_is_written():
    rows = [
        Interval("known", "a", 0.3, 0.2, 0.6, "30 %"),
        Interval("alone", "b", 0.5, None, None, "50 %"),
        Interval("unknown", "c", None, None, None, "undefined"),
        Interval("beyond", "d", 0.8, 0.7, 3.0, "80 %"),
    ]
    svg = line_charts.intervals("x", rows, -0.2, 0.8, write=line_charts.write, limit=0.4)
    ends = scale(svg, 0)
    assert ends[0] < ends[1]
    labels = [each.text for each in elements(svg, "text", "tick")]
    assert labels == ["-20 %", "5 %", "30 %", "55 %", "80 %"]
    marks = {style: elements(svg, "circle", style) for style in "abcd"}
    shares = {"a": 0.5, "b": 0.7, "c": None, "d": 1.0}
    for style, share in shares.items():
        places = [float(mark.get("cx")) for mark in marks[style]]
        assert places == ([] if share is None else [on(ends, share)])
    lines = {style: elements(svg, "path", f"line {style}") for style in "abcd"}
    assert {style: len(drawn) for style, drawn in lines.items()} == {"a": 1, "b": 0, "c": 0, "d": 1}
    for style, low, high in (("a", 0.4, 0.8), ("d", 0.9, 1.0)):
        line = points(lines[style][0].get("d"))
        assert [line[0][0], line[1][0]] == [on(ends, low), on(ends, high)]
        assert line[0][1] == float(marks[style][0].get("cy"))
    (limit,) = elements(svg, "path", "limit")
    assert points(limit.get("d"))[0][0] == on(ends, 0.6)
    assert limit[0].text == "limit 40 %"
    heights = [float(mark.get("cy")) for style in "abd" for mark in marks[style]]
    assert heights == sorted(heights)
    assert "limit" not in line_charts.intervals("x", rows, 0, 1, write=line_charts.write)


def test_a_curve_runs_to_the_right_and_up():
    values = [(20, 0.0), (40, 0.25), (60, 1.0)]
    lines = [Line("a", "a", values, marked=True), Line("b", "b", [])]
    svg = line_charts.square("x", lines, ("across", "up"), reach=(20, 60), write_across=str)
    across, up = scale(svg, 0), scale(svg, 1)
    assert across[0] < across[1]
    # Down is where the drawing's coordinates grow.
    assert up[0] > up[1]
    expected = [(on(across, (x - 20) / 40), on(up, y)) for x, y in values]
    (curve,) = elements(svg, "path", "line a")
    assert points(curve.get("d")) == expected
    marks = elements(svg, "circle", "a")
    assert [(float(each.get("cx")), float(each.get("cy"))) for each in marks] == expected
    assert [each[0].text for each in marks] == ["a: 20, 0 %", "a: 40, 25 %", "a: 60, 100 %"]
    assert [each.get("d") for each in elements(svg, "path", "line b")] == [""]
    assert elements(svg, "path", "equal") == []

    svg = line_charts.square("x", [], ("across", "up"), diagonal=True)
    (equal,) = elements(svg, "path", "equal")
    across, up = scale(svg, 0), scale(svg, 1)
    assert points(equal.get("d")) == [(across[0], up[0]), (across[1], up[1])]


def test_bars_are_as_long_as_their_values():
    series = [charts.Series("a", "a", [0.25, 1.0]), charts.Series("b", "b", [None, 0.5])]
    svg = charts.bars("x", ["first", "second"], series)
    grid = [float(each.get("x1")) for each in elements(svg, "line", "grid")]
    ticks = [each.text for each in elements(svg, "text", "tick")]
    assert (ticks[0], ticks[-1]) == ("0 %", "100 %")
    for style, values in (("a", [0.25, 1.0]), ("b", [0, 0.5])):
        for bar, value in zip(elements(svg, "rect", style), values, strict=True):
            assert float(bar.get("x")) == grid[0]
            assert float(bar.get("width")) == pytest.approx(value * (grid[-1] - grid[0]), abs=0.01)
    written = [each.text for each in elements(svg, "text", "value")]
    assert written == ["25.00 %", "undefined", "100.00 %", "50.00 %"]


def test_no_leads_to_the_left_box_and_yes_to_the_right_one():
    rows = [[0.0], [1.0], [2.0], [3.0]]
    tree = DecisionTreeClassifier(random_state=0).fit(rows, [0, 0, 1, 1])
    model = decode(export.export(tree))
    svg, _ = charts.tree(model, {0: "deny", 1: "approve"}, None)

    def middle(style):
        (box,) = elements(svg, "g", f"node {style}")
        (rect,) = box.iter("rect")
        return float(rect.get("x")) + float(rect.get("width")) / 2

    ends = [points(each.get("d").replace(" L", "L")) for each in elements(svg, "path", "edge")]
    answers = {each.text: float(each.get("x")) for each in elements(svg, "text", "answer")}
    for answer, style, (begin, end) in zip(
        ("no", "yes"), ("negative", "positive"), ends, strict=True
    ):
        assert (begin[0], end[0]) == (middle("split"), middle(style))
        assert answers[answer] == (begin[0] + end[0]) / 2
    assert middle("negative") < middle("positive")


def test_the_curves_are_those_of_the_record(run):
    found = metrics.measure(run, run / "predictions.csv")[0]
    roc, precision_recall, calibration = re.findall(
        r"<svg viewBox.*?</svg>", report_curves.curves(found), re.S
    )[-3:]
    overall = found["curves"]["overall"]

    def drawn(svg):
        across, up = scale(svg, 0), scale(svg, 1)
        (curve,) = elements(svg, "path", "line all")
        share = lambda ends, place: (place - ends[0]) / (ends[1] - ends[0])  # noqa: E731
        return [(share(across, x), share(up, y)) for x, y in points(curve.get("d"))]

    def recorded(curve, across, up):
        return [
            pytest.approx(each, abs=0.001) for each in zip(curve[across], curve[up], strict=True)
        ]

    assert drawn(roc) == recorded(overall["roc"], "false_positive_rate", "true_positive_rate")
    assert drawn(precision_recall) == recorded(overall["precision_recall"], "recall", "precision")
    bins = {
        name: [each[name] for each in overall["calibration"]]
        for name in ("probability", "positive")
    }
    assert drawn(calibration) == recorded(bins, "probability", "positive")
