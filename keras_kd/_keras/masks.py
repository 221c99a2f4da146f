"""The mask that a layer has put on a tensor, where Keras's losses and layers look for it."""

from typing import Any

from keras import ops

from keras_kd._types import Tensor


def of(tensor: Any) -> Tensor | None:
    """Return the mask of a tensor, or None where no layer has set one."""
    return getattr(tensor, "_keras_mask", None)


def put(tensor: Any, mask: Tensor) -> None:
    """Put a mask on a tensor: plain operations drop it."""
    tensor._keras_mask = mask


def aligned(tensor: Tensor, other: Tensor) -> Tensor:
    """Give a tensor the rank of another of more axes, by axes of size 1 at its end."""
    missing = len(other.shape) - len(tensor.shape)
    return ops.reshape(tensor, (*ops.shape(tensor), *[1] * missing)) if missing > 0 else tensor


def merged(*each: Tensor | None) -> Tensor | None:
    """Return where all masks leave something in, in the rank of the one with most axes; None where there is no mask."""
    present = [ops.cast(mask, "bool") for mask in each if mask is not None]
    found = None
    for mask in present:
        found = mask if found is None else ops.logical_and(aligned(found, mask), aligned(mask, found))
    return found
