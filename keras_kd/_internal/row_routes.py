"""Rows of a batch that go several ways, and what comes of them in the order of the batch."""

from collections.abc import Sequence

import tensorflow as tf

from keras_kd._internal import soft_targets
from keras_kd._keras import gradients, masks
from keras_kd._types import Tensor, Tree


class Routes:
    """Which rows go which way.

    A way without rows is given one row, whose result is dropped: not every model takes an empty batch. Under XLA,
    whose shapes are fixed, each way is given all rows.

    Args:
        way: the number of the way of each row, from 0 on, (batch,).
        count: of the ways.
    """

    def __init__(self, way: Tensor, count: int) -> None:
        self._way = way
        self._rows = None if gradients.under_xla() else [tf.where(way == number)[:, 0] for number in range(count)]

    def given(self, batch: Tree, number: int) -> Tree:
        """Return the rows of every tensor, (batch, ...), that go a way."""
        if self._rows is None:
            return batch
        rows = self._rows[number]
        first = tf.zeros([tf.minimum(1, tf.size(self._way))], rows.dtype)
        rows = tf.cond(tf.size(rows) > 0, lambda: rows, lambda: first)
        return soft_targets.map_arrays(lambda tensor: tf.gather(tensor, rows), batch)

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return what came of the rows of each way, in the order of the batch."""
        if self._rows is None:
            return self._selected(tensors)
        own = [tensor[: tf.size(rows)] for tensor, rows in zip(tensors, self._rows, strict=True)]
        places = tf.math.invert_permutation(tf.cast(tf.concat(self._rows, axis=0), tf.int32))
        found = tf.gather(tf.concat(own, axis=0), places)
        found.set_shape((self._way.shape[0], *found.shape[1:]))
        return found

    def _selected(self, tensors: Sequence[Tensor]) -> Tensor:
        found = tensors[0]
        for number, tensor in enumerate(tensors[1:], 1):
            found = tf.where(masks.aligned(tf.equal(self._way, number), tensor), tensor, found)
        return found
