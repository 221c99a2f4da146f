"""Rows without labels behind those of a batch, and the weights by which each part counts."""

from typing import Any

import keras
import tensorflow as tf

from keras_kd._internal.batches import Batch
from keras_kd._types import Tensors
from keras_kd.augment.changes import count, map_leaves


def extended(x: Tensors, y: Tensors, sample_weight: Tensors, more: Tensors) -> Batch:
    """Return a batch with rows behind it that have no label.

    The weights of the n rows are multiplied by (n + m) / n, those of the m further rows are 0, so that
    sum_i w_i loss_i / (n + m) is what it was for the n rows alone. The labels of the further rows are 0.

    Args:
        x: inputs, (n, ...), or a structure of them.
        y: labels, or None: there are no weights then.
        sample_weight: weights, or None for 1.
        more: inputs, (m, ...), in the same structure.
    """
    rows, others = count(x), count(more)
    both = tf.nest.map_structure(_joined, x, more)
    if y is None:
        return both, None, None
    if sample_weight is None:
        sample_weight = tf.ones([rows], keras.config.floatx())

    def weighted(leaf: Any) -> Any:
        leaf = leaf if leaf.dtype.is_floating else tf.cast(leaf, keras.config.floatx())
        return _filled(leaf * tf.cast((rows + others) / rows, leaf.dtype), others)

    return both, map_leaves(lambda leaf: _filled(leaf, others), y), map_leaves(weighted, sample_weight)


def _joined(leaf: Any, other: Any) -> Any:
    return None if leaf is None else tf.concat([leaf, other], axis=0)


def _filled(leaf: Any, others: Any) -> Any:
    """Return a leaf with a number of rows of 0 behind it."""
    return tf.concat([leaf, tf.zeros([others, *tf.unstack(tf.shape(leaf)[1:])], leaf.dtype)], axis=0)
