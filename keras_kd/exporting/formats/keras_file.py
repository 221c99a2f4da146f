"""The student as a `.keras` file, to be trained or read on in Keras."""

import pathlib

import keras

from keras_kd._internal import cloning
from keras_kd._keras import layer_tree
from keras_kd.exporting.source import Source


def write(source: Source, path: pathlib.Path) -> None:
    """Write a `.keras` file without the optimizer.

    Raises:
        ValueError: the student has a Lambda layer, which Keras loads only when told to trust the file with any code.
    """
    student = source.student
    code = [layer.name for layer in layer_tree.all_layers(student) if isinstance(layer, keras.layers.Lambda)]
    if code:
        raise ValueError(
            f"A .keras file with Lambda layers is not loaded in safe mode, and {student.name!r} has {code}. "
            "Put their code in a registered layer: keras.saving.register_keras_serializable."
        )
    (cloning.copy_model(student) if student.compiled else student).save(path)


def classes(student: keras.Model) -> list[tuple[str, str]]:
    """Return module and name of the classes that are not Keras's and that a process must import to load the file."""
    kinds = {type(layer) for layer in [student, *layer_tree.all_layers(student)]}
    own = [kind for kind in kinds if not kind.__module__.startswith("keras.")]
    return sorted((kind.__module__, kind.__qualname__) for kind in own)
