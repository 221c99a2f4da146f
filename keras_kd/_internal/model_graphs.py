"""What the graph of a model shows: whether there is one, and what made an output.

A head (a softmax, a sigmoid) is the last among the layers that change values. Behind it may be layers that
only move them: a reshape, a permutation, a slice, a dropout in inference. Which ones do is not read off a list of
types: what is behind a head has no weights and is small, so numbered values are sent through it, and arrive or not.
"""

import math
import weakref
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_kd._keras import tensor_origin
from keras_kd._types import Tensor

#: Sent through what is behind a head, at most so many values: more are not worth the time.
_MOST_VALUES = 2**22

#: Numbers are sent in digits of this base, as multiples of 1 / 256 below 1: bfloat16 holds them exactly.
_BASE, _UNIT = 128, 256.0

#: Besides the digits of its number, so many random ones are sent for each value: a mean of two numbers may be a third.
_CHECKS = 4

#: Sizes that a graph leaves free: of the batch, and of other axes.
_BATCH, _FREE = 2, 3


class Origin(NamedTuple):
    """What made a tensor.

    Attributes:
        kind: "softmax", "sigmoid", "linear" (a layer with weights and no activation) or "unknown".
        axis: where a softmax has its classes, counted from 0; None of other kinds.
    """

    kind: str
    axis: int | None = None


_UNKNOWN = Origin("unknown")


def functional(model: Any) -> Any:
    """Return the graph of a built Functional or Sequential model, as a plain model of the same layers; else None."""
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0]) if model.built and model.inputs else None
    if not isinstance(model, keras.Model) or not getattr(model, "operations", None):  # a subclassed model has no graph
        return None
    graph = keras.Model(model.input, model.output)
    return graph if type(graph).call is type(model).call else None


def origin(output: Tensor) -> Origin:
    """Return what made a symbolic tensor, seen through operations that only move values."""
    if output not in _known:
        _known[output] = _found(output)
    return _known[output]


#: What was found: several readers of a model need the same.
_known: weakref.WeakKeyDictionary[Tensor, Origin] = weakref.WeakKeyDictionary()


def _found(output: Tensor) -> Origin:
    direct = _made_by(output)
    if direct is not None:
        return direct
    sources = _sources(output)
    kinds = {found.kind for _, found in sources}
    if len(kinds) != 1 or "unknown" in kinds:
        return _UNKNOWN
    places = _moved([tensor for tensor, _ in sources], output)
    if places is None:
        return _UNKNOWN
    (kind,) = kinds
    if kind != "softmax":
        return Origin(kind)
    axis = _axis_of_classes(sources, places)
    return _UNKNOWN if axis is None else Origin(kind, axis)  # parts of distributions are none


def _made_by(tensor: Tensor) -> Origin | None:
    """Return what a tensor's own operation makes; None for one without weights, which may only move values."""
    operation, index, _ = tensor_origin.producer(tensor)
    rank = len(tensor.shape)
    if isinstance(operation, keras.layers.TimeDistributed):
        inner = _of_layer(operation.layer, 0, rank - 1)
        return inner if inner is None or inner.axis is None else inner._replace(axis=inner.axis + 1)
    return _of_layer(operation, index, rank)


def _of_layer(operation: Any, index: int, rank: int) -> Origin | None:
    graph = functional(operation)
    if graph is not None:
        inner = origin(graph.outputs[index])
        return None if inner == _UNKNOWN and not operation.weights else inner
    if isinstance(operation, (keras.layers.Softmax, tensor_origin.operation_of(keras.ops.softmax))):
        axes: Any = operation.axis
        axes = axes if isinstance(axes, (list, tuple)) else [axes]
        return _UNKNOWN if len(axes) != 1 or axes[0] is None else Origin("softmax", axes[0] % rank)
    if isinstance(operation, tensor_origin.operation_of(keras.ops.sigmoid)):
        return Origin("sigmoid")
    if isinstance(operation, keras.layers.InputLayer):
        return _UNKNOWN
    return _of_activation(operation, rank)


def _of_activation(operation: Any, rank: int) -> Origin | None:
    """Return what a layer's activation makes of its output, where the layer is Keras's own and ends in it."""
    ends_in_it = type(operation).call.__module__.startswith("keras.") and not isinstance(
        operation, (keras.layers.RNN, keras.layers.Bidirectional)
    )
    activation = getattr(operation, "activation", None) if ends_in_it else None  # most layers have none
    if activation is keras.activations.softmax:
        return Origin("softmax", rank - 1)
    if activation is keras.activations.sigmoid:
        return Origin("sigmoid")
    if not getattr(operation, "weights", None):  # an operation that is no layer has none
        return None
    return Origin("linear") if activation is keras.activations.linear else _UNKNOWN


def _sources(output: Tensor) -> list[tuple[Tensor, Origin]]:
    """Return the tensors, and what made them, that an output is computed of without weights."""
    found: dict[int, tuple[Tensor, Origin]] = {}
    seen: set[int] = set()
    waiting = [output]
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        made = _made_by(tensor)
        if made is not None:
            found[id(tensor)] = tensor, made
        else:
            waiting += tensor_origin.producer(tensor)[2]
    return list(found.values())


def _moved(sources: list[Tensor], output: Tensor) -> np.ndarray | None:
    """Return for each value of an output, in inference mode, its number among those of the sources.

    None where a value is none of them: then something changes values.
    """
    shapes = [_sized(source) for source in sources]
    total = sum(math.prod(shape) for shape in shapes)
    if total > _MOST_VALUES:
        return None
    powers = [_BASE**power for power in range(1 + int(math.log(max(1, total - 1), _BASE)))]
    digits = [np.arange(total) // power % _BASE + 1 for power in powers]
    checks = np.random.default_rng(0).integers(1, _BASE + 1, (_CHECKS, total))
    try:
        tail = keras.Model(sources, output)
        received = [_received(tail, sources, shapes, each) for each in (*digits, *checks)]
    except Exception:  # a layer or function of the user's may raise anything on sizes that it was not made for
        return None
    numbers = sum(power * (digit - 1) for power, digit in zip(powers, received, strict=False))
    places = np.clip(np.nan_to_num(np.round(numbers)), 0, total - 1).astype(int)
    sent = (each[places] for each in (*digits, *checks))
    return places if all(map(np.array_equal, sent, received)) else None


def _sized(tensor: Tensor) -> tuple[int, ...]:
    batch, *others = tensor.shape
    return (batch or _BATCH, *(size or _FREE for size in others))


def _received(tail: Any, sources: list[Tensor], shapes: list[tuple[int, ...]], numbers: np.ndarray) -> np.ndarray:
    """Send numbers through a model, as fractions, and return what arrives."""
    parts = np.split(numbers / _UNIT, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    inputs = [
        keras.ops.cast(part.reshape(shape).astype("float32"), source.dtype)
        for part, shape, source in zip(parts, shapes, sources, strict=True)
    ]
    return keras.ops.convert_to_numpy(tail(inputs, training=False)).astype("float64") * _UNIT


def _axis_of_classes(sources: list[tuple[Tensor, Origin]], places: np.ndarray) -> int | None:
    """Return the axis along which an output has whole distributions of its sources; the last, if that is one."""
    described = [_rows_and_classes(_sized(tensor), found.axis or 0) for tensor, found in sources]
    sizes = [len(rows) for rows, _, _ in described]
    row = np.concatenate([rows + start for (rows, _, _), start in zip(described, np.cumsum([0, *sizes]), strict=False)])
    classes, counts = (np.concatenate([each[part] for each in described]) for part in (1, 2))
    for axis in range(places.ndim - 1, -1, -1):
        along = np.moveaxis(places, axis, -1)
        whole = np.all(counts[along] == along.shape[-1]) and np.all(row[along] == row[along[..., :1]])
        if whole and np.array_equal(np.sort(classes[along]), np.broadcast_to(np.arange(along.shape[-1]), along.shape)):
            return axis
    return None


def _rows_and_classes(shape: tuple[int, ...], axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each value of a softmax, the number of its distribution, its class, and the number of classes."""
    numbers = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), axis, -1).reshape(-1, shape[axis])
    rows, classes = np.empty(math.prod(shape), int), np.empty(math.prod(shape), int)
    rows[numbers], classes[numbers] = np.indices(numbers.shape)
    return rows, classes, np.full(rows.shape, shape[axis])
