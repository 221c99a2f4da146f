"""Predict the targets of a sample again, and compare."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd._internal import soft_targets
from keras_kd.cache.build import TeacherProgram
from keras_kd.cache.cache_reports import Verification
from keras_kd.cache.elements import Augment, Examples, Key
from keras_kd.cache.join import by_key, by_position
from keras_kd.cache.source import Source


def verify(
    source: Source,
    program: TeacherProgram,
    examples: Examples,
    augment: Augment | None,
    key: Key | None,
    fraction: float,
    seed: int,
) -> Verification:
    """Return how far the targets that are kept are from new ones, in float32; see `TeacherCache.verify`.

    Raises:
        ValueError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected `fraction` to be in (0, 1]. Received: fraction={fraction!r}")
    differences: dict[str, list[np.ndarray]] = {name: [] for name in source.manifest["taps"]}
    count = examples.count or source.count
    random = np.random.default_rng(seed)
    for view in range(source.manifest["views"]):
        chosen = np.zeros(count, bool)
        chosen[random.permutation(count)[: max(1, round(fraction * count))]] = True
        one = source.of_view(view)
        joined = by_position(one, examples, augment) if key is None else by_key(one, examples, augment, key)
        for (x, *_), _ in _picked(joined, chosen).batch(min(64, source.manifest["batch_size"])):
            for name, parts in program.predict(x.inputs).items():
                differences[name].append(_difference(x.targets[name], parts))
    return Verification.of(differences)


def _picked(joined: tf.data.Dataset, chosen: np.ndarray) -> tf.data.Dataset:
    both = tf.data.Dataset.zip(joined, tf.data.Dataset.from_tensor_slices(chosen))
    return both.filter(lambda element, wanted: wanted)


def _difference(kept: soft_targets.Parts, predicted: soft_targets.Parts) -> np.ndarray:
    """Return the absolute differences of the targets that are kept and those predicted now, in float32."""
    numbers = [np.asarray(soft_targets.numbers(parts), np.float64) for parts in (predicted, kept)]
    if "log_probabilities" in kept:  # which are stored in another order
        numbers = [np.sort(each, axis=-1) for each in numbers]
    counts: Any = kept.get("kept", kept.get("mask"))
    if counts is not None and np.ndim(counts) < numbers[0].ndim and "log_probabilities" in kept:
        numbers = [each[np.asarray(counts)] for each in numbers]
    return np.abs(numbers[0] - numbers[1]).ravel()
