"""The student as a `.keras` file, to be trained or read on in Keras."""

import pathlib

import keras

from keras_kd._internal import cloning
from keras_kd._keras import layer_tree
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats.format import Format


def write(source: Source, path: pathlib.Path) -> None:
    """Write a `.keras` file without the optimizer.

    Raises:
        ValueError: the student has a Lambda layer, which Keras loads only outside of safe mode.
    """
    student = source.student
    code = [layer.name for layer in layer_tree.all_layers(student) if isinstance(layer, keras.layers.Lambda)]
    if code:
        raise ValueError(
            f"A .keras file with Lambda layers is not loaded in safe mode, and {student.name!r} has {code}. "
            "Put their code in a registered layer: keras.saving.register_keras_serializable."
        )
    (cloning.copy_model(student) if student.compiled else student).save(path)


def variants(kinds: tuple[str | None, ...]) -> list[Format]:
    """Return the one format of a `.keras` file."""
    return [Format("keras", "student.keras", write, "keras", 1e-5)]
