"""Write the student alone, reload what was written, and compare the two before calling it done."""

import dataclasses
import pathlib
import shutil
import tempfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd.distiller import Distiller

#: Largest difference accepted between the student and its SavedModel, relative to the largest output (or to 1). Both
#: run the same float32 operations, which may be fused and ordered differently; 16-bit students round more coarsely.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}

_EXAMPLES = 16


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the student.

    Attributes:
        path: the SavedModel's folder.
        size: bytes on disk.
        examples: number of examples compared.
        difference: largest absolute difference of any output.
    """

    path: pathlib.Path
    size: int
    examples: int
    difference: float

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"SavedModel at {self.path}: {self.size / 1024:.0f} KiB, "
            f"largest difference {self.difference:.1e} on {self.examples} examples"
        )


def export(student: keras.Model, path: str | pathlib.Path, *, representative: Any = None) -> ExportReport:
    """Write the student alone as a SavedModel, reload it and compare its outputs.

    No teacher, bridge, optimizer or `keras_kd` is needed to load it: `tf.saved_model.load(path)`, then
    `.serve(x)` or the signature `serving_default`, with any batch size. TensorFlow Serving wants the last part of the
    path to be an integer version, as in "models/student/1".

    Args:
        student: a built Keras model, as in `distiller.student`.
        path: a folder that does not exist yet. It appears when all is written and compared, or not at all.
        representative: a batch of real inputs to compare on, of the structure that the student takes. None: random
            numbers of the student's input shapes.

    Returns:
        An `ExportReport`.

    Raises:
        TypeError: `student` is not a Keras model, or it is a Distiller.
        ValueError: the student is not built, or the SavedModel does not say what the student says.
        FileExistsError: `path` exists; nothing is overwritten.

    Example:
        >>> export(distiller.student, "models/student/1")
    """
    path = pathlib.Path(path)
    _check_student(student)
    if path.exists():
        raise FileExistsError(
            f"Expected a new folder: {path} exists, and is not overwritten. Use the next version number."
        )
    x = _random_inputs(student) if representative is None else representative
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        written = pathlib.Path(folder) / "saved_model"
        student.export(written, format="tf_saved_model", verbose=False)
        difference = _difference(student, written, x)
        size = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
        shutil.move(written, path)
    return ExportReport(path, size, len(tree.flatten(x)[0]), difference)


def _check_student(student: Any) -> None:
    if not isinstance(student, keras.Model) or isinstance(student, Distiller):
        raise TypeError(
            "Expected the student, a keras.Model, as in keras_kd.export(distiller.student, path). "
            f"Received: {student!r} of type {type(student).__name__}"
        )
    if not student.built:
        raise ValueError(
            f"Expected a built student. {student.name!r} has not been called or trained: it has no weights."
        )


def _random_inputs(student: keras.Model) -> Any:
    """Return random numbers of the student's input shapes; free dimensions other than the batch get 8."""
    if isinstance(student, keras.Sequential):
        specs = student.inputs[0] if student.inputs else None
    else:
        specs = getattr(student, "input", None)  # a subclassed model has no symbolic inputs
    if specs is None:
        raise ValueError(
            f"Expected `representative` inputs: {student.name!r} is subclassed, and does not say what it takes. "
            "Pass a batch of them, as in keras_kd.export(student, path, representative=x[:16])."
        )
    random = np.random.default_rng(0)

    def draw(spec: Any) -> np.ndarray:
        shape = (_EXAMPLES, *[size or 8 for size in spec.shape[1:]])
        floating = keras.backend.is_float_dtype(spec.dtype)
        return random.normal(size=shape).astype(spec.dtype) if floating else np.zeros(shape, spec.dtype)

    return tree.map_structure(draw, specs)


def _difference(student: keras.Model, written: pathlib.Path, x: Any) -> float:
    x = tree.map_structure(tf.convert_to_tensor, x)
    expected = [np.asarray(output, "float64") for output in tree.flatten(student(x, training=False))]
    artefact = tf.saved_model.load(str(written))  # kept in a name: its functions die with it
    received = [np.asarray(output, "float64") for output in tree.flatten(artefact.serve(x))]
    difference = max(float(np.max(np.abs(a - b), initial=0.0)) for a, b in zip(expected, received, strict=True))
    allowed = _TOLERANCE.get(student.compute_dtype, 1e-5) * max(
        1.0, *(float(np.max(np.abs(a), initial=0.0)) for a in expected)
    )
    if not difference <= allowed:
        raise ValueError(
            f"The SavedModel of {student.name!r} does not say what the student says: largest difference "
            f"{difference:.3g}, allowed {allowed:.3g}. Nothing was written. Does the student draw random numbers in "
            "inference, or depend on Python state?"
        )
    return difference
