import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from ccapproval import charts, export, metrics, report
from ccapproval.model_file import LEAF, NODE_DTYPE, TREE_DTYPE, decode, encode

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags and text, and checks that every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def measured(run):
    return metrics.measure(run, run / "predictions.csv")


@pytest.fixture(scope="module")
def html(measured):
    found, training, model = measured
    return report.render(found, training, decode(model))


def test_page_shows_the_figures_of_the_record(html, measured):
    found, training, model = measured
    text = Page(html).text
    assert f"{100 * found['accuracy']:.2f} %" in text
    assert f"{found['fairnessScoreEqualOpportunity']:.2f} points" in text
    assert "0 differences in 100,000 predictions" in text
    for each in (found["overall"], *found["groups"]["Group"].values()):
        for cell in ("tn", "fp", "fn", "tp"):
            assert f"{each[cell]:,}" in text
    for each in found["groups"]["Group"].values():
        for rate in ("selection_rate", "recall", "false_positive_rate", "accuracy"):
            assert f"{100 * each[rate]:.2f} %" in text
    for value in training["importances"].values():
        assert f"{100 * value:.2f} %" in text
    for chance in decode(model).leaves[:, 1]:
        assert f"{100 * chance:.2f} % approve" in text
    assert training["model"]["sha256"] in text
    assert training["dataset"]["sha256"] in text
    for name in ("accuracy", "precision", "recall", "f1"):
        assert f"{100 * found['train'][name]:.2f} %" in text


def test_page_loads_nothing(html):
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|\bsrc=|<link|\bhref=", html, re.I)
    tags = Page(html).tags
    policy = [each for tag, each in tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_page_can_be_read_without_seeing_it(html):
    tags = Page(html).tags
    assert ("html", {"lang": "en"}) in tags
    assert [tag for tag, _ in tags].count("h1") == 1
    for tag, attributes in tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or (
                attributes["role"] == "img" and attributes["aria-label"]
            )
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert "prefers-color-scheme: dark" in html


def test_page_is_drawn_from_its_arguments_alone(html, measured):
    found, training, model = measured
    changed = json.loads(json.dumps(found))
    changed["accuracy"] = 0.123456
    changed["parity"]["probability_differences"] = 17
    text = Page(report.render(changed, training, decode(model))).text
    assert "12.35 %" in text
    assert "17 differences in 100,000 predictions" in text


def test_names_are_escaped(measured):
    found, training, model = measured
    changed = json.loads(json.dumps(found))
    changed["groups"]["<i>&"] = changed["groups"].pop("Group")
    changed["fairness"]["<i>&"] = changed["fairness"].pop("Group")
    html = report.render(changed, training | {"features": ["Group"]}, decode(model))
    assert "Fairness by &lt;i&gt;&amp;" in html
    assert "<i>" not in html


def grown(depth, features=3):
    random = np.random.default_rng(depth)
    values = random.normal(size=(3000, features))
    target = (np.sin(values * 3).sum(axis=1) > 0).astype(int)
    return decode(
        export.export(DecisionTreeClassifier(max_depth=depth, random_state=0).fit(values, target))
    )


def test_a_large_tree_is_drawn_to_its_fourth_level_and_says_so():
    model = grown(9)
    picture, hidden = charts.tree(model, {0: "deny", 1: "approve"}, None)
    drawn = picture.count("<rect")
    assert drawn + hidden == len(model.nodes)
    assert hidden > 0
    assert drawn <= 31


def test_a_tree_of_one_leaf_is_drawn():
    tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [1, 1])
    picture, hidden = charts.tree(decode(export.export(tree)), {1: "approve"}, [2])
    assert (picture.count("<rect"), hidden) == (1, 0)
    assert "100.0 % of rows" in picture


@pytest.mark.parametrize(
    ("value", "text"), [(80441.5, "80,441.5"), (1000.0, "1,000"), (0.25, "0.25"), (-2.0, "-2")]
)
def test_numbers_are_written_without_superfluous_zeros(value, text):
    assert charts.number(value) == text


def test_a_tree_deeper_than_the_stack_is_drawn():
    splits = 5_000
    nodes = np.zeros(2 * splits + 1, dtype=NODE_DTYPE)
    # Split, leaf, split, leaf, ...: every right child is the next split.
    nodes["child"][:-1:2] = np.arange(1, 2 * splits, 2)
    nodes["flags"][1::2] = nodes["flags"][-1] = LEAF
    nodes["child"][1::2] = np.arange(splits)
    nodes["child"][-1] = splits
    chain = replace(
        grown(1),
        trees=np.array([(0, splits)], dtype=TREE_DTYPE),
        nodes=nodes,
        numbers=np.concatenate([np.zeros(2), np.full(2 * (splits + 1), 0.5)]),
    )
    picture, hidden = charts.tree(decode(encode(chain)), {0: "deny", 1: "approve"}, None)
    assert picture.count("<rect") + hidden == len(nodes)
