"""Whole blocks: what a residual network adds to its stream can be left out, and the stream goes on."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, tree

from keras_kd._keras import graph_replay, tensor_origin
from keras_kd.pruning.opened_models import opened


def find_blocks(model: keras.Model) -> list[str]:
    """Return the names of the blocks of a model, in their order.

    A block is a sum of two tensors of one shape, x + f(x), where f has weights and reads nothing but x; it has the name
    of its `Add` layer, as "model/layer", or of the addition.

    Args:
        model: a built Functional or Sequential model.
    """
    return [name for name, _ in _found(opened(model), "")]


def without(model: keras.Model, names: tuple[str, ...]) -> keras.Model:
    """Return a model of the same layers without some blocks.

    Args:
        model: a built Functional or Sequential model.
        names: of blocks, see `find_blocks`.

    Raises:
        ValueError: a name is that of no block.
    """
    known = find_blocks(model)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"Expected `blocks` to be some of {known}. Received: {unknown}")
    return _rebuilt(model, names, "") if names else model


def _rebuilt(model: Any, names: tuple[str, ...], prefix: str) -> Any:
    graph = opened(model)
    streams = {name: stream for name, stream in _found(graph, prefix) if name in names}
    inner: dict[int, Any] = {}

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        name = prefix + operation.name
        if name in streams:
            return tree.flatten(args)[streams[name]]
        if opened(operation) is not None and any(each.startswith(f"{name}/") for each in names):
            if id(operation) not in inner:
                inner[id(operation)] = _rebuilt(operation, names, f"{name}/")
            return inner[id(operation)](*args, **kwargs)
        return operation(*args, **kwargs)

    return keras.Model(graph.input, graph_replay.replay(graph, graph.input, call), name=model.name)


def _found(graph: Any, prefix: str) -> list[tuple[str, int]]:
    """Return the names of blocks, and which of the two summands is the stream."""
    if graph is None:
        return []
    found: list[tuple[str, int]] = []
    calls: dict[int, int] = {}

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        calls[id(operation)] = calls.get(id(operation), 0) + 1
        nested = opened(operation)
        if nested is not None and calls[id(operation)] == 1:
            found.extend(_found(nested, f"{prefix}{operation.name}/"))
        result = operation(*args, **kwargs)
        stream = _stream(operation, tree.flatten(args)) if _is_sum(operation) else None
        if stream is not None:
            found.append((prefix + operation.name, stream))
        return result

    graph_replay.replay(graph, graph.input, call)
    return found


def _is_sum(operation: Any) -> bool:
    return type(operation) is layers.Add or isinstance(operation, tensor_origin.operation_of(_sum))


def _sum(x: Any) -> Any:
    return x + x


def _stream(operation: Any, tensors: list[Any]) -> int | None:
    """Return which summand the other one is computed from alone; None where that is neither."""
    if len(tensors) != 2 or not all(isinstance(each, keras.KerasTensor) for each in tensors):
        return None
    if tuple(tensors[0].shape) != tuple(tensors[1].shape) or tensors[0] is tensors[1]:
        return None
    for number, (stream, other) in enumerate([tensors, tensors[::-1]]):
        if _depends_alone(other, stream):
            return number
    return None


def _depends_alone(tensor: Any, stream: Any) -> bool:
    """Return whether a tensor is computed from another one, with weights, and from nothing beside it."""
    waiting, seen, weighted = [tensor], set(), False
    while waiting:
        each = waiting.pop()
        if each is stream or id(each) in seen:
            continue
        seen.add(id(each))
        operation, _, inputs = tensor_origin.producer(each)
        if not inputs:
            return False
        weighted = weighted or bool(getattr(operation, "weights", None))  # an operation that is no layer has none
        waiting += inputs
    return weighted


def by_removal(model: keras.Model, divergence: Callable[[keras.Model], float]) -> dict[str, float]:
    """Return what each block is worth: how far the outputs are from the model's own without it.

    Args:
        model: a built Functional or Sequential model.
        divergence: from a model without a block to the number.
    """
    return {name: divergence(without(model, (name,))) for name in find_blocks(model)}
