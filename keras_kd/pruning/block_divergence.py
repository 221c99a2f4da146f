"""How far one model's outputs are from another's."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd import losses
from keras_kd._internal.layer_reader import Reader
from keras_kd.pruning.importance import inputs, outputs_once

_BATCH = 32


def divergence(model: keras.Model, other: keras.Model, data: Any, head: Any = "auto") -> float:
    """Return the mean divergence of the outputs of another model from those of a model, summed over outputs.

    The Kullback-Leibler divergence of distributions, in nats, and half of the squared difference of values.

    Args:
        model: whose outputs are the targets.
        other: a model of the same inputs and outputs.
        data: inputs, or batches of them.
        head: what the outputs mean.
    """
    teacher, student = Reader(model, head=head), Reader(other, head=head)
    values = []
    for x in inputs(model, data, _BATCH):
        theirs, ours = (outputs_once(reader(x, training=False)[1]) for reader in (teacher, student))
        parts = [_of_output(ours[name], theirs[name], teacher.kind(name)) for name in theirs]
        values.append((len(parts[0]), sum(float(np.mean(part)) for part in parts)))
    return float(np.average([value for _, value in values], weights=[rows for rows, _ in values]))


def _of_output(student: Any, teacher: Any, kind: str) -> np.ndarray:
    student, teacher = ops.cast(student, "float32"), ops.cast(teacher, "float32")
    if kind == "values":
        return ops.convert_to_numpy(0.5 * ops.sum(ops.square(student - teacher), axis=-1))
    binary = kind == "sigmoid" or teacher.shape[-1] == 1
    return ops.convert_to_numpy((losses.binary_kl if binary else losses.kl_divergence)(student, teacher))
