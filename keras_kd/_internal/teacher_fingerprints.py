"""Fingerprints of arrays, and of a teacher: its architecture, every weight, and its code as far as it can be read."""

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

import keras
import numpy as np

from keras_kd._internal import code_fingerprints, configuration_fingerprints
from keras_kd._internal.configuration_fingerprints import of_config as of_config


def of_teacher(teacher: keras.layers.Layer, taps: Collection[str] = ()) -> dict[str, str]:
    """Return checksums of a teacher's architecture and weights.

    Names of layers count up from model to model, and are left out. Kept are those that decide what is read: of inputs
    that the user has named, by which the entries of a dict find their way, and of layers in `taps`.

    Args:
        teacher: the teacher.
        taps: names that are read from it, as "backbone/block4".
    """
    kept = {each for name in taps for part in name.split("/") for each in (part, part.rpartition(":")[0])}
    return {
        "teacher_architecture": configuration_fingerprints.of_object(teacher, kept),
        "teacher_weights": configuration_fingerprints.of_weights(teacher),
    }


def with_code(teacher: keras.layers.Layer, taps: Collection[str] = ()) -> dict[str, str]:
    """Return what `of_teacher` returns and a checksum of the teacher's code, see `code_fingerprints.read`."""
    return {**of_teacher(teacher, taps), "teacher_code": code_fingerprints.read(teacher).digest}


def of_arrays(arrays: Iterable[Any]) -> str:
    """Return a checksum of arrays: their types, shapes and values."""
    digest = hashlib.blake2b()
    for each in arrays:
        array = np.ascontiguousarray(each)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data if array.dtype != object else repr(array.tolist()).encode())
    return digest.hexdigest()
