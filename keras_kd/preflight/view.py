"""What student and teacher say of a batch, as rows of logits beside the labels."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_kd import schedules
from keras_kd._types import Tensors
from keras_kd.losses.logits import binary_kl
from keras_kd.mixtures import averaged, on_logits


class Rows(NamedTuple):
    """One row for each example or position that no mask leaves out.

    Attributes:
        student: its logits, (rows, classes), float64.
        teacher: its logits, those of an ensemble averaged at T = 1.
        softened: the teacher's logits as the term sees them: transformed, and divided by the temperature.
        labels: class ids, (rows,), or one value for each class, (rows, classes); None where they fit neither.
    """

    student: np.ndarray
    teacher: np.ndarray
    softened: np.ndarray
    labels: np.ndarray | None


class View:
    """Read the logits that the first softened term of a Distiller compares.

    Args:
        distiller: compiled, with its teacher.
    """

    def __init__(self, distiller: Any) -> None:
        self.distiller = distiller
        reader = distiller._loose.reader
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
        self._run = tf.function(self._say, reduce_retracing=True)

    def read(self, batches: list[tuple[Tensors, Tensors, Tensors]]) -> Rows | None:
        """Return the rows of some batches; None where no term compares outputs, or they are no logits of classes."""
        if self.term is None or self.head == "values":
            return None
        read = [self._rows(x, y) for x, y, _ in batches]
        columns = list(zip(*read, strict=True))
        labels = None if any(each is None for each in columns[3]) else np.concatenate(columns[3])
        student, teacher, softened = (np.concatenate(column).astype("float64") for column in columns[:3])
        return Rows(student, teacher, softened, labels)

    def _say(self, x: Tensors, y: Tensors) -> tuple[Any, ...]:
        term: Any = self.term
        _, student = self.distiller._read_student(x, training=False)
        said = self.distiller._read_teacher(x, student, y)[term.teacher_names[0]]
        seen = said if term.transform is None else on_logits(term.transform, said)
        softened = averaged(seen, self.temperature, self.per_label) / self.temperature
        logits = student[term.student_names[0]]
        mask = getattr(logits, "_keras_mask", None)  # only where a layer has set one
        mask = ops.ones(ops.shape(logits)[:-1], "bool") if mask is None else mask
        return logits, averaged(said, 1.0, self.per_label), softened, mask

    def _rows(self, x: Tensors, y: Tensors) -> tuple[Any, ...]:
        *logits, mask = (np.asarray(each) for each in self._run(x, y))
        return (*(each[mask] for each in logits), _labels(y, mask, logits[1].shape))


def _labels(y: Tensors, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return labels as rows; None for none, for those of several outputs, and for values that are no classes."""
    if y is None or tree.is_nested(y):
        return None
    labels = np.asarray(y)
    if labels.shape == shape and shape[-1] > 1:
        return labels[mask]
    if labels.size != mask.size or not np.array_equal(labels, np.round(labels)):
        return None
    return labels.reshape(mask.shape)[mask].astype(int)
