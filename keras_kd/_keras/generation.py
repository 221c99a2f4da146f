"""The memory in which a language model keeps what it has read while it generates."""

import inspect
import math
from typing import Any

import tensorflow as tf


def cache_bytes(task: Any, length: int) -> int | None:
    """Return the bytes of the keys and values that a task of KerasHub keeps for one text; None where not known.

    Args:
        task: that generates.
        length: tokens of the text, prompt included.
    """
    build = getattr(task, "_build_cache", None)
    if build is None or len(inspect.signature(build).parameters) != 1:  # those of images take these too
        return None
    traced = tf.function(build, autograph=False).get_concrete_function(tf.TensorSpec((1, length), "int32"))
    cache = tf.nest.flatten(traced.structured_outputs)[-1]
    return math.prod(cache.shape) * cache.dtype.size
