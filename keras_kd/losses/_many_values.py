"""Losses over many values: compiled by XLA where that can be, else a few rows at a time, for memory.

TensorFlow's own, unlike the other losses: `keras.ops` compiles nothing, and has neither a gradient inside a loop nor an
update in place.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec

import tensorflow as tf

from keras_kd._keras import gradients
from keras_kd._types import Tensor
from keras_kd.losses._divergences import class_ids

#: From this many classes on, a loss goes by chunks. Below it, chunks cost more time than they save memory.
LARGE = 8192

#: From this many values on, a loss is compiled: compiling takes as long as it saves in some tens of steps.
MANY = 2**20

#: From this many values on, memory counts more than time: XLA holds one or two tensors of the logits' size.
MOST = 2**25

#: Values in a chunk: 4 MiB of float32, of which a loss holds about ten at a time.
_CHUNK = 2**20

#: The same on an accelerator, which the operations of a small chunk leave idle: 256 MiB.
_ACCELERATOR_CHUNK = 2**26

#: What a loss compares, by the names of its arguments.
_SIDES = ("student", "teacher")

#: The arguments of a loss, which stay as they are.
_Arguments = ParamSpec("_Arguments")


def for_many_values(loss: Callable[_Arguments, Tensor]) -> Callable[_Arguments, Tensor]:
    """Let a loss of one value per row take large vocabularies in little memory and time, forward and backward.

    Where a gradient is recorded, it is found with the values: each row has its own, but for a factor. So nothing of the
    size of the logits is held but the gradient itself. It reaches the student only.

    In a graph on a processor, XLA compiles the loss: it reads the logits a few times, where each of TensorFlow's
    operations reads and writes as much. Elsewhere, and where they are very large, they go by chunks of rows. Where XLA
    compiles the whole step, and where one chunk would do, the loss is as it is.
    """
    return _wrapped(loss, _is_of_one_shape)


def for_many_values_of_other_classes(loss: Callable[_Arguments, Tensor]) -> Callable[_Arguments, Tensor]:
    """Do the same for a loss whose two sides may have classes of their own."""
    return _wrapped(loss, _is_of_the_same_positions)


def _wrapped(
    loss: Callable[_Arguments, Tensor], fits: Callable[[Tensor, Tensor], bool]
) -> Callable[_Arguments, Tensor]:
    """Return a loss by chunks or compiled, where its sides fit; where they do not, it raises its own error."""
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def wrapped(*given: _Arguments.args, **named: _Arguments.kwargs) -> Tensor:
        arguments = dict(signature.bind(*given, **named).arguments)
        student, teacher = arguments["student"], arguments["teacher"]
        evaluate = _way(student, teacher) if fits(student, teacher) else None
        if evaluate is None:
            return loss(*given, **named)
        shape = tf.shape(student)
        rows = {
            name: tf.reshape(side, (-1, side.shape[-1])) for name, side in zip(_SIDES, (student, teacher), strict=True)
        }
        arguments = {name: each for name, each in arguments.items() if name not in _SIDES}
        if "labels" in arguments:
            rows["labels"] = tf.reshape(class_ids(arguments.pop("labels"), student), (-1,))
        values = _run(functools.partial(loss, **arguments), evaluate)(*rows.values())
        values = tf.reshape(values, shape[:-1])
        values.set_shape(student.shape[:-1])
        return values

    return wrapped


def by_rows(function: Callable[..., list[Tensor]], rows: list[Tensor], widths: tuple[int | None, ...]) -> list[Tensor]:
    """Return what a function of rows returns for all of them, from a few at a time where they are of many classes.

    No gradient is found through it.

    Args:
        function: returns tensors of as many rows as it is given.
        rows: its arguments, (rows, ...) each; the first are logits, (rows, classes).
        widths: of what it returns: (rows, width) each, or (rows,) for None.
    """
    size = _chunk_of(rows[0])
    if size is None:
        return function(*rows)
    count = tf.shape(rows[0])[:1]
    empty = [_empty(count if width is None else tf.concat([count, [width]], 0), rows[0].dtype) for width in widths]
    found: Any = _filled(function, rows, empty, size)
    for each, width in zip(found, widths, strict=True):
        each.set_shape((None,) if width is None else (None, width))
    return found


def values_by_rows(loss: Callable[..., Tensor], rows: list[Tensor]) -> Tensor:
    """Return the values of a loss, (rows,), with its gradient for the first argument alone; see `by_rows`."""
    size = _chunk_of(rows[0])
    if size is None:
        return loss(*rows)
    return _run(loss, functools.partial(_by_chunks, size=size))(*rows)


def _chunk_of(logits: Tensor) -> int | None:
    """Return how many rows of logits, (rows, classes), are a chunk; None where all are computed at once."""
    classes = logits.shape[-1]
    if classes is None or classes < LARGE or gradients.under_xla():
        return None
    return max(1, (_CHUNK if _on_processors_alone() else _ACCELERATOR_CHUNK) // classes)


def _way(student: Tensor, teacher: Tensor) -> Callable[..., list[Tensor]] | None:
    """Return what evaluates a loss of these logits, or None where the loss does so itself."""
    classes = max(student.shape[-1], teacher.shape[-1])
    if gradients.under_xla():
        return None
    if _is_compiled(student, teacher):
        return _compiled
    if classes < LARGE:
        return None
    chunk = _CHUNK if _on_processors_alone() else _ACCELERATOR_CHUNK
    positions = student.shape[:-1]
    if None not in positions and math.prod(positions) * classes <= chunk:
        return None
    return functools.partial(_by_chunks, size=max(1, chunk // classes))


def _is_of_one_shape(student: Tensor, teacher: Tensor) -> bool:
    return student.shape[-1] is not None and student.shape == teacher.shape


def _is_of_the_same_positions(student: Tensor, teacher: Tensor) -> bool:
    return None not in (student.shape[-1], teacher.shape[-1]) and student.shape[:-1] == teacher.shape[:-1]


def _is_compiled(student: Tensor, teacher: Tensor) -> bool:
    """Return whether XLA compiles a loss by itself; for sequences of many lengths it would compile in each step."""
    batch, *example = student.shape
    if None in example:
        return False
    values = math.prod(example)
    is_large = LARGE <= values < MANY if batch is None else MANY <= batch * values < MOST
    return is_large and not gradients.are_recorded_for(teacher) and can_compile()


def can_compile() -> bool:
    """Return whether XLA can compile a part of the step by itself, and pays.

    In eager code it would compile in each call. On a GPU it needs files of CUDA that many installations lack, and the
    replicas of one processor would wait for each other. Where it compiles the whole step, it does so already.
    """
    return (
        not tf.executing_eagerly()
        and not gradients.under_xla()
        and tf.test.is_built_with_xla()
        and _on_processors_alone()
        and tf.distribute.get_strategy().num_replicas_in_sync == 1
    )


def _on_processors_alone() -> bool:
    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())


def _run(loss: Callable[..., Tensor], evaluate: Callable[..., list[Tensor]]) -> Callable[..., Tensor]:
    """Return a function of all rows, of the student and of what it is compared with, that leaves them to `evaluate`."""
    recorded = gradients.are_recorded()

    @tf.custom_gradient
    def run(student: Tensor, *others: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor | None, ...]]]:
        def value(student: Tensor, *others: Tensor) -> list[Tensor]:
            return [loss(student, *others)]

        def value_and_slope(student: Tensor, *others: Tensor) -> list[Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(student)
                values = loss(student, *others)
            return [values, tape.gradient(values, student)]

        rows = [student, *others]
        values, *slopes = evaluate(value_and_slope, rows, 2) if recorded else evaluate(value, rows, 1)

        def gradient(upstream: Tensor) -> tuple[Tensor | None, ...]:
            found = slopes[0] if slopes else evaluate(value_and_slope, rows, 2)[1]
            return upstream[:, None] * found, *[None] * len(others)

        return values, gradient

    return run


def _compiled(function: Callable[..., list[Tensor]], rows: list[Tensor], outputs: int) -> list[Tensor]:
    """Return what a function returns for all rows."""
    return tf.function(function, jit_compile=True, autograph=False)(*rows)


def _by_chunks(function: Callable[..., list[Tensor]], rows: list[Tensor], outputs: int, size: int) -> list[Tensor]:
    """Return what a function returns for all rows, values and perhaps slopes, from `size` of them at a time."""
    shape, dtype = tf.shape(rows[0]), rows[0].dtype
    return _filled(function, rows, [_empty(shape[:1], dtype), _empty(shape, dtype)][:outputs], size)


def _filled(function: Callable[..., list[Tensor]], rows: list[Tensor], empty: list[Tensor], size: int) -> list[Tensor]:
    """Return tensors filled with what a function returns, from `size` rows at a time."""
    rows = [tf.stop_gradient(each) for each in rows]  # a persistent tape would ask for the loop's gradient
    count = tf.shape(rows[0])[0]

    def more(start: Tensor, *_: Tensor) -> Tensor:
        return start < count

    def body(start: Tensor, *filled: Tensor) -> list[Tensor]:
        stop = tf.minimum(start + size, count)
        places = tf.range(start, stop)
        # In place: the row-wise updates of tensors copy all of it for each chunk.
        parts = zip(filled, function(*(each[start:stop] for each in rows)), strict=True)
        return [stop, *(tf.raw_ops.InplaceUpdate(x=whole, i=places, v=part) for whole, part in parts)]

    return tf.while_loop(more, body, [tf.constant(0), *empty], parallel_iterations=1)[1:]


def _empty(shape: Tensor, dtype: tf.DType) -> Tensor:
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)
