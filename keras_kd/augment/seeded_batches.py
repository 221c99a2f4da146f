"""Changes in a tf.data.Dataset: each batch of each epoch has a seed of its own, and all follow from one."""

from typing import Any

import keras
import tensorflow as tf

from keras_kd._internal import soft_targets, unlabelled_rows
from keras_kd._internal.batches import Batch
from keras_kd._types import Tensor, Tensors
from keras_kd.augment.changes import Chain, Change, Function, map_leaves
from keras_kd.augment.rows import extended


def apply(dataset: tf.data.Dataset, *changes: Change | Function, seed: int = 0) -> tf.data.Dataset:
    """Change the batches of a dataset at random, others in each epoch, before the teacher and the student see them.

    Both see the same rows: the teacher predicts for what the student reads. The same seed gives the same rows, epoch by
    epoch, of a dataset that was made anew; each iterator that is made of it counts as an epoch, and under a strategy
    Keras makes one more.

    Args:
        dataset: batches of x, (x, y) or (x, y, sample_weight), without a teacher's targets.
        changes: what is done, in this order: instances of `Change`, or functions of x and a seed.
        seed: of all that is drawn.

    Returns:
        A dataset of as many batches, for `fit`.

    Raises:
        TypeError: no dataset; no change.
        ValueError: examples that carry a teacher's targets, which would be those of the rows before the change; labels
            or inputs that a change does not take.

    Example:
        >>> batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).batch(64)
        >>> distiller.fit(kd.augment.apply(batches, kd.augment.MixUp(labels="drop")), epochs=100)  # with alpha=1.0

    Reference: Beyer et al., Knowledge Distillation: A Good Teacher Is Patient and Consistent, 2021, arXiv 2106.05237.
    """
    chain = Chain(*changes)
    _check(dataset, seed)
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True)

    @tf.autograph.experimental.do_not_convert  # it would wrap the errors
    def changed(element: Any, seed: Tensor) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
        return keras.utils.pack_x_y_sample_weight(*chain.with_labels(x, y, sample_weight, seed))

    found = tf.data.Dataset.zip(dataset, seeds).map(changed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    found = found.prefetch(tf.data.AUTOTUNE)
    return unlabelled_rows.mark(found) if chain.adds_unlabelled else found


class Beside(Change):
    """Put changed copies of the rows of a batch beside them, as rows without labels, which the teacher predicts for.

    A batch of n rows becomes one of 2 n. By its weights, see `with_unlabelled`, the labels' part stays the mean over
    the rows as they were; terms with `sample_weight=None` count all.

    Args:
        *changes: what is done to the copies, in this order.

    Raises:
        TypeError: something that is no change.
        ValueError: none.

    Example:
        >>> train = kd.augment.apply(batches, kd.augment.Beside(kd.augment.MixUp()))
        >>> terms = [kd.Term(kd.losses.kl_divergence, sample_weight=None)]
        >>> kd.Distiller(student=student, teacher=teacher, terms=terms)
    """

    mixes_rows = True
    adds_unlabelled = True

    def __init__(self, *changes: Change | Function) -> None:
        self._chain = Chain(*changes)

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        """Return the rows, and the changed ones behind them."""
        return self.with_labels(x, None, None, seed)[0]

    def with_labels(self, x: Tensors, y: Tensors, sample_weight: Tensors, seed: Tensor) -> Batch:
        """Return the batch with the changed rows behind it."""
        return extended(x, y, sample_weight, self._chain(x, seed))


def each(*changes: Change | Function) -> Function:
    """Return changes as a function of one example and a seed, as `TeacherCache(augment=)` takes it.

    Args:
        *changes: what is done, in this order.

    Raises:
        TypeError: something that is no change.
        ValueError: one that needs the other rows of a batch, such as `MixUp`.

    Example:
        >>> augment = kd.augment.each(kd.augment.RandomResizedCrop())
        >>> cache = kd.TeacherCache("runs/cache", teacher=teacher, views=10, augment=augment)
    """
    chain = Chain(*changes)
    if chain.mixes_rows:
        raise ValueError(
            "Expected changes of one row at a time. Received one that mixes the rows of a batch, for which no target "
            "can be kept by example: let the teacher run live, or keep the targets of rows that are mixed once, "
            "keras_kd.augment.smote or munge."
        )

    @tf.autograph.experimental.do_not_convert
    def of_example(x: Tensors, seed: Tensor) -> Tensors:
        changed = chain(map_leaves(lambda leaf: leaf[None], x), seed)
        return map_leaves(lambda leaf: leaf[0], changed)

    return of_example


def _check(dataset: Any, seed: Any) -> None:
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            "Expected a tf.data.Dataset of batches: tf.data.Dataset.from_tensor_slices((x, y)).batch(64). Received: "
            f"{dataset!r} of type {type(dataset).__name__}"
        )
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"Expected `seed` to be a whole number. Received: seed={seed!r}")
    if isinstance(dataset.element_spec, soft_targets.Joined) or soft_targets.are_in(dataset):
        raise ValueError(
            "Expected rows without a teacher's targets: those that were joined are of the rows before the change. Let "
            "the teacher run live, on the changed rows; or give the cache the change, "
            "TeacherCache(views=10, augment=keras_kd.augment.each(change)), or rows that are made once."
        )
    spec = dataset.element_spec
    columns = soft_targets.columns(spec[0] if isinstance(spec, tuple) else spec)
    if columns:
        raise ValueError(
            f"Expected rows without columns, which would be changed as well. Received the columns {sorted(columns)}. "
            "Put them beside the changed rows, batches.map(lambda x, y: (keras_kd.Joined(x, columns=...), y))."
        )
