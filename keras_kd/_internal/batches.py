"""Data as `fit` takes them: of which kind they are, and batches of them."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import soft_targets
from keras_kd._types import Tensors, Tree

#: x, y and sample_weight, each None where it is not given.
Batch = tuple[Tensors, Tensors, Tensors]


def is_array(value: Any) -> bool:
    """Return whether a value is an array or a tensor."""
    return isinstance(value, (np.ndarray, tf.Tensor))


def are_arrays(data: Tensors) -> bool:
    """Return whether data are arrays, in any structure; an optional input may be None."""
    leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
    return bool(leaves) and all(map(is_array, leaves))


def as_arrays(data: Tree) -> Tree:
    """Return data with an array in the place of each pandas DataFrame or Series, as Keras reads them.

    Raises:
        TypeError: a SciPy sparse matrix, of which Keras makes sparse tensors; a column of lists or arrays; text with
            missing values.
    """
    return tree.map_structure(_as_array, lists_as_arrays(data))


def lists_as_arrays(data: Tree) -> Tree:
    """Return data with an array in the place of lists of numbers or strings, and of strings in any other form.

    Strings become an array of objects, (examples,), which TensorFlow takes, unlike an array of `str`.

    Raises:
        TypeError: text with missing values, of which TensorFlow makes no tensor.
    """
    return tree.traverse(_of_list, data)


def of(data: Any, batch_size: int, *, labels: bool = True, rows: int | None = None) -> Iterator[Batch]:
    """Yield (x, y, sample_weight) of whatever `evaluate` would take.

    Args:
        data: (x, y) or (x, y, sample_weight), arrays or trees of them; or batches of these: a tf.data.Dataset, a
            `keras.utils.PyDataset` or another iterable.
        batch_size: of arrays.
        labels: whether y is needed.
        rows: how many examples to yield at most; None for all, of a dataset with an end.

    Raises:
        TypeError: `data` is none of these.
        ValueError: a dataset without an end, or data without labels.
    """
    found = _of_arrays(data, batch_size) if isinstance(data, tuple) else _of_elements(data, endless=rows is not None)
    for x, y, sample_weight in found:
        if y is None and labels:
            raise ValueError("Expected data with labels, batches of (x, y) or (x, y, sample_weight). Received x alone.")
        if rows is not None and (rows := rows - soft_targets.count(x)) <= 0:
            yield _rows((x, y, sample_weight), slice(rows or None))
            return
        yield x, y, sample_weight


def cut(arrays: Tree, batch_size: int, start: int = 0) -> Iterator[Tree]:
    """Yield the rows of arrays from one on, a number of them at a time; an optional input may be None."""
    for first in range(start, soft_targets.count(arrays), batch_size):
        yield _rows(arrays, slice(first, first + batch_size))


def from_everywhere(arrays: Tree, batch_size: int, batches: int = 1) -> Iterator[Tree]:
    """Yield a few batches of rows spread evenly over the data, which are often sorted by class."""
    rows = soft_targets.count(arrays)
    wanted = min(rows, batch_size * batches)
    chosen = [number * rows // wanted for number in range(wanted)]
    for start in range(0, wanted, batch_size):
        yield _places(arrays, chosen[start : start + batch_size])


def count(data: Any, batch_size: int) -> int | None:
    """Return the number of batches that `of` yields, where it is known beforehand."""
    if isinstance(data, tuple):
        return -(-soft_targets.count(as_arrays(data)) // batch_size)
    if isinstance(data, tf.data.Dataset):
        return None if int(data.cardinality()) < 0 else int(data.cardinality())
    return data.num_batches if isinstance(data, keras.utils.PyDataset) else None


def dataset(parts: Iterable[Tensors], batch_size: int, seed: int | None = None) -> tf.data.Dataset:
    """Return a dataset of batches of arrays.

    Args:
        parts: x, y and sample_weight; those that are None are left out.
        batch_size: examples in a batch.
        seed: of the order, which is another in each epoch; None for that of the arrays.
    """
    # tf.data takes a list of arrays for one array.
    given = tuple(tuple(part) if isinstance(part, list) else part for part in parts if part is not None)
    examples = tf.data.Dataset.from_tensor_slices(given)
    if seed is not None:
        examples = examples.shuffle(len(examples), seed=seed)
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _of_arrays(data: tuple[Any, ...], batch_size: int) -> Iterator[Batch]:
    if not 2 <= len(data) <= 3:
        raise ValueError(f"Expected (x, y) or (x, y, sample_weight). Received a tuple of {len(data)}.")
    arrays: Batch = soft_targets.map_arrays(np.asarray, as_arrays((*data, None)[:3]))
    sizes = {len(each) for each in tree.flatten(arrays) if each is not None}
    if len(sizes) != 1:
        raise ValueError(f"Expected arrays of one length in (x, y, sample_weight). Received lengths {sorted(sizes)}.")
    return cut(arrays, batch_size)


def _of_elements(data: Any, endless: bool) -> Iterator[Batch]:
    if not endless and isinstance(data, tf.data.Dataset) and int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError("Expected a dataset with an end. Received one that repeats for ever: use dataset.take(n).")
    if isinstance(data, keras.utils.PyDataset):
        return map(keras.utils.unpack_x_y_sample_weight, map(data.__getitem__, range(data.num_batches)))
    if not hasattr(data, "__iter__") or isinstance(data, (str, dict, np.ndarray)):
        raise TypeError(
            "Expected data as a tf.data.Dataset, a PyDataset, batches of (x, y), or arrays as a tuple (x, y) or "
            f"(x, y, sample_weight). Received: {type(data).__name__}"
        )
    return map(keras.utils.unpack_x_y_sample_weight, data)


def _of_list(data: Any) -> np.ndarray | None:
    """Return an array of a list or of strings; None for anything else, or to look into it."""
    if isinstance(data, list):
        if not data or not isinstance(data[0], (str, bytes, int, float, np.generic)):
            return None
        return np.array(data, object if isinstance(data[0], (str, bytes)) else None)
    if isinstance(data, np.ndarray):
        _check_text(data)
        return data.astype(object) if data.dtype.kind in "US" else None
    is_series = hasattr(data, "iloc") and data.ndim == 1  # of pandas, which need not be installed
    if not is_series or not len(data) or not isinstance(data.iloc[0], str):
        return None
    array = np.asarray(data, object)
    _check_text(array)
    return array


def _check_text(array: np.ndarray) -> None:
    """Refuse text with None or NaN in it. Arrays of several columns are not looked into."""
    if array.dtype != object or array.ndim == 0 or array.size != len(array):
        return
    is_text = [isinstance(cell, (str, bytes)) for cell in array.flat]
    if any(is_text) and not all(is_text):
        row = is_text.index(False)
        raise TypeError(
            f"Expected text in every row. Received: {array.flat[row]!r} in row {row}, and {is_text.count(False)} such "
            f"of {len(is_text)}. Fill them in, df.fillna({{column: 'missing'}}), before an estimator is fitted, too."
        )


def _as_array(leaf: Any) -> Any:
    if hasattr(leaf, "tocsr"):  # of SciPy, which need not be installed
        raise TypeError(
            f"Expected dense arrays here. Received a sparse matrix, {type(leaf).__name__} of the shape {leaf.shape}. "
            "Give x.toarray(), or, where that is too large, a tf.data.Dataset that makes its examples dense."
        )
    of_pandas = hasattr(leaf, "iloc")  # which need not be installed
    array = np.asarray(leaf) if of_pandas else leaf
    if isinstance(array, np.ndarray) and array.dtype == object and array.size:
        _check_cells(leaf, array.flat[0])
    return array[:, None] if of_pandas and array.ndim == 1 else array


def _check_cells(column: Any, cell: Any) -> None:
    if isinstance(cell, (list, tuple, np.ndarray)):
        name = getattr(column, "name", None)
        raise TypeError(
            f"Expected numbers. Received: a {type(column).__name__} whose cells are of type {type(cell).__name__}. "
            f"Make one array of them: np.stack({'column' if name is None else f'df[{name!r}]'})."
        )


def _rows(data: Tree, part: slice) -> Tree:
    """Return rows of whatever has rows: None and sparse tensors have none."""
    return tree.map_structure(lambda leaf: leaf[part] if hasattr(leaf, "__getitem__") else leaf, data)


def _places(arrays: Tree, places: list[int]) -> Tree:
    """Return rows; an array is not made a tensor as a whole for a few of them."""

    def taken(leaf: Any) -> Any:
        return leaf[places] if isinstance(leaf, np.ndarray) else tf.gather(leaf, places)

    return soft_targets.map_arrays(taken, arrays)
