"""Fingerprints of a teacher: of its architecture, and of every weight."""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from keras_kd import distribution
from keras_kd.teachers.base import Teacher

#: What a configuration holds that differs between two builds of one model, or says nothing of what it computes.
_LEFT_OUT = ("shared_object_id", "build_config", "compile_config", "trainable")


def of_teacher(teacher: Teacher) -> dict[str, str]:
    """Return checksums of a teacher's architecture and weights; names of layers do not matter, they count up.

    A function, a lambda or a SavedModel counts by its name and its weights alone: what it computes is not seen.
    """
    return {"teacher_architecture": _of_architecture(teacher), "teacher_weights": _of_weights(teacher)}


def _of_architecture(teacher: Teacher) -> str:
    try:
        config = keras.saving.serialize_keras_object(teacher)
    except Exception:  # a subclassed model without a configuration may raise anything
        config = {"class": f"{type(teacher).__module__}.{type(teacher).__qualname__}"}
    return of_config(config)


def of_config(config: Any) -> str:
    """Return the checksum of a configuration of Keras's; names do not matter, they count up."""
    names: dict[str, str] = {}
    _collect_names(config, names)
    return hashlib.sha256(json.dumps(_plain(config, names), sort_keys=True, default=_typename).encode()).hexdigest()


def _of_weights(teacher: Teacher) -> str:
    digest = hashlib.sha256()
    for variable in teacher.variables:
        if "seed_generator_state" in variable.path:  # of dropout and the like: it says nothing of what a teacher says
            continue
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(value.view(np.uint8).data if value.ndim else value.tobytes())
    for layer in distribution.all_layers(teacher):
        if hasattr(layer, "get_vocabulary"):  # lookup tables, which are neither variables nor configuration
            digest.update(repr(layer.get_vocabulary()).encode())
    return digest.hexdigest()


def _collect_names(config: Any, names: dict[str, str]) -> None:
    """Give each name of a layer the number of its first mention."""
    if isinstance(config, dict):
        name = config.get("name")
        if isinstance(name, str):
            names.setdefault(name, f"#{len(names)}")
        for value in config.values():
            _collect_names(value, names)
    elif isinstance(config, (list, tuple)):
        for value in config:
            _collect_names(value, names)


def _plain(config: Any, names: dict[str, str]) -> Any:
    """Replace names by numbers, and leave out what says nothing."""
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":  # its code holds line numbers and paths
            return "lambda"
        return {key: _plain(value, names) for key, value in config.items() if key not in _LEFT_OUT}
    if isinstance(config, (list, tuple)):
        return [_plain(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config


def _typename(value: Any) -> str:
    return type(value).__qualname__
