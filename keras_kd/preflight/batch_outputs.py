"""What student and teacher output for a batch, as rows of logits beside labels and weights."""

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_kd import schedules
from keras_kd._internal import student_overrides
from keras_kd._internal.ensemble_logits import averaged, on_logits
from keras_kd._internal.output_labels import of_output
from keras_kd._internal.sparse_targets import expanded
from keras_kd._keras import compiled, masks
from keras_kd._types import Tensor, Tensors
from keras_kd.losses.logits import binary_kl


class Rows(NamedTuple):
    """One row for each example or position that counts: not masked, of a weight above 0, not of the ignored class.

    Attributes:
        student: its logits, (rows, classes), float64.
        teacher: its logits, those of an ensemble averaged at T = 1.
        softened: the teacher's logits as the term sees them: transformed, and divided by the temperature.
        labels: class ids, (rows,), or one value for each class, (rows, classes); None where they fit neither.
        weights: what each row counts, (rows,), above 0.
        ids: the smallest and the largest class id, of rows that do not count as well: a loss reads those, too. None
            where labels are no ids.
    """

    student: np.ndarray
    teacher: np.ndarray
    softened: np.ndarray
    labels: np.ndarray | None
    weights: np.ndarray
    ids: tuple[int, int] | None = None


class View:
    """Read the logits that the first softened term of a Distiller compares.

    Args:
        distiller: compiled, with its teacher.
    """

    def __init__(self, distiller: Any) -> None:
        self.distiller = distiller
        reader = distiller._untracked.reader
        outputs = [
            term for term in distiller.terms if all(reader.kind(name) != "values" for name in term.student_names)
        ]
        self.term = next((term for term in outputs if len(term.student_names) == 1), None)
        self.per_label = False
        if self.term is not None:
            kind = distiller.teacher.kind(self.term.teacher_names[0])
            self.per_label = self.term.loss is binary_kl or kind == "sigmoid"
            self.head = kind
            temperature = distiller.temperature if self.term.temperature is None else self.term.temperature
            self.temperature = float(schedules.first(temperature))
            loss = distiller.loss
            loss = loss.get(self.term.student_names[0]) if isinstance(loss, dict) else loss
            self.ignored = compiled.ignored_class(loss)
        self._run = tf.function(self._say, reduce_retracing=True)

    def read(self, batches: list[tuple[Tensors, Tensors, Tensors]]) -> Rows | None:
        """Return the rows of some batches; None where no term compares logits of classes, or no row counts."""
        if self.term is None or self.head == "values":
            return None
        columns = list(zip(*(self._rows(*batch) for batch in batches), strict=True))
        labels = None if any(each is None for each in columns[3]) else np.concatenate(columns[3])
        student, teacher, softened, weights = (
            np.concatenate(columns[place]).astype("float64") for place in (0, 1, 2, 4)
        )
        ids = [each for each in columns[5] if each is not None]
        extremes = (min(low for low, _ in ids), max(high for _, high in ids)) if ids else None
        return Rows(student, teacher, softened, labels, weights, extremes) if len(weights) else None

    def _say(self, x: Tensors, y: Tensors, sample_weight: Tensors) -> tuple[Any, ...]:
        term: Any = self.term
        reader = self.distiller._untracked.reader
        _, student = self.distiller._read_student(x, training=False)
        predicted = expanded(self.distiller._read_teacher(x, student, y)[term.teacher_names[0]])
        seen = predicted if term.transform is None else on_logits(term.transform, predicted)
        softened = averaged(seen, self.temperature, self.per_label) / self.temperature
        logits = student[term.student_names[0]]
        return (
            logits,
            averaged(predicted, 1.0, self.per_label),
            softened,
            _counted(logits, predicted),
            None if self._has_own_labels(y) else of_output(term, reader, student, y),
            of_output(term, reader, student, sample_weight),
        )

    def _has_own_labels(self, y: Any) -> bool:
        """Return whether labels are for the student's own `compute_loss`, under names of no output."""
        student = self.distiller.student
        own = student_overrides.has(student, "compute_loss") and isinstance(y, dict)
        return own and not set(y) & set(student.output_names)

    def _rows(self, x: Tensors, y: Any, sample_weight: Any) -> tuple[Any, ...]:
        *logits, counted, y, sample_weight = self._run(x, y, sample_weight)
        weights = np.asarray(counted, "float64")
        if sample_weight is not None:
            given = np.asarray(sample_weight, "float64")
            given = given[..., 0] if given.ndim > weights.ndim else given
            weights = weights * given.reshape(given.shape + (1,) * (weights.ndim - given.ndim))
        if y is not None and self.ignored is not None and np.size(y) == weights.size:
            weights = weights * (np.reshape(y, weights.shape) != self.ignored)
        rows = weights > 0
        labels = _labels(y, rows, logits[1].shape)
        ids = None
        if labels is not None and labels.ndim == 1:
            given = np.asarray(y).astype(int)
            given = given if self.ignored is None else given[given != self.ignored]
            ids = (int(given.min()), int(given.max())) if given.size else None
        return (*(np.asarray(each)[rows] for each in logits), labels, weights[rows], ids)


def _counted(logits: Tensor, teacher: Tensors) -> Tensor:
    """Return which examples or positions the masks of both sides leave in."""
    found = [masks.of(each) for each in (logits, *tree.flatten(teacher))]
    counted = [ops.cast(mask, "bool") for mask in found if mask is not None]
    return functools.reduce(ops.logical_and, counted, ops.ones(ops.shape(logits)[:-1], "bool"))


def _labels(y: Tensors, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return labels as rows; None for none, and for values that are no classes."""
    if y is None:
        return None
    labels = np.asarray(y)
    if labels.shape == tuple(shape) and shape[-1] > 1:
        return labels[mask]
    if labels.size != mask.size or not np.array_equal(labels, np.round(labels)):
        return None
    return labels.reshape(mask.shape)[mask].astype(int)
