"""Float layers that round as LiteRT's 8-bit integers do, and pass gradients straight through the rounding.

Kernels are symmetric, one scale for each output channel: integers -127 to 127, scale = max |w| / 127, zero at 0.
Activations have one scale and zero point for a tensor: integers -128 to 127, over a range that holds 0.

Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
2017, arXiv 1712.05877; the LiteRT 8-bit quantization specification,
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Shape, Tensor

#: How much of the range before a training step is left after it.
MOMENTUM = 0.99
#: A range is never narrower: a tensor that was 0 everywhere would otherwise have a scale of 0.
_NARROWEST = 1e-5
#: A channel whose weights are all 0 would otherwise divide by a scale of 0.
_SMALLEST = 1e-12


def fake_quantize_kernel(kernel: Tensor) -> Tensor:
    """Round a kernel to what 8 bits hold: round(w / s) * s with s = max |w| / 127 of each output channel.

    The gradient is that of the identity: no weight is outside of the range. This is plain arithmetic, which LiteRT's
    converter evaluates and then rounds to the same integers; on TensorFlow's operation for channels it fails.

    Args:
        kernel: (..., channels), float32.

    Returns:
        Rounded weights, of the shape of `kernel`.
    """
    largest = ops.max(ops.abs(kernel), axis=tuple(range(len(kernel.shape) - 1)))
    scale = ops.maximum(largest, _SMALLEST) / 127.0
    return kernel + ops.stop_gradient(ops.round(kernel / scale) * scale - kernel)


@serializable
class FakeQuantize(keras.layers.Layer):
    """Round a tensor to the 256 values between `minimum` and `maximum`, moved so that 0 is one of them.

    The range is a moving average over training steps of the smallest and the largest value (and 0); inference does not
    move it. Gradients pass unchanged inside of the range and are 0 outside. LiteRT's converter takes the range over.

    Args:
        **arguments: Keras's own, as `name`.

    Example:
        >>> x = FakeQuantize(name="images_quantized")(images)
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.calibrating = False

    def build(self, shape: Shape) -> None:
        """Make the range. Replicas, of which each sees its part of a batch, hold the mean of theirs."""
        self.minimum = self._bound("minimum", "zeros")
        self.maximum = self._bound("maximum", "ones")

    def _bound(self, name: str, initializer: str) -> keras.Variable:
        return self.add_weight(shape=(), initializer=initializer, trainable=False, aggregation="mean", name=name)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """Return x, rounded and clipped; in training, move the range first."""
        if training or self.calibrating:
            self._move(x, 0.0 if self.calibrating else MOMENTUM)
        low, high = ops.convert_to_tensor(self.minimum), ops.convert_to_tensor(self.maximum)
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=8)

    def _move(self, x: Tensor, momentum: float) -> None:
        # `initial` lets every range hold 0, and a replica without examples return 0 instead of infinity.
        low, high = ops.min(x, initial=0.0), ops.max(x, initial=0.0)
        high = ops.maximum(high, low + _NARROWEST)
        self.minimum.assign(momentum * self.minimum + (1.0 - momentum) * ops.stop_gradient(low))
        self.maximum.assign(momentum * self.maximum + (1.0 - momentum) * ops.stop_gradient(high))

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Return the shape of what goes in."""
        return shape


@serializable
class QuantizedDense(keras.layers.Dense):
    """A dense layer that computes with its kernel as 8 bits hold it. Arguments and weights are those of `Dense`."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return activation(inputs @ rounded kernel + bias)."""
        x = ops.matmul(inputs, fake_quantize_kernel(ops.convert_to_tensor(self.kernel)))
        return self.activation(x if self.bias is None else x + self.bias)


@serializable
class QuantizedConv2D(keras.layers.Conv2D):
    """A convolution that computes with its kernel as 8 bits hold it. Arguments and weights are those of `Conv2D`."""

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Return the convolution with the rounded kernel."""
        return super().convolution_op(inputs, fake_quantize_kernel(ops.convert_to_tensor(kernel)))


@serializable
class QuantizedDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution that computes with its kernel as 8 bits hold it, in channels-last layout.

    Arguments and weights are those of `DepthwiseConv2D`. Its output channels are the last two axes of the kernel.
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Return activation(depthwise convolution with the rounded kernel + bias)."""
        kernel = ops.convert_to_tensor(self.kernel)
        rounded = fake_quantize_kernel(ops.reshape(kernel, (*kernel.shape[:2], kernel.shape[2] * kernel.shape[3])))
        x = ops.depthwise_conv(
            inputs,
            ops.reshape(rounded, kernel.shape),
            strides=self.strides,
            padding=self.padding,
            data_format="channels_last",
            dilation_rate=self.dilation_rate,
        )
        return self.activation(x + self.bias if self.use_bias else x)
