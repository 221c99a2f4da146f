"""The product with its vocabulary in which a language model ends: what it multiplies, and by what."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_kd._internal import layer_reader
from keras_kd._keras import masks, tensor_origin
from keras_kd._types import Tensor

#: Layers whose `call` is a product with a matrix, and what may follow it here.
_DENSE, _REVERSIBLE = keras.layers.Dense, keras.layers.ReversibleEmbedding


class VocabularyHead(NamedTuple):
    """The last layer of a model, which turns hidden states into logits.

    Attributes:
        hidden: symbolic hidden states, (batch, ..., width).
        layer: a Dense without activation, or a ReversibleEmbedding that is read in reverse.
    """

    hidden: Tensor
    layer: Any

    @property
    def is_quantized(self) -> bool:
        """Whether the layer's weights are integers, which no gradient reaches."""
        return getattr(self.layer, "quantization_mode", None) is not None

    def logits(self) -> Callable[[Tensor], Tensor]:
        """Return a function from hidden states, (rows, width), to logits, (rows, classes), float32."""
        if self.is_quantized:
            return self._quantized_logits()
        product = self.product()
        return lambda hidden: product.logits(product(hidden))

    def _quantized_logits(self) -> Callable[[Tensor], Tensor]:
        """Return the same of integer weights: all weights are read here, as the function may have none of its own."""
        layer, arguments = self.layer, {} if isinstance(self.layer, _DENSE) else {"reverse": True}
        trainable, others = (
            [_read(each) for each in some] for some in (layer.trainable_variables, layer.non_trainable_variables)
        )
        return lambda hidden: tf.cast(layer.stateless_call(trainable, others, hidden, **arguments)[0], "float32")

    def masked_as_output(self, read: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what was read, with the mask that the layer would give the "logits" on their hidden states."""
        hidden = read["logits"]
        unmasked = tf.identity(hidden)
        mask = masks.of(hidden) if isinstance(self.layer, _DENSE) else None  # a ReversibleEmbedding drops it
        if mask is not None:
            masks.put(unmasked, mask)
        return {**read, "logits": unmasked}

    def product(self) -> "Product":
        """Return the product with the weights that the layer has now."""
        layer = self.layer
        if isinstance(layer, _DENSE):
            return Product(_read(layer.kernel), _read(layer.bias), False, None, layer.compute_dtype)
        kernel = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
        dtype = keras.backend.standardize_dtype(layer.reverse_dtype or layer.compute_dtype)
        return Product(_read(kernel), None, layer.tie_weights, layer.logit_soft_cap, dtype)


class Product(NamedTuple):
    """A product of hidden states with a matrix, a row at a time.

    Attributes:
        kernel: (classes, width) if `by_class`, else (width, classes).
        bias: (classes,), or None.
        by_class: whether the kernel has a row for each class.
        soft_cap: logits are `soft_cap * tanh(x / soft_cap)` of the product x; None for the product itself.
        dtype: in which it is computed.
    """

    kernel: Tensor
    bias: Tensor | None
    by_class: bool
    soft_cap: float | None
    dtype: str

    @property
    def classes(self) -> int:
        """The size of the vocabulary."""
        size: int = self.kernel.shape[0 if self.by_class else 1]
        return size

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the product for hidden states, (rows, width), as (rows, classes) in `dtype`."""
        product = tf.matmul(tf.cast(hidden, self.dtype), tf.cast(self.kernel, self.dtype), transpose_b=self.by_class)
        return product if self.bias is None else product + tf.cast(self.bias, self.dtype)

    def logits(self, product: Tensor) -> Tensor:
        """Return the logits of a product, float32."""
        if self.soft_cap is not None:
            product = tf.tanh(product / self.soft_cap) * self.soft_cap
        return tf.cast(product, "float32")


def find(model: Any) -> VocabularyHead | None:
    """Return the head of a model's one output, or None where the model does not end in a product with a matrix."""
    graph = layer_reader.functional(model)
    output = None if graph is None else graph.output
    if not isinstance(output, keras.KerasTensor) or len(output.shape) < 2:
        return None
    layer, _, inputs = tensor_origin.producer(output)
    if len(inputs) != 1:
        return None
    is_dense = type(layer).call is _DENSE.call if isinstance(layer, _DENSE) else False
    if is_dense and layer.activation is keras.activations.linear:
        return VocabularyHead(inputs[0], layer)
    is_reverse = isinstance(layer, _REVERSIBLE) and type(layer).call is _REVERSIBLE.call
    if is_reverse and output.shape[-1] == layer.input_dim and inputs[0].shape[-1] == layer.output_dim:
        return VocabularyHead(inputs[0], layer)
    return None


def _read(weight: Any) -> Any:
    return None if weight is None else tf.convert_to_tensor(weight)
