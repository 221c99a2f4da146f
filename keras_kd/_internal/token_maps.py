"""What a layer returns as a map, (batch, height, width, channels), or as one vector of the image, (batch, channels).

A vision transformer has a token for each patch, and others before them: of the class, of a distillation, registers.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_kd._internal.model_graphs import functional
from keras_kd._types import Tensor

#: The end of a name: what is read of a layer is to be a map.
ENDING = ":map"

#: The end of a name: what is read of a layer is to be one vector of the image.
GLOBAL = ":global"

#: How many tokens there may be before the patches: none, the class's, one of a distillation beside it, four registers.
_BEFORE = (0, 1, 2, 5)

Sides = tuple[int, int]


def bases(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of what is read, without what it is to be returned as."""
    return tuple(dict.fromkeys(map(_base, names)))


def with_maps(model: Any, names: tuple[str, ...], owner: str, graph: Any) -> Any:
    """Return a model that returns maps, or vectors of the images, where the names say so.

    Args:
        model: returns {"output": ..., "taps": [...]}, one tap for each of `bases(names)`.
        names: what its taps are to be.
        owner: of the graph, for messages.
        graph: the Functional model that is read.
    """
    if bases(names) == names:
        return model
    read = dict(zip(bases(names), model.output["taps"], strict=True))
    taps = [_as_named(read[_base(name)], name, owner, graph) for name in names]
    return keras.Model(model.input, {"output": model.output["output"], "taps": taps})


def as_map(tensor: Tensor, name: str, owner: str, graph: Any) -> Tensor:
    """Return what a layer returns as a map, (batch, height, width, channels).

    Args:
        tensor: tokens, (batch, tokens, channels), a map, or vectors, (batch, channels), which are maps of one cell.
        name: of the layer, for the message.
        owner: of the model, for the message.
        graph: the Functional model, whose images have the ratio of height to width of the grid.

    Raises:
        ValueError: another rank, an unknown number of tokens, or one that is none or more than one grid of patches.
    """
    first = _channels_first(graph)
    if len(tensor.shape) == 4:
        return ops.transpose(tensor, (0, 2, 3, 1)) if first else tensor
    if len(tensor.shape) == 2:
        return ops.reshape(tensor, (-1, 1, 1, tensor.shape[-1]))
    before, height, width = _grid(tensor, name, owner, image_sides(graph, first))
    return ops.reshape(tensor[:, before:], (-1, height, width, tensor.shape[-1]))


def as_vector(tensor: Tensor, name: str, owner: str, graph: Any) -> Tensor:
    """Return what a layer returns as one vector of the image, (batch, channels).

    Of tokens it is the first where there are others before the patches, which is that of the class; of tokens of
    patches alone, and of maps, the mean.

    Args:
        tensor: see `as_map`.
        name: see `as_map`.
        owner: see `as_map`.
        graph: see `as_map`.

    Raises:
        ValueError: see `as_map`.
    """
    first = _channels_first(graph)
    if len(tensor.shape) == 2:
        return tensor
    if len(tensor.shape) == 4:
        return ops.mean(tensor, axis=(2, 3) if first else (1, 2))
    before, _, _ = _grid(tensor, name, owner, image_sides(graph, first))
    return tensor[:, 0] if before else ops.mean(tensor, axis=1)


def found_grids(tokens: int, sides: Sides) -> list[tuple[int, int, int]]:
    """Return the number of tokens before the patches, and the grid, (height, width), of each way that they may be.

    Args:
        tokens: how many there are.
        sides: height and width of the images, or two numbers of their ratio.
    """
    found = []
    for before in _BEFORE:
        height = math.isqrt(max(tokens - before, 0) * sides[0] // sides[1])
        width = height * sides[1] // sides[0]
        fits = height * width == tokens - before and height * sides[1] == width * sides[0]
        if fits and height * width > 1:
            found.append((before, height, width))
    return found


def image_sides(graph: Any, channels_first: bool = False) -> Sides:
    """Return height and width of the images that a model takes, or equal ones where they are not known."""
    places = slice(2, 4) if channels_first else slice(1, 3)
    known = [each.shape[places] for each in graph.inputs if len(each.shape) == 4 and None not in each.shape[places]]
    return (known[0][0], known[0][1]) if known else (1, 1)


def _base(name: str) -> str:
    return name.removesuffix(ENDING).removesuffix(GLOBAL)


def _as_named(tensor: Tensor, name: str, owner: str, graph: Any) -> Tensor:
    """Return what is read of a layer as the end of a name says."""
    if name.endswith(ENDING):
        return as_map(tensor, name, owner, graph)
    return as_vector(tensor, name, owner, graph) if name.endswith(GLOBAL) else tensor


def _grid(tensor: Tensor, name: str, owner: str, sides: Sides) -> tuple[int, int, int]:
    """Return the number of tokens before the patches, and the grid, (height, width), or raise an error."""
    if len(tensor.shape) != 3 or tensor.shape[1] is None:
        raise ValueError(
            f"Expected layer {_base(name)!r} of the {owner} to return tokens, (batch, tokens, channels) "
            f"with a known number of tokens, vectors or a map, for {name!r}. Received: {tuple(tensor.shape)}"
        )
    grids = found_grids(tensor.shape[1], sides)
    if len(grids) != 1:
        raise ValueError(
            f"Expected the tokens of {_base(name)!r} of the {owner} to be one grid of patches, with the "
            f"ratio of the image's sides, behind {', '.join(map(str, _BEFORE))} others. Received: {tensor.shape[1]} "
            f"tokens, which are {len(grids)} grids. Put a layer behind it that returns the map, and name that one."
        )
    return grids[0]


def _channels_first(graph: Any) -> bool:
    """Return whether any layer of a model, nested ones too, reads maps whose channels are first."""
    nested = [(layer, functional(layer)) for layer in graph.layers]
    return any(
        getattr(layer, "data_format", None) == "channels_first" if inner is None else _channels_first(inner)
        for layer, inner in nested
    )
