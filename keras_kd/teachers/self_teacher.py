"""The student's own outputs as targets."""

from collections.abc import Callable
from typing import Any

import keras

from keras_kd._internal import layer_reader
from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor, Tensors
from keras_kd.teachers.base import Teacher


@serializable
class SelfTeacher(Teacher):
    """Let parts of the student learn from other parts of it: early exits from the last, peers from each other.

    The targets are the student's outputs in the same forward pass, detached: no gradient goes into them. A term names
    both sides, at=("exit_1", "final").

    Example:
        >>> terms = [Term(losses.kl_divergence, at=("exit_1", "final"), temperature=3.0)]
        >>> distiller = Distiller(student=with_exits, teacher=SelfTeacher(), terms=terms)

    Reference: Zhang et al., Be Your Own Teacher, 2019, arXiv 1905.08094; Deep Mutual Learning, 2017, arXiv 1706.00384.
    """

    def __init__(self) -> None:
        super().__init__(name="self_teacher")

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Check the names against the student."""
        self._reader = layer_reader.Reader(student, names, owner="student")

    def specs(self) -> dict[str, Any] | None:
        """Return the student's symbolic outputs and layers, or None for a model without a graph."""
        return self._reader.specs

    def kind(self, name: str) -> str:
        """Return the head of an output; a layer's features are "values"."""
        return self._reader.kind(name)

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return nothing: the student has read the examples."""
        return {}

    def layers_of_student(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return all names that the terms read from this teacher."""
        return names

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return the student's outputs; `Term` stops the gradient."""
        return student

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments: none."""
        return {}
