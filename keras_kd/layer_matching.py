"""Find layers of the student and the teacher that belong together."""

import itertools
import math
from typing import NamedTuple

import keras
from keras import tree

from keras_kd._internal import layer_reader, token_maps
from keras_kd._types import Shape

Shapes = dict[str, Shape]

#: Layers that move positions and compute nothing: their sizes belong to no stage.
_MOVING = (
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
)

#: Layers at which the branches of a block meet: a block ends there.
_MERGING = (keras.layers.Add, keras.layers.Concatenate)

#: Layers that treat each position alone, and belong to what comes before them.
_FOLLOWING = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.Dropout,
)


class Read(NamedTuple):
    """A layer that can be read: its name in the model, its output's shape, and itself."""

    name: str
    shape: Shape
    layer: keras.layers.Layer


#: What is proposed: the student's layer, the teacher's, and why.
Found = list[tuple[str, str, str]]


def suggest_pairs(student: keras.Model, teacher: keras.Model, verbose: bool = True) -> list[tuple[str, str]]:
    """Propose layers of the same stage, for methods that read features.

    Only layers that compute features are read: what comes before the first convolution, attention or dense layer
    prepares or embeds the input, and padding moves it. For maps, a stage ends before the size halves, where the
    branches of its last block meet, and stages pair up by how far they have reduced the input, or, of inputs of
    different sizes, the first maps. For tokens, the ends of equal parts of the depth pair up. Where one model has
    tokens of images and the other maps, or other tokens, the same parts pair up, and tokens are read as maps,
    "encoder:map". Without any, the last vectors before the classifier pair up.

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
    ours, theirs = _features(student, "student"), _features(teacher, "teacher")
    maps = _maps(ours, theirs, _sides(student) == _sides(teacher))
    tokens = _tokens(ours, theirs, student, teacher)
    first, second = (tokens, maps) if _have_more_tokens(ours) and _have_more_tokens(theirs) else (maps, tokens)
    across = _across(ours, theirs, student, teacher)
    if _end_in_tokens(ours) != _end_in_tokens(theirs):  # maps of a transformer embed its patches
        first, second, across = across, first, second
    pairs = first or second or across or _vectors(ours, theirs)
    if not pairs:
        names = [list(layer_shapes(model, "model")) for model in (student, teacher)]
        raise ValueError(
            f"Found no layers of {student.name!r} and {teacher.name!r} that belong together. Name pairs of them: "
            f"the student has {names[0]}, the teacher {names[1]}."
        )
    if verbose:
        width = max(len(mine) for mine, _, _ in pairs)
        for mine, other, why in pairs:
            print(f"{mine:<{width}}  ->  {other}: {why}")  # noqa: T201, with `verbose`
    return [(mine, other) for mine, other, _ in pairs]


def layer_shapes(model: keras.Model, owner: str) -> Shapes:
    """Return the output shape of every layer of a model by name, in the order of the graph, nested ones opened.

    Raises:
        ValueError: the model has no graph.
    """
    return {each.name: each.shape for each in _layers(model, owner)}


def _layers(model: keras.Model, owner: str) -> list[Read]:
    graph = layer_reader.functional(model)
    if graph is None:
        raise ValueError(
            f"Expected the {owner} to be a built Functional or Sequential model, whose layers can be read by name. "
            f"Received: {model!r}"
        )
    found: list[Read] = []
    for layer in graph.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        nested = layer_reader.functional(layer)
        if nested is not None:
            found += [each._replace(name=f"{layer.name}/{each.name}") for each in _layers(layer, owner)]
        else:
            found += _returned(layer)
    return found


def _returned(layer: keras.layers.Layer) -> list[Read]:
    """Return what a layer returns: of several tensors those with a key, as stages have one, or else the first."""
    if isinstance(layer.output, keras.KerasTensor):
        return [Read(layer.name, tuple(layer.output.shape), layer)]
    returned = layer.output
    if isinstance(layer.input, keras.KerasTensor):  # the output of a layer has lost its keys
        spec = layer.compute_output_spec(layer.input)
        same = len(tree.flatten(spec)) == len(tree.flatten(returned))  # not where it was called with more arguments
        returned = spec if same else returned
    parts = tree.flatten_with_path(returned)
    keyed = [(path, each) for path, each in parts if any(isinstance(step, str) for step in path)]
    return [
        Read(f"{layer.name}:{'/'.join(map(str, path))}", tuple(each.shape), layer) for path, each in keyed or parts[:1]
    ]


def _features(model: keras.Model, owner: str) -> list[Read]:
    """Return the layers that compute features, from the first one on."""
    started = itertools.dropwhile(lambda each: not _has_kernel(each.layer), _layers(model, owner))
    return [each for each in started if not isinstance(each.layer, _MOVING) and not _embeds(each.layer)]


def _has_kernel(layer: keras.layers.Layer) -> bool:
    """Return whether a layer combines numbers by trained weights; scaling and embedding do not."""
    return not _embeds(layer) and any(len(weight.shape) > 1 for weight in layer.trainable_weights)


def _embeds(layer: keras.layers.Layer) -> bool:
    return "Embedding" in type(layer).__name__  # KerasHub's position embeddings are no subclasses of Keras's


def _sides(model: keras.Model) -> set[int | None]:
    """Return the heights of the images that a model takes."""
    return {tensor.shape[1] for tensor in layer_reader.functional(model).inputs if len(tensor.shape) == 4}


def _have_more_tokens(layers: list[Read]) -> bool:
    ranks = [len(each.shape) for each in layers]
    return ranks.count(3) > ranks.count(4)


def _end_in_tokens(layers: list[Read]) -> bool:
    """Return whether a model is a transformer: most of what it computes are tokens, and these come last."""
    ranks = [len(each.shape) for each in layers if len(each.shape) in (3, 4)]
    return _have_more_tokens(layers) and ranks[-1] == 3


def _maps(ours: list[Read], theirs: list[Read], same_input: bool) -> Found:
    """Pair the ends of the stages whose sides are equal, or the same share of the first maps' side."""
    mine, others = _stages(ours), _stages(theirs)
    first = [max((each.shape[1] for each in ends), default=1) for ends in (mine, others)]
    if same_input:
        first = [max(first)] * 2
    shares = [{_halvings(side, each): each for each in ends} for side, ends in zip(first, (mine, others), strict=True)]
    return [
        (one.name, shares[1][share].name, f"maps of {_size(one.shape)} and {_size(shares[1][share].shape)}")
        for share, one in shares[0].items()
        if share in shares[1]
    ]


def _halvings(side: int, read: Read) -> int:
    """Return how often a side was halved; a convolution without padding takes a little more."""
    return round(math.log2(side / read.shape[1]))


def _stages(layers: list[Read]) -> list[Read]:
    """Return the last layer of each stage, shallow first; of a size that comes back, as in a decoder, the later one."""
    maps = [
        each for each in layers if len(each.shape) == 4 and None not in each.shape[1:3] and max(each.shape[1:3]) > 1
    ]
    largest = max((each.shape[1] for each in maps), default=1)
    stages = [list(stage) for _, stage in itertools.groupby(maps, lambda each: _halvings(largest, each))]
    ends = {}
    for stage, after in itertools.zip_longest(stages, stages[1:]):
        reduced = after is not None and after[0].shape[1] < stage[0].shape[1]
        end = _end(stage) if reduced else stage[-1]
        ends[_halvings(largest, end)] = end
    return list(ends.values())


def _end(stage: list[Read]) -> Read:
    """Return the layer of a stage after which the next stage's first block begins."""
    merges = [number for number, each in enumerate(stage) if isinstance(each.layer, _MERGING)]
    if merges:
        last = merges[-1]
        while last + 1 < len(stage) and isinstance(stage[last + 1].layer, _FOLLOWING):
            last += 1
        return stage[last]
    kernels = [number for number, each in enumerate(stage) if _has_kernel(each.layer)]
    if len(kernels) > 1 and all(_is_pointwise(stage[number].layer) for number in kernels[-2:]):
        return stage[kernels[-1] - 1]  # a block ends with one pointwise convolution, and the next begins with another
    return stage[-1]


def _is_pointwise(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Conv2D) and tuple(layer.kernel_size) == (1, 1)


def _tokens(ours: list[Read], theirs: list[Read], student: keras.Model, teacher: keras.Model) -> Found:
    """Pair the ends of equal parts of the depth, one for each block of the shallower model up to four."""
    of_images = bool(_sides(student) and _sides(teacher))
    found = []
    for one, other, why in _by_depth(_blocks(ours), _blocks(theirs)):
        if of_images and one.shape[1] != other.shape[1]:
            found += _as_maps(one, other, student, teacher)
        else:
            found.append((one.name, other.name, f"tokens, {why}"))
    return found


def _across(ours: list[Read], theirs: list[Read], student: keras.Model, teacher: keras.Model) -> Found:
    """Pair the ends of equal parts of the depth where one model has maps, and the other tokens of images."""
    if not (_sides(student) and _sides(teacher)):
        return []
    mine, others = (_blocks(each) if _end_in_tokens(each) else _stages(each) for each in (ours, theirs))
    return [pair for one, other, _ in _by_depth(mine, others) for pair in _as_maps(one, other, student, teacher)]


def _by_depth(mine: list[Read], others: list[Read]) -> list[tuple[Read, Read, str]]:
    """Return the ends of as many equal parts as the shorter one has, up to four, and where they are."""
    parts = min(len(mine), len(others), 4)
    ends = [math.ceil(part / parts * 100) for part in range(1, parts + 1)]
    return [
        (mine[len(mine) * part // parts - 1], others[len(others) * part // parts - 1], f"{end} % of the depth")
        for part, end in enumerate(ends, start=1)
    ]


def _as_maps(one: Read, other: Read, student: keras.Model, teacher: keras.Model) -> Found:
    """Return a pair as maps with their sizes, or nothing where tokens are not one grid."""
    found = []
    for read, model in ((one, student), (other, teacher)):
        if len(read.shape) == 4:
            found.append((read.name, _size(read.shape)))
            continue
        grids = token_maps.found_grids(read.shape[1] or 0, token_maps.image_sides(layer_reader.functional(model)))
        found += [(read.name + token_maps.ENDING, f"{height}x{width}") for _, height, width in grids[:1]]
    if len(found) < 2:
        return []
    (mine, ours), (others, theirs) = found
    return [(mine, others, f"maps of {ours} and {theirs}")]


def _blocks(layers: list[Read]) -> list[Read]:
    """Return where branches of tokens meet, or all layers of tokens where none do."""
    tokens = [each for each in layers if len(each.shape) == 3]
    ends = []
    for number, each in enumerate(tokens):
        if isinstance(each.layer, _MERGING):
            rest = itertools.takewhile(lambda one: isinstance(one.layer, _FOLLOWING), tokens[number + 1 :])
            ends.append([each, *rest][-1])
    return ends or tokens


def _vectors(ours: list[Read], theirs: list[Read]) -> Found:
    """Pair the last vectors before the classifiers."""
    mine, others = _before_classifier(ours), _before_classifier(theirs)
    return [(mine[-1].name, others[-1].name, "the last vectors before the outputs")] if mine and others else []


def _before_classifier(layers: list[Read]) -> list[Read]:
    last = max((number for number, each in enumerate(layers) if _has_kernel(each.layer)), default=0)
    return [each for each in layers[:last] if len(each.shape) == 2]


def _size(shape: Shape) -> str:
    return f"{shape[1]}x{shape[2]}"
