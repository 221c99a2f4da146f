"""The rule for layers and operations without weights: what they do with channels is tried on numbers.

An activation, pooling, padding, a sum of branches, a transposition, a product of attention: what each of them does is
not read off a list. It is run on random numbers twice, once with some channels left out: where the result is the first
one without these channels, they can be removed, and the units pass through.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from keras_kd.pruning.channel_trace import Call, Trace
from keras_kd.pruning.channel_units import Ids
from keras_kd.pruning.rules_kernels import Uncovered

#: Sizes that a graph leaves free: of the batch, and of other axes.
_BATCH, _FREE = 2, 8

#: Relative and absolute: sums of another order differ by less, another result by more.
_TOLERANCE = 1e-4

#: Tensors of more numbers are not tried: a quarter of a gigabyte in float32.
_MOST_VALUES = 2**26

#: Their masks would be other ones with fewer channels.
_OTHERS = (layers.Masking,)


def passes(trace: Trace, call: Call) -> None:
    """Pass units through a layer or operation without weights, where removing them removes them from its output.

    Raises:
        Uncovered: it does something else with them.
    """
    labels = {id(tensor): trace.labels(tensor) for tensor in call.values}
    found: dict[int, list[Ids]] = {id(output): [None] * len(output.shape) for output in call.outputs}
    for back in sorted(
        {place - len(each) for each in labels.values() for place, ids in enumerate(each) if ids is not None}
    ):
        if isinstance(call.operation, _OTHERS):
            raise Uncovered("makes a mask of all channels")
        ids = _joined(trace, call, back)
        for output, axis in zip(call.outputs, _axes_after(call, back, len(ids)), strict=True):
            found[id(output)][axis] = ids
    for output in call.outputs:
        trace.put(output, found[id(output)])


def _joined(trace: Trace, call: Call, back: int) -> np.ndarray:
    """Return the units along an axis of all arguments, counted from the end as broadcasting does."""
    several = [trace.labels(each)[back] for each in call.values if len(each.shape) >= -back and each.shape[back] != 1]
    ids = trace.equal(several, f"{call.described} joins them with channels that all stay")
    if ids is None:
        raise Uncovered("has no channels there")
    return ids


def _axes_after(call: Call, back: int, size: int) -> list[int]:
    """Return for each output the axis on which the positions of an axis of the arguments are.

    Raises:
        Uncovered: there is none, or the values are others when some positions are left out.
    """
    random = np.random.default_rng(0)
    kept = np.sort(random.permutation(size)[: max(1, size // 2)])
    whole = [_numbers(leaf, random) if isinstance(leaf, keras.KerasTensor) else leaf for leaf in call.leaves]
    part = [
        np.take(value, kept, axis=back) if _has(call, leaf, back, size) else value
        for leaf, value in zip(call.leaves, whole, strict=True)
    ]
    try:
        before, after = (_run(call, values) for values in (whole, part))
    except Exception as error:  # sizes that an operation was not made for may raise anything
        raise Uncovered("cannot be run on fewer channels") from error
    return [_axis(*each, kept) for each in zip(before, after, strict=True)]


def _has(call: Call, leaf: Any, back: int, size: int) -> bool:
    """Return whether an argument that is no mask has an axis of a size."""
    return any(each is leaf for each in call.values) and len(leaf.shape) >= -back and leaf.shape[back] == size


def _numbers(tensor: Any, random: np.random.Generator) -> np.ndarray:
    batch, *sizes = tensor.shape
    shape = (batch or _BATCH, *(size or _FREE for size in sizes))
    if math.prod(shape) > _MOST_VALUES:
        raise Uncovered("is too large to be tried")
    if keras.backend.is_float_dtype(tensor.dtype):
        return random.normal(size=shape).astype("float32")
    return np.ones(shape) if tensor.dtype == "bool" else random.integers(0, 2, shape)  # a mask that masks nothing


def _run(call: Call, values: list[Any]) -> list[np.ndarray]:
    """Run the operation in inference mode."""
    tensors = [
        keras.ops.convert_to_tensor(value, leaf.dtype) if isinstance(leaf, keras.KerasTensor) else value
        for leaf, value in zip(call.leaves, values, strict=True)
    ]
    args, kwargs = tree.pack_sequence_as((call.args, call.kwargs), tensors)
    return [
        keras.ops.convert_to_numpy(each).astype("float32") for each in tree.flatten(call.operation(*args, **kwargs))
    ]


def _axis(before: np.ndarray, after: np.ndarray, kept: np.ndarray) -> int:
    axes = [axis for axis in range(before.ndim) if before.shape[axis] != after.shape[axis]]
    if before.ndim != after.ndim or len(axes) != 1 or after.shape[axes[0]] != len(kept):
        raise Uncovered("reads its channels together")
    if before.shape[axes[0]] <= kept[-1]:
        raise Uncovered("takes a part of its channels")
    if not np.allclose(np.take(before, kept, axis=axes[0]), after, _TOLERANCE, _TOLERANCE):
        raise Uncovered("reads its channels together")
    return axes[0]
