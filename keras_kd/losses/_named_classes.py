"""Logits of many classes, as those of a few classes that are named for each row, and of the rest together.

Forward and backward go by chunks of rows where there are many classes, so that nothing of the size of the logits is
held but their gradient.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_kd._types import Tensor
from keras_kd.losses._many_values import by_rows
from keras_kd.losses._shapes import require_classes

#: The logarithm of a probability that is exactly 0: of a class whose logit is -inf, or that is taken out of a softmax.
_REMOVED = -1e30


def named_log_probabilities(student: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of named classes and of the rest, and how uneven the rest is.

    With q = softmax(student), r the classes that `ids` does not name, and n their number::

        log q_c  for c in ids,  log q_r = log sum_{c in r} q_c,  KL(even || q / q_r) = mean_{c in r} log(q_r / n q_c)

    The rest is summed up by itself: of 1 - sum q_c, nothing is left in float32 where that is 1e-7.

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        ids: classes, each once in a row, (..., k), int32.

    Returns:
        Log-probabilities, (..., k + 1), or (..., k) where all classes are named; and the divergence, (...), 0 there.
    """
    require_classes(student, student)
    k, classes = int(ids.shape[-1]), int(student.shape[-1])
    rows, columns = ops.reshape(student, (-1, classes)), ops.reshape(ids, (-1, k))
    named, uneven = _of_rows(rows, columns)
    shape = ops.shape(ids)[:-1]
    return ops.reshape(named, (*shape, named.shape[-1])), ops.reshape(uneven, shape)


def _of_rows(student: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    @ops.custom_gradient
    def run(student: Tensor) -> Any:
        widths = (_width(student, ids), None)
        outputs = by_rows(lambda student, ids: _values(_Split(student, ids)), [student, ids], widths)

        def gradient(of_named: Tensor, of_uneven: Tensor) -> Tensor:
            rows, classes = [student, ids, of_named, of_uneven], int(student.shape[-1])
            [slopes] = by_rows(lambda *rows: [_slopes(_Split(*rows[:2]), *rows[2:])], rows, (classes,))
            return slopes

        return tuple(outputs), gradient

    return run(student)


class _Split:
    """The logits of some rows, less the largest of each: of the classes that are named, and of the others.

    Args:
        student: (rows, classes).
        ids: (rows, k).
    """

    def __init__(self, student: Tensor, ids: Tensor) -> None:
        logits = ops.maximum(student, ops.cast(_REMOVED, student.dtype))
        self.logits = logits - ops.max(logits, axis=-1, keepdims=True)
        self.outside = int(student.shape[-1]) - int(ids.shape[-1])
        rows = ops.broadcast_to(ops.arange(ops.shape(ids)[0], dtype="int32")[:, None], ops.shape(ids))
        self._places = ops.reshape(ops.stack([rows, ids], axis=-1), (-1, 2))
        self.named = ops.take_along_axis(self.logits, ids, axis=-1)
        of_named = ops.logsumexp(self.named, axis=-1, keepdims=True)
        self.others = self.with_named(self.logits, ops.full_like(self.named, _REMOVED))
        self.rest = ops.logsumexp(self.others, axis=-1, keepdims=True) if self.outside else None
        self.all = of_named if self.rest is None else ops.logaddexp(of_named, self.rest)
        #: log q_r, exact near 0 as well.
        self.log_rest = None if self.rest is None else -ops.softplus(of_named - self.rest)

    def with_named(self, tensor: Tensor, values: Tensor) -> Tensor:
        """Return a tensor, (rows, classes), with other values, (rows, k), in the places of the named classes."""
        return ops.scatter_update(tensor, self._places, ops.reshape(values, (-1,)))


def _width(student: Tensor, ids: Tensor) -> int:
    k = int(ids.shape[-1])
    return k + 1 if k < student.shape[-1] else k


def _values(split: _Split) -> list[Tensor]:
    named = split.named - split.all
    if split.rest is None:
        return [named, ops.zeros_like(named[:, 0])]
    deviations = split.with_named(split.logits - split.rest, ops.zeros_like(split.named))
    uneven = -ops.sum(deviations, axis=-1) / split.outside - np.float32(np.log(split.outside))
    return [ops.concatenate([named, split.log_rest], axis=-1), uneven]


def _slopes(split: _Split, of_named: Tensor, of_uneven: Tensor) -> Tensor:
    """Return the gradient by the logits, (rows, classes), of that by what `_values` returns."""
    k, of_uneven = split.named.shape[-1], of_uneven[:, None]
    total = ops.sum(of_named, axis=-1, keepdims=True)
    of_classes = of_named[:, :k] - total * ops.exp(split.named - split.all)
    if split.rest is None:
        return split.with_named(ops.zeros_like(split.logits), of_classes)
    of_rest = of_named[:, k:] - total * ops.exp(split.log_rest) + of_uneven
    shares = ops.where(split.others > 0.5 * _REMOVED, ops.exp(split.others - split.rest), 0.0)
    return split.with_named(shares * of_rest - of_uneven / split.outside, of_classes)
