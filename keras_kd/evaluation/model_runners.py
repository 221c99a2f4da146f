"""A model as it is run: in Keras, or through a file that was written of it."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import layer_reader, raw_views
from keras_kd._keras import layer_tree
from keras_kd._types import Tensors
from keras_kd.evaluation.predictors import Predictor
from keras_kd.runtimes import model_files

#: Kind and runtime of a file by its suffix.
_FILES = {".tflite": ("litert", "LiteRT"), ".onnx": ("onnx", "ONNX"), ".keras": ("keras", "Keras file")}


class Runner(NamedTuple):
    """One way to run a model.

    Attributes:
        name: "Keras", "SavedModel", "LiteRT", "ONNX" or "Keras file".
        prepare: from inputs as `encode` returns them to a function that runs the model on them, and returns when the
            outputs are in main memory.
        encode: from a batch of inputs to what the model, or its file, takes.
        path: of the file or folder, or None.
        kind: of the file, see `model_files.open_file`.
    """

    name: str
    prepare: Callable[[Any], Callable[[], Any]]
    encode: Callable[[Tensors], Any]
    path: pathlib.Path | None = None
    kind: str = "saved_model"

    def __call__(self, x: Tensors) -> Callable[[], Any]:
        """Return a function that runs the model on a batch."""
        return self.prepare(self.encode(x))

    def size(self) -> int | None:
        """Return the bytes of the file, or of all files of the folder."""
        if self.path is None:
            return None
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())


def in_keras(predictor: Predictor) -> Runner:
    """Return a model as a traced function of Keras, on the device where TensorFlow puts it."""
    return Runner("Keras", model_files.in_tensorflow(predictor.plain, traced=True), lambda x: x)


def of_export(path: str | pathlib.Path, model: Any = None) -> Runner:
    """Return what runs an exported file: the folder of a SavedModel, or a .tflite, .onnx or .keras file.

    Args:
        path: of the file or folder, which is opened now, to see whether its runtime can read it.
        model: what it was written of. The file takes of a dict what the model takes, and may need its classes.

    Raises:
        ValueError: it is no export.
        ImportError: the extra `litert` or `onnx` is not installed.
    """
    path = pathlib.Path(path)
    kind, name = _FILES.get(path.suffix, ("", "")) if path.is_file() else ("saved_model", "SavedModel")
    if not kind or not path.exists() or (path.is_dir() and not tf.saved_model.contains_saved_model(str(path))):
        raise ValueError(
            "Expected an export: the folder of a SavedModel, or a .tflite, .onnx or .keras file. Received: "
            f"{str(path)!r}"
        )
    own = layer_tree.custom_classes(model) if isinstance(model, keras.Model) else []
    with keras.saving.custom_object_scope({each.__name__: each for each in own}):
        opened = model_files.open_file(kind, path, traced=True)
    return Runner(name, opened.prepare, lambda x: opened.encode(taken(model, x, opened.takes_text)), path, kind)


def taken(model: Any, x: Tensors, takes_text: bool = False) -> Any:
    """Return what a model takes of a batch, as arrays, in float32 as Keras would cast them.

    Of raw examples, a file has the model's preprocessing in it, where it takes text, or takes what that returns.
    """
    if raw_views.preprocessing(model) is not None and not takes_text:
        tokens = layer_reader.select(model, raw_views.view(model, x))  # of which some are bool, and the file's are not
        return tree.map_structure(lambda each, spec: np.asarray(each).astype(spec.dtype), tokens, model.input)
    arrays = tree.map_structure(np.asarray, layer_reader.select(model, x) if isinstance(model, keras.Model) else x)
    return tree.map_structure(lambda each: each.astype("float32") if each.dtype == "float64" else each, arrays)
