"""Logits at several places of an image, by a classifier's own head: what scale-decoupled distillation compares."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd._internal import layer_reader
from keras_kd._keras import tensor_origin
from keras_kd._serialization import serializable
from keras_kd._types import Shape, Tensor


def with_local_logits(model: keras.Model, scales: Sequence[int] = (1, 2, 4), name: str = "local_logits") -> keras.Model:
    """Return a classifier that also computes its logits in parts of the image, for `methods.sdd`.

    The last map is averaged over the cells of a grid of 1 x 1, of 2 x 2 and of 4 x 4, and the head reads each of these
    means, as it reads that of the whole map. The layers are the model's own and not copied: what is trained is the
    model that was given, and that is the one to be saved and exported.

    Args:
        model: a Functional or Sequential model with one output, which ends in a `GlobalAveragePooling2D` and a `Dense`
            without activation; there may be a `Dropout` between them.
        scales: cells in height and width, 1 first, and then rising.
        name: of the layer with the logits of all cells, (batch, cells, classes), row by row, the whole image first.

    Returns:
        A model of the same inputs and output.

    Raises:
        ValueError: a model that ends in anything else; a map that is smaller than a grid, or of unknown size; `scales`
            that do not rise from 1.

    Example:
        >>> student, teacher = (kd.methods.with_local_logits(model) for model in (small, large))
        >>> distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.sdd())

    Reference: Wei, Luo and Luo, Scale Decoupled Distillation, 2024, arXiv 2403.13512.
    """
    graph = layer_reader.functional(model)
    if graph is None or len(graph.outputs) != 1:
        raise ValueError(f"Expected a built Functional or Sequential model with one output. Received: {model!r}")
    maps, pooling, head = _head(graph)
    cells = CellMeans(scales, pooling.data_format)(maps)
    for layer in head:
        cells = layer(cells)
    cells = keras.layers.Identity(name=name)(cells)
    return keras.Model(graph.input, cells[:, 0], name=f"{model.name}_with_{name}")


def _head(graph: Any) -> tuple[Any, Any, list[keras.layers.Layer]]:
    """Return the last map of a classifier, the layer that averages it, and the layers behind that one."""
    head: list[keras.layers.Layer] = []
    layer, _, inputs = tensor_origin.producer(graph.outputs[0])
    while isinstance(layer, (keras.layers.Dense, keras.layers.Dropout)):
        head.insert(0, layer)
        layer, _, inputs = tensor_origin.producer(inputs[0])
    dense = [each for each in head if isinstance(each, keras.layers.Dense)]
    is_average = isinstance(layer, keras.layers.GlobalAveragePooling2D) and not layer.keepdims
    if is_average and len(dense) == 1 and dense[0].activation is keras.activations.linear:
        return inputs[0], layer, head
    ends = [layer, *head]
    raise ValueError(
        "Expected a model that ends in a GlobalAveragePooling2D and a Dense without activation, with a Dropout between "
        f"them or none: a head that can read a part of the map. {graph.name!r} ends in "
        f"{[type(each).__name__ for each in ends]}. Models of keras.applications have classifier_activation=None."
    )


@serializable
class CellMeans(keras.layers.Layer):
    """Average a map over the cells of several grids.

    Row i of n begins at floor(i height / n) and ends before ceil((i + 1) height / n), as in PyTorch's adaptive average:
    where n does not divide the height, cells overlap. The paper's code averages the means of 4 x 4 cells again for
    the coarser grids, which is the same where 4 divides the sizes.

    Args:
        scales: cells in height and width of each grid, 1 first, and then rising.
        data_format: "channels_last" or "channels_first"; None as Keras is configured.

    Raises:
        ValueError: `scales` that do not rise from 1; a map that is smaller than a grid, or of unknown size.
    """

    def __init__(self, scales: Sequence[int] = (1, 2, 4), data_format: str | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        if list(scales)[:1] != [1] or list(scales) != sorted(set(scales)):
            raise ValueError(f"Expected `scales` to rise from 1, as (1, 2, 4). Received: scales={scales!r}")
        self.scales = tuple(scales)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format

    def build(self, shape: Shape) -> None:
        """Refuse maps that have not a position for each cell."""
        sides = self._sides(shape)
        if None in sides or min(sides) < self.scales[-1]:
            raise ValueError(
                f"Expected maps of known size, at least {self.scales[-1]} x {self.scales[-1]}, the finest of the "
                f"`scales` {self.scales}. Received: maps of {sides[0]} x {sides[1]}. Give fewer scales, or larger "
                "images."
            )

    def call(self, maps: Tensor) -> Tensor:
        """Return the means, (batch, cells, channels), in float32 or the layer's type."""
        maps = ops.transpose(maps, (0, 2, 3, 1)) if self.data_format == "channels_first" else maps
        return ops.concatenate([_means(maps, scale) for scale in self.scales], axis=1)

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Return (batch, cells, channels)."""
        channels = shape[1] if self.data_format == "channels_first" else shape[-1]
        return (shape[0], sum(scale**2 for scale in self.scales), channels)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "scales": self.scales, "data_format": self.data_format}

    def _sides(self, shape: Shape) -> Shape:
        return tuple(shape[2:]) if self.data_format == "channels_first" else tuple(shape[1:3])


def _means(maps: Tensor, scale: int) -> Tensor:
    """Return the means of a grid's cells, row by row, (batch, scale**2, channels)."""
    rows, columns = (ops.cast(_shares(scale, side), maps.dtype) for side in maps.shape[1:3])
    cells = ops.einsum("ih,jw,bhwc->bijc", rows, columns, maps)
    return ops.reshape(cells, (-1, scale**2, maps.shape[-1]))


def _shares(scale: int, side: int) -> np.ndarray:
    """Return what each position counts in each cell along one side, (scale, side)."""
    cells, positions = np.arange(scale)[:, None], np.arange(side)
    within = (positions >= cells * side // scale) & (positions < -(-(cells + 1) * side // scale))
    return within / within.sum(axis=1, keepdims=True)
