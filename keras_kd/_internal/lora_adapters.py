"""Low-rank adapters (LoRA) of layers, which Keras merges into their weights wherever it saves or loads these."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_kd._keras import layer_tree

#: The two factors of an adapter, as Keras's layers call them, and how it draws the first one; the second begins at 0.
_FACTORS = (("lora_kernel_a", "lora_kernel_b"), ("lora_embeddings_a", "lora_embeddings_b"))
_FIRST = "he_uniform"

#: By which arguments a layer has an adapter from the beginning.
ARGUMENTS = ("lora_rank", "lora_alpha")


def count(model: Any) -> int:
    """Return how many layers of a model have an adapter."""
    return len(_layers(model))


class Revival(keras.callbacks.Callback):
    """Draw adapters anew that begin a training at 0, in both factors: no gradient leads from there.

    Keras leaves them so wherever weights are loaded, as `keras.callbacks.BackupAndRestore` does.

    Args:
        student: has adapters.
    """

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.student = student

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the adapters, once the callbacks before this one have loaded what they do."""
        dead = [pair for layer in _layers(self.student) for pair in _pairs(layer) if not any(map(_is_set, pair))]
        for first, _ in dead:
            first.assign(keras.initializers.get(_FIRST)(first.shape, first.dtype))
        if dead:
            warnings.warn(
                f"Keras has merged {len(dead)} adapters of the student {self.student.name!r} into the weights that "
                "were loaded, and set them to 0, from where they do not learn. They begin anew: the student predicts "
                "as it did, but goes on otherwise than without the interruption.",
                stacklevel=2,
            )


def check_kept(student: Any, saved: int) -> None:
    """Refuse to go on with all weights of a student of which adapters alone were trained.

    Args:
        student: was loaded, or not.
        saved: how many layers had an adapter when it was saved.

    Raises:
        ValueError: there were some, and now there are none.
    """
    if saved and not count(student):
        raise ValueError(
            f"Expected the student {student.name!r} to have the adapters (LoRA) of {saved} layers with which this "
            "Distiller was saved. Keras has merged them into the weights in the file, and all weights would be "
            "trained. Enable them again, as by student.backbone.enable_lora(rank), and compile; or make a new "
            "Distiller of this student, to train all of it."
        )


def _layers(model: Any) -> list[Any]:
    found = layer_tree.all_layers(model)
    return [layer for layer in found if getattr(layer, "lora_enabled", False)]  # most have no such attribute


def _pairs(layer: Any) -> list[tuple[Any, Any]]:
    named = [names for names in _FACTORS if hasattr(layer, names[0])]  # a layer has one of the two
    return [(getattr(layer, first), getattr(layer, second)) for first, second in named]


def _is_set(factor: Any) -> bool:
    return bool(np.any(keras.ops.convert_to_numpy(factor)))
