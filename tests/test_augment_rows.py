"""Generated rows of tables: SMOTE and MUNGE."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_kd.augment import munge, smote
from keras_kd.augment.nearest_rows import Columns, nearest

FEW = settings(max_examples=8, deadline=None)
MADE = {"smote": smote, "munge": munge}


def table(rows, seed=0):
    random = np.random.default_rng(seed)
    return np.column_stack([random.normal(size=rows), 100 * random.random(rows), random.integers(0, 3, rows)])


@FEW
@given(rows=st.integers(2, 20), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_nearest_rows_are_those_of_the_smallest_distance(rows, count, seed):
    x = table(rows, seed)
    count = min(count, rows - 1)
    found = nearest(Columns(x, (2,)), count)
    scaled = x[:, :2] / np.where(x[:, :2].std(0) > 0, x[:, :2].std(0), 1)
    distance = ((scaled[:, None] - scaled[None]) ** 2).sum(-1) + (x[:, None, 2] != x[None, :, 2])
    np.fill_diagonal(distance, np.inf)
    ours = np.take_along_axis(distance, found, 1)
    np.testing.assert_allclose(np.sort(ours, 1), np.sort(distance, 1)[:, :count], atol=1e-9)
    assert all(len(set(row)) == count for row in found)


def test_many_rows_are_compared_some_at_a_time(monkeypatch):
    whole = nearest(Columns(table(50), (2,)), 1)
    monkeypatch.setattr("keras_kd.augment.nearest_rows._AT_ONCE", 120)
    np.testing.assert_array_equal(nearest(Columns(table(50), (2,)), 1), whole)


@FEW
@given(rows=st.integers(2, 12), count=st.integers(1, 40), seed=st.integers(0, 99))
def test_rows_of_smote_are_between_a_row_and_a_near_one(rows, count, seed):
    x = table(rows, seed).astype("float32")
    made = smote(x, count, neighbours=2, codes=[2], seed=seed)
    assert made.shape == (count, 3) and made.dtype == x.dtype
    near = nearest(Columns(x, (2,)), min(2, rows - 1))
    pairs = [(x[row], x[other]) for row in range(rows) for other in near[row]]

    def between(row, first, second):
        inside = (row >= np.minimum(first, second)) & (row <= np.maximum(first, second))
        gap, way = (second - first)[:2].astype("float64"), (row - first)[:2].astype("float64")
        on_the_line = abs(gap[0] * way[1] - gap[1] * way[0]) < 1e-4 * (1 + np.abs(gap).max())
        return inside.all() and on_the_line and row[2] in (first[2], second[2])

    assert all(any(between(row, *pair) for pair in pairs) for row in made)


def test_rows_of_smote_are_spread_evenly_between_two_rows():
    made = smote(np.array([[0.0, 5.0, 1.0], [1.0, 5.0, 2.0]]), 20_000, codes=[2], seed=3)
    np.testing.assert_allclose(np.histogram(made[:, 0], 10, (0, 1))[0], 2000, rtol=0.1)
    np.testing.assert_array_equal(made[:, 1], 5.0)
    near = np.abs(made[:, 0] - 0.25) < 0.05
    assert (made[near, 2] == 1).mean() == pytest.approx(0.75, abs=0.05)


def test_rows_of_munge_have_the_distribution_of_the_paper():
    # Two rows: each is the other's neighbour, at a distance of 2. A value stays with 1 - p, or is N(other, 2 / s).
    made = munge(np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 2.0]]), 20_000, 0.3, spread=4.0, codes=[2], seed=3)
    stayed = np.isin(made[:, 0], [0.0, 2.0])
    assert stayed.mean() == pytest.approx(0.7, abs=0.01)
    drawn = made[~stayed, 0]
    assert drawn.mean() == pytest.approx(1.0, abs=0.05)
    assert np.minimum(np.abs(drawn), np.abs(drawn - 2)).max() < 2.5
    assert np.concatenate([drawn[drawn < 1], drawn[drawn > 1] - 2]).std() == pytest.approx(0.5 * 0.95, abs=0.05)
    np.testing.assert_array_equal(made[:, 1], 5.0)
    assert set(made[:, 2]) == {1.0, 2.0}


@pytest.mark.parametrize("name", MADE)
def test_structures_types_and_seeds_are_kept(name):
    random = np.random.default_rng(0)
    x = {
        "a": random.normal(size=(9, 2)).astype("float32"),
        "n": np.arange(9),
        "word": np.array(list("abcdefghi"), object),
        "yes": np.arange(9) > 4,
        "coded": np.arange(9.0),
    }
    made, again, other = (MADE[name](x, 30, codes=["coded"], seed=seed) for seed in (1, 1, 2))
    for key, each in made.items():
        assert each.dtype == x[key].dtype and each.shape == (30, *x[key].shape[1:])
        np.testing.assert_array_equal(each, again[key])
    assert not np.array_equal(made["a"], other["a"])
    assert set(made["word"]) <= set(x["word"]) and set(made["coded"]) <= set(x["coded"])
    assert set(made["n"]) <= set(x["n"])


@pytest.mark.parametrize("name", MADE)
def test_tables_of_one_kind_of_column_and_data_frames_are_taken(name):
    assert MADE[name](np.eye(3, dtype=int), 5).dtype == int
    assert MADE[name](np.arange(4.0), 5).shape == (5,)
    assert MADE[name](pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}), 5).shape == (5, 2)
    np.testing.assert_array_equal(MADE[name](np.ones((3, 2)), 4), np.ones((4, 2)))


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (np.array([[1.0, np.nan], [0, 0]]), {}, r"NaN in columns \[1\].*Fill"),
        (np.ones((1, 2)), {}, "at least two rows"),
        (np.ones((2, 2, 2)), {}, r"\(2, 2, 2\)"),
        ({"a": np.ones(2), "b": np.ones(3)}, {}, "one length"),
        (np.ones((2, 2)), {"codes": [2]}, "0 to 1"),
        ({"a": np.ones(2)}, {"codes": ["b"]}, r"\['a'\].*\['b'\]"),
        (np.ones((2, 2)), {"rows": 0}, "rows=0"),
    ],
    ids=range(7),
)
def test_errors_tell_what_to_do(name, x, arguments, message):
    with pytest.raises(ValueError, match=message):
        MADE[name](x, **{"rows": 4, **arguments})


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="neighbours=0"):
        smote(np.eye(3), 4, neighbours=0)
    with pytest.raises(ValueError, match="probability=2"):
        munge(np.eye(3), 4, 2)
    with pytest.raises(ValueError, match="spread=0"):
        munge(np.eye(3), 4, spread=0)
