"""What can be read of the code that a teacher runs: functions, lambdas, and classes that are the user's own.

A configuration holds a function's name alone, and of a subclassed model what its author put there. Read here are the
bytecode of functions and methods, the values that they take from outside, and the attributes that methods set. What
cannot be read, such as the attributes of an object of another kind, is named.
"""

import dis
import enum
import functools
import hashlib
import pathlib
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_kd._internal import configuration_fingerprints
from keras_kd._internal.sklearn_models import is_estimator
from keras_kd._keras import layer_tree

_PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, pathlib.PurePath, np.generic, tf.DType)


#: Methods whose attributes are settings; what others set is state, such as a count, and changes in use.
_BEGIN = ("__init__", "build")


class Read(NamedTuple):
    """What was read of a teacher's code.

    Attributes:
        digest: a checksum, behind the version of Python: bytecode of another version cannot be compared.
        unread: what the teacher uses and the checksum does not cover, described.
    """

    digest: str
    unread: tuple[str, ...]


def version() -> str:
    """Return the version of Python as a digest begins with it."""
    return f"python {sys.version_info.major}.{sys.version_info.minor}: "


def read(teacher: keras.layers.Layer) -> Read:
    """Return what can be read of the code of a teacher and of all layers in it."""
    reader = _Reader(teacher)
    found = [reader.layer(layer) for layer in layer_tree.all_layers(teacher)]
    digest = hashlib.sha256(repr(found).encode()).hexdigest()
    return Read(version() + digest, tuple(dict.fromkeys(reader.unread)))


def comparable(here: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """Return settings to be compared with others, which may have been written under another version of Python."""
    if str(there.get("teacher_code")).startswith(version()):
        return here
    return {name: value for name, value in here.items() if name != "teacher_code"}


def warning(unread: tuple[str, ...]) -> str:
    """Return a warning for the build of a cache about changes that it could not notice."""
    return (
        f"Changes of {', '.join(unread)} cannot be noticed: a cache compares a teacher's configuration, its weights, "
        "the bytecode of its functions and the values that they use. After such a change, build in another folder; "
        "cache.verify(dataset) compares the stored targets with what the teacher outputs now."
    )


class _Reader:
    """Describe values in a form that is the same in every process, each object once.

    Args:
        teacher: whose own layers and weights are not described: other checksums are of them.
    """

    def __init__(self, teacher: keras.layers.Layer) -> None:
        self.unread: list[str] = []
        self._alive: list[Any] = [*layer_tree.all_layers(teacher), *teacher.variables]  # or ids would be used again
        self._seen = {id(each): number for number, each in enumerate(self._alive)}

    def layer(self, layer: keras.layers.Layer) -> Any:
        """Describe what a layer's configuration leaves out."""
        if isinstance(layer, keras.layers.TFSMLayer):
            graph = pathlib.Path(layer.filepath) / "saved_model.pb"
            return hashlib.sha256(graph.read_bytes()).hexdigest() if graph.is_file() else ""
        where = f"the layer {layer.name!r}"
        if _is_library(type(layer).__module__):  # what else it holds is in its configuration, or changes in use
            given = {name: value for name, value in vars(layer).items() if _is_function_of_user(value)}
            return [[name, self.value(value, where)] for name, value in sorted(given.items())]
        classes = [cls for cls in type(layer).__mro__ if not _is_library(cls.__module__)]
        methods = [(name, each) for cls in classes for name, each in sorted(_methods(cls).items())]
        begun, later = (
            {name for method, each in methods if (method in _BEGIN) is first for name in _stored(each)}
            for first in (True, False)
        )
        self.unread += [f"{name!r} of {where}, which its methods change" for name in sorted(later & vars(layer).keys())]
        own = [(name, vars(layer)[name]) for name in sorted((begun - later) & vars(layer).keys())]
        return [
            [[name, self.value(each, where)] for name, each in methods],
            [[name, self.value(each, f"{where}, as {name!r}")] for name, each in own],
        ]

    def value(self, value: Any, where: str) -> Any:
        """Describe a value that code uses."""
        if id(value) in self._seen:
            return self._seen[id(value)]
        if value is None or isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, (list, tuple)):
            return [self.value(each, where) for each in value]
        if isinstance(value, dict):
            return sorted(([self.value(key, where), self.value(each, where)] for key, each in value.items()), key=repr)
        if isinstance(value, (set, frozenset)):
            return sorted((self.value(each, where) for each in value), key=repr)
        if isinstance(value, (np.ndarray, tf.Tensor, tf.Variable, keras.Variable)):
            return self._array(value, where)
        if isinstance(value, (types.ModuleType, types.BuiltinFunctionType, np.ufunc)):
            return value.__name__
        return value.__qualname__ if isinstance(value, type) else self._once(value, where)

    def _once(self, value: Any, where: str) -> Any:
        """Describe what may refer to itself: the second time, `value` has the number of the first."""
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        if isinstance(value, keras.layers.Layer):
            return self._whole_layer(value)
        if isinstance(value, functools.partial):
            return ["partial", *(self.value(each, where) for each in (value.func, value.args, value.keywords))]
        if isinstance(value, types.MethodType):
            return [self.value(value.__func__, where), self.value(value.__self__, where)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if hasattr(value, "python_function"):  # of tf.function, whose class is not public
            return self.value(value.python_function, where)
        if hasattr(value, "get_config"):  # Keras's objects have no one base class
            return configuration_fingerprints.of_object(value)
        if is_estimator(value):
            return self._estimator(value, where)
        self.unread.append(f"an object of type {type(value).__qualname__} in {where}")
        return type(value).__qualname__

    def _estimator(self, estimator: Any, where: str) -> Any:
        try:
            import joblib  # scikit-learn needs it, and so do those who follow its protocol

            return [type(estimator).__qualname__, joblib.hash(estimator)]
        except Exception:  # not installed, or an object in it cannot be pickled
            self.unread.append(f"an object of type {type(estimator).__qualname__} in {where}")
            return type(estimator).__qualname__

    def _whole_layer(self, layer: keras.layers.Layer) -> Any:
        own = [self.layer(each) for each in layer_tree.all_layers(layer)]
        return [configuration_fingerprints.of_object(layer), configuration_fingerprints.of_weights(layer), own]

    def _function(self, function: types.FunctionType) -> Any:
        name = f"{function.__module__}.{function.__qualname__}"
        if _is_library(function.__module__):
            return name
        used = [(key, value, f"the function {function.__qualname__}, as {key!r}") for key, value in _outside(function)]
        return [
            self._code(function.__code__, function.__doc__),
            self.value([function.__defaults__, function.__kwdefaults__], f"the function {function.__qualname__}"),
            [[key, self.value(value, where)] for key, value, where in used],
        ]

    def _code(self, code: types.CodeType, documentation: str | None = None) -> Any:
        """Describe bytecode, without the lines that it comes from."""
        constants = [each for each in code.co_consts if documentation is None or each != documentation]
        inner = [self._code(each) if isinstance(each, types.CodeType) else _constant(each) for each in constants]
        return [code.co_code.hex(), code.co_names, inner]

    def _array(self, value: Any, where: str) -> Any:
        if isinstance(value, tf.Tensor) and not hasattr(value, "numpy"):
            self.unread.append(f"a symbolic tensor in {where}")
            return "tensor"
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(value))
        content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        return [array.dtype.name, array.shape, hashlib.sha256(content).hexdigest()]


def _methods(cls: type) -> dict[str, types.FunctionType]:
    """Return the functions of a class's own methods and properties."""
    found = {}
    for name, member in vars(cls).items():
        if isinstance(member, property):
            member = member.fget
        member = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if isinstance(member, types.FunctionType):
            found[name] = member
    return found


def _outside(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield names and values that a function takes from around it: of enclosing functions, and of its module."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not set yet
            continue
    for name in sorted(_named(function.__code__, "LOAD_GLOBAL") & function.__globals__.keys()):
        yield name, function.__globals__[name]


def _stored(function: types.FunctionType) -> set[str]:
    return _named(function.__code__, "STORE_ATTR")


def _named(code: types.CodeType, operation: str) -> set[str]:
    """Return the names that an operation has in bytecode, in functions within it, too."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname == operation}
    return found.union(*(_named(each, operation) for each in code.co_consts if isinstance(each, types.CodeType)))


def _constant(value: Any) -> Any:
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _is_function_of_user(value: Any) -> bool:
    if isinstance(value, (types.MethodType, functools.partial)):
        return True
    return isinstance(value, types.FunctionType) and not _is_library(value.__module__)


@functools.cache
def _is_library(module: str | None) -> bool:
    """Return whether a module was installed: its functions and classes count by name, not by their code."""
    if module is None or module == "__main__":  # whose file may be the program that runs the user's
        return False
    if module.split(".")[0] in ("builtins", "keras_kd"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)  # a console has none
    places = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return file is not None and any(pathlib.Path(file).is_relative_to(place) for place in places)
