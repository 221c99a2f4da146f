"""What caches of format 1 contain, so that they can still be read."""

import hashlib
import json
from typing import Any

import keras

from keras_kd._internal import configuration_fingerprints

#: The first format: no centred logits, fingerprints of examples of 2 bytes, and names of layers numbered everywhere.
FORMAT = 1


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 1 with what later ones contain besides."""
    return {"check_bytes": 2, **content}


def comparable(settings: dict[str, Any], teacher: keras.layers.Layer) -> dict[str, Any]:
    """Return settings as format 1 has them; code was not compared, and "relu" could be a layer or its activation."""
    config = configuration_fingerprints.serialized(teacher)
    names: dict[str, str] = {}
    _collect_names(config, names)
    plain = json.dumps(_plain(config, names), sort_keys=True, default=lambda value: type(value).__qualname__)
    here = {**settings, "teacher_architecture": hashlib.sha256(plain.encode()).hexdigest()}
    return {name: value for name, value in here.items() if name != "teacher_code"}


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
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":
            return "lambda"
        left_out = configuration_fingerprints.LEFT_OUT
        return {key: _plain(value, names) for key, value in config.items() if key not in left_out}
    if isinstance(config, (list, tuple)):
        return [_plain(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config
