"""Gradient accumulation: the batches of a step count by what they hold, so that they step as the one batch they make.

Keras takes the mean of their gradients, in which 2 tokens weigh as much as 12.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd._keras import step_errors
from keras_kd._types import Tensor

#: By what each part of an objective was divided, by its name.
Divisors = dict[str, Tensor]

#: By how much float32 may miss that two parts count alike, relative to their counts.
_ROUNDING = 1e-4

_found: contextvars.ContextVar[Divisors | None] = contextvars.ContextVar("divisors", default=None)


def is_counted() -> bool:
    """Return whether somebody collects divisors here."""
    return _found.get() is not None


def record(name: str, divisor: Any) -> None:
    """Tell who collects them by what a part of the objective was divided; None for a sum."""
    found = _found.get()
    if found is not None:
        found[name] = ops.cast(1.0 if divisor is None else divisor, "float32")


def steps(optimizer: Any) -> int:
    """Return over how many batches an optimizer accumulates gradients."""
    return _inner(optimizer).gradient_accumulation_steps or 1


class Accumulation:
    """The batches of a step so far.

    With n batches, d_k what the mean over batch k was divided by and D_k = d_1 + ... + d_k, the gradients so far are
    kept as n times their mean, as Keras divides them by n in the end: a batch enters by n * d_k / D_k, and what was
    there is multiplied by D_(k-1) / D_k. Weight regularisers come out as they are.

    Args:
        optimizer: of Keras.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.steps = steps(optimizer)
        self.sums: Any = None
        self.restored: Any = None

    @contextlib.contextmanager
    def counting(self) -> Iterator[Divisors]:
        """Collect what the parts of the objective are divided by inside this context; nothing without accumulation."""
        found: Divisors = {}
        token = _found.set(found if self.steps > 1 else None)
        try:
            yield found
        finally:
            _found.reset(token)

    def weighted(self, loss: Tensor, divisors: Divisors) -> Tensor:
        """Return the loss of a batch as it enters the gradients."""
        if not divisors:
            return loss
        before, now = self.counts(divisors)
        for place, name in list(enumerate(divisors))[1:]:
            values = now[place], now[0]
            alike = _alike(values[0] * before[0], values[1] * before[place])
            loss = step_errors.stop_unless(alike, _message(name, next(iter(divisors)), self.steps), loss, *values)
        total = before[0] + now[0]
        return loss * ops.where(total > 0, self.steps * ops.divide_no_nan(now[0], total), 1.0)

    def make_room(self, divisors: Divisors, gradients: list[Any], variables: list[Any]) -> None:
        """Weight the gradients so far, before those of a batch are added, and count the batch."""
        if not divisors:
            return
        inner = _inner(self.optimizer)
        before, now = self.counts(divisors)
        total = before + now
        kept = ops.where(total[0] > 0, ops.divide_no_nan(before[0], total[0]), 1.0)
        total = ops.where(ops.equal((inner._iterations + 1) % self.steps, 0), ops.zeros_like(total), total)
        if inner is not self.optimizer:  # which leaves out a batch whose gradients overflow
            finite = self.optimizer.check_finite(gradients)
            kept, total = ops.where(finite, kept, 1.0), ops.where(finite, total, before)
        for variable, sum_so_far in zip(variables, inner._accumulated_gradients, strict=True):
            if not variable.overwrite_with_gradient:  # the scales of float8 are no gradients
                sum_so_far.assign(sum_so_far * ops.cast(kept, sum_so_far.dtype))
        self.sums.assign(total)

    def counts(self, divisors: Divisors) -> tuple[Tensor, Tensor]:
        """Return what each part was divided by in the batches before this one, and in this one."""
        size = len(divisors)
        if self.sums is None or self.sums.shape != (size,):
            with tf.init_scope():
                self.sums = keras.Variable(np.zeros(size), dtype="float32", trainable=False, name="counted")
                if self.restored is not None and len(self.restored) == size:
                    self.sums.assign(self.restored)
        return tf.identity(self.sums), ops.stack(list(divisors.values()))

    def state(self) -> Any:
        """Return the counts so far as an array, or None: an epoch may end between two steps."""
        return self.restored if self.sums is None else ops.convert_to_numpy(self.sums)

    def restore(self, state: Any) -> None:
        """Go on from the counts that `state` has returned."""
        self.restored = state
        if self.sums is not None and self.sums.shape == state.shape:
            self.sums.assign(state)


def _alike(one: Tensor, other: Tensor) -> Tensor:
    return ops.abs(one - other) <= _ROUNDING * (one + other)


def _message(name: str, first: str, steps: int) -> str:
    return (
        f"Expected {name!r} and {first!r} to be divided by numbers of one ratio in all {steps} batches whose gradients "
        "are accumulated: the mean over all of them is known after the last one alone. Let both count the same, by "
        "`sample_weight` of the term or the `reduction` of the losses, or leave `gradient_accumulation_steps` out. "
        f"Received a batch in which {name!r} was divided by the first, {first!r} by the second of"
    )


def _inner(optimizer: Any) -> Any:
    """Return the optimizer inside a LossScaleOptimizer, or the one that there is."""
    return getattr(optimizer, "inner_optimizer", optimizer)
