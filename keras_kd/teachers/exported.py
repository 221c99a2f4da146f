"""A teacher that exists only as a SavedModel."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor, Tensors
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.frozen import Frozen


@serializable
class SavedModel(Teacher):
    """Run a SavedModel, of Keras, of TensorFlow Hub or of any other origin, as a frozen teacher.

    Args:
        path: folder of the SavedModel.
        signature: which of its signatures or endpoints to run: "serve" in what Keras exports, "serving_default" in most
            others. None takes the first of these two that is there.
        preprocess: a function from the batch's x to what the SavedModel reads, see `teachers.Frozen`.
        head: what its outputs mean, see `teachers.Frozen`; a SavedModel does not contain it, so "auto" takes them as
            logits.

    Raises:
        ValueError: there is no SavedModel at `path`, or it has no such signature; the message lists those it has.

    Example:
        >>> distiller = Distiller(student=student, teacher=SavedModel("teacher/1", head="softmax"))
    """

    def __init__(
        self,
        path: str,
        signature: str | None = None,
        preprocess: Callable[[Tensors], Tensors] | None = None,
        head: str | dict[str, str] = "auto",
    ) -> None:
        super().__init__(name="saved_model")
        self._path = str(path)  # a layer has a `path` already
        self.signature = _find_signature(self._path, signature)
        layer = keras.layers.TFSMLayer(self._path, call_endpoint=self.signature, trainable=False)
        self._frozen = Frozen(layer, preprocess, head)

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Prepare the outputs to be read; a SavedModel has no layers to name."""
        self._frozen.bind(student, names)

    def kind(self, name: str) -> str:
        """Return the head of an output."""
        return self._frozen.kind(name)

    def unrecognised(self, names: tuple[str, ...]) -> list[Teacher]:
        """Return itself, unless the head is known."""
        return [self] if any(self.kind(name) == "auto" for name in names) else []

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Run the signature on `x` and return its logits by name."""
        return self._frozen(x, student)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "path": self._path,
            "signature": self.signature,
            "preprocess": keras.saving.serialize_keras_object(self._frozen.preprocess),
            "head": self._frozen.head,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SavedModel":
        """Make a teacher from `get_config`'s dict."""
        return cls(**{**config, "preprocess": keras.saving.deserialize_keras_object(config["preprocess"])})


def _find_signature(path: str, name: str | None) -> str:
    if not tf.saved_model.contains_saved_model(path):
        raise ValueError(f"Expected `path` to be the folder of a SavedModel. Received: path={path!r}, which is none.")
    loaded = tf.saved_model.load(path)
    endpoints = {name for name in dir(loaded) if not name.startswith("_") and _is_function(getattr(loaded, name))}
    known = sorted({*loaded.signatures, *endpoints})
    candidates = [name] if name is not None else ["serve", "serving_default"]
    found = [name for name in candidates if name in known]
    if not found:
        raise ValueError(
            f"Expected the SavedModel at {path!r} to have the signature {' or '.join(map(repr, candidates))}. "
            f"It has: {known}. Name one of those with `signature`."
        )
    return found[0]


def _is_function(value: Any) -> bool:
    return hasattr(value, "get_concrete_function")  # what a SavedModel restores has no public class
