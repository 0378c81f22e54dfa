import json
import lzma

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from ccapproval import data
from ccapproval.common import InputError
from ccapproval.metrics import fairness, group_rates

CSV_SHA256 = "5fc7f2fe92295b5a4357112f9400e01af2776f07a7b9af34839f76003eb890f5"
FEATURES = ["Num_Children", "Income", "Own_Car", "Own_Housing"]
SHAPE = ["Income", "Income", "Income", "{}", "Income", "{}", "Income"]
# Published training rows in each leaf from left to right: denied, approved.
UNAWARE = [
    (178907, 290), (17869, 2079), (23485, 3493), (7283, 10354),
    (14217, 12536), (1476, 16107), (1547, 11298), (517, 98542),
]  # fmt: skip
AWARE = [
    (178907, 290), (17869, 2079), (23208, 602), (7560, 13245),
    (15429, 8182), (264, 20461), (1547, 11298), (517, 98542),
]  # fmt: skip
# Published cuts in Income, from left to right.
CUTS = [68187.5, 71909.5, 80210.5, 88440.5, 90837.5]


@pytest.fixture(scope="module")
def table():
    return data.load()


@pytest.fixture(scope="module")
def fitted(table):
    """Per variant: the tree, its features, and its test decisions."""
    train_rows, test_rows = train_test_split(table, test_size=0.2, random_state=0)
    result = {"test": test_rows}
    for variant, features in (("Own_Housing", FEATURES), ("Group", [*FEATURES, "Group"])):
        tree = DecisionTreeClassifier(max_depth=3, random_state=0)
        tree = clone(tree).fit(train_rows[features], train_rows["Target"])
        result[variant] = (tree, features, tree.predict(test_rows[features]) == 1)
    return result


def gap(fitted, variant):
    test = fitted["test"]
    groups = group_rates(test["Target"].to_numpy() == 1, fitted[variant][2], test["Group"])
    return 100 * fairness(groups)["equal_opportunity_difference"]


def test_the_generator_makes_the_stored_rows_on_every_machine():
    assert data.verify()["csv_sha256"] == CSV_SHA256


def test_the_stored_file_is_small_and_complete(table):
    assert data.DEFAULT_FILE.stat().st_size <= 2_000_000
    assert table.shape == (500_000, 6)
    assert list(table.columns) == list(data.COLUMNS)
    assert (table.dtypes == np.int64).all()
    assert table["Income"].min() >= data.INCOME_FLOOR
    assert set(table["Num_Children"]) == {0, 1, 2, 3, 4}
    for flag in ("Group", "Own_Car", "Own_Housing", "Target"):
        assert set(table[flag]) == {0, 1}


def test_groups_differ_as_published(table):
    means = table.groupby("Group").mean()
    assert abs(table["Group"].mean() - 0.5003) < 0.002
    assert abs(means["Target"][0] - 0.195) < 0.015
    assert abs(means["Target"][1] - 0.577) < 0.015
    assert abs(means["Own_Housing"][0] - 0.303) < 0.01
    assert abs(means["Own_Housing"][1] - 0.54) < 0.03


def test_unaware_accuracy_and_gap_are_as_published(fitted):
    accuracy = (fitted["Own_Housing"][2] == (fitted["test"]["Target"] == 1)).mean()
    assert accuracy == pytest.approx(0.9266, abs=0.002)
    assert gap(fitted, "Own_Housing") == pytest.approx(7.0, abs=0.5)


def test_aware_accuracy_and_gap_are_as_published(fitted):
    accuracy = (fitted["Group"][2] == (fitted["test"]["Target"] == 1)).mean()
    assert accuracy == pytest.approx(0.9479, abs=0.002)
    assert gap(fitted, "Group") == pytest.approx(20.8, abs=0.7)


@pytest.mark.parametrize("variant", ["Own_Housing", "Group"])
def test_trees_have_the_published_shape_and_cuts(fitted, variant):
    tree, features, _ = fitted[variant]
    splits = tree.tree_.feature[tree.tree_.feature >= 0]
    assert [features[split] for split in splits] == [name.format(variant) for name in SHAPE]
    cuts = [
        cut
        for cut, split in zip(tree.tree_.threshold, tree.tree_.feature, strict=True)
        if split == FEATURES.index("Income")
    ]
    assert sorted(cuts) == pytest.approx(CUTS, abs=500)


@pytest.mark.parametrize(("variant", "published"), [("Own_Housing", UNAWARE), ("Group", AWARE)])
@pytest.mark.parametrize("leaf", range(8))
def test_leaf_is_within_three_points_of_the_published_one(fitted, variant, published, leaf):
    tree = fitted[variant][0].tree_
    index = np.flatnonzero(tree.children_left < 0)[leaf]
    denied, approved = published[leaf]
    rows = denied + approved
    assert 100 * tree.n_node_samples[index] / 400_000 == pytest.approx(rows / 4_000, abs=3)
    assert 100 * tree.value[index, 0, 1] == pytest.approx(100 * approved / rows, abs=3)
    assert (tree.value[index, 0, 1] > 0.5) == (approved > denied)


def test_bell_has_the_moments_of_its_formula():
    raw = np.random.PCG64(1).random_raw(3 * 200_000).reshape(3, -1)
    draws = data.bell(raw) / 65_536
    assert abs(draws.mean()) < 0.01
    assert draws.std() == pytest.approx(1, abs=0.01)
    assert abs(draws).max() <= 6


def test_uniform_covers_its_range():
    raw = np.array([0, 2**64 - 1, 2**63], dtype=np.uint64)
    assert data.uniform(raw).tolist() == [0, 9_999, 5_000]


def stored_pair(folder, csv=b"a,b\n1,2\n"):
    file = folder / "rows.csv.xz"
    file.write_bytes(lzma.compress(csv))
    data.describe(file)
    return file


def test_describe_makes_any_table_loadable(tmp_path):
    file = stored_pair(tmp_path)
    assert data.load(file).to_dict("list") == {"a": [1], "b": [2]}
    manifest = json.loads((tmp_path / "rows.json").read_text())
    assert (manifest["rows"], manifest["columns"]) == (1, ["a", "b"])


def test_an_altered_file_is_refused_by_name(tmp_path):
    file = stored_pair(tmp_path)
    file.write_bytes(lzma.compress(b"a,b\n1,3\n"))
    with pytest.raises(InputError, match=r"rows\.csv\.xz has SHA-256 .* restore the file"):
        data.load(file)


def test_a_missing_manifest_names_the_command_that_makes_it(tmp_path):
    (tmp_path / "rows.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match=r"ccapproval\.data describe .*rows\.csv"):
        data.load(tmp_path / "rows.csv")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.csv"):
        data.load(tmp_path / "none.csv")


def test_verify_refuses_rows_that_the_generator_does_not_make(tmp_path):
    with pytest.raises(InputError, match="not what the generator makes"):
        data.verify(stored_pair(tmp_path))


def test_a_file_that_is_not_xz_is_refused(tmp_path):
    (tmp_path / "rows.csv.xz").write_bytes(b"a\n1\n")
    with pytest.raises(InputError, match="not an xz file"):
        data.describe(tmp_path / "rows.csv.xz")


def test_generate_refuses_another_suffix(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.csv\.xz"):
        data.generate(tmp_path / "rows.csv")
