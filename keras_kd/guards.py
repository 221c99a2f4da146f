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


def against_targets(loss: Tensor, value: Tensor, read: Iterable[tuple[Term, Any, Any, bool]], step: Tensor) -> Tensor:
    """Return the loss, and stop the step where a teacher has predicted NaN or infinity and the student has not.

    All tensors are looked through only where the terms' value is not finite itself: a step costs no more than one
    comparison.

    Args:
        loss: a scalar.
        value: the distillation loss, a scalar.
        read: for each term, what was read from the student and from the teacher, and whether it is logits, where -inf
            is a class that is masked.
        step: the optimizer's step.
    """

    def look() -> Tensor:
        found = ops.zeros((), "float32")
        for term, student, teacher, is_logits in read:
            holds = ops.logical_or(_are_usable(teacher, is_logits), ops.logical_not(_are_usable(student, is_logits)))
            message = (
                f"Expected finite targets for the term {term.name!r}. Received NaN or infinity from the teacher. See "
                "for which inputs it predicts them; the weights are those before this step. This is step"
            )
            found = distribution.stop_unless(holds, message, found, step)
        return found

    # Added, not chosen: where all is well, the gradient of the loss is not touched.
    return loss + ops.cond(ops.isfinite(ops.stop_gradient(value)), lambda: ops.zeros((), "float32"), look)


def _are_usable(tensors: Any, is_logits: bool) -> Tensor:
    flat = [ops.stop_gradient(ops.cast(each, "float32")) for each in tree.flatten(tensors)]
    masked = [ops.equal(each, float("-inf")) if is_logits else False for each in flat]
    return ops.all([ops.all(ops.logical_or(ops.isfinite(x), skip)) for x, skip in zip(flat, masked, strict=True)])
