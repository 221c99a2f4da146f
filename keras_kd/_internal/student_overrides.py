"""What a student overrides of Keras's own steps, and how the Distiller calls it.

A student may define `compute_loss`, `compute_metrics`, `test_step` and `predict_step`, as any Keras model may. It finds
there what the Distiller was compiled with: `super().compute_loss(...)` computes the `loss` of `Distiller.compile`.
"""

import keras

from keras_kd._internal import layer_reader
from keras_kd._keras import compiled
from keras_kd._types import Tensor, Tensors


def has(student: keras.Model, name: str) -> bool:
    """Return whether a model defines a method of Keras's itself."""
    method = getattr(student, name)
    return getattr(method, "__func__", method) is not getattr(keras.Model, name)  # a function assigned to it has none


def check(student: keras.Model) -> None:
    """Refuse a student whose `train_step` would be replaced without a word.

    Raises:
        ValueError: the student overrides `train_step`.
    """
    if has(student, "train_step"):
        raise ValueError(
            "Expected a student with Keras's own `train_step`, which the Distiller replaces. Received: "
            f"{student.name!r} of type {type(student).__name__}, which overrides it. Move its loss to `compute_loss` "
            "and its metrics to `compute_metrics`, which the Distiller calls, or pass the model that it trains."
        )


def compute_loss(
    distiller: keras.Model, x: Tensors, y: Tensors, y_pred: Tensors, sample_weight: Tensors, training: bool
) -> Tensor:
    """Return what the student's own `compute_loss` returns, a scalar, divided by the number of replicas."""
    with compiled.lent(distiller, distiller.student) as student:
        return compiled.student_loss(student, layer_reader.select(student, x), y, y_pred, sample_weight, training)


def compute_metrics(
    distiller: keras.Model, x: Tensors, y: Tensors, y_pred: Tensors, sample_weight: Tensors
) -> dict[str, Tensor]:
    """Return what the student's own `compute_metrics` returns, by the names in the logs."""
    with compiled.lent(distiller, distiller.student) as student:
        return student.compute_metrics(layer_reader.select(student, x), y, y_pred, sample_weight)


def test_step(distiller: keras.Model, data: tuple[Tensors, Tensors, Tensors]) -> dict[str, Tensor]:
    """Return what the student's own `test_step` returns for (x, y, sample_weight), by the names in the logs."""
    x, y, sample_weight = data
    with compiled.lent(distiller, distiller.student) as student:
        x = layer_reader.select(student, x)
        return student.test_step(keras.utils.pack_x_y_sample_weight(x, y, sample_weight))
