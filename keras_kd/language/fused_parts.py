"""What reads the logits in an objective that is computed some rows at a time: terms, and the loss on labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_kd._internal import reduction, row_choice
from keras_kd._keras import compiled
from keras_kd._types import Tensor, Tensors


class Batch(NamedTuple):
    """What is known of the examples of a batch besides their inputs.

    Attributes:
        y: class ids, or None.
        sample_weight: or None.
        columns: by name.
    """

    y: Tensors
    sample_weight: Tensors
    columns: dict[str, Any]


class Part(NamedTuple):
    """What reads the logits: a term, or the loss on labels.

    Attributes:
        name: in the logs.
        weight: of its mean or sum in the objective.
        shares: by which the value of each row is multiplied in that, (rows,).
        labels: class ids, (rows,), or None.
        values: returns the value of each row, of the student's logits, the teacher's, the labels and the advantages.
        classes: how many there are, which the labels are among.
        advantages: of the rows, (rows,), for a loss of whole sequences; else None.
    """

    name: str
    weight: Any
    shares: Tensor
    labels: Tensor | None
    values: Callable[[Tensor, Any, Tensor, Tensor], Tensor]
    classes: int
    advantages: Tensor | None = None

    def inside(self) -> Tensor | None:
        """Return the labels, those that are no class as another one, or None."""
        return None if self.labels is None else tf.clip_by_value(self.labels, 0, self.classes - 1)


def shares_of(
    name: str, hidden: Tensor, weight: Any, mask: Any, counting: compiled.Counting, rows: Tensor | None = None
) -> Tensor:
    """Return by what the value of each row is multiplied in the mean or sum of all, (rows,)."""
    values = tf.zeros(tf.shape(hidden)[:-1])
    values.set_shape(hidden.shape[:-1])
    with tf.GradientTape() as tape:
        tape.watch(values)
        weight = reduction.fitting_weight(weight, values, "logits", of_layers=False)
        reduced = reduction.reduced(row_choice.only(values, rows, name), weight, mask, counting, name)
    return tf.stop_gradient(tf.reshape(tape.gradient(reduced, values), (-1,)))


def ids_of(labels: Any) -> Tensor:
    """Return class ids as rows, (rows,)."""
    return tf.reshape(tf.cast(labels, "int32"), (-1,))


def cross_entropy(ids: Tensor, logits: Tensor) -> Tensor:
    """Return the cross-entropy of each row, (rows,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)


def columns_of(parts: list[Part], of_part: Callable[[Part], Tensor | None], dtype: str) -> Tensor:
    """Return what the parts have for each row, 0 where one has nothing, (rows, parts)."""
    given = [(part, of_part(part)) for part in parts]
    return tf.stack([tf.zeros_like(part.shares, dtype) if each is None else each for part, each in given], axis=-1)
