"""Losses over many classes, a few rows at a time: for vocabularies whose softmaxes do not fit in memory.

TensorFlow's own, unlike the other losses: `keras.ops` has neither a gradient inside a loop nor an update in place.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from keras_kd._types import Tensor
from keras_kd.losses._divergences import class_ids

#: From this many classes on, a loss goes by chunks. Below it, chunks cost more time than they save memory.
LARGE = 8192

#: Values in a chunk: 4 MiB of float32, of which a loss holds about ten at a time.
_CHUNK = 2**20


def by_chunks(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a loss of one value per row go through large vocabularies by chunks of rows, forward and backward.

    The gradient computes each chunk again, so that nothing of the size of the logits is held but the gradient itself.
    It reaches the student only. Under XLA, which has no update in place but fuses operations, the loss is as it is.
    """
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def chunked(student: Tensor, teacher: Tensor, *further: Any, **named: Any) -> Tensor:
        classes = student.shape[-1]
        if classes is None or classes < LARGE or student.shape != teacher.shape or _under_xla():
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

    @tf.custom_gradient
    def run(student: Tensor, *others: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor | None, ...]]]:
        count = tf.shape(student)[0]

        def fill(empty: Tensor, chunk: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            def body(start: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
                stop = tf.minimum(start + size, count)
                part = chunk(start, stop)
                # In place: the row-wise updates of tensors copy all of it for each chunk.
                return stop, tf.raw_ops.InplaceUpdate(x=filled, i=tf.range(start, stop), v=part)

            more = lambda start, _: start < count  # noqa: E731
            return tf.while_loop(more, body, (tf.constant(0), empty), parallel_iterations=1)[1]

        def value(ours: Tensor, start: Tensor, stop: Tensor) -> Tensor:
            return loss(ours, *(each[start:stop] for each in others))

        def gradient(upstream: Tensor) -> tuple[Tensor | None, ...]:
            def chunk(start: Tensor, stop: Tensor) -> Tensor:
                ours = student[start:stop]
                with tf.GradientTape() as tape:
                    tape.watch(ours)
                    values = value(ours, start, stop)
                return tape.gradient(values, ours, output_gradients=upstream[start:stop])

            return fill(_empty(tf.shape(student), student.dtype), chunk), *[None] * len(others)

        values = fill(_empty([count], student.dtype), lambda start, stop: value(student[start:stop], start, stop))
        return values, gradient

    return run


def _under_xla() -> bool:
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _empty(shape: Tensor, dtype: tf.DType) -> Tensor:
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)
