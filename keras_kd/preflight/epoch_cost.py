"""What an epoch will take, and whether asking the teacher once would save much of it."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import layer_reader, soft_targets
from keras_kd._internal.batches import Batch
from keras_kd._internal.number_formats import duration, percent, size
from keras_kd._keras import layer_tree, tensor_origin
from keras_kd._types import Tensors
from keras_kd.preflight.check_report import Report
from keras_kd.teachers.cached import Cached
from keras_kd.teachers.in_memory import InMemory

#: A teacher that takes a smaller share of a step, or fewer seconds of an epoch, is not worth a cache.
_CHEAP, _SHORT = 0.15, 1.0

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
    rows = soft_targets.count(batches[0][0])
    report.memory = _memory(distiller, rows)
    if count is None:
        return
    step = _seconds(_step(distiller), batches)
    report.epoch_seconds = step * count
    names = tuple(name for term in distiller.terms for name in term.teacher_names)
    if isinstance(distiller.teacher, (Cached, InMemory)) or not distiller.teacher.cacheable(names):
        return
    teacher_time = min(step, _seconds(_teacher(distiller), batches))
    report.teacher_seconds = teacher_time * count
    if teacher_time < _CHEAP * step or report.teacher_seconds < _SHORT:
        return
    kept = "" if report.classes is None else f", for {size(2 * report.classes * rows * count)} on disk"
    report.advice.append(
        f"The teacher takes {percent(teacher_time / step)} of a step. Run once for all epochs, it would save about "
        f"{duration(report.teacher_seconds)} in each one after the first{kept}: keras_kd.TeacherCache, or "
        "teachers.InMemory for arrays."
    )


def _step(distiller: Any) -> Callable[..., Any]:
    """Return what computes the gradients of a batch, and applies none."""

    def run(x: Tensors, y: Tensors, sample_weight: Tensors) -> Any:
        with tf.GradientTape() as tape:
            loss = distiller.objective(x, y, sample_weight)["loss"]
        return tape.gradient(loss, distiller.trainable_variables)

    return run if distiller.run_eagerly else tf.function(run, reduce_retracing=True)


def _teacher(distiller: Any) -> Callable[..., Any]:
    """Return a function that runs a teacher on a batch, where it needs no student."""

    def run(x: Tensors, y: Tensors, sample_weight: Tensors) -> Any:
        return distiller.teacher(x, {})

    return run if distiller.run_eagerly else tf.function(run, reduce_retracing=True)


def _seconds(function: Callable[..., Any], batches: list[Batch]) -> float:
    """Return the median time of a batch, after one that compiles."""
    taken = []
    for batch in (batches[0], *batches, batches[0]):
        started = time.perf_counter()
        tree.map_structure(np.asarray, [each for each in tree.flatten(function(*batch)) if each is not None])
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[1:]))


def _memory(distiller: Any, rows: int) -> int:
    """Return the bytes of weights, gradients, optimizer, and of the outputs of all layers that are held at once."""
    student, teacher = distiller.student, distiller.teacher
    learned = _bytes(distiller.trainable_variables)
    slots = _bytes(distiller.optimizer.variables) if distiller.optimizer.built else _SLOTS * learned
    outputs = [_bytes_of_outputs(model, rows) for model in (student, *_models(teacher))]
    largest = max((max(each, default=0) for each in outputs[1:]), default=0)
    # The tape holds all outputs of the student and as much of gradients; of the teacher, two layers at a time.
    return _bytes(student.variables) + _bytes(teacher.variables) + learned + slots + 2 * sum(outputs[0]) + 2 * largest


def _models(teacher: Any) -> list[keras.Model]:
    return [layer for layer in layer_tree.all_layers(teacher) if isinstance(layer, keras.Model)]


def _bytes(variables: Any) -> int:
    return sum(int(np.prod(each.shape)) * tf.as_dtype(each.dtype).size for each in variables)


def _bytes_of_outputs(model: keras.Model, rows: int) -> list[int]:
    """Return the size of each layer's output on a batch, for a model with a graph; an axis that is free counts as 1."""
    graph = layer_reader.functional(model)
    found = []
    for layer in [] if graph is None else graph.layers:
        if isinstance(layer, keras.Model):
            found += _bytes_of_outputs(layer, rows)
            continue
        shapes = [each.shape for each in tensor_origin.outputs_of_calls(layer)]
        found += [4 * rows * int(np.prod([axis or 1 for axis in shape[1:]])) for shape in shapes]
    return found
