"""Columns of examples that a teacher reads, as a part of what a cache compares and gives to the teacher.

A cache knows examples and no columns. Of a teacher that reads some, each x is a dict of both while it is in the cache.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_kd._internal import row_choice, soft_targets

_INPUTS, _COLUMNS = "inputs", "columns"


def bundled(data: Any, names: Sequence[str]) -> Any:
    """Return arrays or a dataset, each x a dict of itself and its columns of some names; without names, as it is.

    Raises:
        ValueError: examples without a column.
    """
    if not names:
        return data
    if not isinstance(data, tf.data.Dataset):
        return _bundle(data, names)
    return data.map(lambda *parts: _with_first(parts, _bundle(parts[0], names)))


def unbundled(data: Any, names: Sequence[str]) -> Any:
    """Return what `bundled` was given, with what was joined to it since."""
    if not names:
        return data
    if not isinstance(data, tf.data.Dataset):
        return soft_targets.map_inputs(_inputs_of, data)
    return data.map(lambda *parts: _with_first(parts, soft_targets.map_inputs(_inputs_of, parts[0])))


def as_given(x: Any, names: Sequence[str]) -> Any:
    """Return a batch of `bundled` as a teacher reads it."""
    return soft_targets.Joined(x[_INPUTS], columns=x[_COLUMNS]) if names else x


def check(names: Sequence[str], key: Any, augment: Any) -> tuple[str, ...]:
    """Return names of columns, or refuse what is computed of an x that has none."""
    if names and (key is not None or augment is not None):
        raise ValueError(
            f"Expected neither `key` nor `augment` for a teacher that reads the columns {list(names)} of the examples. "
            "Received one. Join by position, and build a cache of each of its teachers for augmented examples."
        )
    return tuple(names)


def _bundle(x: Any, names: Sequence[str]) -> Any:
    held = soft_targets.columns(x)
    for name in names:
        row_choice.require(held, name, "The cache")
    chosen = {name: held[name] for name in names}
    return soft_targets.map_inputs(lambda inputs: {_INPUTS: inputs, _COLUMNS: chosen}, x)


def _inputs_of(x: Any) -> Any:
    return x[_INPUTS]


def _with_first(parts: tuple[Any, ...], first: Any) -> Any:
    return (first, *parts[1:])
