import json
import struct

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier

from ccapproval import export
from ccapproval.common import InputError
from ccapproval.model_file import (
    ELEMENT_SIZES,
    LEAF,
    METADATA,
    NODES,
    assemble,
    decode,
    sections_of,
)


def rows(seed, count=400, features=5, missing=0.0):
    random = np.random.default_rng(seed)
    values = random.normal(0, 10 ** random.uniform(-3, 6, features), (count, features))
    values[random.random(values.shape) < missing] = np.nan
    return values


def labels(values, classes, seed):
    random = np.random.default_rng(seed)
    score = np.nan_to_num(values[:, 0]) / 10 + random.normal(size=len(values))
    return np.asarray(classes)[
        np.searchsorted(np.quantile(score, [0.4, 0.8]), score) % len(classes)
    ]


def same_bits(left, right):
    return np.array_equal(
        np.ascontiguousarray(left).view(np.int64), np.ascontiguousarray(right).view(np.int64)
    )


@pytest.mark.parametrize("family", [DecisionTreeClassifier, ExtraTreeClassifier])
@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("classes", [(0, 1), (-7, 3, 2**40), (False, True)])
@pytest.mark.parametrize("depth", [1, 4, None])
def test_round_trip_answers_bit_for_bit(family, missing, classes, depth):
    for seed in range(3):
        values = rows(seed, missing=missing)
        target = labels(values, classes, seed)
        tree = family(max_depth=depth, random_state=seed).fit(values, target)
        model = decode(export.export(tree))
        # Also rows at and just beside every threshold, where rounding to 32 bits decides.
        probe = np.vstack([rows(seed + 100, missing=missing), values])
        for feature, cut in zip(tree.tree_.feature, tree.tree_.threshold, strict=True):
            if feature >= 0 and np.isfinite(cut):
                near = np.repeat(values[:1], 3, axis=0)
                near[:, feature] = [cut, np.nextafter(cut, -np.inf), np.nextafter(cut, np.inf)]
                probe = np.vstack([probe, near])
        assert same_bits(model.predict_proba(probe), tree.predict_proba(probe))
        assert np.array_equal(model.predict(probe), tree.predict(probe))
        assert model.classes == tuple(int(each) for each in tree.classes_)


def test_missing_values_go_the_way_the_tree_learned():
    values = np.array([[np.nan]] * 10 + [[1.0]] * 10 + [[5.0]] * 10)
    target = [0] * 10 + [0] * 10 + [1] * 10
    left = decode(export.export(DecisionTreeClassifier().fit(values, target)))
    assert left.predict([[np.nan], [1.0], [5.0]]).tolist() == [0, 0, 1]
    target = [1] * 10 + [0] * 10 + [1] * 10
    right = decode(export.export(DecisionTreeClassifier().fit(values, target)))
    assert right.predict([[np.nan], [1.0], [5.0]]).tolist() == [1, 0, 1]


def test_a_single_leaf_and_a_single_class_are_exported():
    tree = DecisionTreeClassifier().fit(rows(0), np.ones(400, dtype=int))
    model = decode(export.export(tree))
    assert (len(model.nodes), model.classes, model.positive_class) == (1, (1,), 0)
    assert model.predict_proba(rows(1)).tolist() == [[1.0]] * 400


def test_children_are_adjacent_and_after_their_parent():
    values = rows(5, count=2000)
    model = decode(export.export(DecisionTreeClassifier().fit(values, labels(values, (0, 1), 5))))
    split = model.nodes["flags"] & LEAF == 0
    children = model.nodes["child"][split].astype(int)
    assert (children > np.flatnonzero(split)).all()
    seen = np.sort(np.concatenate([children, children + 1]))
    assert seen.tolist() == list(range(1, len(model.nodes)))
    assert sorted(model.nodes["child"][~split]) == list(range(len(model.leaves)))


def test_layout_is_that_of_the_format():
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    tree.fit(rows(1, features=3), labels(rows(1, features=3), (0, 1), 1))
    content = export.export(tree)
    assert content[:8] == b"TABMODEL"
    version, count, length = struct.unpack_from("<IIQ", content, 8)
    assert (version, count, length) == (3, 15, len(content))
    assert len(content) % 8 == 0
    kinds = []
    for index in range(count):
        kind, size, offset, extent = struct.unpack_from("<IIQQ", content, 64 + 32 * index)
        kinds.append(kind)
        assert size == ELEMENT_SIZES[kind]
        assert offset % 8 == 0
        assert extent % size == 0
    assert kinds == list(range(1, 16))
    metadata = sections_of(content)[METADATA]
    again = json.dumps(json.loads(metadata), sort_keys=True, separators=(",", ":"))
    assert metadata == again.encode()
    assert json.loads(metadata)["features"] == ["x0", "x1", "x2"]


def test_the_same_model_gives_the_same_bytes():
    values, target = rows(2), labels(rows(2), (0, 1), 2)
    tables = [
        export.export(
            DecisionTreeClassifier(random_state=0).fit(values, target), None, {"b": 1, "a": 2}
        ),
        export.export(
            DecisionTreeClassifier(random_state=0).fit(values, target), None, {"a": 2, "b": 1}
        ),
    ]
    assert tables[0] == tables[1]


def named(names=("größe", "old")):
    values = pd.DataFrame(rows(3, features=len(names)), columns=list(names))
    return DecisionTreeClassifier(max_depth=3).fit(values, labels(values.to_numpy(), (0, 1), 3))


def test_schema_gives_types_ranges_and_the_positive_class():
    schema = {
        "features": [
            {"name": "old", "type": "flag", "optional": True},
            {"name": "größe", "type": "integer", "minimum": -3, "maximum": 9},
            {"name": "unused"},
        ],
        "positive_class": 0,
    }
    model = decode(export.export(named(), schema))
    first, second = model.features
    assert (first.name, first.type, first.minimum, first.maximum) == ("größe", "integer", -3, 9)
    assert (second.name, second.type, second.minimum, second.maximum) == ("old", "flag", 0, 1)
    assert (first.required, second.required) == (True, False)
    assert model.positive_class == 0


def test_without_a_schema_features_are_unbounded_numbers():
    model = decode(export.export(named()))
    assert {feature.type for feature in model.features} == {"number"}
    assert {feature.minimum for feature in model.features} == {float("-inf")}
    assert not any(feature.required for feature in model.features)
    assert {feature.maximum for feature in model.features} == {float("inf")}
    assert model.positive_class == 1


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"features": [{"name": "old"}]}, "the model uses größe; add"),
        ({"features": [{"name": "größe", "type": "text"}, {"name": "old"}]}, "type of größe"),
        ({"features": [{"name": "größe", "minimum": "0"}, {"name": "old"}]}, "must be numbers"),
        ({"features": [{"name": "größe", "minimum": 2, "maximum": 1}, {"name": "old"}]}, "greater"),
        (
            {"features": [{"name": "größe", "type": "flag", "maximum": 2}, {"name": "old"}]},
            "0 or 1",
        ),
        ({"features": [{"name": "größe", "optional": 1}, {"name": "old"}]}, "true or false"),
        ({"features": "größe"}, "list of objects"),
        (
            {"features": [{"name": "größe"}, {"name": "old"}], "positive_class": 5},
            "positive_class 5",
        ),
    ],
)
def test_a_schema_that_does_not_fit_is_refused(schema, message):
    with pytest.raises(InputError, match=message):
        export.export(named(), schema)


@pytest.mark.parametrize(
    "estimator",
    [KNeighborsClassifier(), RandomForestRegressor(), DecisionTreeRegressor()],
    ids=lambda each: type(each).__name__,
)
def test_an_unsupported_estimator_is_named(estimator):
    with pytest.raises(InputError, match=f"{type(estimator).__name__} cannot be exported"):
        export.export(estimator)


def test_a_subclass_is_not_taken_for_its_family():
    class Contrary(DecisionTreeClassifier):
        def predict_proba(self, X, check_input=True):
            return 1 - super().predict_proba(X, check_input)

    with pytest.raises(InputError, match="Contrary cannot be exported"):
        export.export(Contrary().fit([[0], [1]], [0, 1]))


def test_unfitted_text_labels_and_several_targets_are_refused():
    with pytest.raises(InputError, match="not fitted"):
        export.export(DecisionTreeClassifier())
    with pytest.raises(InputError, match="whole numbers"):
        export.export(DecisionTreeClassifier().fit([[0], [1]], ["no", "yes"]))
    with pytest.raises(InputError, match="whole numbers"):
        export.export(
            DecisionTreeClassifier().fit([[0], [1]], np.array([0, 2**63], dtype=np.uint64))
        )
    with pytest.raises(InputError, match="2 targets"):
        export.export(DecisionTreeClassifier().fit([[0], [1]], [[0, 1], [1, 0]]))


def test_what_the_predictor_would_refuse_is_refused_at_export():
    values = rows(1, features=2)
    target = labels(values, [0, 1], 1)
    for names in (["a", "a"], ["a", ""]):
        model = DecisionTreeClassifier(max_depth=2).fit(pd.DataFrame(values), target)
        model.feature_names_in_ = np.array(names, dtype=object)
        with pytest.raises(InputError, match="a name of its own"):
            export.export(model)
    weights = np.where(np.arange(len(values)) % 7 == 0, -3.0, 1.0)
    model = DecisionTreeClassifier(max_depth=6, random_state=0)
    model.fit(values, target, sample_weight=weights)
    assert model.tree_.value.min() < 0, "the case is not the one meant"
    with pytest.raises(InputError, match="sample weights"):
        export.export(model)


def test_whole_float_labels_are_exported_as_integers():
    model = decode(export.export(DecisionTreeClassifier().fit([[0], [1]], [0.0, 1.0])))
    assert model.classes == (0, 1)


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["export", *map(str, arguments)])
    return export.main()


def test_command_writes_the_file_and_names_its_digest(tmp_path, monkeypatch, capsys):
    joblib.dump(named(), tmp_path / "m.joblib")
    out = tmp_path / "deep" / "m.bin"
    assert command(monkeypatch, tmp_path / "m.joblib", "--out", out) == 0
    assert out.read_bytes() == export.export(named())
    assert "sha256:" in capsys.readouterr().out


def test_command_fails_clearly(tmp_path, monkeypatch, capsys):
    joblib.dump(KNeighborsClassifier(), tmp_path / "m.joblib")
    assert command(monkeypatch, tmp_path / "m.joblib", "--out", tmp_path / "m.bin") == 1
    assert "KNeighborsClassifier cannot be exported" in capsys.readouterr().err
    (tmp_path / "broken.joblib").write_bytes(b"nonsense")
    assert command(monkeypatch, tmp_path / "broken.joblib", "--out", tmp_path / "m.bin") == 1
    assert "broken.joblib is not a joblib file" in capsys.readouterr().err
    assert command(monkeypatch, tmp_path / "none.joblib", "--out", tmp_path / "m.bin") == 1
    assert "cannot read" in capsys.readouterr().err
    assert not (tmp_path / "m.bin").exists()


def test_a_model_of_another_scikit_learn_is_refused(tmp_path, monkeypatch):
    tree = DecisionTreeClassifier().fit([[0], [1]], [0, 1])
    monkeypatch.setattr("sklearn.base.__version__", "1.2.3")
    joblib.dump(tree, tmp_path / "old.joblib")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"scikit-learn 1\.2\.3"):
        export.load_estimator(tmp_path / "old.joblib")


def test_every_flipped_byte_is_noticed():
    content = export.export(DecisionTreeClassifier(max_depth=1).fit([[0], [1]], [0, 1]))
    for index in range(len(content)):
        altered = bytearray(content)
        altered[index] ^= 1
        with pytest.raises(InputError):
            decode(bytes(altered))


@pytest.mark.parametrize("length", [0, 7, 63, 64, 200, -8, -1])
def test_a_file_cut_short_is_refused(length):
    content = export.export(DecisionTreeClassifier(max_depth=1).fit([[0], [1]], [0, 1]))
    with pytest.raises(InputError):
        decode(content[:length])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("child", 0, "after its parent"),
        ("child", 1_000, "after its parent"),
        ("feature", 9, "no such feature"),
        ("threshold", float("nan"), "no such feature or no threshold"),
        ("flags", 4, "unknown flags"),
    ],
)
def test_nodes_that_would_lead_a_walk_astray_are_refused(field, value, message):
    content = export.export(DecisionTreeClassifier(max_depth=1).fit([[0], [1]], [0, 1]))
    sections = sections_of(content)
    nodes = decode(content).nodes.copy()
    nodes[field][0] = value
    sections[NODES] = nodes.tobytes()
    with pytest.raises(InputError, match=message):
        decode(assemble(sections))
