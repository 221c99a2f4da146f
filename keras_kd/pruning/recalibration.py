"""Statistics of normalisation layers that fit a model as it is now."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_kd._internal import batches, soft_targets
from keras_kd._keras import layer_tree
from keras_kd._types import Tensors


def recalibrate(model: keras.Model, x: Any, batch_size: int = 256) -> keras.Model:
    """Measure the means and variances of all `BatchNormalization` layers anew, in place.

    Behind units that were removed, the inputs of a normalisation have other means and variances than those that it has
    kept, and a pruned model predicts next to nothing before it learns again. Each of its statistics becomes the mean of
    those of the batches, as training makes them; weights stay as they are. No labels are needed.

    Args:
        model: after `prune`.
        x: inputs, arrays of (examples, ...); some hundreds of them.
        batch_size: of the batches, of which the last one may be smaller, and is left out then.

    Returns:
        The model.

    Raises:
        ValueError: no examples.

    Example:
        >>> small, report = kd.prune(model, multiplications=0.5, data=x[:1024])
        >>> kd.pruning.recalibrate(small, x[:1024])

    Reference: Li et al., EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning, 2020,
    arXiv 2007.02491.
    """
    x = batches.as_arrays(x)
    if not soft_targets.count(x):
        raise ValueError("Expected some examples to measure statistics on. Received: none")
    layers = [each for each in layer_tree.all_layers(model) if isinstance(each, keras.layers.BatchNormalization)]
    momenta = [each.momentum for each in layers]
    try:
        for number, batch in enumerate(_whole(x, batch_size) if layers else ()):
            for layer in layers:
                layer.momentum = number / (number + 1)  # which makes the mean of all batches so far
            model(soft_targets.map_arrays(tf.convert_to_tensor, batch), training=True)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    return model


def _whole(x: Tensors, batch_size: int) -> Iterator[Tensors]:
    """Return the batches of one size; all examples where they are fewer."""
    size = min(batch_size, soft_targets.count(x))
    return (batch for batch in batches.cut(x, size) if soft_targets.count(batch) == size)
