"""The parts of the data: training, validation, test."""

from typing import Any

import tensorflow as tf
from keras import tree

from keras_kd._internal import batches, soft_targets, teacher_fingerprints
from keras_kd.teachers.base import Teacher


class Part:
    """One part of the data, to be read in an order that follows from a seed.

    Args:
        name: "train", "validation" or "test", for messages.
        source: arrays, (x, y) or (x, y, sample_weight); a batched tf.data.Dataset that yields the same whenever it is
            read; or a function of a seed that returns a batched tf.data.Dataset.
        batch_size: of arrays.

    Raises:
        TypeError: `source` is none of these.
        ValueError: a dataset that yields something else each time.
    """

    def __init__(self, name: str, source: Any, batch_size: int) -> None:
        self.name = name
        self.source = source
        self.batch_size = batch_size
        self.is_arrays = (
            isinstance(source, (tuple, list))
            and len(source) in (2, 3)
            and all(map(batches.is_array, tree.flatten(source)))
        )
        if not (self.is_arrays or isinstance(source, tf.data.Dataset) or callable(source)):
            raise TypeError(
                f"Expected `{name}` to be arrays (x, y), a batched tf.data.Dataset, or a function of a seed that "
                f"returns one. Received: {source!r} of type {type(source).__name__}"
            )

    def shuffled(self, seed: int, teacher: Teacher | None = None) -> tf.data.Dataset:
        """Return batches for `fit`, in the order of a seed.

        Args:
            seed: of the order of arrays; given to a function.
            teacher: prepares the x of arrays; None where none reads the targets that x may carry, which are left out.
        """
        if not self.is_arrays:
            return _without_targets(self._dataset(seed)) if teacher is None else self._dataset(seed)
        x, *others = self.source
        x = soft_targets.inputs(x) if teacher is None else teacher.before_fit(x)
        return batches.dataset((x, *others), self.batch_size, seed)

    def batches(self) -> tf.data.Dataset:
        """Return batches to evaluate on."""
        if not self.is_arrays:
            return _without_targets(self._dataset(0))
        x, *others = self.source
        return batches.dataset((soft_targets.inputs(x), *others), max(self.batch_size, 256))

    def digest(self) -> str:
        """Return a digest of this part: all of arrays, the first batch of anything else."""
        data = self.source if self.is_arrays else next(iter(self._dataset(0).take(1)), ())
        return teacher_fingerprints.of_arrays(tree.flatten(data))

    def check_order(self) -> None:
        """Refuse a dataset that is shuffled or augmented anew whenever it is read: no two runs would see the same."""
        if isinstance(self.source, tf.data.Dataset) and self.digest() != self.digest():
            raise ValueError(
                f"Expected `{self.name}` to give the same batches to every run, for the runs to be comparable. This "
                "tf.data.Dataset gives others each time that it is read. Give a function of the seed instead, which "
                "makes it anew: lambda seed: dataset.shuffle(10_000, seed=seed).batch(32)."
            )

    def _dataset(self, seed: int) -> tf.data.Dataset:
        data = self.source
        if not isinstance(data, tf.data.Dataset):
            tf.random.set_seed(seed)  # on which shuffle(seed=seed) depends, too
            data = self.source(seed)
        if not isinstance(data, tf.data.Dataset):
            raise TypeError(f"Expected `{self.name}` to return a tf.data.Dataset. Received: {data!r}")
        return data


def _without_targets(dataset: tf.data.Dataset) -> tf.data.Dataset:
    if not soft_targets.are_in(dataset):
        return dataset
    return dataset.map(lambda x, *others: (soft_targets.inputs(x), *others))
