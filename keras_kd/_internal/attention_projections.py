"""Queries, keys and values: what an attention layer makes of its inputs, which is not among its outputs."""

from typing import Any

import keras
from keras import ops

from keras_kd._keras import masks
from keras_kd._types import Tensor

#: In the order of the arguments of a call.
NAMES = ("query", "value", "key")


class WithProjections(keras.layers.Layer):
    """Run an attention layer, and return what it returns and its queries, values and keys.

    These are (batch, tokens, heads x width), with the mask of what they are made of: of the values, where no keys are
    given.

    Args:
        layer: a `keras.layers.MultiHeadAttention`.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(name=f"{layer.name}_with_projections", dtype=layer.dtype_policy, autocast=False)
        self.layer = layer
        self.supports_masking = True
        self.built = True

    def call(
        self, query: Tensor, value: Tensor, key: Tensor | None = None, **arguments: Any
    ) -> tuple[Any, list[Tensor]]:
        """Return what the layer returns, and the projections by `NAMES`."""
        inputs = (query, value, value if key is None else key)
        # Before the layer, which takes the masks off its inputs.
        projected = [self._projected(*each) for each in zip(NAMES, inputs, strict=True)]
        return self.layer(query, value, key=key, **arguments), projected

    def compute_mask(self, *inputs: Any, **previous: Any) -> None:
        """Return None: the layer, and `call`, have put masks where they belong."""

    def _projected(self, name: str, inputs: Tensor) -> Tensor:
        # Of a copy, as the projection would warn of a mask that it drops.
        vectors = getattr(self.layer, f"{name}_dense")(ops.copy(inputs))
        found = ops.reshape(vectors, (*ops.shape(vectors)[:2], vectors.shape[2] * vectors.shape[3]))
        mask = masks.of(inputs)
        if mask is not None:
            masks.put(found, mask)
        return found
