"""Find layers of the student and the teacher that belong together."""

import math

import keras

from keras_kd import taps
from keras_kd._types import Shape

Shapes = dict[str, Shape]


def suggest_pairs(student: keras.Model, teacher: keras.Model, verbose: bool = True) -> list[tuple[str, str]]:
    """Propose layers of the same stage, for methods that read features.

    For maps, a stage ends where the size changes, and stages pair up by how far they have reduced the input. For
    tokens, the last layers of equal parts of the depth pair up. Without either, the last vectors before the outputs do.

    Args:
        student: a Functional or Sequential model.
        teacher: a Functional or Sequential model.
        verbose: whether to print each pair and why.

    Returns:
        [("student_layer", "teacher_layer"), ...], shallow first.

    Raises:
        ValueError: a model without a graph, or nothing that belongs together.

    Example:
        >>> terms = methods.kd() + methods.attention_transfer(methods.suggest_pairs(student, teacher))
    """
    ours, theirs = layer_shapes(student, "student"), layer_shapes(teacher, "teacher")
    pairs = _maps(ours, theirs) or _tokens(ours, theirs) or _vectors(ours, theirs)
    if not pairs:
        raise ValueError(
            f"Found no layers of {student.name!r} and {teacher.name!r} that belong together. Name pairs of them: "
            f"the student has {list(ours)}, the teacher {list(theirs)}."
        )
    if verbose:
        width = max(len(mine) for mine, _, _ in pairs)
        for mine, other, why in pairs:
            print(f"{mine:<{width}}  ->  {other}: {why}")  # noqa: T201, asked for by `verbose`
    return [(mine, other) for mine, other, _ in pairs]


def layer_shapes(model: keras.Model, owner: str) -> Shapes:
    """Return the output shape of every layer of a model by name, in the order of the graph, nested ones opened.

    Raises:
        ValueError: the model has no graph.
    """
    graph = taps.functional(model)
    if graph is None:
        raise ValueError(
            f"Expected the {owner} to be a built Functional or Sequential model, whose layers can be read by name. "
            f"Received: {model!r}"
        )
    shapes: Shapes = {}
    for layer in graph.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        nested = taps.functional(layer)
        if nested is not None:
            shapes |= {f"{layer.name}/{name}": shape for name, shape in layer_shapes(layer, owner).items()}
        elif isinstance(layer.output, keras.KerasTensor):
            shapes[layer.name] = tuple(layer.output.shape)
    return shapes


def _maps(ours: Shapes, theirs: Shapes) -> list[tuple[str, str, str]]:
    """Pair the last maps of each size by the share of the largest map's side that is left."""
    mine, others = _stages(ours), _stages(theirs)
    return [
        (name, others[share][0], f"maps of {_size(shape)} and {_size(others[share][1])}, 1/{share:g} of the first maps")
        for share, (name, shape) in mine.items()
        if share in others
    ]


def _stages(shapes: Shapes) -> dict[float, tuple[str, tuple]]:
    maps = {name: shape for name, shape in shapes.items() if len(shape) == 4 and None not in shape[1:3]}
    largest = max((shape[1] for shape in maps.values()), default=1)
    # A later layer of the same share takes the place of an earlier one: the last of a stage has seen most.
    return {round(largest / shape[1], 1): (name, shape) for name, shape in maps.items() if min(shape[1:3]) > 1}


def _tokens(ours: Shapes, theirs: Shapes) -> list[tuple[str, str, str]]:
    """Pair the ends of equal parts of the depth, one for each layer of the shallower model up to four."""
    mine = [name for name, shape in ours.items() if len(shape) == 3]
    others = [name for name, shape in theirs.items() if len(shape) == 3]
    parts = min(len(mine), len(others), 4)
    ends = [math.ceil(part / parts * 100) for part in range(1, parts + 1)]
    return [
        (mine[len(mine) * part // parts - 1], others[len(others) * part // parts - 1], f"tokens, {end} % of the depth")
        for part, end in enumerate(ends, start=1)
    ]


def _vectors(ours: Shapes, theirs: Shapes) -> list[tuple[str, str, str]]:
    """Pair the last vectors before the outputs."""
    mine = [name for name, shape in ours.items() if len(shape) == 2][:-1]
    others = [name for name, shape in theirs.items() if len(shape) == 2][:-1]
    return [(mine[-1], others[-1], "the last vectors before the outputs")] if mine and others else []


def _size(shape: tuple) -> str:
    return f"{shape[1]}x{shape[2]}"
