import base64
import hashlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import FOLDER, write_predictions
from sklearn.tree import DecisionTreeClassifier

from ccapproval import (
    charts,
    export,
    line_charts,
    metrics,
    model_card,
    report,
    report_behaviour,
    train,
)
from ccapproval.common import InputError, digest, to_json
from ccapproval.model_file import LEAF, NODE_DTYPE, TREE_DTYPE, Decide, decode, encode

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


CARD = model_card.read_card(FOLDER / model_card.FILE)


CHECK = {
    "kind": "monotone", "name": "monotone Income", "status": "pass", "severity": "error",
    "n": 250_000, "violations": 0, "reason": "none found", "examples": [], "measured": {},
}  # fmt: skip
FAILED = CHECK | {
    "kind": "slices", "name": "weak <slices>", "status": "fail", "severity": "warn", "n": 7_000,
    "violations": 12, "reason": "Income < 3", "examples": [{"Income": 2, "<i>": "</pre>"}],
}  # fmt: skip


def behaviour(found):
    return {"model": found["model"], "seed": 5, "pairs": 1_000_000, "checks": [CHECK, FAILED]}


def page(found, training, model, card=CARD, live=None):
    return report.render(found, behaviour(found), training, decode(model), card, live)


@pytest.fixture(scope="module")
def html(measured):
    return page(*measured)


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
    for value in found["importances"].values():
        assert f"{100 * max(0, value):.2f} %" in text
    low, high = found["intervals"]["fairnessScoreEqualOpportunity"]
    assert f"95 % interval {low:.2f} to {high:.2f}" in text
    shipped = f"{100 * found['accuracy']:.2f} % {found['fairnessScoreEqualOpportunity']:.2f} points"
    assert f"The model that ships {shipped} {low:.2f} to {high:.2f}" in text
    aware = found["baselines"]["aware"]
    assert f"Aware baseline {100 * aware['overall']['accuracy']:.2f} %" in text
    assert f"{aware['fairnessScoreEqualOpportunity']:.2f} points" in text
    for judged in found["fairness"]["Group"]["evidence"].values():
        assert judged["reason"] is None or judged["reason"] in text
    for chance in decode(model).leaves[:, 1]:
        assert f"{100 * chance:.2f} % approve" in text
    assert training["model"]["sha256"] in text
    assert training["dataset"]["sha256"] in text
    for name in ("accuracy", "precision", "recall", "f1"):
        assert f"{100 * found['train'][name]:.2f} %" in text


def test_page_says_how_to_make_the_model_of_its_own_notebook_again(measured):
    found, training, model = measured
    text = Page(page(found, training | {"notebook": "an <other>.ipynb"}, model)).text
    assert "--notebook 'an <other>.ipynb' --out output sha256sum output/model.bin" in text


@pytest.mark.parametrize("reasons", [{}, {"size": "How 'large' it is", "old": "Größe %s"}])
def test_the_commands_of_the_page_make_the_same_model(small, reasons):
    out = small.folder / "first"
    train.train(small.notebook, out, reasons)
    write_predictions(out, out / "predictions.csv")
    found, training, model = metrics.measure(out, out / "predictions.csv")
    html = page(found, training, model)
    commands = unescape(re.search(r'aria-label="Commands"><code>(.*?)</code>', html, re.S)[1])
    command = commands.splitlines()[1].replace("uv run python", shlex.quote(sys.executable))
    subprocess.run(["bash", "-c", command], cwd=small.folder, check=True)  # noqa: S607
    assert digest((small.folder / "output/model.bin").read_bytes()) == training["model"]["sha256"]


def test_a_figure_that_fails_says_what_its_limit_is_good_for(html):
    # Once for all rows, once for each attribute.
    assert Page(html).text.count("the rules of the verdict above decide what may ship") == 2


@pytest.mark.parametrize("values, expected", [
    ([0, 1], [0, 1]),
    ([4, 0, 2, 2], [0, 2, 4]),
    ([7], [7]),
    (range(8005, 214_893, 997), [100_000, 200_000]),
    ([-0.31, -0.2, -0.1, 0, 0.1, 0.28], [-0.2, 0, 0.2]),
    (range(1, 13), [5, 10]),
])  # fmt: skip
def test_an_axis_is_written_in_round_values(values, expected):
    assert line_charts.round_ticks(values) == pytest.approx(expected)


def test_a_long_name_is_cut_and_whole_in_the_tooltip():
    name = "monthly_income_after_all_taxes"
    row = line_charts.Interval(name, "all", 0.5, 0.4, 0.6, "50 %")
    for picture in (
        line_charts.intervals("rates", [row], 0, 1, write=str),
        charts.bars("bars", [name], [charts.Series("a", "all", [0.5])]),
    ):
        assert f"<title>{name}</title>monthly_incom" in picture
        assert picture.count(f">{name}<") == 1


def test_values_of_examples_are_short():
    row = {"a": 1_000_000, "b": 0.70612522, "c": 3e-7, "d": True, "e": [0.5, None], "f": {"g": "x"}}
    shown = {name: report_behaviour.told(value) for name, value in row.items()}
    assert shown == {
        "a": "1,000,000", "b": "0.7061", "c": "3e-07", "d": "True", "e": "0.5, none", "f": "g x",
    }  # fmt: skip


def test_page_loads_nothing(html):
    assert not re.search(r"https?:|url\(|@import|\bsrc=|<link|\bhref=", html, re.I)
    tags = Page(html).tags
    policy = [each for tag, each in tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"].startswith("default-src 'none'")
    # The one script that may run is the page's own, named by its digest.
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    named = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"script-src 'sha256-{named}'" in policy[0]["content"]


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
    text = Page(page(changed, training, model)).text
    assert "12.35 %" in text
    assert "17 differences in 100,000 predictions" in text


def test_names_are_escaped(measured):
    found, training, model = measured
    changed = json.loads(json.dumps(found))
    changed["groups"]["<i>&"] = changed["groups"].pop("Group")
    changed["fairness"]["<i>&"] = changed["fairness"].pop("Group")
    changed["curves"]["groups"]["</script><i>"] = changed["curves"]["groups"].pop("Group")
    changed["importances"]["<i>"] = 0.5
    changed["dependence"]["<i>"] = changed["dependence"]["Income"]
    card = CARD | {"owner": "<i>"}
    html = page(changed, training | {"features": ["Group"]}, model, card)
    assert "Fairness by &lt;i&gt;&amp;" in html
    assert "<i>" not in html


def test_the_verdict_has_one_place_at_the_top(html):
    begin, end = html.index("<!-- verdict -->"), html.index("<!-- end of verdict -->")
    assert html.count("<!-- verdict -->") == html.count("<!-- end of verdict -->") == 1
    assert begin < end < html.index("<main>")
    assert "not judged yet" in html[begin:end]


def test_the_explorer_holds_the_rates_of_the_record(html, measured):
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html).group(1))
    curves = measured[0]["curves"]
    assert data["thresholds"] == curves["overall"]["sweep"]["threshold"]
    assert data["thresholds"][data["current"]] == 0.5
    groups = [curves["overall"], *curves["groups"]["Group"].values()]
    for series, curve in zip(data["series"], groups, strict=True):
        for rate in ("selection_rate", "accuracy", "recall"):
            assert series[rate] == curve["sweep"][rate]


def test_a_model_with_a_threshold_of_its_own_is_explored_there(measured):
    model = decode(measured[2])
    decision = (Decide.AT_LEAST, model.probabilities + 1, 0.3)
    assert report.own_threshold(replace(model, decision=decision)) == 0.3
    assert report.own_threshold(model) == 0.5


def test_the_live_model_stands_beside_the_candidate(measured):
    found, training, model = measured
    assert "Nothing was deployed" in page(found, training, model)
    assert "This very model was the live one" in page(found, training, model, live=found)
    live = json.loads(json.dumps(found))
    live["model"], live["accuracy"] = "sha256:other", found["accuracy"] - 0.01
    live["fairnessScoreEqualOpportunity"] = None
    text = Page(page(found, training, model, live=live)).text
    assert f"{100 * found['accuracy']:.2f} {100 * live['accuracy']:.2f} +1.00" in text
    assert "undefined" in text


@pytest.mark.parametrize("key", list(model_card.WRITTEN))
@pytest.mark.parametrize("text", ["", '""', '" "', "7"])
def test_an_empty_section_of_the_model_card_is_refused(tmp_path, key, text):
    lines = [f'{name} = "x"' for name in model_card.WRITTEN if name != key]
    if text:
        lines.append(f"{key} = {text}")
    file = tmp_path / "card.toml"
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"section {key} of the model card is empty"):
        model_card.read_card(file)


@pytest.mark.parametrize(
    ("text", "reason"), [("name =", "not valid TOML"), ('who = "x"', "unknown keys who")]
)
def test_a_broken_model_card_is_refused(tmp_path, text, reason):
    file = tmp_path / "card.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=reason):
        model_card.read_card(file)
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        model_card.read_card(tmp_path / "nowhere.toml")


def test_the_card_says_what_the_records_say(html, measured):
    found, training, _ = measured
    text = Page(html).text
    for section in ("Intended use", "Out of scope", "Ethical considerations", "Caveats"):
        assert section in text
    assert f"{training['train_rows']:,} rows of {training['dataset']['file']}" in text
    for label, group in found["groups"]["Group"].items():
        assert f"{label}: {group['n']:,} rows" in text


def test_checks_of_behaviour_stand_with_their_worst_examples(html):
    text = Page(html).text
    assert "1,000,000 pairs of applications that differ in one value, seed 5" in text
    assert "weak <slices> No value or range of a feature is served badly 7,000 12 fail" in text
    assert "fail (only warns) Income < 3" in text
    assert "The worst examples of weak <slices> Income <i> 2 </pre>" in text
    assert "<details open><summary>The worst examples of weak" in html
    assert text.index("weak <slices>") < text.index("monotone Income")


def test_records_of_different_models_are_not_drawn_together(run, measured, tmp_path):
    for name in ("training.json", "model.bin"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    records = {"metrics": measured[0], "behaviour": behaviour(measured[0])}
    for name, content in records.items():
        (tmp_path / f"{name}.json").write_text(to_json(content))
    assert "model report" in report.draw(tmp_path, FOLDER / model_card.FILE, None)
    for name, content in records.items():
        (tmp_path / f"{name}.json").write_text(to_json(content | {"model": "sha256:other"}))
        with pytest.raises(InputError, match="different models"):
            report.draw(tmp_path, FOLDER / model_card.FILE, None)
        (tmp_path / f"{name}.json").write_text(to_json(content))


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
