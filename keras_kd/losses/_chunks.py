"""Losses over many classes, a few rows at a time: for vocabularies whose softmaxes do not fit in memory.

TensorFlow's own, unlike the other losses: `keras.ops` has neither a gradient inside a loop nor an update in place.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_kd._keras import gradients
from keras_kd._types import Tensor
from keras_kd.losses._divergences import class_ids

#: From this many classes on, a loss goes by chunks. Below it, chunks cost more time than they save memory.
LARGE = 8192

#: Values in a chunk: 4 MiB of float32, of which a loss holds about ten at a time.
_CHUNK = 2**20


def by_chunks(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a loss of one value per row go through large vocabularies by chunks of rows, forward and backward.

    Where a gradient is recorded, it is found with the values, chunk by chunk: each row has its own, but for a factor.
    So nothing of the size of the logits is held but the gradient itself. It reaches the student only. Under XLA, which
    has no update in place but fuses operations, the loss is as it is.
    """
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def chunked(student: Tensor, teacher: Tensor, *further: Any, **named: Any) -> Tensor:
        classes = student.shape[-1]
        if classes is None or classes < LARGE or student.shape != teacher.shape or gradients.under_xla():
            return loss(student, teacher, *further, **named)
        arguments = dict(signature.bind(student, teacher, *further, **named).arguments)
        shape = tf.shape(student)
        rows = {name: tf.reshape(arguments.pop(name), (-1, classes)) for name in ("student", "teacher")}
        if "labels" in arguments:
            rows["labels"] = tf.reshape(class_ids(arguments.pop("labels"), student), (-1,))
        values = _run(functools.partial(loss, **arguments), max(1, _CHUNK // classes))(*rows.values())
        values = tf.reshape(values, shape[:-1])
        values.set_shape(student.shape[:-1])
        return values

    return chunked


def _run(loss: Callable[..., Tensor], size: int) -> Callable[..., Tensor]:
    """Return a function of all rows, of the student and of what it is compared with, that sees `size` at a time."""
    recorded = gradients.are_recorded()

    @tf.custom_gradient
    def run(student: Tensor, *others: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor | None, ...]]]:
        def value(start: Tensor, stop: Tensor) -> list[Tensor]:
            return [loss(student[start:stop], *(each[start:stop] for each in others))]

        def value_and_slope(start: Tensor, stop: Tensor) -> list[Tensor]:
            ours = student[start:stop]
            with tf.GradientTape() as tape:
                tape.watch(ours)
                values = loss(ours, *(each[start:stop] for each in others))
            return [values, tape.gradient(values, ours)]

        shape = tf.shape(student)

        def all_values() -> Tensor:
            return _fill([_empty(shape[:1], student.dtype)], value, size)[0]

        def all_values_and_slopes() -> list[Tensor]:
            return _fill([_empty(shape[:1], student.dtype), _empty(shape, student.dtype)], value_and_slope, size)

        values, slopes = all_values_and_slopes() if recorded else (all_values(), None)

        def gradient(upstream: Tensor) -> tuple[Tensor | None, ...]:
            found = all_values_and_slopes()[1] if slopes is None else slopes
            return upstream[:, None] * found, *[None] * len(others)

        return values, gradient

    return run


def _fill(empty: list[Tensor], chunk: Callable[[Tensor, Tensor], list[Tensor]], size: int) -> list[Tensor]:
    """Return tensors whose rows are those that `chunk` returns, from a start to a stop."""
    count = tf.shape(empty[0])[0]

    def more(start: Tensor, *_: Tensor) -> Tensor:
        return start < count

    def body(start: Tensor, *filled: Tensor) -> list[Tensor]:
        stop = tf.minimum(start + size, count)
        rows = tf.range(start, stop)
        # In place: the row-wise updates of tensors copy all of it for each chunk.
        parts = zip(filled, chunk(start, stop), strict=True)
        return [stop, *(tf.raw_ops.InplaceUpdate(x=whole, i=rows, v=part) for whole, part in parts)]

    return tf.while_loop(more, body, [tf.constant(0), *empty], parallel_iterations=1)[1:]


def _empty(shape: Tensor, dtype: tf.DType) -> Tensor:
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)
