"""The features of a backbone: the layer that they are read from, and the statistics of their channels over images."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_kd import layer_matching
from keras_kd._internal import batches, layer_reader, soft_targets, token_maps
from keras_kd._types import Tensors
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.frozen import Frozen

#: Images of which statistics are taken, and how many the teacher sees at a time.
_ROWS, _BATCH = 1024, 32


class Names(NamedTuple):
    """What is read of a backbone, as `Term(at=...)` takes it.

    Attributes:
        dense: its last map, or the map of its last tokens.
        whole: one vector of the image: the token of the class, or the mean of the map.
    """

    dense: str
    whole: str


class Statistics(NamedTuple):
    """Mean and variance of each channel, over images and positions, (channels,), float64."""

    mean: np.ndarray
    variance: np.ndarray


def model_of(backbone: Any, owner: str) -> keras.Model:
    """Return the model of a backbone, which may be wrapped with its preprocessing, or raise an error."""
    model = backbone.model if isinstance(backbone, Frozen) else backbone
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected the {owner} to be a keras.Model, or a keras_kd.teachers.Frozen with its own `preprocess`. "
            f"Received: {backbone!r} of type {type(backbone).__name__}"
        )
    return model


def names_of(model: keras.Model, owner: str) -> Names:
    """Return what to read of a backbone.

    Args:
        model: a Functional or Sequential model; where it goes on to vectors, as a classifier, the last maps or tokens
            with more than one position are its features.
        owner: for messages.

    Raises:
        ValueError: the model has no graph, or returns no maps or tokens anywhere.
    """
    shapes = layer_matching.layer_shapes(model, owner)
    spatial = [name for name, shape in shapes.items() if len(shape) in (3, 4)]
    if not spatial:
        raise ValueError(
            f"Expected the {owner} {model.name!r} to have a layer that returns a map, (batch, height, width, channels),"
            f" or tokens of images, (batch, tokens, channels). It has {list(shapes)}."
        )
    ends_in_vectors = len(layer_reader.functional(model).outputs[0].shape) == 2
    several = [name for name in spatial if set(shapes[name][1:-1]) != {1}] if ends_in_vectors else []
    last = (several or spatial)[-1]
    return Names(last + token_maps.ENDING, last + token_maps.GLOBAL)


def statistics_of(teacher: Teacher, names: Sequence[str], images: Any) -> dict[str, Statistics]:
    """Run a teacher over the first images, or over arrays' images from everywhere, and return statistics by name.

    Args:
        teacher: one that reads images alone.
        names: what is read of it, (batch, ..., channels) each.
        images: arrays, or batches, with labels or without; 1,024 images at most are read.

    Raises:
        ValueError: there are none.
    """
    teacher.bind(keras.Sequential(), tuple(names))
    sums = {name: np.zeros((3, 1)) for name in names}
    for x in _few(images):
        found = teacher(x, {})
        sums = {name: sums[name] + _summed(found[name]) for name in names}
    if not all(each[0, 0] for each in sums.values()):
        raise ValueError("Expected images, of which the teacher's features are measured. Received none.")
    means = {name: (first / count, second / count) for name, (count, first, second) in sums.items()}
    return {name: Statistics(mean, np.maximum(square - mean**2, 0.0)) for name, (mean, square) in means.items()}


def _few(images: Any) -> Iterator[Tensors]:
    """Yield batches of x."""
    if batches.are_arrays(images) and not isinstance(images, tuple):
        yield from batches.from_everywhere(images, _BATCH, _ROWS // _BATCH)
        return
    for x, _, _ in batches.of(images, _BATCH, labels=False, rows=_ROWS):
        yield soft_targets.inputs(x)


def _summed(features: Any) -> np.ndarray:
    """Return the number of positions, the sum and the sum of squares of each channel, (3, channels), float64."""
    values = ops.convert_to_numpy(ops.cast(features, "float32")).astype("float64")
    rows = values.reshape(-1, values.shape[-1])
    return np.stack([np.full(rows.shape[-1], len(rows)), rows.sum(axis=0), np.square(rows).sum(axis=0)])
