"""Caches and data for the tests of caches; as a program, a build that is killed, or shares its work.

python -m tests.caches FOLDER [--rows N] [--slow SECONDS] [--kills N]
"""

import argparse
import multiprocessing
import pathlib
import random
import time

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from tests.models import mlp

FEATURES, CLASSES = 4, 6


def data(rows: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y."""
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, FEATURES)).astype("float32"), random.integers(0, CLASSES, rows).astype("int32")


def dataset(rows: int = 50, seed: int = 0) -> tf.data.Dataset:
    """Return examples (x, y)."""
    return tf.data.Dataset.from_tensor_slices(data(rows, seed))


def teacher(seed: int = 7) -> keras.Model:
    """Return a teacher with the layers "hidden" and "scores"."""
    return mlp(seed, units=8, classes=CLASSES)


def student(seed: int = 3) -> keras.Model:
    """Return a student."""
    return mlp(seed, units=5, classes=CLASSES)


def jittered(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Augment an example."""
    return x + tf.random.stateless_normal([FEATURES], seed, stddev=0.3)


def built(folder: pathlib.Path, examples=None, batch_size: int = 4, **arguments) -> kd.TeacherCache:
    """Return a finished cache of small shards."""
    cache = kd.TeacherCache(folder, teacher=arguments.pop("teacher", None) or teacher(), **arguments)
    cache.build(dataset() if examples is None else examples, batch_size=batch_size, verbose=0)
    return cache


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Return what a finished cache consists of; the times of its build are no part of it."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("timing-")}


def main() -> None:
    """Build; with `--kills`, in processes that are killed at random moments, and then to the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(0)
    if options.kills:
        print("ready", flush=True)  # the first may be killed before it can print this
    for number in range(options.kills):
        # TensorFlow takes seconds to import, and may be forked as long as it has not run anything.
        process = multiprocessing.get_context("fork").Process(target=build, args=(options,))
        before = _shards(options.folder)
        process.start()
        if number % 5:  # most of them while it writes, some while it begins
            while _shards(options.folder) == before and process.is_alive():
                time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.12 if number % 5 else 0.5))
        process.kill()
        process.join()
        print(f"exit code {process.exitcode} with {len(_shards(options.folder))} shards", flush=True)
    build(options)


def build(options: argparse.Namespace) -> None:
    """Build, slowly with `--slow`."""
    examples = dataset(options.rows)
    if options.slow:
        examples = examples.map(lambda x, y: (_slow(x, options.slow), y))
    cache = kd.TeacherCache(options.folder, teacher=teacher(), views=2, augment=jittered)
    print("ready", flush=True)
    cache.build(examples, batch_size=2, verbose=0)
    print("done", flush=True)


def _shards(folder: pathlib.Path) -> set[pathlib.Path]:
    return set(folder.glob("view-*/shard-*"))


def _slow(x: tf.Tensor, seconds: float) -> tf.Tensor:
    def wait(value: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return value

    return tf.ensure_shape(tf.numpy_function(wait, [x], tf.float32), x.shape)


if __name__ == "__main__":
    main()
