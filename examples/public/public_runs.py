"""What the public benchmarks share: arguments, one training that goes on after a kill, and its record."""

import argparse
import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

import keras_kd as kd
from keras_kd import stages


def parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """Return a parser of what all scripts here take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, help="students of each kind (default: 3; with --smoke: 1)")
    made.add_argument("--precision", default="float32", help="float32, mixed_bfloat16 or mixed_float16")
    made.add_argument("--mirrored", action="store_true", help="on all GPUs of this machine; batches stay as they are")
    made.add_argument("--smoke", action="store_true", help="two steps an epoch on a stand-in: does it run?")
    made.add_argument("--output", type=pathlib.Path, default=output, help=f"default: {output}")
    return made


def folder(options: argparse.Namespace) -> pathlib.Path:
    """Return where the trainings are kept, those of each precision apart."""
    return options.output / ("smoke" if options.smoke else options.precision)


@contextlib.contextmanager
def placed(options: argparse.Namespace):
    """Set the precision and the strategy for what is made inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(options.precision)
    strategy = tf.distribute.MirroredStrategy() if options.mirrored else tf.distribute.get_strategy()
    try:
        with strategy.scope():
            yield
    finally:
        keras.config.set_dtype_policy(before)


def trained(
    folder: pathlib.Path,
    build: Callable[[], keras.Model],
    teacher: Any,
    terms: Callable[[keras.Model, Any], Sequence[kd.Term]] | None,
    compile_arguments: dict[str, Any],
    fit_arguments: dict[str, Any],
    score: Callable[[keras.Model], dict[str, float]],
    seed: int,
) -> dict[str, Any]:
    """Train one model, go on with its training, or read back what it has scored.

    Args:
        folder: of this training: its state after each epoch, the log of all epochs, the model, the record.
        build: returns the model with fresh weights.
        teacher: what a Distiller takes, or None for labels alone.
        terms: makes the terms of (student, teacher), or None for those of plain distillation.
        compile_arguments: as `keras_kd.stages` takes them.
        fit_arguments: the same.
        score: of the model that is trained, by name.
        seed: of weights, dropout and the order of the data.

    Returns:
        The scores, "path" of the model, "epochs", "seconds" and "parameters".
    """
    record = folder / "record.json"
    if record.exists():
        return json.loads(record.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    log = keras.callbacks.CSVLogger(folder / "log.csv", append=True)
    model, [stage] = stages.born_again(
        build, 1, teacher, terms=terms, folder=folder, seed=seed,
        compile_arguments=compile_arguments, fit_arguments={**fit_arguments, "callbacks": [log]},
    )  # fmt: skip
    numbers = {"epochs": stage.epochs, "seconds": round(stage.seconds, 1), "parameters": trainable(model)}
    found = {**score(model), **numbers, "path": stage.path}
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1))
    partial.replace(record)
    return found


def trainable(model: keras.Model) -> int:
    """Return the number of weights that are learned, which is what papers count."""
    return sum(math.prod(each.shape) for each in model.trainable_variables)
