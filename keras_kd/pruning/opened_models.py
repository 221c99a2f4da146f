"""Which models are pruned layer by layer, and which as one layer: those whose layers only the model itself can make."""

import weakref
from typing import Any

import keras
from keras import tree

from keras_kd._internal.model_graphs import functional
from keras_kd._keras import layer_tree


def opened(model: Any) -> Any:
    """Return the graph of a model whose layers can be made again from their configurations; else None.

    Some backbones have layers whose configuration lacks an argument, or has one too many; the backbone's own is whole.
    """
    graph = functional(model)
    if graph is None:
        return None
    if model not in _known:
        _known[model] = not _has_own_configuration(model, graph) or all(map(_can_be_made, graph.layers))
    return graph if _known[model] else None


#: What was found: making layers takes time.
_known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _has_own_configuration(model: Any, graph: Any) -> bool:
    return type(model).get_config not in (keras.Sequential.get_config, type(graph).get_config)


def _can_be_made(layer: Any) -> bool:
    if functional(layer) is not None:
        return True  # of its layers, or as one
    classes = {each.__name__: each for each in layer_tree.custom_classes(layer)}
    try:
        with keras.saving.custom_object_scope(classes):
            type(layer).from_config(layer.get_config())
    except Exception:  # a class may fail in any way
        return False
    return True


def as_one_layer(model: keras.Model) -> keras.Model:
    """Return a model that calls another one as its only layer."""

    def same(each: Any) -> Any:
        return keras.Input(batch_shape=each.shape, dtype=each.dtype, name=each.name)

    inputs = tree.map_structure(same, model.input)
    return keras.Model(inputs, model(inputs), name=model.name)


def only_layer(model: keras.Model) -> keras.Model:
    """Return the layer of such a model."""
    return next(layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
