"""Benchmarks for test_benchmark; as a program, one that is killed: python -m tests.benchmarks FOLDER [--kills N].

The program kills its own benchmark at random moments, N times, then runs it to the end. It writes the table.
"""

import argparse
import multiprocessing
import pathlib
import random
import time

import keras
import numpy as np

import keras_kd as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def part(seed: int, rows: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Return x, and as y the largest of its first three features."""
    x = np.random.default_rng(seed).normal(size=(rows, 4)).astype("float32")
    return x, np.argmax(x[:, :3], axis=-1)


def net(units: int = 3) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, "tanh"), keras.layers.Dense(3)])


def teacher() -> keras.Model:
    keras.utils.set_random_seed(7)
    return net(16)


def shuffled(seed: int):
    """Return a dataset for training that follows from the seed."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(part(0)).shuffle(48, seed=seed).batch(16)


def arguments(folder, **more) -> dict:
    """Return what every benchmark here takes."""
    compiled = {"optimizer": keras.optimizers.Adam(0.03), "loss": LOSS, "metrics": ["accuracy"], "run_eagerly": True}
    return {
        "students": {"net": net()},
        "teacher": teacher(),
        "train": part(0),
        "validation": part(1),
        "test": part(2),
        "recipes": {"kd": {"temperature": 3.0, "alpha": 0.8}},
        "seeds": 2,
        "folder": folder,
        "compile_arguments": compiled,
        "epochs": 2,
        "batch_size": 16,
        "verbose": 0,
        **more,
    }


def finished(folder: pathlib.Path) -> dict[str, int]:
    """Return when each record was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("runs/*.json") if "partial" not in path.name}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.kills)
    for _ in range(options.kills):
        # TensorFlow takes seconds to import, and may be forked as long as it has not run anything.
        process = multiprocessing.get_context("fork").Process(target=run, args=(options.folder,))
        before = finished(options.folder)
        process.start()
        while len(finished(options.folder)) == len(before) and process.is_alive():
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.join()
        after = finished(options.folder)
        kept = before.items() <= after.items()
        print(
            f"exit code {process.exitcode}, {len(after)} runs, earlier ones {'kept' if kept else 'changed'}", flush=True
        )
    before = finished(options.folder)
    run(options.folder)
    print(f"in the end {'kept' if before.items() <= finished(options.folder).items() else 'changed'}", flush=True)


def run(folder: pathlib.Path) -> None:
    result = kd.benchmark(**arguments(folder))
    (folder / "table.txt").write_text(str(result))


if __name__ == "__main__":
    main()
