"""What a recipe has to beat: the student alone, and label smoothing, which needs no teacher either."""

from typing import Any

import keras

from keras_kd import losses
from keras_kd._types import LossFunction, Number, Tensor, Tensors
from keras_kd.experiments.mixed_labels import name_of
from keras_kd.teachers.base import Teacher

#: What makes label smoothing of a loss, by its name.
_DIVERGENCES = {
    "categoricalcrossentropy": losses.kl_divergence,
    "sparsecategoricalcrossentropy": losses.kl_divergence,
    "binarycrossentropy": losses.binary_kl,
}

#: The controls, by the names that they have among the recipes.
ALONE, SMOOTHING = "alone", "label smoothing"


class Uniform(Teacher):
    """Predict the same probability for all classes: label smoothing, as a teacher."""

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return logits of 0."""
        return {"logits": keras.ops.zeros_like(student["logits"])}


def smoothing_loss(compile_arguments: dict[str, Any]) -> LossFunction | None:
    """Return the divergence that makes label smoothing of the loss on labels; None where there is no such thing.

    For a cross-entropy, (1 - e) * CE(y, p) + e * KL(u, p) has the gradient of CE((1 - e) * y + e * u, p), u uniform.
    """
    return _DIVERGENCES.get(name_of(compile_arguments.get("loss")))
