"""Checksums of configurations and of weights."""

import hashlib
import json
from collections.abc import Collection
from typing import Any

import keras
import numpy as np

from keras_kd._keras import layer_tree

#: What a configuration holds that differs between two builds of one model, or has no part in what it computes.
LEFT_OUT = ("shared_object_id", "build_config", "compile_config", "trainable")

#: The same of classes, by the names under which they are registered: where a server is, and how it is asked.
_LEFT_OUT_OF = {"keras_kd>Served": ("url", "in_flight", "timeout", "attempts", "tail")}

#: How Keras names inputs that the user has not named, and those of a clone.
_NAMES_OF_INPUTS = ("input_layer", "keras_tensor")


def of_config(content: Any, kept: Collection[str] = ()) -> str:
    """Return the checksum of a configuration of Keras's, without the names of layers.

    Args:
        content: see `keras.saving.serialize_keras_object`.
        kept: names of layers that count.
    """
    plain = _plain(content, {}, kept)
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=_of_value).encode()).hexdigest()


def of_weights(layer: keras.layers.Layer) -> str:
    """Return the checksum of all weights, vocabularies, and the weights of words."""
    digest = hashlib.sha256()
    for variable in layer.variables:
        if "seed_generator_state" in variable.path:  # of dropout and the like: it has no part in what a teacher outputs
            continue
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(value.view(np.uint8).data if value.ndim else value.tobytes())
    for each in layer_tree.all_layers(layer):
        if hasattr(each, "get_vocabulary"):  # lookup tables, which are neither variables nor configuration
            digest.update(repr(each.get_vocabulary()).encode())
        if hasattr(each, "idf_weights"):  # of lookup tables with output_mode="tf_idf"
            digest.update(np.asarray(each.idf_weights).tobytes())
    return digest.hexdigest()


def of_object(value: Any, kept: Collection[str] = ()) -> str:
    """Return the checksum of the configuration of a layer or of another object of Keras's; see `of_config`."""
    return of_config(serialized(value), kept)


def serialized(value: Any) -> Any:
    """Return the configuration of an object, or where it has none, the name of its class."""
    try:
        return keras.saving.serialize_keras_object(value)
    except Exception:  # a subclassed model without a configuration may raise anything
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}"}


def _plain(content: Any, places: dict[str, int], kept: Collection[str], is_named: bool = False) -> Any:
    """Return a configuration without what has no part in the outputs; references to layers become their places.

    Args:
        content: of anything.
        places: of the layers of the model that `content` is a part of, by name.
        kept: names that stay.
        is_named: whether `content` is what the `get_config` of an object with a name of its own returns.
    """
    if isinstance(content, (list, tuple)):
        return [_plain(value, places, kept) for value in content]
    if not isinstance(content, dict):
        return content
    if content.get("class_name") == "__lambda__":  # see `code`: here it holds line numbers and paths
        return "lambda"
    if isinstance(content.get("layers"), (list, tuple)):
        places = {_name(layer): place for place, layer in enumerate(content["layers"])}
    plain = {}
    of_class = _LEFT_OUT_OF.get(str(content.get("registered_name")), ())
    for key, value in content.items():
        if key == "config" and of_class:
            value = {name: each for name, each in value.items() if name not in of_class}
        if key in LEFT_OUT or (key == "name" and _is_free(content, is_named, kept)):
            continue
        if key in ("keras_history", "input_layers", "output_layers"):
            plain[key] = _placed(value, places)
        else:
            plain[key] = _plain(value, places, kept, is_named=key == "config" and _has_own_name(content))
    return plain


def _placed(value: Any, places: dict[str, int]) -> Any:
    """Return references to layers, [name, node, tensor] in any structure, with places instead of names."""
    if isinstance(value, dict):
        return {key: _placed(each, places) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_placed(each, places) for each in value]
    return places.get(value, value) if isinstance(value, str) else value


def _name(layer: Any) -> Any:
    config = layer.get("config") if isinstance(layer, dict) else None
    return config.get("name") if isinstance(config, dict) else None


def _has_own_name(content: dict[str, Any]) -> bool:
    """Return whether the name of a serialised object only counts up; that of a DTypePolicy is what it means."""
    return "class_name" in content and not str(content["class_name"]).endswith("DTypePolicy")


def _is_free(content: dict[str, Any], is_named: bool, kept: Collection[str]) -> bool:
    """Return whether the name in a dict has no part in what a model outputs."""
    if "inbound_nodes" in content:  # a Functional model repeats the name that is in the configuration
        return True
    if not is_named or content["name"] in kept:
        return False
    return "batch_shape" not in content or str(content["name"]).startswith(_NAMES_OF_INPUTS)


def _of_value(value: Any) -> Any:
    """Return what JSON has no form for: arrays by their content, anything else by its type."""
    if isinstance(value, (np.ndarray, np.generic)):
        return [value.dtype.name, value.tolist()]
    return type(value).__qualname__
