"""What people have in the place of a teacher, and what to give instead."""

import os
import pathlib
import types
from typing import Any

import keras

from keras_kd._internal.sklearn_models import Estimator, is_estimator

#: What makes a teacher of a file, by the end of its name.
_OF_FILES = {
    (".pkl", ".pickle", ".joblib"): "Load it, teacher=joblib.load({path!r}), if you trust its origin: it can run code.",
    (".onnx",): "Give keras_kd.teachers.ONNX({path!r}).",
    (".tflite",): "Give keras_kd.teachers.LiteRT({path!r}).",
    (".keras", ".h5", ".hdf5"): "Load it, teacher=keras.models.load_model({path!r}).",
    (".pt", ".pth"): "Export the model in PyTorch, torch.onnx.export, and give keras_kd.teachers.ONNX(path).",
    ("",): "Give keras_kd.teachers.SavedModel({path!r}) for the folder of a SavedModel.",
}

_OF_TORCH = (
    'Export it, torch.onnx.export(model, (example,), "teacher.onnx", dynamo=True, dynamic_shapes=({0: "batch"},)), and '
    'give keras_kd.teachers.ONNX("teacher.onnx").'
)


def instead_of(value: Any) -> str:
    """Return what to give instead of something that is known to be no teacher; empty for anything else."""
    if isinstance(value, (str, os.PathLike)):
        return _of_path(str(value))
    if isinstance(value, type):
        made = f"{value.__name__}().fit(x, y)" if issubclass(value, Estimator) else f"{value.__name__}(...), trained"
        return f"Give an instance: {made}."
    if isinstance(value, types.MethodType):
        return _of_method(value.__self__, value.__name__)
    packages = {each.__module__.partition(".")[0] for each in type(value).__mro__}
    if "torch" in packages:
        return _OF_TORCH
    return "Give keras_kd.teachers.ONNX(path), with the path of its file." if "onnxruntime" in packages else ""


def _of_path(path: str) -> str:
    end = pathlib.Path(path).suffix.lower()
    return next(
        (advice.format(path=path) for ends, advice in _OF_FILES.items() if end in ends), "Load the model first."
    )


def _of_method(owner: Any, name: str) -> str:
    if is_estimator(owner):
        return (
            f"Give the {type(owner).__name__} itself, or, for what its `{name}` returns, "
            f"keras_kd.teachers.Python(estimator.{name}, head=...)."
        )
    if isinstance(owner, keras.Model) and name.startswith("predict"):
        return "Give the model itself."
    return ""
