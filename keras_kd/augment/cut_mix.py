"""CutMix: a rectangle of each image comes from another one."""

from typing import Any

import tensorflow as tf

from keras_kd._internal.batches import Batch
from keras_kd._types import Tensor, Tensors
from keras_kd.augment import changes
from keras_kd.augment.changes import Change, folded, map_leaves
from keras_kd.augment.image_views import first_image, is_image
from keras_kd.augment.mixing import Draw, check_labels, drawn, mixed_labels


class CutMix(Change):
    """Cut a rectangle out of each image, and fill it from the same place of another one.

    With m from Beta(alpha, alpha), the rectangle has the share sqrt(1 - m) of the height and of the width, its centre
    anywhere, and ends at the border. The label is m' y_a + (1 - m') y_b with the share m' of the pixels that stayed.
    `keras.layers.CutMix` has another distribution, and draws by a state of its own.

    Args:
        alpha: of the Beta distribution, above 0; 1 draws m evenly.
        labels: "mix" or "drop", see `MixUp`.

    Images are x, or all entries of it, with four axes, (batch, height, width, channels); of several sizes, all get the
    same rectangle, and the first decides about the label. Other entries stay.

    Raises:
        ValueError: as for `MixUp`; no image in x.

    Example:
        >>> train = kd.augment.apply(batches, kd.augment.CutMix(labels="drop"), seed=0)

    Reference: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, 2019, arXiv 1905.04899.
    """

    mixes_rows = True

    def __init__(self, alpha: float = 1.0, *, labels: str = "mix") -> None:
        self.alpha = changes.positive("alpha", alpha)
        self.labels = check_labels(labels)

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        """Return the images with their rectangles."""
        return self.with_labels(x, None, None, seed)[0]

    def with_labels(self, x: Tensors, y: Tensors, sample_weight: Tensors, seed: Tensor) -> Batch:
        """Return the images with their rectangles, with mixed labels or none."""
        draw = drawn(x, self.alpha, seed)
        box = _box(draw.share, folded(seed, 3))
        stayed = 1.0 - tf.reduce_mean(tf.cast(_inside(first_image(x), box), tf.float32), axis=[1, 2, 3])
        pasted = map_leaves(lambda leaf: _pasted(leaf, draw, box), x)
        return (pasted, *mixed_labels(y, sample_weight, draw._replace(share=stayed), self.labels))


def _box(share: Any, seed: Tensor) -> Any:
    """Return top, left, bottom and right as shares of the sides, (4, batch)."""
    half = tf.sqrt(1.0 - share) / 2.0
    centre = tf.random.stateless_uniform([2, tf.shape(share)[0]], seed)
    return tf.concat([centre - half, centre + half], axis=0)


def _inside(leaf: Any, box: Any) -> Any:
    """Return which pixels have their centre in the box, (batch, height, width, 1)."""
    top, left, bottom, right = (each[:, None, None, None] for each in tf.unstack(box))
    height, width = (tf.cast(tf.shape(leaf)[axis], tf.float32) for axis in (1, 2))
    rows = ((tf.range(height) + 0.5) / height)[None, :, None, None]
    columns = ((tf.range(width) + 0.5) / width)[None, None, :, None]
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def _pasted(leaf: Any, draw: Draw, box: Any) -> Any:
    return tf.where(_inside(leaf, box), tf.gather(leaf, draw.partner), leaf) if is_image(leaf) else leaf
