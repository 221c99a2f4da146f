"""Copies of a user's model: of another dtype, on another device, or to be averaged into."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_kd import distribution

#: How layers call their number of units or channels.
_WIDTHS = ("units", "filters")

_HINT = "Give the layers `get_config`, or register them with keras.saving.register_keras_serializable."


def copy_model(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """Return a model of the same architecture, names and weights that shares no variable with the first.

    Args:
        model: a built model whose configuration Keras can write and read.
        dtype: for both variables and computation, "bfloat16" or "float16"; None keeps the model's.

    Raises:
        ValueError: the model cannot be copied.
    """
    try:
        config = model.get_config()
        # Found without registration.
        classes = {type(layer).__name__: type(layer) for layer in distribution.all_layers(model)}
        with keras.saving.custom_object_scope(classes), _policy(dtype):
            copy = type(model).from_config(config if dtype is None else _with_dtype(config, dtype))
        if not copy.built:
            copy.build_from_config(model.get_build_config())
        copy.set_weights(model.get_weights())
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"Expected a model that Keras can copy. {model.name!r} is not: {error} {_HINT}") from error
    return copy


def fresh_model(model: keras.Model) -> keras.Model:
    """Return a model of the same architecture and names, whose weights are drawn anew by its initializers.

    Args:
        model: a built model whose configuration Keras can write and read.

    Raises:
        ValueError: the model cannot be made from its configuration.
    """
    try:
        classes = {type(layer).__name__: type(layer) for layer in distribution.all_layers(model)}
        with keras.saving.custom_object_scope(classes):
            fresh = type(model).from_config(model.get_config())
        if not fresh.built:
            fresh.build_from_config(model.get_build_config())
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Expected a model that Keras can make again. {model.name!r} is not: {error} {_HINT} Or give a function "
            "that builds it."
        ) from error
    return fresh


def _with_dtype(config: Any, dtype: str) -> Any:
    """Put a dtype in the place of every layer's policy in a configuration."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {"name": dtype}}
        return {key: _with_dtype(value, dtype) for key, value in config.items()}
    return [_with_dtype(value, dtype) for value in config] if isinstance(config, (list, tuple)) else config


def narrower(model: keras.Model, parameters: float, name: str) -> keras.Model:
    """Return a model of the same layers with fresh weights and fewer units and filters, of about so many parameters.

    All widths but those of the outputs are multiplied by one factor.

    Args:
        model: a Functional or Sequential model.
        parameters: how many weights the new one should have.
        name: its name.

    Raises:
        ValueError: no factor brings the model near that size.
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
    layer, node, _ = tensor._keras_history
    if any(width in layer.get_config() for width in _WIDTHS):
        return [layer]
    return [found for each in layer._inbound_nodes[node].input_tensors for found in _last_with_width(each)]


@contextlib.contextmanager
def _policy(dtype: str | None) -> Iterator[None]:
    """Give the dtype to layers that no configuration names: those that a subclassed model makes for itself."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
