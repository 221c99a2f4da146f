"""What a model's output means, and how to get logits from it.

The only place that knows. A softmax or sigmoid at the end of a model is recognised and undone, so that a term always
sees logits: softmax(log p / T) is the softmax at temperature T, exactly.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd._types import Tensor

KINDS = ("auto", "logits", "softmax", "sigmoid", "values")

#: The smallest normal float32: a probability that was rounded to 0 has a logarithm of at most this one's, -87.3.
_SMALLEST = 1.1754944e-38
#: The largest float32 below 1: a probability that was rounded to 1 has a logit of at least this one's, 16.6.
_LARGEST = 1.0 - 2.0**-24


class Head(keras.layers.Layer):
    """Turn one output of a model into logits (or leave values as they are).

    A layer, so that the Keras mask of the output goes with it.

    Args:
        kind: "logits", "softmax", "sigmoid" or "values" to say what the output is; "auto" to undo an activation that
            Keras has marked on the tensor, and to take anything else as logits.

    Raises:
        ValueError: `kind` is none of these.
    """

    def __init__(self, kind: str = "auto") -> None:
        super().__init__(dtype="float32", autocast=False, name="head")
        self.kind = check(kind)
        self.supports_masking = True

    def call(self, output: Tensor) -> Tensor:
        """Return logits, of the shape of `output`."""
        if self.kind in ("logits", "values"):
            return output
        # Keras's softmax and sigmoid leave their input on the tensor that they return. It is better than any
        # logarithm: nothing has been rounded to 0 or 1 yet.
        exact = getattr(output, "_keras_logits", None)
        if exact is not None:
            return exact
        if self.kind == "softmax":
            return ops.log(ops.maximum(ops.cast(output, "float32"), _SMALLEST))
        if self.kind == "sigmoid":
            probability = ops.clip(ops.cast(output, "float32"), _SMALLEST, _LARGEST)
            return ops.log(probability) - ops.log1p(-probability)
        return output


def check(kind: str) -> str:
    """Return `kind` if it is one of `KINDS`, or raise an error that lists them."""
    if kind not in KINDS:
        raise ValueError(f"Expected a head to be one of {KINDS}. Received: {kind!r}")
    return kind


def recognise(output: Any) -> str:
    """Return the kind of a Functional model's symbolic output, read off the layer that made it; or "auto"."""
    layer, _, index = output._keras_history
    while isinstance(layer, keras.Model):
        layer, _, index = layer.outputs[index]._keras_history
    if isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(layer, "activation", None)  # most layers have none
    return {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}.get(activation, "auto")


def are_probabilities(values: Any) -> bool:
    """Return whether numbers, (..., classes), look like those of a softmax: none below 0, and a sum of 1 everywhere."""
    values = np.asarray(values, "float64")
    several = values.ndim > 1 and values.shape[-1] > 1
    return several and values.min() >= 0 and bool(np.allclose(values.sum(axis=-1), 1, atol=1e-3))
