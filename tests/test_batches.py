"""Batches of all kinds of data that `fit` takes, cut in one place."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd._internal import batches

X, Y = np.arange(10.0).reshape(10, 1), np.arange(10)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, number):
        return X[4 * number : 4 * number + 4], Y[4 * number : 4 * number + 4]


DATA = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: (tf.constant(X), tf.constant(Y)),
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
    "PyDataset": Sequence,
    "iterable": lambda: [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])],
}


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
@pytest.mark.parametrize(("rows", "sizes"), [(None, [4, 4, 2]), (6, [4, 2]), (8, [4, 4]), (20, [4, 4, 2])])
def test_all_kinds_of_data_give_the_same_batches_up_to_a_limit(make, rows, sizes):
    found = list(batches.of(make(), 4, rows=rows))
    assert [len(x) for x, _, _ in found] == sizes and all(weight is None for _, _, weight in found)
    np.testing.assert_array_equal(np.concatenate([y for _, y, _ in found]), Y[: sum(sizes)])


def test_a_dataset_without_an_end_is_read_up_to_a_limit_and_refused_without_one():
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).repeat()
    assert sum(len(x) for x, _, _ in batches.of(endless, 4, rows=25)) == 25
    with pytest.raises(ValueError, match="Expected a dataset with an end"):
        next(batches.of(endless, 4))


def test_labels_are_required_by_default():
    with pytest.raises(ValueError, match="Expected data with labels"):
        next(batches.of([X], 4))
    assert next(batches.of([X], 4, labels=False))[1] is None


def test_rows_from_everywhere_are_spread_evenly_and_an_input_that_is_not_given_stays_none():
    (first, _), (second, nothing) = batches.from_everywhere((X, None), 2, 2)
    assert np.ravel(first).tolist() == [0, 2] and np.ravel(second).tolist() == [5, 7] and nothing is None


@pytest.mark.parametrize(
    "data",
    [["a", "bc"], [b"a", b"bc"], np.array(["a", "bc"]), np.array([b"a", b"bc"]), pd.Series(["a", "bc"])],
    ids=["list", "bytes", "array of str", "array of bytes", "series"],
)
def test_strings_become_arrays_of_objects_wherever_they_are(data):
    x, (other, nothing) = batches.lists_as_arrays(({"text": data}, [X, None]))
    assert x["text"].dtype == object and tf.constant(x["text"]).numpy().tolist() == [b"a", b"bc"]
    assert other is X and nothing is None


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_text_with_missing_values_is_refused_with_what_to_do(missing, shape):
    column = np.array(["a", missing, "b"], object).reshape(shape)
    with pytest.raises(TypeError, match=r"text in every row\. Received: .* in row 1, and 1 such of 3\. Fill them in"):
        batches.lists_as_arrays({"number": X, "text": column})


def test_a_series_of_text_with_missing_values_is_refused():
    with pytest.raises(TypeError, match=r"Received: .* in row 1, and 1 such of 2"):
        batches.lists_as_arrays(pd.Series(["a", None]))


def test_lists_of_numbers_become_arrays_and_lists_of_arrays_do_not():
    numbers, arrays, joined = batches.lists_as_arrays(([1, 2], [X, Y], kd.Joined(["a"], {"logits": [1.5]})))
    assert numbers.tolist() == [1, 2] and arrays[0] is X and arrays[1] is Y
    assert joined.inputs.dtype == object and joined.targets["logits"].tolist() == [1.5]


def test_rows_are_cut_from_any_one_on():
    assert [each.tolist() for each in batches.cut(Y, 4, 3)] == [[3, 4, 5, 6], [7, 8, 9]]
