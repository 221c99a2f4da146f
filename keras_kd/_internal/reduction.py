"""How the values of a term become one number: by masks, weights, and what the loss of its output counts."""

from typing import Any

import keras
from keras import ops, tree

from keras_kd._keras import accumulation, compiled, masks, replicas
from keras_kd._types import Tensor, Tensors


class Mean(keras.losses.Loss):
    """Reduce values that are already computed as any Keras loss does: by weights, masks, replicas."""

    def __init__(self, reduction: str = "sum_over_batch_size") -> None:
        super().__init__(name="mean", reduction=reduction, dtype="float32")

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the values."""
        return y_pred


def reduced(
    values: Tensor, sample_weight: Tensor | None, mask: Tensor | None, counting: compiled.Counting, name: str
) -> Tensor:
    """Return the sum or mean of values that count, a scalar, scaled for the strategy as every Keras loss is.

    Args:
        values: (batch, ...), one for each example or position, or a scalar.
        sample_weight: of the rank of `values`, or None; see `fitting_weight`.
        mask: True where a value counts, (batch, ...), or None.
        counting: what the sum is divided by.
        name: of the part of the objective.
    """
    if len(values.shape) == 0:
        # As one example of weight 1, a scalar is divided by the number of replicas, as every other value is.
        return Mean()(ops.reshape(values, (1,)), ops.reshape(values, (1,)))
    if mask is not None:
        mask = _fit_mask(mask, values)
        values = ops.where(mask, values, 0.0)
    weight = sample_weight
    if counting.reduction == "mean_with_sample_weight":  # Keras adds weights up in the shape that they have
        weight, mask = (each if each is None else _spread(each, values) for each in (weight, mask))
    if mask is not None:
        masks.put(values, mask)  # where Keras looks for the mask of a loss
    share = counting.share(ops.size(values), mask, weight)
    accumulation.record(name, share)
    total = Mean(reduction=counting.reduction)(values, values, weight)
    return total if share is None else replicas.by_share(total, share)


def counts(sample_weight: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Return where a weight is not 0 and a mask leaves something in, or None where all counts."""
    return masks.merged(None if sample_weight is None else ops.not_equal(sample_weight, 0), mask)


def fitting_weight(sample_weight: Tensor | None, values: Tensor, term: str, of_layers: bool) -> Tensor | None:
    """Let the weight of an example count for all positions of its features; elsewhere, be as strict as Keras.

    Args:
        sample_weight: (batch,) or (batch, positions...), or None.
        values: (batch, ...).
        term: name of the term that has the values.
        of_layers: whether it reads features.

    Raises:
        ValueError: weights of examples for a loss of positions.
    """
    if sample_weight is None or len(values.shape) == 0:
        return None
    missing = len(values.shape) - len(sample_weight.shape)
    if missing == 0 or (missing == -1 and sample_weight.shape[-1] == 1):
        return sample_weight
    if missing > 0 and of_layers:
        return ops.reshape(sample_weight, (*ops.shape(sample_weight), *[1] * missing))
    raise ValueError(
        f"Term {term!r} has one value per position, {tuple(values.shape)}, so it expects a `sample_weight` of "
        f"that shape. Received: {tuple(sample_weight.shape)}. Repeat the weight of an example along its positions."
    )


def merged_masks(*masks: Tensors) -> Tensor | None:
    """Return what every mask of the first one's shape leaves in, or None where there is no mask."""
    present = [ops.cast(mask, "bool") for mask in tree.flatten(masks) if mask is not None]
    merged = None
    for mask in present:
        if merged is None:
            merged = mask
        elif len(mask.shape) == len(merged.shape):
            merged = ops.logical_and(merged, mask)
    return merged


def blanked(tensors: Any, *each: Tensor | None) -> Any:
    """Set to zero what any of some masks leaves out: a weight of 0 would not stop a NaN."""
    present = [mask for mask in each if mask is not None]

    def blank(x: Tensor) -> Tensor:
        for mask in present:
            x = ops.where(masks.aligned(mask, x), x, ops.zeros_like(x))
        return x

    return tree.map_structure(blank, tensors) if present else tensors


def _fit_mask(mask: Tensor, values: Tensor) -> Tensor:
    """Give a mask the rank of the values: what has one value for many positions counts if any of them does."""
    extra = tuple(range(len(values.shape), len(mask.shape)))
    return ops.any(mask, axis=extra) if extra else masks.aligned(mask, values)


def _spread(counts: Tensor, values: Tensor) -> Tensor:
    return ops.broadcast_to(masks.aligned(counts, values), ops.shape(values))
