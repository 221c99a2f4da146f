"""What a model's output means, and how to get logits from it.

The only place that knows. A softmax or sigmoid at the end of a model is recognised and undone, so that a term always
sees logits: softmax(log p / T) is the softmax at temperature T, exactly. A head is recognised through layers behind it
that only move its values, such as a reshape.

The logits of a softmax are the logarithms of its probabilities, wherever they come from: a live model, an ensemble, a
cache, a copy in 16 bits, a SavedModel. What a softmax was computed of has a constant for each example besides, which no
probability depends on, and which only some of these have kept. A loss that compares numbers instead of distributions,
such as `losses.squared_error`, would see it. Of what no softmax made, logits are the output as it is.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd._internal import model_graphs
from keras_kd._keras import tensor_origin
from keras_kd._types import Tensor

KINDS = ("auto", "logits", "softmax", "sigmoid", "values")

#: The smallest normal float32: a probability that was rounded to 0 has a logarithm of at most this one's, -87.3.
_SMALLEST = 1.1754944e-38
#: The largest float32 below 1: a probability that was rounded to 1 has a logit of at least this one's, 16.6.
_LARGEST = 1.0 - 2.0**-24


#: Whether logits of a softmax are brought to logarithms of probabilities, see `normalizing`.
_normalizing = contextvars.ContextVar("normalizing", default=True)


class Head(keras.layers.Layer):
    """Turn one output of a model into logits (or leave values as they are).

    A layer, so that the Keras mask of the output goes with it.

    Args:
        kind: "logits", "softmax", "sigmoid" or "values" for what the output is; "auto" to undo an activation that
            Keras has marked on the tensor, and to take anything else as logits.
        normalized: whether logits of a softmax are the logarithms of its probabilities everywhere, see above. False
            gives what the softmax was computed of, where Keras has left that.

    Raises:
        ValueError: `kind` is none of these.
    """

    def __init__(self, kind: str = "auto", normalized: bool = True) -> None:
        super().__init__(dtype="float32", autocast=False, name="head")
        self.kind = check(kind)
        self.normalized = normalized
        self.supports_masking = True

    def call(self, output: Tensor) -> Tensor:
        """Return logits, of the shape of `output`."""
        if self.kind in ("logits", "values"):
            return output
        exact, activation = _unrounded(output, self.kind)
        if exact is not None:
            log_softmax = activation == "softmax" and self.normalized and _normalizing.get()
            return ops.log_softmax(ops.cast(exact, "float32"), axis=-1) if log_softmax else exact
        if self.kind == "softmax":
            return ops.log(ops.maximum(ops.cast(output, "float32"), _SMALLEST))
        if self.kind == "sigmoid":
            probability = ops.clip(ops.cast(output, "float32"), _SMALLEST, _LARGEST)
            return ops.log(probability) - ops.log1p(-probability)
        return output


@contextlib.contextmanager
def normalizing(active: bool) -> Iterator[None]:
    """Set whether heads normalise logits by a log-softmax inside this context: losses of distributions take their own.

    Args:
        active: whether somebody will compare the logits as numbers, or keep them.
    """
    token = _normalizing.set(active)
    try:
        yield
    finally:
        _normalizing.reset(token)


def check(kind: str) -> str:
    """Return `kind` if it is one of `KINDS`, or raise an error that lists them."""
    if kind not in KINDS:
        raise ValueError(f"Expected a head to be one of {KINDS}. Received: {kind!r}")
    return kind


def recognise(output: Any) -> str:
    """Return the kind of a Functional model's symbolic output, read off what made it; or "auto"."""
    made = model_graphs.origin(output)
    if made.kind == "softmax":
        return "softmax" if made.axis == len(output.shape) - 1 else "auto"
    return "sigmoid" if made.kind == "sigmoid" else "auto"


def in_doubt(output: Any) -> bool:
    """Return whether it is unknown if a symbolic output is logits or probabilities: it ends in neither kind of head."""
    return model_graphs.origin(output).kind == "unknown"


def require_last_axis(output: Any, name: str, owner: str) -> None:
    """Raise a `ValueError` where a symbolic output is a softmax whose classes are not on the last axis."""
    made, rank = model_graphs.origin(output), len(output.shape)
    if made.kind != "softmax" or made.axis == rank - 1:
        return
    order = (*(axis for axis in range(1, rank) if axis != made.axis), made.axis)
    raise ValueError(
        f"Expected the output {name!r} of the {owner} to have its classes on the last axis. Received an output of the "
        f"shape {tuple(output.shape)} with a softmax over axis {made.axis}. Move that axis to the end: "
        f"keras.Model(model.input, keras.layers.Permute({order})(model.output)) has the same layers and weights."
    )


def resembles(values: Any) -> str | None:
    """Return the head that numbers, (..., classes), look as if they came from: "softmax", "sigmoid", or None.

    Nothing outside of 0 to 1 looks like probabilities; those of a softmax add up to 1.
    """
    values = np.asarray(values, "float64")
    if not values.any() or not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
        return None
    several = values.ndim > 1 and values.shape[-1] > 1
    return "softmax" if several and np.allclose(values.sum(axis=-1), 1, atol=1e-3) else "sigmoid"


def _unrounded(output: Tensor, kind: str) -> tuple[Tensor | None, str | None]:
    """Return the logits that Keras leaves on what its softmax and sigmoid return, and which of them it was; or None.

    They are better than any logarithm: nothing has been rounded to 0 or 1 yet. Keras does not distinguish the two, nor
    the axis; a softmax over another one than the last leaves none here.
    """
    logits = tensor_origin.logits(output)
    activation = None if logits is None else _activation(output, logits, kind)
    return (None, None) if activation is None else (logits, activation)


def _activation(output: Tensor, logits: Tensor, kind: str) -> str | None:
    """Return "softmax" (over the last axis) or "sigmoid", whichever turns `logits` into `output`."""
    operation = getattr(output, "op", None)  # only a tensor in a graph has one
    if operation is not None:
        return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(operation.type)
    tolerance = 1e-5 if keras.backend.standardize_dtype(output.dtype) in ("float32", "float64") else 1e-2
    for name in ("softmax", "sigmoid") if kind == "softmax" else ("sigmoid", "softmax"):
        again, known = (np.asarray(ops.cast(each, "float32")) for each in (keras.activations.get(name)(logits), output))
        if np.allclose(again, known, atol=tolerance):
            return name
    return None
