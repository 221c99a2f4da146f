"""The student as a SavedModel, for TensorFlow and TensorFlow Serving."""

import pathlib

import keras
import tensorflow as tf

from keras_kd._keras import layer_tree, trackable
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats.format import Format
from keras_kd.exporting.interface import Interface


def write(source: Source, path: pathlib.Path) -> None:
    """Write the folder of a SavedModel with the signature `serving_default` and the endpoint `serve`."""
    save(source.student, source.interface, path)


def save(student: keras.Model, interface: Interface, path: pathlib.Path) -> None:
    """Write any model of that interface.

    Keras's own export tracks each weight twice, as its variable and as TensorFlow's, and writes it twice. Here it is
    TensorFlow's alone: the folder is half as large.
    """
    root = trackable.trackable()
    root.serve = interface.serve(student)
    signature = interface.signature(student)
    own = {id(variable.value): variable.value for variable in student.variables}
    used = {id(variable): variable for variable in signature.variables}  # those that no layer knows of
    root.variables = list({**own, **used}.values())
    root.tables = [table for layer in layer_tree.all_layers(student) for table in _tables(layer)]
    tf.saved_model.save(root, str(path), signatures={"serving_default": signature})


def _tables(owner: keras.layers.Layer | tf.Module) -> list[tf.saved_model.experimental.TrackableResource]:
    """Return the tables of a layer, and those of its modules, as of the words that a byte-pair tokenizer has met."""
    values = list(vars(owner).values())
    inner = [table for value in values if isinstance(value, tf.Module) for table in _tables(value)]
    return [value for value in values if isinstance(value, tf.saved_model.experimental.TrackableResource)] + inner


def variants(kinds: tuple[str | None, ...]) -> list[Format]:
    """Return the one format of a SavedModel."""
    return [Format("saved_model", "saved_model", write, "saved_model", 1e-5)]
