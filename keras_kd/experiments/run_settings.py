"""What decides a run: kept beside its result, compared before it is taken for done, and sent to other processes.

Everything is JSON. Functions go by import path, Keras's objects by their configuration.
"""

import functools
import hashlib
import importlib
import inspect
import json
import types
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd._internal import teacher_fingerprints

#: Marks what is not plain JSON.
_FUNCTION, _OBJECT = "__function__", "__keras__"


def describe(value: Any, above: tuple[Any, ...] = ()) -> Any:
    """Return JSON that is the same for the same settings, in this process and in the next one.

    Args:
        value: settings.
        above: functions that hold this one, which may call each other.
    """
    if isinstance(value, dict):
        return {str(key): describe(each, above) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(each, above) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted((describe(each, above) for each in value), key=json.dumps)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, functools.partial):
        return ["partial", describe(value.func, above), describe(value.args, above), describe(value.keywords, above)]
    if isinstance(value, types.MethodType):
        return ["method", describe(value.__func__, above), describe(value.__self__, above)]
    if isinstance(value, types.FunctionType):
        return value.__qualname__ if value in above else _of_function(value, (*above, value))
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor, tf.Variable)):
        return ["array", teacher_fingerprints.of_arrays([value])]
    if hasattr(value, "get_config"):  # Keras's objects have no one base class
        return [type(value).__name__, teacher_fingerprints.of_config(keras.saving.serialize_keras_object(value))[:16]]
    shown = repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__}" if " at 0x" in shown else shown


def encode(value: Any, what: str) -> Any:
    """Return JSON from which another process can make the value.

    Args:
        value: numbers, strings, Keras's objects, functions of a module, in dicts and lists.
        what: its name, for the message.

    Raises:
        ValueError: something that another process cannot make.
    """
    if isinstance(value, dict):
        return {key: encode(each, what) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(each, what) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, types.FunctionType):
        if not _importable(value):
            raise ValueError(
                f"Expected {what} to be a function that another process can import: one that stands in a module, under "
                f"its own name. Received: {value!r}. Move it to the top level of a file, or leave `executor` out."
            )
        return {_FUNCTION: f"{value.__module__}:{value.__qualname__}"}
    try:
        config = keras.saving.serialize_keras_object(value)
        keras.saving.deserialize_keras_object(config)
    except Exception as error:  # whatever the object's own code raises
        raise ValueError(
            f"Expected {what} to be something that another process can make again. Received: {value!r}: {error} Leave "
            "`executor` out, or give the recipe as a function of (student, teacher)."
        ) from error
    return {_OBJECT: config}


def decode(value: Any) -> Any:
    """Return what `encode` was given."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    if _FUNCTION in value:
        module, name = value[_FUNCTION].split(":")
        return getattr(importlib.import_module(module), name)
    if _OBJECT in value:
        return keras.saving.deserialize_keras_object(value[_OBJECT])
    return {key: decode(each) for key, each in value.items()}


def difference(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """Return the name of the first setting that differs, or None."""
    return next((name for name in here if there.get(name) != json.loads(json.dumps(here[name]))), None)


def _of_function(function: types.FunctionType, above: tuple[Any, ...]) -> list[Any]:
    """Describe a function by its name, its code, and the values that it has been given from outside."""
    try:
        code = inspect.getsource(function)
    except (OSError, TypeError):  # typed into a console
        code = function.__code__.co_code.hex()
    code += repr(_constants(function.__code__))  # two lambdas may stand in one line
    digest = hashlib.sha256(code.encode()).hexdigest()[:16]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    given = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    return [function.__qualname__, digest, *describe([value for value in given if value is not function], above)]


def _constants(code: types.CodeType) -> list[Any]:
    """Return the names and the constants in a function, and in those that it defines."""
    inner = [_constants(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    plain = [each for each in code.co_consts if not isinstance(each, (types.CodeType, frozenset))]
    return [code.co_names, plain, inner]


def _importable(function: types.FunctionType) -> bool:
    return getattr(importlib.import_module(function.__module__), function.__qualname__, None) is function
