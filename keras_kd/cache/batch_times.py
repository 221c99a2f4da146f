"""What the targets of one example cost, measured on a few batches: seconds, and bytes on disk."""

import time
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.cache import records
from keras_kd.cache.build import TeacherProgram
from keras_kd.cache.elements import Augment, Examples, Key, key_of


def time_batches(
    program: TeacherProgram,
    examples: Examples,
    augment: Augment | None,
    key: Key | None,
    batch_size: int,
    batches: int,
) -> tuple[float, float]:
    """Run a few batches, and return the median seconds and the mean bytes on disk of an example.

    Args:
        program: of the teacher.
        examples: the data set.
        augment: see `TeacherCache`.
        key: see `TeacherCache`.
        batch_size: examples that the teacher sees at a time.
        batches: how many to time, after one that compiles.
    """
    seconds, sizes = [], []
    seen = examples.seen(augment, key, tf.zeros((), tf.int64))
    if key is None and not examples.is_dense:
        seen = seen.map(lambda place, element: (place, (examples.x(element),)))
    for places, element in seen.batch(batch_size).take(max(1, batches) + 1):
        started = time.perf_counter()
        keys = places if key is None else key_of(key, element)
        rows = program.rows(examples.x(element), keys, examples.weights(element))[0].numpy()
        seconds.append((time.perf_counter() - started) / len(places))
        sizes.append(len(records.encode(program.layout, rows)) / len(rows))
    return float(np.median(seconds[1:] or seconds)), float(np.mean(sizes))


def check_batch_size(batch_size: Any) -> int:
    """Return a batch size, or raise an error where it is no whole number from 1 on."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"Expected `batch_size` to be a whole number from 1 on. Received: batch_size={batch_size!r}")
    return batch_size
