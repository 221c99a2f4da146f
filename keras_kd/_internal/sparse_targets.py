"""Targets that name a few of the classes: compared with a student's logits without a tensor of all classes.

What they leave open is the rest, of which the mass alone is known. "spread" reads it as even over all classes that are
not named. "bucket" reads it as one class of its own: named classes and the rest are a coarse-graining of both
distributions, of which each f-divergence is a lower bound of that of all classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_kd._keras import masks
from keras_kd._types import Number, Tensor

#: How the classes that a target does not name are read.
TAILS = ("spread", "bucket")

#: The logarithm of a mass of 0; differences of two of -inf would be NaN.
_NOTHING = -1e30


class SparseTarget:
    """What a teacher predicts, of the k most probable classes; no tree of tensors, so that it is passed on as it is.

    Args:
        ids: the classes that are named, each once in a row, integers, (..., k).
        log_probabilities: of these at T = 1, (..., k), float32.
        log_tail: the logarithm of the mass of all others, (...), or None where there are none.
        classes: how many there are.
        tail: one of `TAILS`.
    """

    dtype = "float32"

    def __init__(
        self, ids: Tensor, log_probabilities: Tensor, log_tail: Tensor | None, classes: int, tail: str
    ) -> None:
        self.ids = ids
        self.log_probabilities = log_probabilities
        self.log_tail = log_tail
        self.classes = classes
        self.tail = tail

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape of the logits of all classes."""
        return (*self.ids.shape[:-1], self.classes)

    @property
    def outside(self) -> int:
        """How many classes are not named."""
        return self.classes - int(self.ids.shape[-1])

    def of_numbers(self, function: Callable[[Tensor], Tensor]) -> "SparseTarget":
        """Return a target with a function applied to its logarithms; its mask stays."""
        tail = None if self.log_tail is None else function(self.log_tail)
        changed = SparseTarget(self.ids, function(self.log_probabilities), tail, self.classes, self.tail)
        mask = masks.of(self)
        if mask is not None:
            masks.put(changed, mask)
        return changed

    def named(self, temperature: Number = 1.0) -> Tensor:
        """Return logits at a temperature of the named classes and, behind them, of the rest, (..., k + 1) or (..., k).

        The softened mass of an even rest is (classes - k) * exp(log(p_rest / (classes - k)) / T), up to what makes all
        masses add up to 1. That of a bucket depends on what is not known: T has to be 1.
        """
        named = self.log_probabilities / temperature
        if self.log_tail is None:
            return named
        count = np.float32(np.log(self.outside))
        rest = ops.maximum(self.log_tail, _NOTHING)
        rest = (rest - count) / temperature + count if self.tail == "spread" else rest
        return ops.concatenate([named, rest[..., None]], axis=-1)

    def dense(self) -> Tensor:
        """Return logits of all classes, (..., classes), with an even rest, whatever `tail` is: for reports."""
        shape = (*ops.shape(self.log_probabilities)[:-1], self.classes)
        dense = ops.reshape(expanded_rows(self.classes, *map(_flat, self.parts())), shape)
        mask = masks.of(self)
        if mask is not None:
            masks.put(dense, mask)
        return dense

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, log-probabilities, and the logarithm of the rest, (..., 1)."""
        tail = self.log_probabilities[..., :1] if self.log_tail is None else self.log_tail[..., None]
        return ops.cast(self.ids, "int32"), self.log_probabilities, tail


def check_tail(tail: str) -> str:
    """Return a tail, or raise a `ValueError` where there is no such."""
    if tail not in TAILS:
        raise ValueError(f"Expected `tail` to be one of {TAILS}. Received: tail={tail!r}")
    return tail


def check_top_k(top_k: Any, kinds: dict[str, str], specs: dict[str, Any] | None) -> None:
    """Check how many classes are to be kept.

    Args:
        top_k: a whole number, or None for all.
        kinds: the heads of what is kept, by name.
        specs: symbolic tensors by name, or None where they are not known.

    Raises:
        ValueError: it is out of range, or nothing has classes of which some could be kept.
    """
    if top_k is None:
        return
    outputs = [name for name, kind in kinds.items() if kind != "values"]
    if not outputs or "sigmoid" in kinds.values():
        raise ValueError(
            f"Expected `top_k` for logits of a softmax. Received: top_k={top_k!r} for {kinds}. Leave it out."
        )
    classes = [specs[name].shape[-1] for name in outputs if specs is not None]
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= min(classes, default=top_k):
        raise ValueError(
            f"Expected `top_k` to be from 1 to the number of classes, {classes}. Received: top_k={top_k!r}"
        )


def expanded_rows(classes: int, ids: Tensor, log_probabilities: Tensor, log_tail: Tensor) -> Tensor:
    """Return logits of all classes, (rows, classes), whose rest is even.

    Args:
        classes: how many there are.
        ids: (rows, k), int32.
        log_probabilities: (rows, k).
        log_tail: (rows, 1); not read where k is `classes`.
    """
    outside = classes - ids.shape[-1]
    rest = log_tail - np.float32(np.log(outside)) if outside else ops.zeros_like(log_tail)
    dense = ops.broadcast_to(rest, (ops.shape(ids)[0], classes))
    return ops.scatter_update(dense, places(ids), ops.reshape(log_probabilities, (-1,)))


def places(ids: Tensor) -> Tensor:
    """Return (row, class) of each id, (rows * k, 2), of ids, (rows, k), int32."""
    rows = ops.broadcast_to(ops.arange(ops.shape(ids)[0], dtype="int32")[:, None], ops.shape(ids))
    return ops.reshape(ops.stack([rows, ids], axis=-1), (-1, 2))


def expanded_members(members: list[Any]) -> list[Any]:
    """Return what members of an ensemble predict, with all classes, as each of them names others.

    Raises:
        ValueError: the rest of one is a bucket.
    """
    if any(isinstance(each, SparseTarget) and each.tail == "bucket" for each in members):
        raise ValueError(
            "Expected members of an ensemble that predict each class. Received targets of named classes with "
            'tail="bucket", of which each member has others. Give Cached(tail="spread").'
        )
    return [expanded(each) for each in members]


def masks_of(side: Any) -> list[Tensor]:
    """Return the mask of a `SparseTarget` that has one; Keras finds those of tensors."""
    mask = masks.of(side) if isinstance(side, SparseTarget) else None
    return [] if mask is None else [mask]


def expanded(side: Any) -> Any:
    """Return what a teacher outputs with a tensor of all classes in the place of a `SparseTarget`, also in a tuple."""
    if type(side) is tuple:
        return tuple(expanded(each) for each in side)
    return side.dense() if isinstance(side, SparseTarget) else side


def _flat(tensor: Tensor) -> Tensor:
    return ops.reshape(tensor, (-1, tensor.shape[-1]))


def check_named(top_k: Any, named: dict[str, int | None]) -> None:
    """Refuse to keep more classes than a teacher names.

    Args:
        top_k: see `TeacherCache`.
        named: how many classes the teacher names under each name that is kept; None for all.

    Raises:
        ValueError: it names fewer, or `top_k` is not given.
    """
    for name, count in named.items():
        if count is not None and (top_k is None or top_k > count):
            raise ValueError(
                f"Expected `top_k` to be from 1 to {count}, the classes that the teacher names under {name!r}. "
                f"Received: top_k={top_k!r}. Give top_k={count}."
            )
