"""Errors of checks in a step, without the text that TensorFlow and Keras put around them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd._keras import gradients
from keras_kd._types import Tensor

#: Around a message, to find it again in TensorFlow's error.
MARK = "[keras_kd] "


def stop_unless(condition: Tensor, message: str, loss: Tensor, *values: Tensor | str) -> Tensor:
    """Return the loss, and stop the step with `message`, followed by some values, unless all of `condition` holds.

    XLA drops every check of a graph. There the loss becomes NaN; see `unless_stopped` for the gradients.
    """
    holds = ops.all(condition) if ops.ndim(condition) else condition
    if tf.executing_eagerly():
        if not holds:
            raise ValueError(" ".join([message, *(str(np.asarray(each)) for each in values)]))
        return loss
    # `tf.debugging.Assert` would put a branch around this, which costs more than the check.
    with tf.control_dependencies([tf.raw_ops.Assert(condition=holds, data=[MARK + message, *values, MARK])]):
        if gradients.under_xla():
            return loss + ops.where(holds, 0.0, float("nan"))  # added: a choice would cost operations for gradients
        return tf.identity(loss)


def unless_stopped(model: Any, loss: Tensor, gradients: list[Tensor | None]) -> list[Tensor | None]:
    """Return gradients, of 0 where the loss is NaN under XLA, which drops what would have raised an error."""
    if not model.jit_compile:
        return gradients
    stopped = ops.isnan(loss)

    def kept(gradient: Any) -> Any:
        if isinstance(gradient, tf.IndexedSlices):  # of an embedding; XLA must know its shape
            return tf.IndexedSlices(kept(gradient.values), gradient.indices, gradient.dense_shape)
        return None if gradient is None else tf.where(stopped, tf.zeros_like(gradient), gradient)

    return [kept(each) for each in gradients]


@contextlib.contextmanager
def in_a_graph() -> Iterator[None]:
    """Mark a `ValueError` of Python code that a graph calls, so that `with_value_errors` finds it again."""
    try:
        yield
    except ValueError as error:
        raise ValueError(MARK + str(error) + MARK) from None


def with_value_errors(model: Any, function: Any, first: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Raise what `stop_unless` has found as a `ValueError`, which TensorFlow has no way to raise in a graph.

    Args:
        model: whose step it is.
        function: Keras's function of an iterator, which takes a step.
        first: is called with the iterator before the first step, and returns the one that this step is to read.
    """
    begun = False

    def guarded(iterator: Any) -> Any:
        nonlocal begun
        if not begun:
            iterator = first(iterator)
            begun = True
        with from_a_graph(), gradients.freed_with(model):
            return function(iterator)

    return guarded


@contextlib.contextmanager
def from_a_graph() -> Iterator[None]:
    """Raise a marked error of a graph as the `ValueError` that it was."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if MARK not in str(error):
            raise
        raise ValueError(_message(str(error))) from None


def _message(error: str) -> str:
    """Return the text between two marks in TensorFlow's message, without what it puts between several values."""
    found = error.split(MARK)[1].replace("] [", " ").removesuffix(" [")
    return found.replace("\\'", "'")


@contextlib.contextmanager
def in_own_words() -> Iterator[None]:
    """Raise what a layer of ours refuses in its own words: Keras puts others around them, about shapes and calls."""
    try:
        yield
    except ValueError as error:
        found: BaseException = error
        while found.__cause__ is None and isinstance(found.__context__, ValueError):  # Keras raises its own from None
            found = found.__context__
        raise found from found.__cause__
