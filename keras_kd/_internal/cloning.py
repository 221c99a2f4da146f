"""Copies of a user's model: of another dtype, on another device, with fresh weights, or with fewer units.

Keras's files hold more than weights: vocabularies, statistics of the data, tables. Layers write and read these through
methods of their own (`save_own_variables`, `save_assets` and their counterparts), and copies use the same ones.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import keras

from keras_kd._internal import raw_views
from keras_kd._keras import layer_tree, tensor_origin

#: How layers call their number of units or channels.
_WIDTHS = ("units", "filters")

#: The policies that another dtype replaces. Layers of ids and strings have others.
_FLOATING = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")

_HINT = "Give the layers `get_config`, or register them with keras.saving.register_keras_serializable."


def copy_model(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """Return a model of the same architecture, names, weights and state that shares no variable with the first.

    It is what `keras.saving.load_model` returns for the model's file, without a file, and not compiled.

    Args:
        model: a built model whose configuration Keras can write and read.
        dtype: for both variables and computation, "bfloat16", "float16" or "float32"; layers that were adapted to data
            keep their own, as the data may not fit into 16 bits. None keeps the model's.

    Raises:
        ValueError: the model cannot be copied.
    """
    with explained(model, "copy"):
        copy = _made_again(model, dtype)
        for layer, twin in _layer_pairs(model, copy):
            if type(layer).load_own_variables is not keras.Layer.load_own_variables:
                _carry_variables(layer, twin)
            _carry_assets(layer, twin)
        copy.set_weights(model.get_weights())
    return copy


def fresh_model(model: keras.Model) -> keras.Model:
    """Return a model of the same architecture and names, whose weights are drawn anew by its initializers.

    What was adapted to data (layers with `adapt`) and assets such as vocabularies are those of `model`.

    Args:
        model: a built model whose configuration Keras can write and read.

    Raises:
        ValueError: the model cannot be made from its configuration.
    """
    with explained(model, "make again", f"{_HINT} Or give a function that builds it."):
        fresh = _made_again(model)
        _carry_adapted(model, fresh)
    return fresh


def narrower(model: keras.Model, parameters: float, name: str) -> keras.Model:
    """Return a model of the same layers with fresh weights and fewer units and filters, of about so many parameters.

    All widths but those of the outputs are multiplied by one factor. Layers that were adapted to data keep what they
    have learned from it.

    Args:
        model: a Functional or Sequential model.
        parameters: how many weights the new one should have.
        name: its name.

    Raises:
        ValueError: no factor brings the model near that size; a layer was adapted to features that are now fewer.
    """
    outputs = {layer.name for output in model.outputs for layer in _last_with_width(output)}
    low, high = 0.0, 1.0
    best = _scaled(model, high, outputs, name)
    for _ in range(12):  # a factor to 1 / 4096 is as fine as widths are
        middle = (low + high) / 2
        candidate = _scaled(model, middle, outputs, name)
        if candidate.count_params() > parameters:
            high = middle
        else:
            low = middle
        if abs(candidate.count_params() - parameters) < abs(best.count_params() - parameters):
            best = candidate
    if not 0.5 * parameters <= best.count_params() <= 2 * parameters:
        raise ValueError(
            f"Expected {model.name!r} to be one that has about {parameters:,.0f} parameters with fewer units and "
            f"filters. The nearest has {best.count_params():,}. Give the models yourself."
        )
    with explained(model, "narrow", "Give the narrower models yourself."):
        _carry_adapted(model, best)
    return best


def _scaled(model: keras.Model, factor: float, outputs: set[str], name: str) -> keras.Model:
    def narrow(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        for width in _WIDTHS:
            if width in config and layer.name not in outputs:
                config[width] = max(1, round(factor * config[width]))
        return type(layer).from_config(config)

    clone = keras.models.clone_model(model, clone_function=narrow, recursive=True)
    return type(clone).from_config({**clone.get_config(), "name": name})


def _last_with_width(tensor: Any) -> list[keras.layers.Layer]:
    """Return the layers that give an output its number of classes."""
    layer, _, inputs = tensor_origin.producer(tensor)
    if any(width in layer.get_config() for width in _WIDTHS):
        return [layer]
    return [found for each in inputs for found in _last_with_width(each)]


def _made_again(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """Return a model of the same configuration, not compiled."""
    layers = layer_tree.all_layers(model)
    classes = {type(layer).__name__: type(layer) for layer in layers}  # found without registration
    adapted = {type(layer).__name__ for layer in layers if _is_adapted(layer)}
    own = raw_views.preprocessing(model) is not None  # two models share a tokenizer, which no training changes
    config = {**model.get_config(), "preprocessor": None} if own else model.get_config()
    with keras.saving.custom_object_scope(classes), _policy(dtype):
        again = type(model).from_config(_changed(config, dtype, adapted))
    if own:
        again.preprocessor = model.preprocessor
    if not again.built:
        again.build_from_config(model.get_build_config())
    if {id(variable) for variable in model.variables} & {id(variable) for variable in again.variables}:
        raise ValueError(
            "its `get_config` returns layers as they are, which the copy would share. Serialize them: "
            "keras.saving.serialize_keras_object."
        )
    return again


def _changed(config: Any, dtype: str | None, but: set[str]) -> Any:
    """Return a configuration without what models inside were compiled with, and of another dtype.

    Args:
        config: of a model, or a part of it.
        dtype: takes the place of every layer's floating policy; None leaves them.
        but: names of classes that keep their policy.
    """
    if type(config) in (list, tuple):
        return type(config)(_changed(value, dtype, but) for value in config)
    if not isinstance(config, dict):
        return config
    kind = config.get("class_name")
    if kind == "DTypePolicy" and dtype is not None and config["config"]["name"] in _FLOATING:
        return {**config, "config": {"name": dtype}}
    dtype = None if kind in but else dtype
    inside = {key: value for key, value in config.items() if kind is None or key != "compile_config"}
    return {key: _changed(value, dtype, but) for key, value in inside.items()}


def _layer_pairs(model: keras.Model, twin: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Return each layer of a model with the one that takes its place in a model made from its configuration."""
    ours, theirs = _layers(model), _layers(twin)
    if [type(layer) for layer in ours] != [type(layer) for layer in theirs]:
        raise ValueError(
            f"its configuration makes {len(theirs)} layers, {[layer.name for layer in theirs]}, and it has "
            f"{len(ours)}: {[layer.name for layer in ours]}."
        )
    return list(zip(ours, theirs, strict=True))


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return all layers in a model, but for those of a preprocessor of its own, in use or set aside."""
    if not raw_views.is_task(model):
        return layer_tree.all_layers(model)
    return [each for layer in model.layers for each in layer_tree.all_layers(layer)]


def _carry_adapted(model: keras.Model, twin: keras.Model) -> None:
    """Give a model what another one has from its data instead of from training."""
    for layer, other in _layer_pairs(model, twin):
        if _is_adapted(layer):
            _carry_variables(layer, other)
        _carry_assets(layer, other)


def _is_adapted(layer: keras.layers.Layer) -> bool:
    return hasattr(layer, "adapt")  # Keras's layers that learn from data without training have no class in common


def _carry_variables(layer: keras.layers.Layer, twin: keras.layers.Layer) -> None:
    """Give a layer another one's variables, and what it makes of them."""
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    twin.load_own_variables({name: keras.ops.convert_to_numpy(value) for name, value in store.items()})


def carry_state(layer: keras.layers.Layer, twin: keras.layers.Layer, variables: bool = True) -> None:
    """Give a layer what another one has beside its weights: what layers write and read by methods of their own.

    Args:
        layer: has the state.
        twin: of the same configuration, but for its sizes.
        variables: whether it may be given variables, which have the same sizes.
    """
    for one, other in zip(layer_tree.all_layers(layer), layer_tree.all_layers(twin), strict=True):
        if variables and type(one).load_own_variables is not keras.Layer.load_own_variables:
            _carry_variables(one, other)
        _carry_assets(one, other)


def carry_saved(layer: keras.layers.Layer, twin: keras.layers.Layer) -> None:
    """Give a layer, and those in it, the variables that a file of another one would hold, with adapters merged.

    Args:
        layer: has them, and may have adapters (LoRA).
        twin: of the same configuration, without adapters.
    """
    for one, other in zip(layer_tree.all_layers(layer), layer_tree.all_layers(twin), strict=True):
        _carry_variables(one, other)


def _carry_assets(layer: keras.layers.Layer, twin: keras.layers.Layer) -> None:
    """Give a layer what another one writes beside its variables."""
    if hasattr(layer, "save_assets"):  # which no other layer has
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            twin.load_assets(folder)


@contextlib.contextmanager
def explained(model: keras.Model, what: str, hint: str = _HINT) -> Iterator[None]:
    """Say of which model an error of Keras or of a layer is, and what to do."""
    try:
        yield
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"Expected a model that Keras can {what}. {model.name!r} is not: {error} {hint}") from error


@contextlib.contextmanager
def _policy(dtype: str | None) -> Iterator[None]:
    """Give the dtype to layers that no configuration names: those that a subclassed model makes for itself."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
