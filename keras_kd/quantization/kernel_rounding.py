"""Kernels of convolutions as integers hold them: symmetric, with one scale for each output channel, as in LiteRT."""

from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
#: A channel whose weights are all 0 would otherwise divide by a scale of 0.
_SMALLEST = 1e-30


def rounded(kernel: np.ndarray, bits: int, channels: tuple[int, ...]) -> np.ndarray:
    """Return round(w / s) * s, where s = max |w| / (2**(bits - 1) - 1) of each output channel.

    Args:
        kernel: weights of any shape.
        bits: of an integer, 2 to 16.
        channels: the axes that tell output channels apart, counted from the end, as (-1,).

    Returns:
        float64, of the shape of `kernel`.
    """
    kernel = np.asarray(kernel, "float64")
    others = tuple(axis for axis in range(kernel.ndim) if axis - kernel.ndim not in channels)
    largest = np.max(np.abs(kernel), axis=others, keepdims=True)
    scale = np.maximum(largest, _SMALLEST) / (2 ** (bits - 1) - 1)
    return np.round(kernel / scale) * scale


def round_kernels(layer: keras.layers.Layer, bits: int) -> None:
    """Round the kernels of a convolution in place."""
    for kernel, channels in _kernels(layer):
        kernel.assign(rounded(np.asarray(kernel), bits, channels))


def saved(layer: keras.layers.Layer, bits: int) -> int:
    """Return the bytes that a convolution's kernels save: integers and a scale of 32 bits for each output channel."""
    found = 0.0
    for kernel, channels in _kernels(layer):
        count = np.prod([kernel.shape[axis] for axis in channels])
        found += np.prod(kernel.shape) * (np.asarray(kernel).itemsize - bits / 8) - 4 * count
    return int(found)


def _kernels(layer: keras.layers.Layer) -> Iterator[tuple[keras.Variable, tuple[int, ...]]]:
    """Yield each kernel, and the axes of its output channels."""
    for each in layer.weights:
        if each.name == "depthwise_kernel" or (each.name == "kernel" and isinstance(layer, _DEPTHWISE)):
            yield each, (-2, -1)
        elif each.name in ("kernel", "pointwise_kernel"):
            yield each, (-2,) if isinstance(layer, _TRANSPOSED) else (-1,)
