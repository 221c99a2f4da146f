"""A model as it is run: in Keras, or through the file that was written of it."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_kd._types import Tensors
from keras_kd.evaluation.predictors import Predictor
from keras_kd.teachers import SavedModel


class Runtime(NamedTuple):
    """One way to run a model.

    Attributes:
        name: "Keras", "SavedModel" or "LiteRT".
        prepare: from a batch of inputs to a function that answers it, and returns when the answer is in main memory.
        path: of the file or folder, or None.
    """

    name: str
    prepare: Callable[[Tensors], Callable[[], Any]]
    path: pathlib.Path | None = None

    def size(self) -> int | None:
        """Return the bytes of the file, or of all files of the folder."""
        if self.path is None:
            return None
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())


def in_keras(predictor: Predictor) -> Runtime:
    """Return a model as a traced function of Keras, on the device where TensorFlow puts it."""
    return Runtime("Keras", _of_function(predictor.plain))


def of_export(path: str | pathlib.Path) -> Runtime:
    """Return what runs an exported file: a folder is a SavedModel, a file ending in .tflite is for LiteRT.

    Raises:
        ValueError: it is neither.
        ImportError: the extra `litert` is not installed.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        teacher = SavedModel(str(path))
        return Runtime("SavedModel", _of_function(lambda x: teacher(x, {})), path)
    if path.suffix == ".tflite" and path.is_file():
        interpreter_of(path)  # whether it is installed and can read the file shows now, not after other work
        return Runtime("LiteRT", lambda x: _litert(path, x), path)
    raise ValueError(f"Expected an export: the folder of a SavedModel, or a .tflite file. Received: {str(path)!r}")


def _of_function(function: Callable[[Tensors], Any]) -> Callable[[Tensors], Callable[[], Any]]:
    def prepare(x: Tensors) -> Callable[[], Any]:
        x = tree.map_structure(ops.convert_to_tensor, x)
        # Traced for this size alone, as it would be for serving. To NumPy: a device may answer before it has finished.
        traced = tf.function(function).get_concrete_function(tree.map_structure(tf.TensorSpec.from_tensor, x))
        return lambda: tree.map_structure(np.asarray, traced(x))

    return prepare


def _litert(path: pathlib.Path, x: Tensors) -> Callable[[], Any]:
    interpreter = interpreter_of(path)
    inputs = interpreter.get_input_details()
    arrays = ordered(x, [each["name"] for each in inputs])
    for details, array in zip(inputs, arrays, strict=True):
        interpreter.resize_tensor_input(details["index"], array.shape)
    interpreter.allocate_tensors()
    values = [(each["index"], as_input(array, each)) for each, array in zip(inputs, arrays, strict=True)]
    outputs = [each["index"] for each in interpreter.get_output_details()]

    def call() -> list[np.ndarray]:
        for index, value in values:
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return call


def interpreter_of(path: pathlib.Path) -> Any:
    """Return LiteRT's interpreter of a file, on one thread, or raise an error that names the extra."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError('To run .tflite files, LiteRT is needed: pip install "keras_kd[litert]"') from error
    return Interpreter(model_path=str(path), num_threads=1)  # its default depends on the device


def ordered(x: Tensors, names: list[str]) -> list[np.ndarray]:
    """Return inputs in a file's order, by their names where there are several.

    Raises:
        ValueError: the names do not say which is which.
    """
    arrays = [np.asarray(each) for each in tree.flatten(x)]
    if len(arrays) == len(names) == 1:
        return arrays
    if isinstance(x, dict):
        found = [[np.asarray(x[key]) for key in x if name.split(":")[0].endswith(f"_{key}")] for name in names]
        if all(len(each) == 1 for each in found):
            return [each[0] for each in found]
    raise ValueError(
        f"Expected inputs as a dict with keys in the names of the file's inputs, {names}. Received "
        f"{sorted(x) if isinstance(x, dict) else len(arrays)}."
    )


def as_input(array: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Return an array in the type of an input, quantised where the file says how."""
    wanted, (scale, zero) = details["dtype"], details["quantization"]
    if scale and np.issubdtype(wanted, np.integer):
        limits = np.iinfo(wanted)
        array = np.clip(np.round(array / scale + zero), limits.min, limits.max)
    return array.astype(wanted)
