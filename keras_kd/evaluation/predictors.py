"""A model that predicts a batch, in logits or values whatever its head."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_kd._internal import layer_reader, raw_views, sparse_targets
from keras_kd._keras import masks
from keras_kd._types import Tensors
from keras_kd.distiller import Distiller
from keras_kd.teachers import as_teacher
from keras_kd.teachers.base import taken_for_logits

#: Examples that are enough to distinguish probabilities from logits.
_FEW = 32


class Predictor:
    """A model that returns logits, and the mask of its output.

    Args:
        name: for error messages.
        model: see `measure`.
    """

    def __init__(self, name: str, model: Any) -> None:
        if isinstance(model, Distiller):
            raise TypeError(f"Expected a model as {name!r}. Received a Distiller: pass distiller.student.")
        self.name = name
        self.teacher = as_teacher(model)
        self._model = model
        self._traced: Any = None
        self._specs: Any = None

    def __call__(self, x: Tensors) -> dict[str, tuple[Any, np.ndarray | None]]:
        """Return logits (or a `Mixture`) and the mask, or None, by output: "logits" of a model with one."""
        x = tree.map_structure(ops.convert_to_tensor, x)
        if self._specs is None or not all(map(_fits, tree.flatten(x), tree.flatten(self._specs))):
            self._specs = _specs(x, self._specs)
            self._traced = tf.function(self._output).get_concrete_function(self._specs)
        found = self._traced(x).items()
        return {name: (each, None if mask is None else ops.convert_to_numpy(mask)) for name, (each, mask) in found}

    def warn_of_probabilities(self, x: Tensors, output: str) -> None:
        """Warn where what is taken for the logits of an output looks like probabilities."""
        few = tree.map_structure(lambda leaf: ops.convert_to_tensor(leaf[:_FEW]), x)
        for warning in taken_for_logits(self.teacher, few, (output,)):
            warnings.warn(warning, stacklevel=2)

    def plain(self, x: Tensors) -> Any:
        """Return the model's output with the head that it has: that costs time too."""
        if isinstance(self._model, keras.Model):
            return self._model(layer_reader.select(self._model, raw_views.view(self._model, x)), training=False)
        return self.teacher(x, {})

    def _output(self, x: Tensors) -> dict[str, tuple[Any, Any]]:
        offered = {name: sparse_targets.expanded(each) for name, each in self.teacher(x, {}).items()}
        outputs = ["logits"] if "logits" in offered else sorted(offered)
        return {name: (offered[name], masks.of(offered[name])) for name in outputs}


def _specs(x: Tensors, past: Any) -> Any:
    """Return what to trace for: any number of examples, and any size of an axis that has changed since."""

    def spec(tensor: tf.Tensor, known: tf.TensorSpec) -> tf.TensorSpec:
        sizes = zip(tensor.shape[1:], known.shape[1:], strict=True)
        return tf.TensorSpec((None, *(a if a == b else None for a, b in sizes)), tensor.dtype)

    return tree.map_structure(spec, x, x if past is None else past)


def _fits(tensor: tf.Tensor, spec: tf.TensorSpec) -> bool:
    return spec.is_compatible_with(tensor)
