"""The batches that a candidate of `distill` is trained on, an endless dataset of one order for all."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from keras import tree

from keras_kd import augment
from keras_kd._internal import soft_targets
from keras_kd._types import Tensors
from keras_kd.experiments.candidates import Candidate
from keras_kd.experiments.held_out import joined
from keras_kd.experiments.row_changes import Offered
from keras_kd.teachers.in_memory import InMemory


class TrainingRows:
    """Rows with labels, and rows without, for which a teacher has predicted once.

    Args:
        labelled: arrays (x, y) or (x, y, sample_weight).
        unlabelled: x, or None.
        batch_size: rows with labels in a batch.
        changes: what may be done to rows, by name.
        seed: of the order, and of changes.
    """

    def __init__(
        self,
        labelled: tuple[Any, ...],
        unlabelled: Tensors,
        batch_size: int,
        changes: Mapping[str, Offered],
        seed: int,
    ) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled
        self.batch_size, self._changes, self._seed = batch_size, changes, seed

    @property
    def x(self) -> Tensors:
        """All rows, those without labels behind those with labels."""
        return joined(self.labelled[0], self.unlabelled)

    def with_labels(self, labelled: tuple[Any, ...]) -> "TrainingRows":
        """Return the same rows with other labels."""
        return TrainingRows(labelled, self.unlabelled, self.batch_size, self._changes, self._seed)

    def code(self, candidate: Candidate) -> list[str]:
        """Return the lines of Python that make these batches, of `x`, `y` and `unlabelled`."""
        if candidate.unlabelled:
            arguments = f"batch_size={self._size(candidate)}, share={candidate.unlabelled:g}, seed={self._seed}"
            lines = [f"train = kd.augment.with_unlabelled((x, y), unlabelled, {arguments}).repeat()"]
        else:
            size = min(self.batch_size, soft_targets.count(self.labelled[0]))
            made = f"shuffle(len(x), seed={self._seed}).repeat().batch({size}, drop_remainder=True)"
            lines = [f"train = tf.data.Dataset.from_tensor_slices((x, y)).{made}"]
        if candidate.change:
            change = self._changes[candidate.change].code
            change = f"kd.augment.Beside({change})" if candidate.teacher else change
            lines.append(f"train = kd.augment.apply(train, {change}, seed={self._seed})")
        return lines

    def batches(self, candidate: Candidate, memory: InMemory | None) -> tf.data.Dataset:
        """Return endless batches of x, y and perhaps weights.

        Args:
            candidate: decides what they are.
            memory: has the teacher's targets, for candidates whose rows do not change; None for others.
        """
        (x, *others), more = self.labelled, self.unlabelled
        if memory is not None:
            joined = memory.before_fit(self.x, verbose=0)
            count = soft_targets.count(x)
            x = tree.map_structure(lambda leaf: leaf[:count], joined)
            more = None if more is None else tree.map_structure(lambda leaf: leaf[count:], joined)
        labelled = (x, *others)
        if candidate.unlabelled:
            size = self._size(candidate)
            data = augment.with_unlabelled(labelled, more, size, candidate.unlabelled, seed=self._seed).repeat()
        else:
            data = self._of(labelled)
        if not candidate.change:
            return data
        change = self._changes[candidate.change].change
        # A control has no teacher to predict for changed rows: they need the labels, which are mixed as the rows are.
        change = augment.Beside(change) if candidate.teacher else change
        return augment.apply(data, change, seed=self._seed)

    def _size(self, candidate: Candidate) -> int:
        """Return the rows of a batch, of which those with labels are as many as in a batch without others."""
        return round(self.batch_size / (1 - candidate.unlabelled))

    def _of(self, labelled: tuple[Any, ...]) -> tf.data.Dataset:
        """Return batches of rows with labels, each pass in another order."""
        count = soft_targets.count(labelled[0])
        tensors = soft_targets.map_arrays(tf.convert_to_tensor, labelled)
        places = tf.data.Dataset.range(count).shuffle(count, seed=self._seed).repeat()
        places = places.batch(min(self.batch_size, count), drop_remainder=True)
        return places.map(lambda place: soft_targets.map_arrays(lambda leaf: tf.gather(leaf, place), tensors))
