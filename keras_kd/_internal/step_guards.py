"""What stops a step before it changes weights: schedules outside their range, and targets that are not finite."""

import functools
from collections.abc import Iterable

from keras import ops, tree

from keras_kd import schedules
from keras_kd._keras import step_errors
from keras_kd._types import Tensor, Tensors


def against_schedules(loss: Tensor, ranges: Iterable[schedules.Range], step: Tensor) -> Tensor:
    """Return the loss, and stop the step where a schedule leaves its range.

    Args:
        loss: a scalar.
        ranges: schedules with the values that they may take. What is known before training has been checked by then.
        step: the optimizer's step.
    """
    for each in (each for each in ranges if not schedules.is_known(each.schedule)):
        value = schedules.at(each.schedule, step)
        message = f"Expected {each.name} to be {each.allowed} in every step. Received, at step"
        holds = ops.logical_and(value >= each.low, value <= each.high)
        loss = step_errors.stop_unless(holds, message, loss, step, "the value", value)
    return loss


def against_targets(loss: Tensor, terms: dict[str, Tensor], total: Tensor, student: Tensors, step: Tensor) -> Tensor:
    """Return the loss, and stop the step where a term has no finite value, though what the student computes is finite.

    The teacher's outputs need not be looked through for that. A student that has diverged is left to Keras.

    Args:
        loss: a scalar.
        terms: the values of the terms, by name.
        total: their weighted sum.
        student: the student's loss on the labels, or its outputs where there is none.
        step: the optimizer's step.
    """
    message = (
        "Expected a finite value of every term, since the student's own loss or outputs are finite. See for which "
        "inputs the teacher predicts NaN or infinity, or what the term's loss divides by. The weights are those before "
        "this step. Received, at step"
    )
    sums = [ops.sum(ops.cast(each, "float32")) if ops.ndim(each) else each for each in tree.flatten(student)]
    holds = ops.logical_or(ops.isfinite(total), ops.logical_not(ops.isfinite(functools.reduce(ops.add, sums))))
    return step_errors.stop_unless(holds, message, loss, step, f"for {', '.join(terms)}:", *terms.values())
