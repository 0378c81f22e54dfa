import numpy as np
import pandas as pd
import pytest
from sklearn.inspection import permutation_importance
from sklearn.tree import DecisionTreeClassifier

from ccapproval import importance


def rows(count=400, seed=0):
    random = np.random.default_rng(seed)
    table = pd.DataFrame({"x": random.random(count), "noise": random.random(count)})
    return table, pd.Series(np.where(table["x"] > 0.5, "yes", "no"))


class Watched(DecisionTreeClassifier):
    """A tree that notes the tables that it is asked about."""

    def fit(self, *training):
        self.asked = []
        return super().fit(*training)

    def predict(self, table):
        self.asked.append(table)
        return super().predict(table)

    def predict_proba(self, table):
        self.asked.append(table)
        return super().predict_proba(table)


@pytest.fixture
def watched():
    return Watched(max_depth=1).fit(*rows())


def test_shuffling_what_decides_costs_half_the_accuracy_and_the_rest_nothing(watched):
    found = importance.importances(watched, *rows(), seed=4)
    assert list(found) == ["x", "noise"]
    assert found["x"] == pytest.approx(0.5, abs=0.05)
    assert found["noise"] == 0.0
    # Once as the rows are, then five times for each feature.
    assert len(watched.asked) == 1 + 5 * 2
    expected = permutation_importance(
        watched, *rows(), scoring="accuracy", n_repeats=5, random_state=4
    )
    assert list(found.values()) == expected.importances_mean.tolist()
    assert importance.importances(watched, *rows(), seed=5) != found


def test_of_many_rows_some_are_drawn_with_their_own_labels(watched, monkeypatch):
    table, labels = rows()
    assert importance.MOST_ROWS == 20_000
    monkeypatch.setattr(importance, "MOST_ROWS", 399)
    found = importance.importances(watched, table, labels, seed=0)
    assert {len(asked) for asked in watched.asked} == {399}
    assert found["x"] == pytest.approx(0.5, abs=0.05)
    drawn = watched.asked[0]
    importance.importances(watched, table, labels, seed=0)
    assert watched.asked[11].equals(drawn)
    importance.importances(watched, table, labels, seed=1)
    assert not watched.asked[22].equals(drawn)
    monkeypatch.setattr(importance, "MOST_ROWS", 400)
    importance.importances(watched, table, labels, seed=0)
    assert watched.asked[33].equals(table)


def test_dependence_is_the_mean_answer_with_one_feature_set():
    random = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "few": random.integers(0, 3, 300).astype(np.int8),
            "many": np.where(np.arange(300) % 7, np.arange(300) * 1.0, np.nan),
            "word": np.where(np.arange(300) % 2, "a", "b"),
            "constant": 4,
            "empty": np.nan,
        }
    )

    class Sum:
        def predict_proba(self, asked):
            assert asked["few"].dtype == np.int8
            assert asked["word"].equals(table["word"].loc[asked.index])
            chances = asked["few"] / 4 + (asked["many"].fillna(0) + asked["constant"]) / 1000
            return np.column_stack([1 - chances, chances])

    found = importance.dependence(Sum(), table, 1, seed=0)
    assert list(found) == ["few", "many"]
    others = (table["many"].fillna(0).mean() + 4) / 1000
    assert found["few"]["value"] == [0.0, 1.0, 2.0]
    assert found["few"]["probability"] == pytest.approx([others, others + 0.25, others + 0.5])
    # From the least to the greatest in even steps.
    assert len(found["many"]["value"]) == 40
    assert set(found["many"]["value"]) <= set(table["many"])
    assert (found["many"]["value"][0], found["many"]["value"][-1]) == (1.0, 299.0)
    few = table["few"].mean() / 4 + 4 / 1000
    expected = [few + value / 1000 for value in found["many"]["value"]]
    assert found["many"]["probability"] == pytest.approx(expected)


def test_dependence_is_averaged_over_some_rows(watched):
    table, _ = rows(count=600)
    importance.dependence(watched, table, 1, seed=0)
    assert {len(asked) for asked in watched.asked} == {500}
    first = watched.asked[0]
    importance.dependence(watched, table, 1, seed=0)
    assert watched.asked[len(watched.asked) // 2].equals(first)
    importance.dependence(watched, table, 1, seed=1)
    assert not watched.asked[2 * len(watched.asked) // 3].equals(first)
    two = pd.DataFrame({"x": [0.0, 1.0], "noise": [0.0, 0.0]})
    assert list(importance.dependence(watched, two, 1, seed=0)) == ["x"]
