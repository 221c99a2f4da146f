"""Rebuild a student so that its forward pass rounds where LiteRT's integers do."""

from typing import Any

import keras
import numpy as np
from keras import layers, tree

from keras_kd._internal import layer_reader
from keras_kd._types import Tensor, Tensors
from keras_kd.quantization import coverage
from keras_kd.quantization.call_graph import WEIGHTED, Call, Graph
from keras_kd.quantization.layers import FakeQuantize, QuantizedConv2D, QuantizedDense, QuantizedDepthwiseConv2D

_COUNTERPARTS: dict[type, Any] = {
    layers.Dense: QuantizedDense,
    layers.Conv2D: QuantizedConv2D,
    layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
}


def quantization_aware(student: keras.Model, representative: Tensors) -> keras.Model:
    """Return a copy of a trained student that computes as its 8-bit integer LiteRT file will, and goes on learning.

    Kernels are rounded for each channel; the input and what every layer hands on are rounded over ranges that start as
    those of `representative` and follow the training (see `FakeQuantize`). A BatchNormalization is folded into the
    layer before it with its moving statistics, once: the folded weights are what learns from then on, so train the
    student first. It computes in float32. The copy is a plain Keras model, to be distilled, saved and exported; a
    converter with `optimizations=[tf.lite.Optimize.DEFAULT]` and `inference_input_type = inference_output_type =
    tf.int8` needs no representative data for it.

    Layers keep their names; the depthwise half of a SeparableConv2D is "name_depthwise". A layer into which a
    BatchNormalization is folded hands on the normalised value. Where a name is that of an output, the layer itself is
    "name_float".

    Covered, all in channels-last layout:

    - Dense on vectors, Conv2D without groups, DepthwiseConv2D, SeparableConv2D; BatchNormalization right after one of
      them;
    - their activations, or `ReLU` or `Activation` layers: relu, relu6; at the outputs also softmax and sigmoid, and
      the `Softmax` layer;
    - MaxPooling2D, AveragePooling2D, GlobalMaxPooling2D, GlobalAveragePooling2D, ZeroPadding2D, Add of two, Flatten,
      Reshape, Dropout, Identity.

    Anything else is not: other activations, nested models, layers that are called twice, Concatenate, attention,
    recurrent layers, operations of `keras.ops` between layers.

    Args:
        student: a built Functional or Sequential model.
        representative: real inputs, some hundreds of examples, of the structure that the student takes.

    Returns:
        A model with the student's name, inputs, outputs and (folded) weights that shares no variable with it.

    Raises:
        TypeError: `student` is not a Keras model.
        ValueError: it has no graph, or layers that are not covered: all are listed; no examples, or not finite ones.

    Example:
        >>> small = quantization_aware(student, x_train[:500])
        >>> distiller = Distiller(student=small, teacher=teacher)

    Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, 2017, arXiv 1712.05877.
    """
    if not isinstance(student, keras.Model):
        raise TypeError(f"Expected the student to be a keras.Model. Received: {student!r} of {type(student).__name__}")
    model = layer_reader.functional(student)
    if model is None:
        raise ValueError(f"Expected the student to be a built Functional or Sequential model. Received: {student!r}")
    if not all(len(x) for x in tree.flatten(representative)):
        raise ValueError("Expected real inputs, to find the first ranges. Received: `representative` without examples.")
    infinite = sum(not np.all(np.isfinite(row)) for x in tree.flatten(representative) for row in np.asarray(x))
    if infinite:
        raise ValueError(
            "Expected `representative` inputs that are finite: all ranges start from them. "
            f"Received: {infinite} examples with inf or nan. Leave them out."
        )
    graph = Graph(model)
    coverage.check(graph, student.name)
    quantized = _rebuild(graph, student.name)
    _calibrate(quantized, representative)
    return quantized


def _rebuild(graph: Graph, name: str) -> keras.Model:
    inputs = {
        id(tensor): keras.Input(batch_shape=tensor.shape, dtype="float32", name=tensor.name)
        for tensor in graph.model.inputs
    }
    values = {id(t): FakeQuantize(name=f"{t.name}_quantized")(inputs[id(t)]) for t in graph.model.inputs}
    for call in graph.calls:
        x = [values[id(tensor)] for tensor in call.inputs]
        values[id(call.output)] = _run(graph, call, x if len(x) > 1 else x[0])
    return keras.Model(
        tree.map_structure(lambda tensor: inputs[id(tensor)], graph.model.input),
        tree.map_structure(lambda tensor: values[id(tensor)], graph.model.output),
        name=name,
    )


def _run(graph: Graph, call: Call, x: Any) -> Tensor:
    """Call the counterpart of a layer, and round what it hands on unless the next layer is one with it."""
    layer, name = call.layer, call.layer.name
    inner = f"{name}_float"
    if coverage.is_probability(call) and type(layer) in WEIGHTED:
        # LiteRT has fixed 8 bits for probabilities; what needs a range is what goes into them.
        logits = FakeQuantize(name=f"{name}_quantized")(_weighted(graph, call, x, inner, activation="linear"))
        return layers.Activation(layer.activation, name=name)(logits)
    rounds = coverage.has_own_range(call) and not graph.is_fused(call)
    at_output = graph.is_output(call.output)
    value = _counterpart(graph, call, x, inner if rounds and at_output else name)
    if not rounds:
        return value
    return FakeQuantize(name=name if at_output else f"{name}_quantized")(value)


def _counterpart(graph: Graph, call: Call, x: Any, name: str) -> Tensor:
    if type(call.layer) in WEIGHTED:
        return _weighted(graph, call, x, name)
    if isinstance(call.layer, layers.BatchNormalization):  # folded into the layer before; the name can still be read
        return layers.Identity(name=name)(x)
    return type(call.layer).from_config({**call.layer.get_config(), "name": name, "dtype": "float32"})(x)


def _weighted(graph: Graph, call: Call, x: Tensor, name: str, **changes: Any) -> Tensor:
    layer = call.layer
    if type(layer) is layers.SeparableConv2D:  # two operations of LiteRT, and a rounded tensor between them
        first, layer = _halves(layer, x)
        x = FakeQuantize(name=f"{first.name}_quantized")(_rounding(first, x, None, first.name))
    return _rounding(layer, x, graph.folded(call), name, **changes)


def _halves(layer: keras.layers.SeparableConv2D, x: Tensor) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """Return the depthwise and the pointwise convolution that a separable one is."""
    first = layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        name=f"{layer.name}_depthwise",
    )
    second = layers.Conv2D(layer.filters, 1, activation=layer.activation, use_bias=layer.use_bias)
    second.build(first.compute_output_shape(x.shape))
    first.build(x.shape)
    depthwise, *pointwise = layer.get_weights()
    first.set_weights([depthwise])
    second.set_weights(pointwise)
    return first, second


def _rounding(layer: Any, x: Tensor, norm: Any, name: str, **changes: Any) -> Tensor:
    """Call the counterpart of a layer, with its weights, into which a normalisation is folded where there is one."""
    config = {**layer.get_config(), "name": name, "dtype": "float32", **changes}
    config["use_bias"] = layer.use_bias or norm is not None
    counterpart = _COUNTERPARTS[type(layer)].from_config(config)
    value = counterpart(x)
    counterpart.set_weights(layer.get_weights() if norm is None else _fold(layer, norm))
    return value


def _fold(layer: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """Return kernel and bias of one layer that does what two do: w * g, (b - mean) * g + beta, g = gamma / std."""
    kernel = np.asarray(layer.kernel, "float64")
    gain = 1.0 / np.sqrt(np.asarray(norm.moving_variance, "float64") + norm.epsilon)
    gain = gain * np.asarray(norm.gamma, "float64") if norm.scale else gain
    bias = np.asarray(layer.bias, "float64") if layer.use_bias else 0.0
    bias = (bias - np.asarray(norm.moving_mean, "float64")) * gain
    bias = bias + np.asarray(norm.beta, "float64") if norm.center else bias
    # The output channels of a depthwise kernel are its last two axes.
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    return [kernel * (gain.reshape(kernel.shape[-2:]) if depthwise else gain), bias]


def _calibrate(model: keras.Model, representative: Tensors) -> None:
    """Set all ranges to those of one pass."""
    rounding = [layer for layer in model.layers if isinstance(layer, FakeQuantize)]
    for layer in rounding:
        layer.calibrating = True
    model(tree.map_structure(keras.ops.convert_to_tensor, layer_reader.select(model, representative)), training=False)
    for layer in rounding:
        layer.calibrating = False
