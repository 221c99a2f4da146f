"""What stops a step before it changes weights: schedules outside their range, and targets that are not finite."""

from collections.abc import Iterable
from typing import Any

from keras import ops, tree

from keras_kd import distribution, schedules
from keras_kd._types import Tensor
from keras_kd.terms import Term


def against_schedules(loss: Tensor, ranges: Iterable[schedules.Range], step: Tensor) -> Tensor:
    """Return the loss, and stop the step where a schedule leaves its range.

    Args:
        loss: a scalar.
        ranges: schedules with the values that they may take. What is known before training has been checked by then.
        step: the optimizer's step.
    """
    for name, schedule, low, high in (each for each in ranges if not schedules.is_known(each.schedule)):
        value = schedules.at(schedule, step)
        lowest = "above 0" if low == schedules.SMALLEST else f"at least {low:g}"
        bounds = f"from {low:g} to {high:g}" if high < schedules.LARGEST else f"{lowest} and finite"
        message = f"Expected {name} to be {bounds} in every step. Received, at step"
        holds = ops.logical_and(value >= low, value <= high)
        loss = distribution.stop_unless(holds, message, loss, step, "the value", value)
    return loss


def against_targets(loss: Tensor, parts: dict[str, Tensor], read: Iterable[tuple[Term, Any]], step: Tensor) -> Tensor:
    """Return the loss, and stop the step where a term has no finite value, though what the student outputs is finite.

    The teacher's outputs need not be looked through for that. A student that has diverged, or masks classes by -inf, is
    left to Keras.

    Args:
        loss: a scalar.
        parts: the values of the terms, by name.
        read: for each term, what it has read from the student.
        step: the optimizer's step.
    """
    for term, student in read:
        message = (
            f"Expected a finite value of the term {term.name!r}, of finite outputs of the student. Received NaN or "
            "infinity: see for which inputs the teacher predicts them, or what the loss divides by. The weights are "
            "those before this step, step"
        )
        total = sum(ops.sum(ops.stop_gradient(ops.cast(each, "float32"))) for each in tree.flatten(student))
        holds = ops.logical_or(ops.isfinite(parts[term.name]), ops.logical_not(ops.isfinite(total)))
        loss = distribution.stop_unless(holds, message, loss, step)
    return loss
