"""Rules for layers with kernels, and for weights that follow the channels they scale."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_kd.pruning.channel_trace import Call, Trace
from keras_kd.pruning.channel_units import Ids

Rule = Callable[[Trace, Call], None]


class Uncovered(Exception):  # noqa: N818, it is no error: the layer is kept as it is
    """A layer is used in a way that its rule does not cover."""


def weights(layer: Any, *names: str) -> dict[str, Any]:
    """Return the weights of a layer by name, None for those it does not have.

    Raises:
        Uncovered: it has others, such as those of LoRA or of integers, or the first one is missing.
    """
    found = {weight.name: weight for weight in layer.weights}
    if set(found) - set(names) or names[0] not in found:
        raise Uncovered(f"has the weights {sorted(found)}, and {sorted(names)} were expected")
    return {name: found.get(name) for name in names}


@functools.cache
def is_elementwise(activation: Any) -> bool:
    """Return whether an activation treats each number alone: on a part of them, it gives a part of the same."""
    x = np.random.default_rng(0).normal(0.0, 2.0, (3, 7)).astype("float32")
    part = [0, 2, 3, 6]
    try:
        whole, alone = (keras.ops.convert_to_numpy(activation(each)) for each in (x, x[:, part]))
    except Exception:  # a function of the user's may raise anything
        return False
    return whole.shape == x.shape and np.allclose(whole[:, part], alone, atol=1e-6)


def made(trace: Trace, call: Call, ids: Ids, activation: Any = None) -> Ids:
    """Return units after an activation, which may keep them all."""
    layer = call.operation
    activation = layer.activation if activation is None else activation
    if isinstance(activation, keras.layers.Layer) or not is_elementwise(activation):
        trace.units.fix(ids, f"the activation of {call.described} reads its channels together")
    return ids


def dense(trace: Trace, call: Call) -> None:
    """Dense: (..., n) -> (..., units)."""
    layer, (x, *_) = call.operation, call.tensors
    found = weights(layer, "kernel", "bias")
    trace.read(found["kernel"], 0, x, -1, call)
    ids = made(trace, call, trace.make(found["kernel"], 1, call))
    trace.follow(found["bias"], 0, ids, call)
    trace.set_number(layer, "units", ids)
    trace.works(found["kernel"], x.shape[1:-1])
    trace.put(call.result, (*trace.labels(x)[:-1], ids))


def channel_axis(layer: Any, tensor: Any) -> int:
    """Return the axis of the channels of what a convolution reads."""
    return 1 if layer.data_format == "channels_first" else len(tensor.shape) - 1


def with_channels(trace: Trace, call: Call, axis: int, ids: Ids) -> None:
    """Note the units along the channels of a convolution's output; along no other axis can any be removed."""
    (x, *_), (y, *_) = call.tensors, call.outputs
    others = [each for place, each in enumerate(trace.labels(x)) if place != axis]
    trace.fix(others, f"{call.described} slides over them")
    trace.put(y, [ids if place == axis else None for place in range(len(y.shape))])


def convolution(trace: Trace, call: Call) -> None:
    """Conv1D, Conv2D, Conv3D: a kernel (..., channels / groups, filters)."""
    layer, (x, *_) = call.operation, call.tensors
    found, axis = weights(layer, "kernel", "bias"), channel_axis(layer, x)
    kernel, rank = found["kernel"], len(found["kernel"].shape)
    ids = made(trace, call, trace.make(kernel, rank - 1, call))
    if layer.groups == 1:
        trace.read(kernel, rank - 2, x, axis, call)
        trace.set_number(layer, "filters", ids)
    else:
        _grouped(trace, call, ids, axis)
    trace.follow(found["bias"], 0, ids, call)
    trace.works(kernel, _without(call.outputs[0].shape, axis))
    with_channels(trace, call, axis, ids)


def _grouped(trace: Trace, call: Call, ids: Ids, axis: int) -> None:
    """Join what a grouped convolution reads and makes: whole groups where they are many, else alike in each group."""
    layer, (x, *_) = call.operation, call.tensors
    kernel, inputs = next(each for each in layer.weights if each.name == "kernel"), trace.labels(x)[axis]
    rank, width = len(kernel.shape), kernel.shape[-2]
    if inputs is None or ids is None:
        trace.units.fix(ids, f"{call.described} has groups of channels that all stay")
        trace.units.fix(inputs, f"{call.described} has groups of channels that all stay")
        return
    read, outputs = inputs.reshape(layer.groups, -1), ids.reshape(layer.groups, -1)
    if layer.groups >= width:
        for one, other in zip(read, outputs, strict=True):
            _joined(trace, np.concatenate([one, other]))
        trace.set_number(layer, "groups", outputs[:, 0])
    else:
        for each in (*read.T, *outputs.T):
            _joined(trace, each)
        trace.follow(kernel, rank - 2, read[0], call, reads=True)
    trace.note_read(x, axis, call)
    trace.set_number(layer, "filters", ids)


def _joined(trace: Trace, ids: np.ndarray) -> None:
    trace.units.join([ids[0]] * len(ids), ids)


def _without(shape: Any, axis: int) -> list[int | None]:
    return [size for place, size in enumerate(shape) if place not in (0, axis)]


def transposed_convolution(trace: Trace, call: Call) -> None:
    """Conv1DTranspose, Conv2DTranspose, Conv3DTranspose: a kernel (..., filters, channels)."""
    layer, (x, *_) = call.operation, call.tensors
    found, axis = weights(layer, "kernel", "bias"), channel_axis(layer, x)
    kernel, rank = found["kernel"], len(found["kernel"].shape)
    trace.read(kernel, rank - 1, x, axis, call)
    ids = made(trace, call, trace.make(kernel, rank - 2, call))
    trace.follow(found["bias"], 0, ids, call)
    trace.set_number(layer, "filters", ids)
    trace.works(kernel, _without(x.shape, axis))
    with_channels(trace, call, axis, ids)


def depthwise(trace: Trace, call: Call) -> None:
    """DepthwiseConv1D, DepthwiseConv2D: a kernel (..., channels, multiplier), whose channels follow the input's."""
    layer, (x, *_) = call.operation, call.tensors
    found, axis = weights(layer, "kernel", "bias"), channel_axis(layer, x)
    kernel, ids = found["kernel"], trace.labels(x)[axis]
    trace.follow(kernel, len(kernel.shape) - 2, ids, call)
    repeated = ids if ids is None else np.repeat(ids, layer.depth_multiplier)
    trace.follow(found["bias"], 0, made(trace, call, repeated), call)
    trace.works(kernel, _without(call.outputs[0].shape, axis))
    with_channels(trace, call, axis, repeated)


def separable(trace: Trace, call: Call) -> None:
    """SeparableConv1D, SeparableConv2D: a depthwise convolution, then one of 1 x 1."""
    layer, (x, *_) = call.operation, call.tensors
    found, axis = weights(layer, "depthwise_kernel", "pointwise_kernel", "bias"), channel_axis(layer, x)
    first, second = found["depthwise_kernel"], found["pointwise_kernel"]
    rank = len(first.shape)
    trace.follow(first, rank - 2, trace.labels(x)[axis], call)
    trace.read(second, rank - 2, x, axis, call, repeat=layer.depth_multiplier)
    ids = made(trace, call, trace.make(second, rank - 1, call))
    trace.follow(found["bias"], 0, ids, call)
    trace.set_number(layer, "filters", ids)
    for kernel in (first, second):
        trace.works(kernel, _without(call.outputs[0].shape, axis))
    with_channels(trace, call, axis, ids)


def einsum_dense(trace: Trace, call: Call) -> None:
    """EinsumDense: of several new axes, units are removed along the first, as heads are."""
    layer, (x, *_) = call.operation, call.tensors
    found = weights(layer, "kernel", "bias")
    sides, result = layer.equation.replace(" ", "").split("->")
    inputs, letters = sides.split(",")
    if "." in layer.equation:
        raise Uncovered("has an equation with free axes")
    kernel, by_letter = found["kernel"], dict(zip(inputs, trace.labels(x), strict=True))
    new = [letter for letter in letters if letter not in inputs]
    for place, letter in enumerate(letters):
        if letter in by_letter and letter in result:
            trace.follow(kernel, place, by_letter[letter], call)
        elif letter in by_letter:
            trace.read(kernel, place, x, inputs.index(letter), call)
        elif letter == new[0]:
            by_letter[letter] = made(trace, call, trace.make(kernel, place, call))
    _einsum_output(trace, call, result, by_letter, found["bias"])
    free = [size for letter, size in zip(inputs[1:], x.shape[1:], strict=True) if letter not in letters]
    trace.works(kernel, free)


def _einsum_output(trace: Trace, call: Call, result: str, by_letter: dict[str, Ids], bias: Any) -> None:
    layer = call.operation
    labels = [by_letter.get(letter) for letter in result]
    trace.put(call.result, labels)
    if bias is not None:
        axes = [letter for letter in result if letter in layer.bias_axes]
        for place, letter in enumerate(axes[-len(bias.shape) :]):
            if bias.shape[place] > 1:
                trace.follow(bias, place, by_letter.get(letter), call)
    shape = layer.get_config()["output_shape"]
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    tail = list(zip(shape, labels[-len(shape) :], strict=True))
    trace.set(
        layer,
        "output_shape",
        lambda count: tuple(size if ids is None or size is None else count(ids) for size, ids in tail),
    )


def embedding(trace: Trace, call: Call) -> None:
    """Embedding and ReversibleEmbedding: a table (words, width), read in both directions where it is tied."""
    layer, (x, *_) = call.operation, call.tensors
    found = weights(layer, "embeddings", "reverse_embeddings")
    table, back = found["embeddings"], found["reverse_embeddings"]
    ids = trace.make(table, 1, call)
    trace.set_number(layer, "output_dim", ids)
    reverse = call.kwargs.get("reverse", call.args[1] if len(call.args) > 1 else False)
    if not reverse:
        trace.put(call.result, (*trace.labels(x), ids))
        return
    reader, axis = (table, 1) if back is None else (back, 0)
    trace.read(reader, axis, x, -1, call)
    trace.follow(back, 0, ids, call)  # one argument is the width of both
    trace.works(reader, x.shape[1:-1])
    trace.put(call.result, (*trace.labels(x)[:-1], None))


def batch_normalization(trace: Trace, call: Call) -> None:
    """BatchNormalization: four vectors that follow the channels."""
    layer, (x, *_) = call.operation, call.tensors
    found = weights(layer, "moving_mean", "moving_variance", "gamma", "beta")
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    for vector in found.values():
        trace.follow(vector, 0, trace.labels(x)[axis], call)
    trace.put(call.result, trace.labels(x))


def group_normalization(trace: Trace, call: Call) -> None:
    """GroupNormalization: its statistics are those of a group, so that whole groups are removed."""
    layer, (x, *_) = call.operation, call.tensors
    found = {weight.name: weight for weight in layer.weights}
    ids = trace.labels(x)[layer.axis]
    if ids is not None and layer.get_config()["groups"] != -1:
        groups = ids.reshape(layer.groups, -1)
        for each in groups:
            _joined(trace, each)
        trace.set_number(layer, "groups", groups[:, 0])
    for vector in found.values():
        trace.follow(vector, 0, ids, call)
    trace.put(call.result, trace.labels(x))


def prelu(trace: Trace, call: Call) -> None:
    """PReLU: slopes of the shape of an example, one where axes are shared."""
    (x, *_) = call.tensors
    slopes = weights(call.operation, "alpha")["alpha"]
    for axis, ids in enumerate(trace.labels(x)[1:]):
        if slopes.shape[axis] > 1:
            trace.follow(slopes, axis, ids, call)
    trace.put(call.result, trace.labels(x))


#: By the class of a layer.
RULES: dict[type, Rule] = {
    layers.Dense: dense,
    layers.Conv1D: convolution,
    layers.Conv2D: convolution,
    layers.Conv3D: convolution,
    layers.Conv1DTranspose: transposed_convolution,
    layers.Conv2DTranspose: transposed_convolution,
    layers.Conv3DTranspose: transposed_convolution,
    layers.DepthwiseConv1D: depthwise,
    layers.DepthwiseConv2D: depthwise,
    layers.SeparableConv1D: separable,
    layers.SeparableConv2D: separable,
    layers.EinsumDense: einsum_dense,
    layers.Embedding: embedding,
    layers.BatchNormalization: batch_normalization,
    layers.GroupNormalization: group_normalization,
    layers.PReLU: prelu,
}
if hasattr(layers, "ReversibleEmbedding"):  # from Keras 3.13 on
    RULES[layers.ReversibleEmbedding] = embedding
