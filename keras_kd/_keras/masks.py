"""The mask that a layer has put on a tensor, where Keras's losses and layers look for it."""

from typing import Any

from keras_kd._types import Tensor


def of(tensor: Tensor) -> Tensor | None:
    """Return the mask of a tensor, or None where no layer has set one."""
    return getattr(tensor, "_keras_mask", None)


def put(tensor: Any, mask: Tensor) -> None:
    """Put a mask on a tensor: plain operations drop it."""
    tensor._keras_mask = mask
