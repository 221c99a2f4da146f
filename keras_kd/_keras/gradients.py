"""Gradients that TensorFlow records and registers."""

import contextlib
import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

try:
    from tensorflow.python.framework.ops import gradient_registry
except ImportError:  # a later TensorFlow: memory is not freed, all else works
    gradient_registry = None

try:
    from tensorflow.python.eager import record
    from tensorflow.python.ops import control_flow_util
except ImportError:  # a later TensorFlow: losses over many classes take more memory
    record = control_flow_util = None


def are_recorded() -> bool:
    """Return whether a gradient tape may be recording; True where that is not known."""
    return record is None or record.could_possibly_record()


def are_recorded_for(tensor: Any) -> bool:
    """Return whether a gradient tape watches a tensor; True where that is not known."""
    return record is None or record.should_record_backprop([tensor])


def under_xla() -> bool:
    """Return whether the graph that is being traced is compiled by XLA; True where that is not known."""
    return control_flow_util is None or control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


@contextlib.contextmanager
def freed_with(owner: Any) -> Iterator[None]:
    """Free the graphs that are made inside this context once `owner` is deleted, and those of deleted owners now.

    TensorFlow never frees a graph in which a gradient of its own was defined, as every Keras optimizer does: the
    registry of gradients holds it, and with it the weights that the graph reads.
    """
    if gradient_registry is None:
        yield
        return
    known = len(gradient_registry.list())
    try:
        yield
    finally:
        names = gradient_registry.list()
        if len(names) > known:
            new = list(itertools.islice(reversed(names), len(names) - known))
            _forget_the_gone()
            _registered.append((weakref.ref(owner), new))


#: Who has registered which gradients. Looked through at times: a finalizer would swallow Ctrl-C.
_registered: list[tuple[weakref.ref[Any], list[str]]] = []


def _forget_the_gone() -> None:
    for entry in [entry for entry in _registered if entry[0]() is None]:
        _registered.remove(entry)
        for name in entry[1]:
            gradient_registry._registry.pop(name, None)
