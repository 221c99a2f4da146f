"""Views of images: random crops, and Keras's random layers, drawn by a seed instead of a state."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_kd._types import Tensor, Tensors
from keras_kd.augment.changes import Change, folded, like, map_leaves, wide


def is_image(leaf: Any) -> bool:
    """Return whether a batch is one of images, (batch, height, width, channels)."""
    return len(leaf.shape) == 4


def first_image(x: Tensors) -> Any:
    """Return the first images of x.

    Raises:
        ValueError: there are none.
    """
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(x) if leaf is not None]
    found = next(filter(is_image, leaves), None)
    if found is None:
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(f"Expected images, (batch, height, width, channels). Received: x of the shapes {shapes}")
    return found


class RandomResizedCrop(Change):
    """Cut a random part out of each image, and resize it to the size of the whole, by bilinear interpolation.

    Args:
        scale: smallest and largest share of the area, above 0 to 1.
        ratio: smallest and largest ratio of width to height of the part, to that of the image.

    Images are x, or all entries of it, with four axes; of several sizes, all are cut at the same place, so that a
    student on small images sees what a teacher on large ones sees. Keras has a `RandomCrop` of a fixed size; put flips
    behind this one by `KerasLayer(keras.layers.RandomFlip("horizontal"))`.

    Raises:
        ValueError: `scale` or `ratio` out of range or order; no image in x.

    Example:
        >>> train = kd.augment.apply(batches, kd.augment.RandomResizedCrop(scale=(0.3, 1.0)), seed=0)

    Reference: Szegedy et al., Going Deeper with Convolutions, 2014, arXiv 1409.4842; for teachers: Beyer et al., 2021,
    arXiv 2106.05237.
    """

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.scale = _range("scale", scale, 1.0)
        self.ratio = _range("ratio", ratio, float("inf"))

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        """Return the parts, resized."""
        boxes = self._boxes(tf.shape(first_image(x))[0], seed)
        return map_leaves(lambda leaf: _cropped(leaf, boxes) if is_image(leaf) else leaf, x)

    def _boxes(self, rows: Any, seed: Tensor) -> Any:
        """Return top, left, bottom and right as shares of the sides, (batch, 4)."""
        area = tf.random.stateless_uniform([rows], folded(seed, 0), *self.scale)
        low, high = map(math.log, self.ratio)
        root = tf.exp(tf.random.stateless_uniform([rows], folded(seed, 1), low, high) / 2.0)
        sides = tf.minimum(tf.stack([tf.sqrt(area) / root, tf.sqrt(area) * root], axis=1), 1.0)
        start = tf.random.stateless_uniform([rows, 2], folded(seed, 2)) * (1.0 - sides)
        return tf.concat([start, start + sides], axis=1)


def _cropped(leaf: Any, boxes: Any) -> Any:
    size = tf.shape(leaf)
    return like(tf.image.crop_and_resize(tf.cast(leaf, tf.float32), boxes, tf.range(size[0]), size[1:3]), leaf)


def _range(name: str, given: Any, largest: float) -> tuple[float, float]:
    low, high = map(float, given)
    if not 0.0 < low <= high <= largest or high == float("inf"):
        end = "" if largest == float("inf") else f", at most {largest:g}"
        raise ValueError(f"Expected `{name}` to be two numbers above 0 in their order{end}. Received: {name}={given!r}")
    return low, high


def mirrored(x: Tensors, seed: Tensor) -> Tensors:
    """Return an image as it is in the first view of a cache, and its mirror image in the second.

    Left and right are exchanged. A teacher that was cached with both has seen both: what it predicts for a mirror image
    is in general not the mirror image of what it predicts. Twice as many bytes, and no image is seen in a third way.

    Args:
        x: an image, (height, width, channels), or a dict or tuple of what belongs to one, in which images alone are
            changed.
        seed: int64, (2,), whose second number is that of the view: `TeacherCache` gives it.

    Returns:
        The image, or its mirror image, in odd views.

    Raises:
        ValueError: no image in x.

    Example:
        >>> cache = kd.TeacherCache("runs/cache", teacher=teacher, views=2, augment=kd.augment.mirrored)
    """
    first_image(map_leaves(lambda leaf: leaf[None], x))
    is_odd = seed[1] % 2 == 1
    return map_leaves(lambda leaf: tf.where(is_odd, tf.reverse(leaf, [1]), leaf) if leaf.shape.rank == 3 else leaf, x)


class KerasLayer(Change):
    """Apply one of Keras's random layers for images, drawn by a seed, so that an epoch can be repeated.

    In a dataset, the layer itself draws by a state that all parallel calls share. Images are x, or all entries of it,
    with four axes, of one size; they keep their type.

    Args:
        layer: such as `keras.layers.RandomFlip`, `RandomRotation` or `RandAugment`. It stays as it is: a copy is used.

    Raises:
        TypeError: no such layer.
        ValueError: `keras.layers.MixUp` and `CutMix`, which change labels, too.

    Example:
        >>> flip = kd.augment.KerasLayer(keras.layers.RandomFlip("horizontal"))
        >>> train = kd.augment.apply(batches, kd.augment.RandomResizedCrop(), flip, seed=0)
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        if isinstance(layer, (keras.layers.MixUp, keras.layers.CutMix)):
            raise ValueError(
                f"Expected a layer that leaves labels as they are. Received: {layer!r}. Take "
                f"keras_kd.augment.{type(layer).__name__}, which mixes them, too."
            )
        if not hasattr(layer, "get_random_transformation") or not hasattr(layer, "generator"):
            raise TypeError(
                "Expected a random layer for images, such as keras.layers.RandomFlip. Received: "
                f"{layer!r} of type {type(layer).__name__}"
            )
        self._layer: Any = type(layer).from_config(layer.get_config())
        self._layer.generator = self._seeds = _Seeds(0)

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        """Return the images as the layer changes them."""
        images = first_image(x)
        self._seeds.begin(seed)
        drawn = self._layer.get_random_transformation(images, training=True)
        return map_leaves(lambda leaf: self._changed(leaf, drawn) if is_image(leaf) else leaf, x)

    def _changed(self, leaf: Any, drawn: Any) -> Any:
        changed = self._layer.transform_images(wide(leaf), drawn, training=True)
        if changed.shape[1:] == leaf.shape[1:]:
            return like(changed, leaf)
        return tf.cast(tf.round(changed) if leaf.dtype.is_integer else changed, leaf.dtype)  # of another size


class _Seeds(keras.random.SeedGenerator):
    """Give a layer seeds that follow from one, in the order in which it asks for them."""

    def begin(self, seed: Tensor) -> None:
        self._given, self._number = seed, 0

    def next(self, ordered: bool = True) -> Any:
        self._number += 1
        return folded(self._given, self._number)
