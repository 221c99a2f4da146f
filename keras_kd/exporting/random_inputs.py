"""Random examples of what a student takes, where none are given: ids of its embeddings, words of its vocabularies."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from keras_kd._internal import layer_reader
from keras_kd._keras import layer_tree
from keras_kd.exporting.interface import Spec
from keras_kd.exporting.serving import Served
from keras_kd.quantization.call_graph import Graph
from keras_kd.runtimes import model_files

#: Examples that are drawn.
COUNT = 16

#: Words of a text for `TextVectorization`.
_WORDS = 5

#: Layers that take any number or string, and what those are then: values of a byte, and letters.
_ANY = (layers.Discretization, layers.Hashing, layers.Normalization, layers.Rescaling)
_BYTE = 256
_LETTERS = list("abcdefghijklmnopqrstuvwxyz")

#: Layers and operations that hand on the values that they get, by the name of their class: most of these are private.
_UNCHANGED = frozenset(
    ["Cast", "Concatenate", "ExpandDims", "Flatten", "GetItem", "Identity", "Permute", "RepeatVector", "Reshape"]
    + ["Squeeze", "Stack", "Transpose"]
)

#: Values that a layer takes: ids or words to choose from.
Values = range | list[Any]


def draw(student: keras.Model, specs: Any, size: int) -> tuple[Any, list[str]]:
    """Return random inputs of the structure of `specs`, and the names of those whose values cannot be known.

    What goes into embeddings is an id of the smallest of them, whatever its type; what goes into a vocabulary is one
    of its words; other floats are normal.

    Args:
        student: what is exported, which declares its inputs.
        specs: of its inputs.
        size: of dimensions that are free, other than the batch.
    """
    graph, flat = (
        layer_reader.functional(student.first if isinstance(student, Served) else student),
        tree.flatten(specs),
    )
    readers: list[list[Any]] = [[] for _ in flat]
    if graph is not None:
        _follow(graph, {id(tensor): {i} for i, tensor in enumerate(graph.inputs)}, readers)
    random, drawn, unknown = np.random.default_rng(0), [], []
    for spec, own in zip(flat, readers, strict=True):
        known = [values for layer in own for values in _taken(layer, spec)]
        drawn.append(_draw(random, spec, known, (COUNT, *[each or size for each in spec.shape[1:]])))
        if not known and not keras.backend.is_float_dtype(spec.dtype) and spec.dtype != "bool":
            unknown.append(spec.name)
    return tree.pack_sequence_as(specs, drawn), unknown


def _follow(graph: Any, origins: dict[int, set[int]], readers: list[list[Any]]) -> None:
    """Collect the layers that read the values of each input, in nested models, too.

    Args:
        graph: a Functional model.
        origins: for each of its tensors the numbers of the inputs whose values it holds.
        readers: lists to add to, by input.
    """
    for call in Graph(graph).calls:
        held = [origins.get(id(tensor), set()) for tensor in call.inputs]
        every = set().union(*held)
        nested = layer_reader.functional(call.layer)
        if nested is not None:
            _follow(nested, dict(zip(map(id, nested.inputs), held, strict=True)), readers)
        elif type(call.layer).__name__ in _UNCHANGED:
            origins[id(call.output)] = every
        else:
            for i in every:
                readers[i].append(call.layer)


def _taken(reader: Any, spec: Spec) -> Iterator[Values]:
    """Yield the values that a layer accepts; where they are no floats, those that the layers inside of it accept."""
    inside = isinstance(reader, layers.Layer) and not keras.backend.is_float_dtype(spec.dtype)
    for part in layer_tree.all_layers(reader) if inside else [reader]:
        values = _values(part, spec)
        if values is not None and len(values) and isinstance(values[0], str) == (spec.dtype == "string"):
            yield values


def _values(layer: Any, spec: Spec) -> Values | None:
    if isinstance(layer, _ANY) and not keras.backend.is_float_dtype(spec.dtype):
        return _LETTERS if spec.dtype == "string" else range(min(_BYTE, np.iinfo(spec.dtype).max + 1))
    if isinstance(layer, layers.Embedding):
        return range(layer.input_dim)
    if isinstance(layer, layers.CategoryEncoding):
        return range(layer.num_tokens)
    if isinstance(layer, layers.TextVectorization):
        words = layer.get_vocabulary(include_special_tokens=False)
        return [" ".join(words[i : i + _WORDS]) for i in range(0, len(words), _WORDS)]
    if isinstance(layer, (layers.StringLookup, layers.IntegerLookup)):
        return range(layer.vocabulary_size()) if layer.invert else layer.get_vocabulary(include_special_tokens=False)
    if type(layer).__name__ == "OneHot":  # keras.ops.one_hot
        return range(layer.num_classes)
    return None


def _draw(random: np.random.Generator, spec: Spec, known: list[Values], shape: tuple[int, ...]) -> np.ndarray:
    if keras.backend.is_float_dtype(spec.dtype) and not known:
        return random.normal(size=shape).astype(spec.dtype)
    # Where nothing is known: truth values, or ids that every table of two rows has.
    values = min(known or [_LETTERS if spec.dtype == "string" else range(2)], key=len)
    chosen = random.integers(0, len(values), shape)
    chosen = chosen if isinstance(values, range) else np.array(values)[chosen]  # ranges begin with 0, and may be long
    return model_files.plain(chosen) if spec.dtype == "string" else chosen.astype(spec.dtype)
