"""Rules for what joins tensors along an axis, and for what gives them another shape."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_kd.pruning.channel_trace import Call, Count, Labels, Trace
from keras_kd.pruning.channel_units import Ids
from keras_kd.pruning.rules_kernels import Rule, Uncovered

#: Axes of what is reshaped, and the axes of the result that hold the same values.
Segment = tuple[list[int], list[int]]


def concatenate(trace: Trace, call: Call) -> None:
    """Concatenate: units side by side along its axis; along the others they are the same ones."""
    tensors, (y,) = call.tensors, call.outputs
    axis = call.operation.axis % len(y.shape)
    together = []
    for place in range(len(y.shape)):
        several = [trace.labels(each)[place] for each in tensors]
        reason = f"{call.described} puts them beside channels that all stay"
        together.append(_beside(trace, tensors, axis) if place == axis else trace.equal(several, reason))
    trace.put(y, together)


def _beside(trace: Trace, tensors: Sequence[Any], axis: int) -> Ids:
    several = [trace.labels(each)[axis] for each in tensors]
    if all(ids is None for ids in several):
        return None
    parts = []
    for ids, tensor in zip(several, tensors, strict=True):
        if ids is None:
            ids = trace.units.new(tensor.shape[axis])
            trace.units.fix(ids, "what they are put beside stays")
        parts.append(ids)
    return np.concatenate(parts)


def reshape_layer(trace: Trace, call: Call) -> None:
    """Reshape: its target follows what is kept."""
    labels = _reshaped(trace, call)
    target = call.operation.get_config()["target_shape"]
    trace.set(call.operation, "target_shape", lambda count: _target(target, labels[1:], count))


def reshape_operation(trace: Trace, call: Call) -> None:
    """`keras.ops.reshape`: its shape follows what is kept."""
    labels, target = _reshaped(trace, call), call.operation.newshape
    if any(not isinstance(size, int | None) for size in target):
        raise Uncovered("takes its shape from a tensor")

    def changed(count: Count) -> Any:
        return lambda x: keras.ops.reshape(x, _target(target, labels, count))

    trace.operations[id(call.operation)] = changed


def flatten(trace: Trace, call: Call) -> None:
    """Flatten: each position of a map has the units of its channels."""
    if call.operation.data_format == "channels_first":
        raise Uncovered("moves the channels")
    _reshaped(trace, call)


def _target(target: Sequence[int | None], labels: Labels, count: Count) -> tuple[int | None, ...]:
    """Return sizes with those of kept units; what is inferred stays so."""
    return tuple(
        size if ids is None or size in (-1, None) else count(ids) for size, ids in zip(target, labels, strict=True)
    )


def _reshaped(trace: Trace, call: Call) -> Labels:
    """Note, and return, the units of a result that has the values of a tensor in the same order."""
    (x, *_), (y, *_) = call.tensors, call.outputs
    labels = trace.labels(x)
    found: list[Ids] = [None] * len(y.shape)
    for before, after in _segments(x.shape, y.shape):
        for axis, ids in _of_segment(trace, call, before, after, labels).items():
            found[axis] = ids
    trace.put(y, found)
    return tuple(found)


def _segments(before: Sequence[int | None], after: Sequence[int | None]) -> list[Segment]:
    """Return the axes that hold the same values, as small as they are, from the right; axis 0 is of examples."""
    left, right = list(range(1, len(before))), list(range(1, len(after)))
    found: list[Segment] = []
    while left and right:
        ours, theirs = [left.pop()], [right.pop()]
        while not _equal(before, ours, after, theirs):
            if None in (sizes := [before[axis] for axis in ours] + [after[axis] for axis in theirs]):
                return [*found, ([*left, *ours], [*right, *theirs])]
            smaller = math.prod(before[axis] or 1 for axis in ours) < math.prod(after[axis] or 1 for axis in theirs)
            axes, rest = (ours, left) if smaller else (theirs, right)
            if not rest:
                raise Uncovered(f"mixes examples: {sizes}")
            axes.insert(0, rest.pop())
        found.append((ours, theirs))
    return found


def _equal(before: Sequence[int | None], ours: list[int], after: Sequence[int | None], theirs: list[int]) -> bool:
    sizes, others = [before[axis] for axis in ours], [after[axis] for axis in theirs]
    if None in sizes or None in others:
        return sizes == others == [None]
    return math.prod(size or 1 for size in sizes) == math.prod(size or 1 for size in others)


def _of_segment(trace: Trace, call: Call, before: list[int], after: list[int], labels: Labels) -> dict[int, Ids]:
    shape, target = ([tensor.shape[axis] for axis in axes] for tensor, axes in _sides(call, before, after))
    places = [place for place, axis in enumerate(before) if labels[axis] is not None]
    if not places:
        return {}
    if None in shape or None in target:
        trace.fix([labels[axis] for axis in before], f"{call.described} has a shape that is not known before")
        return {}
    trace.fix([labels[before[place]] for place in places[1:]], f"{call.described} mixes two axes of units")
    beside = [1] * len(shape)
    beside[places[0]] = shape[places[0]]
    along = np.asarray(labels[before[places[0]]]).reshape(beside)
    ids = np.broadcast_to(along, shape).reshape(target)
    axis = next((axis for axis in range(ids.ndim) if _varies(ids, axis)), None)
    if axis is None:
        return {}
    return {after[axis]: _along(trace, ids, axis)}


def _sides(call: Call, before: list[int], after: list[int]) -> list[tuple[Any, list[int]]]:
    return [(call.tensors[0], before), (call.outputs[0], after)]


def _varies(ids: np.ndarray, axis: int) -> bool:
    first = np.take(ids, [0], axis=axis)
    return not np.array_equal(np.broadcast_to(first, ids.shape), ids)


def _along(trace: Trace, ids: np.ndarray, axis: int) -> np.ndarray:
    """Return the units along one axis, where those along the others are joined with them."""
    rows = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
    for row in rows:
        different = np.unique(row)
        trace.units.join([row[0]] * len(different), different)
    return rows[:, 0]


#: By the class of a layer.
RULES: dict[type, Rule] = {
    layers.Concatenate: concatenate,
    layers.Reshape: reshape_layer,
    layers.Flatten: flatten,
}
