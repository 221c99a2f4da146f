"""What an epoch will take, and whether asking the teacher once would save much of it."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd import taps, targets
from keras_kd._types import Tensors
from keras_kd.cache.reports import duration, size
from keras_kd.preflight.report import Report, percent
from keras_kd.teachers.cached import Cached
from keras_kd.teachers.remembered import Remembered

Batch = tuple[Tensors, Tensors, Tensors]

#: A teacher that takes a smaller share of a step is not worth a cache.
_CHEAP = 0.15

#: Variables that an optimizer which has not begun keeps for each weight: Adam's.
_SLOTS = 2


def measure(report: Report, distiller: Any, batches: list[Batch], count: int | None) -> None:
    """Fill in time and memory, and what a cache would save.

    Args:
        report: to be filled in.
        distiller: compiled, with its teacher.
        batches: to be timed on.
        count: batches of an epoch, or None where that is not known.
    """
    rows = len(tree.flatten(targets.inputs(batches[0][0]))[0])
    report.memory = _memory(distiller, rows)
    step = _median_seconds(_step(distiller), batches)
    asked = _median_seconds(_ask(distiller), batches)
    if count is None:
        return
    report.epoch_seconds, report.teacher_seconds = step * count, min(asked, step) * count
    names = tuple(name for term in distiller.terms for name in term.teacher_names)
    kept_already = isinstance(distiller.teacher, (Cached, Remembered))
    if kept_already or not distiller.teacher.constant(names) or asked < _CHEAP * step:
        return
    kept = "" if report.classes is None else f", and {size(2 * report.classes * rows * count)} on disk"
    report.advice.append(
        f"The teacher takes {percent(min(1.0, asked / step))} of a step. Asked once for all epochs, it would save about "
        f"{duration(report.teacher_seconds)} in each one after the first{kept}: keras_kd.TeacherCache, or "
        "teachers.Remembered for arrays."
    )


def _step(distiller: Any) -> Callable[[Batch], Any]:
    """Return what computes the gradients of a batch, and applies none."""

    def run(x: Tensors, y: Tensors, sample_weight: Tensors) -> Any:
        with tf.GradientTape() as tape:
            loss = distiller.objective(x, y, sample_weight)["loss"]
        return tape.gradient(loss, distiller.trainable_variables)

    compiled = run if distiller.run_eagerly else tf.function(run, reduce_retracing=True)
    return lambda batch: compiled(*batch)


def _ask(distiller: Any) -> Callable[[Batch], Any]:
    """Return what asks the teacher about a batch."""

    def run(x: Tensors, y: Tensors) -> Any:
        _, student = distiller._read_student(x, training=False)
        return tree.flatten(distiller._read_teacher(x, student, y))

    def without(x: Tensors, y: Tensors) -> Any:
        return tree.flatten(distiller._read_student(x, training=False)[1])

    both, alone = (each if distiller.run_eagerly else tf.function(each, reduce_retracing=True) for each in (run, without))
    return both, alone
