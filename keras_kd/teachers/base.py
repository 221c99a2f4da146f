"""The interface of every teacher."""

from typing import Any

import keras

from keras_kd._types import Tensor, Tensors


class Teacher(keras.layers.Layer):
    """Say what the student should learn: a dict from the names that the terms read to tensors.

    A teacher decides about nothing else: not the temperature, not the loss, not the gradient, which `Term` stops.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name, autocast=False)

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Learn, once, which student is taught and which names the terms read from this teacher.

        Args:
            student: the model that is trained.
            names: "logits", outputs and layers, as in `Term(at=...)`.

        Raises:
            ValueError: this teacher cannot teach this student, or does not offer a name.
        """

    def specs(self) -> dict[str, Any] | None:
        """Return symbolic tensors for the names bound, or None where they are not known before data are seen."""
        return None

    def student_view(self, x: Tensors) -> Tensors:
        """Return what the student is fed of `x`; a plain `x` passes through."""
        return x

    def call(self, x: Tensors, student: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the targets for a batch.

        Args:
            x: the batch's inputs, as the dataset has them.
            student: what the student said of this batch, by name.

        Returns:
            A dict from each name that was bound to a tensor.
        """
        raise NotImplementedError(f"{type(self).__name__} must define call(x, student).")

    def after_step(self, student: keras.Model) -> None:
        """Follow the student, after each of its steps."""
