"""The interface of what changes the rows of a batch: at random, and by nothing but a seed."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_kd._internal import soft_targets
from keras_kd._internal.batches import Batch
from keras_kd._types import Tensor, Tensors, Tree

#: A function of a batch's x and a seed, int64, (2,), to another x.
Function = Callable[[Tensors, Tensor], Tensors]


class Change:
    """Change the rows of a batch at random, the same for the same seed.

    Make one of your own by `__call__`; where labels do not stay as they are, by `with_labels` as well.
    """

    #: Whether a row depends on the others of its batch.
    mixes_rows = False

    #: Whether rows without labels are added, of the weight 0.
    adds_unlabelled = False

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        """Return the changed rows.

        Args:
            x: inputs, (batch, ...), or a dict or tuple of them.
            seed: int64, (2,), as `tf.random.stateless_uniform` takes it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(x, seed).")

    def with_labels(self, x: Tensors, y: Tensors, sample_weight: Tensors, seed: Tensor) -> Batch:
        """Return a batch with the changed rows; labels and weights stay as they are, unless a change defines more.

        Args:
            x: see `__call__`.
            y: labels, or None.
            sample_weight: weights, or None.
            seed: see `__call__`.
        """
        return self(x, seed), y, sample_weight


class Chain(Change):
    """Apply changes one after the other, each by a seed of its own.

    Args:
        changes: instances of `Change`, or functions of x and a seed.

    Raises:
        TypeError: something else.
        ValueError: none.
    """

    def __init__(self, *changes: Change | Function) -> None:
        if not changes:
            raise ValueError("Expected at least one change, such as keras_kd.augment.MixUp(). Received none.")
        self.changes = [_as_change(each) for each in changes]
        self.mixes_rows = any(each.mixes_rows for each in self.changes)
        self.adds_unlabelled = any(each.adds_unlabelled for each in self.changes)

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        """Return the changed rows."""
        return self.with_labels(x, None, None, seed)[0]

    def with_labels(self, x: Tensors, y: Tensors, sample_weight: Tensors, seed: Tensor) -> Batch:
        """Return the changed batch."""
        for number, change in enumerate(self.changes):
            x, y, sample_weight = change.with_labels(x, y, sample_weight, folded(seed, number))
        return x, y, sample_weight


class _OfFunction(Change):
    def __init__(self, function: Function) -> None:
        self._function = tf.function(function)  # by which AutoGraph reads it, and nothing of ours

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        return self._function(x, seed)


def _as_change(given: Any) -> Change:
    if isinstance(given, Change):
        return given
    if not callable(given):
        raise TypeError(
            "Expected a change, such as keras_kd.augment.MixUp(), or a function of a batch's x and a seed. Received: "
            f"{given!r} of type {type(given).__name__}"
        )
    return _OfFunction(given)


def folded(seed: Tensor, number: Any) -> Any:
    """Return a seed for one of several uses of a seed."""
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), number)


def count(x: Tensors) -> Any:
    """Return the number of rows of a batch, as a tensor."""
    return tf.shape(next(leaf for leaf in tf.nest.flatten(x) if leaf is not None))[0]


def map_leaves(function: Callable[[Any], Any], x: Tree) -> Tree:
    """Apply a function to each tensor, made of what it is given as; None stays."""
    return soft_targets.map_arrays(lambda leaf: function(tf.convert_to_tensor(leaf)), x)


def like(values: Any, leaf: Any) -> Any:
    """Return values in the type of a leaf, rounded where that is of whole numbers, and of its static shape."""
    if leaf.dtype.is_integer and not values.dtype.is_integer:
        values = tf.round(tf.clip_by_value(values, float(leaf.dtype.min), float(leaf.dtype.max)))
    return tf.ensure_shape(tf.cast(values, leaf.dtype), leaf.shape)


def wide(leaf: Any) -> Any:
    """Return numbers in float32, or in float64 where they are."""
    return leaf if leaf.dtype == tf.float64 else tf.cast(leaf, tf.float32)


def aligned(values: Any, leaf: Any) -> Any:
    """Return one value for each row with as many axes as a leaf."""
    return tf.reshape(values, [-1, *[1] * (len(leaf.shape) - 1)])


def probability(name: str, value: Any) -> float:
    """Return a probability, or raise an error that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ValueError(f"Expected `{name}` to be from 0 to 1. Received: {name}={value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return a number above 0, or raise an error that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < float("inf"):
        raise ValueError(f"Expected `{name}` to be a number above 0. Received: {name}={value!r}")
    return float(value)
