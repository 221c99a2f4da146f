"""Batches of whatever `evaluate` would take."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import soft_targets
from keras_kd._internal.arrays import as_arrays
from keras_kd._types import Tensors

Batch = tuple[Tensors, Tensors, Tensors]


def of(data: Any, batch_size: int) -> Iterator[Batch]:
    """Yield (x, y, sample_weight or None).

    Args:
        data: (x, y) or (x, y, sample_weight), arrays or trees of them; or batches of these: a tf.data.Dataset, a
            `keras.utils.PyDataset` or another iterable. Targets that travel with x are left aside.
        batch_size: of arrays.

    Raises:
        TypeError: `data` is none of these.
        ValueError: a dataset without an end, or data without labels.
    """
    if isinstance(data, tuple):
        yield from _slices(data, batch_size)
        return
    for batch in _iterable(data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if y is None:
            raise ValueError("Expected data with labels, batches of (x, y) or (x, y, sample_weight). Received x alone.")
        yield soft_targets.inputs(x), y, sample_weight


def count(data: Any, batch_size: int) -> int | None:
    """Return the number of batches where it is known beforehand."""
    if isinstance(data, tuple):
        return -(-len(tree.flatten(as_arrays(data[0]))[0]) // batch_size)
    if isinstance(data, tf.data.Dataset):
        return None if int(data.cardinality()) < 0 else int(data.cardinality())
    return data.num_batches if isinstance(data, keras.utils.PyDataset) else None


def _slices(data: tuple, batch_size: int) -> Iterator[Batch]:
    if not 2 <= len(data) <= 3:
        raise ValueError(f"Expected (x, y) or (x, y, sample_weight). Received a tuple of {len(data)}.")
    arrays = tree.map_structure(lambda each: None if each is None else np.asarray(each), as_arrays((*data, None)[:3]))
    sizes = {len(each) for each in tree.flatten(arrays) if each is not None}
    if len(sizes) != 1:
        raise ValueError(f"Expected arrays of one length in (x, y, sample_weight). Received lengths {sorted(sizes)}.")
    for start in range(0, sizes.pop(), batch_size):
        part = slice(start, start + batch_size)
        yield tree.map_structure(lambda each: None if each is None else each[part], arrays)  # noqa: B023


def _iterable(data: Any) -> Any:
    if isinstance(data, tf.data.Dataset) and int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError("Expected a dataset with an end. Received one that repeats for ever: use dataset.take(n).")
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(data.num_batches))
    if not hasattr(data, "__iter__") or isinstance(data, (str, dict, np.ndarray)):
        raise TypeError(
            "Expected data as a tf.data.Dataset, a PyDataset, batches of (x, y), or arrays as a tuple (x, y) or "
            f"(x, y, sample_weight). Received: {type(data).__name__}"
        )
    return data
