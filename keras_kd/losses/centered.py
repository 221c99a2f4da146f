"""A loss on features that are read as distributions over their channels, around a running mean of the teacher's."""

from typing import Any

import keras
from keras import ops

from keras_kd._keras import replicas
from keras_kd._serialization import serializable
from keras_kd._types import Shape, Tensor
from keras_kd.losses._shapes import require_same_shape


@serializable
class CenteredCrossEntropy(keras.layers.Layer):
    """Choose among channels as the teacher does, each measured from its mean (DINO).

    -sum_c p_c log q_c, with p = softmax((t - center) / teacher_temperature) and q = softmax(s / student_temperature).
    The center is a running mean of the teacher's features: without it, the few channels that are always large would be
    the whole of p. It begins at 0 and changes in training alone, after the loss of a step is computed:
    center = momentum * center + (1 - momentum) * mean of t, over the examples of all replicas and their positions.

    Args:
        student_temperature: T of the student's side, above 0; not that of the logits.
        teacher_temperature: T of the teacher's side, above 0. The lower, the more certain p is.
        momentum: of the center, 0 to below 1.

    Raises:
        ValueError: a number out of range; in a term: features of two shapes.

    Example:
        >>> Term(CenteredCrossEntropy(), at=("top:global", "encoder:global"), bridge="auto")

    Reference: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021, arXiv 2104.14294.
    """

    def __init__(
        self,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        momentum: float = 0.9,
        name: str = "centered_cross_entropy",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        if not (student_temperature > 0 and teacher_temperature > 0 and 0 <= momentum < 1):
            raise ValueError(
                "Expected `student_temperature` and `teacher_temperature` above 0, and `momentum` from 0 to below 1. "
                f"Received: {student_temperature!r}, {teacher_temperature!r} and {momentum!r}"
            )
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.momentum = momentum

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Create the center."""
        # The same on every replica: the means are gathered from all of them first.
        self.center = self.add_weight(
            shape=(teacher_shape[-1],),
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
            name="center",
        )

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Tensor:
        """Return the loss in nats, (...), for features of one shape, (..., channels); in training, move the center."""
        require_same_shape(student, teacher)
        p = ops.softmax((teacher - self.center) / self.teacher_temperature)
        log_q = ops.log_softmax(student / self.student_temperature)
        if training:
            self._follow(ops.stop_gradient(teacher))
        return -ops.sum(p * log_q, axis=-1)

    def _follow(self, teacher: Tensor) -> None:
        positions = tuple(range(1, len(teacher.shape) - 1))
        means = ops.mean(teacher, axis=positions) if positions else teacher
        mean = ops.mean(replicas.gather(means), axis=0)
        self.center.assign(self.momentum * self.center + (1.0 - self.momentum) * mean)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.teacher_temperature,
            "momentum": self.momentum,
            "name": self.name,
        }
