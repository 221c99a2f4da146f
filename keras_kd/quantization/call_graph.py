"""A Functional model as the list of its calls, and who reads what."""

import dataclasses
from typing import Any

import keras
from keras import layers

from keras_kd._keras import tensor_origin

#: What runs a kernel over its input.
WEIGHTED = (layers.Dense, layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)


@dataclasses.dataclass
class Call:
    """A layer at one place of a graph: what it reads and what it outputs."""

    layer: Any
    inputs: list[Any]
    output: Any


class Graph:
    """The calls of a model in the order in which they can be run.

    Args:
        model: a Functional model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.calls: list[Call] = []
        self._seen = {id(tensor) for tensor in model.inputs}
        for output in model.outputs:
            self._add(output)

    def _add(self, tensor: Any) -> None:
        if id(tensor) in self._seen:
            return
        self._seen.add(id(tensor))
        layer, _, inputs = tensor_origin.producer(tensor)
        for each in inputs:
            self._add(each)
        self.calls.append(Call(layer, list(inputs), tensor))

    def is_output(self, tensor: Any) -> bool:
        """Return whether the model returns a tensor."""
        return any(output is tensor for output in self.model.outputs)

    def next(self, call: Call) -> Call | None:
        """Return the only reader of a call, or None where there are several or the model returns it too."""
        readers = [each for each in self.calls if any(tensor is call.output for tensor in each.inputs)]
        return readers[0] if len(readers) == 1 and not self.is_output(call.output) else None

    def folded(self, call: Call) -> keras.layers.BatchNormalization | None:
        """Return the normalisation that becomes one with a weighted layer, where there is one."""
        after = self.next(call)
        if after is None or type(call.layer) not in WEIGHTED or not is_linear(call.layer):
            return None
        return after.layer if type(after.layer) is layers.BatchNormalization else None

    def is_fused(self, call: Call) -> bool:
        """Return whether LiteRT makes one operation of a call and the next: nothing is rounded between them."""
        after = self.next(call)
        if after is None:
            return False
        simple = type(call.layer) in (layers.BatchNormalization, layers.Add)
        simple = simple or (type(call.layer) in WEIGHTED and is_linear(call.layer))
        return self.folded(call) is not None or (simple and is_rectifier(after.layer))


def is_linear(layer: Any) -> bool:
    """Return whether a layer with an activation has none."""
    return layer.activation is keras.activations.linear


def is_rectifier(layer: Any) -> bool:
    """Return whether a layer is nothing but a relu or a relu6."""
    if type(layer) is layers.Activation:
        return layer.activation in (keras.activations.relu, keras.activations.relu6)
    return type(layer) is layers.ReLU
