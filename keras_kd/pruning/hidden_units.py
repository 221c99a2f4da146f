"""Hidden units of layers that are made of several, as blocks of transformers are.

Which weights belong to an argument such as `intermediate_dim` is read from the layer itself: it is made again with a
smaller number, and the axes that are shorter are those of the units. Whether removing units is the same as zeros is
then tried on numbers, and where it is not, all units stay. Layers that differ in their names and weights alone, as the
blocks of a transformer do, are tried once: numbers that are drawn take the place of their weights.
"""

import json
import math
from typing import Any

import keras
import numpy as np

from keras_kd._keras import layer_tree
from keras_kd.pruning.channel_trace import Call, Trace

#: Parts of the names of arguments that are numbers of units.
_NAMES = ("dim", "units", "heads", "filters", "hidden", "inner")

#: Relative and absolute: sums of another order differ by less, another result by more.
_TOLERANCE = 1e-4

#: The length that is tried where a graph leaves it free.
_FREE = 4

#: An axis of a weight: the number of the weight in the layer, and of the axis.
Place = tuple[int, int]


def add(trace: Trace, call: Call) -> None:
    """Note the multiplications of a layer's kernels, and its hidden units, if it has any that can be removed."""
    layer = call.operation
    for weight in layer.weights:
        if weight.name == "kernel" and call.values:
            trace.works(weight, _positions(call.values[0]))
    for key in _arguments(layer):
        like = _likeness(call, key)
        if like not in trace.alike:
            trace.alike[like] = _found(call, key)
        places, readers = trace.alike[like]
        if readers:
            _note(trace, call, key, places, readers)


def _likeness(call: Call, key: str) -> Any:
    """Return what is equal for layers that differ in their names and weights alone; else the layer itself."""
    layer, names = call.operation, [*range(len(call.args)), *call.kwargs]
    config = {name: value for name, value in layer.get_config().items() if name != "name"}
    leaves = [
        [list(each.shape), each.dtype] if isinstance(each, keras.KerasTensor) else ["value", each]
        for each in call.leaves
    ]
    try:
        return type(layer), key, json.dumps([config, names, leaves], sort_keys=True)
    except TypeError:  # an object, of which nothing is known
        return layer, key


def _found(call: Call, key: str) -> tuple[list[Place], list[Place]]:
    """Return the axes of the units of an argument, and those of them that read; no readers where all units stay."""
    smaller = _made(call, {key: call.operation.get_config()[key] // 2})
    places = [] if smaller is None else _shorter(call.operation, smaller)
    return places, _tried(call, smaller, places) if places else []


def _positions(tensor: Any) -> tuple[int | None, ...]:
    """Return the axes of what is neither examples nor channels; numbers of words have no channels."""
    return tensor.shape[1:-1] if keras.backend.is_float_dtype(tensor.dtype) else tensor.shape[1:]


def _arguments(layer: Any) -> list[str]:
    """Return the arguments that may be a number of units, of at least 2."""
    try:
        config = layer.get_config()
    except Exception:  # some have none, or one that fails
        return []
    return [
        key
        for key, value in config.items()
        if type(value) is int and value >= 2 and value % 2 == 0 and any(part in key for part in _NAMES)
    ]


def _made(call: Call, changes: dict[str, int]) -> Any:
    """Return a layer of other arguments that takes and returns the same shapes, or None."""
    layer = call.operation
    classes = {each.__name__: each for each in layer_tree.custom_classes(layer)}
    try:
        with keras.saving.custom_object_scope(classes):
            twin = type(layer).from_config({**layer.get_config(), **changes})
            result = twin(*call.args, **call.kwargs)
    except Exception:  # a layer may refuse its arguments in any way
        return None
    shapes = [tuple(each.shape) for each in keras.tree.flatten(result)]
    same = shapes == [tuple(each.shape) for each in keras.tree.flatten(call.result)]
    return twin if same and len(twin.weights) == len(layer.weights) else None


def _shorter(layer: Any, smaller: Any) -> list[Place]:
    """Return the axes of one length that are half as long in another layer; none where others changed too."""
    found: list[Place] = []
    sizes = set()
    for number, (weight, other) in enumerate(zip(layer.weights, smaller.weights, strict=True)):
        if len(weight.shape) != len(other.shape):
            return []
        for axis, (long, short) in enumerate(zip(weight.shape, other.shape, strict=True)):
            if long != short:
                found.append((number, axis))
                sizes |= {long, 2 * short}
    return found if len(sizes) == 1 else []


def _tried(call: Call, smaller: Any, places: list[Place]) -> list[Place]:
    """Return `_readers`, or nothing where a layer does not run with another argument."""
    try:
        return _readers(call, smaller, places)
    except Exception:  # its shapes fitted, and its call may still fail in any way
        return []


def _readers(call: Call, smaller: Any, places: list[Place]) -> list[Place]:
    """Return the axes that read the units: zeros there alone do what removing does. None where no zeros do."""
    twin = _made(call, {})
    if twin is None:
        return []
    values = [_drawn(weight, number) for number, weight in enumerate(call.operation.weights)]
    number, axis = places[0]
    size = values[number].shape[axis]
    kept = np.sort(np.random.default_rng(0).permutation(size)[: size // 2])
    gone = np.setdiff1d(np.arange(size), kept)
    _assign(smaller, [_taken(value, number, places, kept) for number, value in enumerate(values)])
    expected = _outputs(smaller, call)
    readers = list(places)
    for place in [None, *places]:
        fewer = [each for each in readers if each != place]
        _assign(twin, [_zeroed(value, number, fewer, gone) for number, value in enumerate(values)])
        same = np.allclose(_outputs(twin, call), expected, _TOLERANCE, _TOLERANCE)
        if place is None and not same:
            return []
        readers = fewer if same else readers
    return readers


def _drawn(weight: Any, seed: int) -> np.ndarray:
    """Return numbers in the place of a weight: positive ones for a vector, which may be of variances."""
    if not keras.backend.is_float_dtype(weight.dtype):
        return keras.ops.convert_to_numpy(weight)
    random, inputs = np.random.default_rng(seed), math.prod(weight.shape[:-1])
    if inputs == 1:
        return random.uniform(0.5, 1.5, weight.shape)
    return random.normal(0.0, inputs**-0.5, weight.shape)


def _taken(value: np.ndarray, number: int, places: list[Place], kept: np.ndarray) -> np.ndarray:
    for axis in [axis for each, axis in places if each == number]:
        value = np.take(value, kept, axis=axis)
    return value


def _zeroed(value: np.ndarray, number: int, places: list[Place], gone: np.ndarray) -> np.ndarray:
    for axis in [axis for each, axis in places if each == number]:
        value = value.copy()
        np.moveaxis(value, axis, 0)[gone] = 0
    return value


def _assign(layer: Any, values: list[np.ndarray]) -> None:
    for weight, value in zip(layer.weights, values, strict=True):
        weight.assign(value)


def _outputs(layer: Any, call: Call) -> np.ndarray:
    """Return what a layer makes of random numbers, in inference mode, as one vector."""
    random = np.random.default_rng(0)

    def numbers(leaf: Any) -> Any:
        if not isinstance(leaf, keras.KerasTensor):
            return leaf
        batch, *sizes = leaf.shape
        shape = (batch or 2, *(size or _FREE for size in sizes))
        is_float = keras.backend.is_float_dtype(leaf.dtype)
        return keras.ops.convert_to_tensor(random.normal(size=shape) if is_float else np.ones(shape), leaf.dtype)

    args, kwargs = keras.tree.map_structure(numbers, (call.args, call.kwargs))
    results = keras.tree.flatten(layer(*args, **kwargs))
    return np.concatenate([keras.ops.convert_to_numpy(each).astype("float32").ravel() for each in results])


def _note(trace: Trace, call: Call, key: str, places: list[Place], readers: list[Place]) -> None:
    weights = call.operation.weights
    number, axis = places[0]
    ids = trace.make(weights[number], axis, call, key)
    for number, axis in places:
        trace.follow(weights[number], axis, ids, call, reads=(number, axis) in readers)
    value = call.operation.get_config()[key]
    if ids is not None:
        each = value // len(ids)  # an argument may count two units, as one that is halved for a gate
        trace.set(call.operation, key, lambda count: each * count(ids))
