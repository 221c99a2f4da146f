"""Which layer or operation has made a tensor, and of which inputs."""

import functools
from typing import Any

import keras

from keras_kd._types import Tensor


def producer(tensor: Any) -> tuple[Any, int, list[Tensor]]:
    """Return the layer or operation that has made a symbolic tensor, which of its outputs it is, and its inputs.

    A layer may have been called several times: the inputs are those of the call that has made this tensor.
    """
    operation, node, index = tensor._keras_history
    return operation, index, operation._inbound_nodes[node].input_tensors


def logits(output: Tensor) -> Tensor | None:
    """Return what Keras's softmax or sigmoid has turned into `output`, or None where Keras has left it nowhere."""
    return getattr(output, "_keras_logits", None)


def outputs_of_calls(layer: keras.layers.Layer) -> list[Tensor]:
    """Return the symbolic outputs of all calls of a layer."""
    return [output for node in layer._inbound_nodes for output in node.output_tensors]


@functools.cache
def operation_of(function: Any) -> Any:
    """Return the class of the operation that a function of `keras.ops` puts into a graph: it has no public name."""
    return type(producer(function(keras.KerasTensor((1, 2))))[0])
