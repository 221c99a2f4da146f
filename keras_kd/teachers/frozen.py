"""A trained model that teaches and does not change."""

from typing import Any

import keras

from keras_kd import taps
from keras_kd._types import Tensor, Tensors
from keras_kd.teachers.base import Teacher


@keras.saving.register_keras_serializable("keras_kd")
class Frozen(Teacher):
    """Run a trained model in inference mode on every batch. Its weights, statistics and flags stay as they are.

    Args:
        model: a built Keras model, or any built callable layer, such as a `keras.layers.TFSMLayer`.
        head: what its outputs mean: "auto", "logits", "softmax", "sigmoid" or "values", or a dict from output name to
            one of these. "auto" recognises a softmax or sigmoid at the end, and takes anything else as logits.

    Raises:
        TypeError: `model` is not a Keras layer.
        ValueError: `model` is not built.

    Example:
        >>> distiller = Distiller(student=student, teacher=Frozen(teacher, head="softmax"))
    """

    def __init__(self, model: keras.layers.Layer, head: str | dict[str, str] = "auto") -> None:
        if not isinstance(model, keras.layers.Layer):
            raise TypeError(
                "Expected the teacher to be a Keras model or layer, or a keras_kd.teachers.Teacher. "
                f"Received: {model!r} of type {type(model).__name__}"
            )
        if not model.built and not isinstance(model, keras.layers.TFSMLayer):
            raise ValueError(
                f"Expected a trained teacher. {model.name!r} is not built: it has no weights yet. "
                "Call it on a batch and load its weights, or load it with keras.models.load_model."
            )
        super().__init__(name=f"frozen_{model.name}")
        self.model = model
        self.head = head
        self._reader = taps.Reader(model, head=head, owner="teacher")

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Check that the student is another model, and prepare the layers to be read."""
        ours = {id(variable) for variable in self.model.variables}
        shared = [variable.path for variable in student.trainable_variables if id(variable) in ours]
        if shared:
            raise ValueError(
                "Expected the student and the teacher to be two models. "
                f"{student.name!r} would train weights of its own teacher: {shared[:3]}. "
                "Make the student from a copy (keras.models.clone_model), or freeze what they share."
            )
        self._reader = taps.Reader(self.model, names, self.head, owner="teacher")

    def specs(self) -> dict[str, Any] | None:
        """Return the model's symbolic outputs and layers, or None for a model without a graph."""
        return self._reader.specs

    def call(self, x: Tensors, student: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the model on `x` and return its logits and features by name."""
        return self._reader(x, training=False)[1]

    def get_config(self) -> dict:
        """Return the constructor's arguments, the model serialised."""
        return {"model": keras.saving.serialize_keras_object(self.model), "head": self.head}

    @classmethod
    def from_config(cls, config: dict) -> "Frozen":
        """Make a teacher from `get_config`'s dict."""
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})
