"""How large a model is: parameters, operations, file. None where it is unknown."""

import logging
import math
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import log
from keras_kd._internal.cloning import copy_model
from keras_kd._types import Tensors
from keras_kd.evaluation.predictors import Predictor
from keras_kd.teachers import Ensemble, Frozen, Teacher

#: Operations with bodies that TensorFlow's profiler does not look into: of its own, of Python and of JAX.
_CLOSED = {
    *("While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase", "For"),
    *("PartitionedCall", "StatefulPartitionedCall", "RemoteCall", "MapDefun"),
    *("PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaCallModule"),
}


def parameters(predictor: Predictor) -> int | None:
    """Return the number of weights, trained or not; what several layers share counts once.

    None for a function, or an ensemble with one in it: Keras does not see which weights a function uses.
    """
    if not _weights_are_known(predictor.teacher):
        return None
    return sum(math.prod(weight.shape) for weight in predictor.teacher.weights)


def flops(predictor: Predictor, x: Tensors) -> int | None:
    """Return the floating-point operations for one example, as TensorFlow's profiler counts them in the traced graph.

    A multiplication and an addition are two. Matrix products and convolutions are counted, additions and other
    operations for each element as far as TensorFlow has a count for them; batch normalisation has none. Products by
    Einsum, as in attention, have none either, and are added here.

    Args:
        predictor: the model.
        x: a batch of inputs, of which one example is taken.

    Returns:
        The number, or None where the graph has loops or calls that the profiler cannot look into, such as recurrence or
        a function of NumPy.
    """

    def of_one(array: Any) -> tf.TensorSpec:
        return tf.TensorSpec((1, *np.shape(array)[1:]), tf.as_dtype(np.asarray(array).dtype))

    one = tree.map_structure(of_one, x)
    graph = tf.function(predictor.plain).get_concrete_function(one).graph
    operations = graph.get_operations()
    if any(operation.type in _CLOSED for operation in operations):
        return None
    profiler = tf.compat.v1.profiler
    options = {**profiler.ProfileOptionBuilder.float_operation(), "output": "none"}
    with log.at_level("tensorflow", logging.ERROR):  # it warns of its own functions, which the profiler calls
        counted = profiler.profile(graph=graph, cmd="scope", options=options).total_float_ops
    return int(counted) + sum(_einsum(each) for each in operations if each.type == "Einsum")


def file_size(model: Any) -> int | None:
    """Return the bytes of the model's `.keras` file without its optimizer; None for what Keras cannot write."""
    if not isinstance(model, keras.Model):
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.keras"
            copy_model(model).save(path)  # a copy is not compiled
            return path.stat().st_size
    except (ValueError, TypeError, NotImplementedError):
        return None


def _weights_are_known(teacher: Teacher) -> bool:
    if isinstance(teacher, Ensemble):
        return all(map(_weights_are_known, teacher.teachers))
    return bool(teacher.weights) or (isinstance(teacher, Frozen) and isinstance(teacher.model, keras.Model))


def _einsum(operation: Any) -> int:
    """Return 2 * numbers of the result * terms of each sum."""
    sides, result = operation.get_attr("equation").decode().split("->")
    sizes: dict[str, int] = {}
    for labels, tensor in zip(sides.split(","), operation.inputs, strict=True):
        before, _, after = labels.partition("...")  # the labels around free axes
        shape = tensor.shape
        sizes |= dict(zip(before, shape[: len(before)], strict=True))
        sizes |= dict(zip(after, shape[len(shape) - len(after) :], strict=True))
    terms = math.prod(size for label, size in sizes.items() if label not in result)
    return 2 * terms * operation.outputs[0].shape.num_elements()
