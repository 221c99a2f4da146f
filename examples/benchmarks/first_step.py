"""What comes before the first step has ended: what is traced and made in `fit`, beside the student's plain fit.

    python examples/benchmarks/first_step.py            # ten minutes on two CPU cores
    python examples/benchmarks/first_step.py --smoke    # tiny models: does it run?

Models are made anew for each figure, which is not counted, and compiled; what is timed is `fit` on one batch. Student
and teacher are of one kind: the quickstart's convolutions, 20 dense layers, the same with two outputs, and a BERT of 12
blocks where KerasHub is installed (`pip install keras-hub`). Contestants take turns in a random order, in one process;
the figures are medians over the rounds.

The aim: live at most 1.3 times plain.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for models.py

import keras
import numpy as np
import tensorflow as tf
from aims import at_most
from keras import layers
from models import build_student, build_teacher

import keras_kd as kd

tf.get_logger().setLevel("ERROR")  # new functions in each round are intended here

LIMIT, ROWS, CLASSES = 1.3, 16, 10

#: Makes a model; `is_teacher` chooses between the two of a pair that differ.
Maker = Callable[[bool], keras.Model]


def main() -> None:
    options = read_arguments()
    print(f"Seconds from `fit` to the end of the first step, medians of {options.rounds} rounds\n")
    print(f"{'':<28}{'plain':>8}{'forward':>9}{'live':>8}{'live / plain':>14}")
    figures = {}
    for name, make in pairs(options.smoke).items():
        figures[name] = seconds = {who: float(np.median(each)) for who, each in in_turns(make, options.rounds).items()}
        ratio = seconds["live"] / seconds["plain"]
        cells = f"{seconds['plain']:>8.2f}{seconds['forward']:>9.2f}{seconds['live']:>8.2f}{ratio:>14.2f}"
        print(f"{name:<28}{cells}  {at_most(ratio, LIMIT)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def pairs(smoke: bool) -> dict[str, Maker]:
    """Return what makes the models, by name."""
    depth, blocks = (4, 1) if smoke else (20, 12)
    makers: dict[str, Maker] = {
        "convolutions": lambda is_teacher: (build_teacher if is_teacher else build_student)((28, 28, 1), CLASSES),
        f"{depth} layers": lambda is_teacher: dense(depth, ("logits",)),
        f"{depth} layers, two outputs": lambda is_teacher: dense(depth, ("a", "b")),
    }
    if importlib.util.find_spec("keras_hub"):
        makers[f"BERT, {blocks} blocks"] = lambda is_teacher: bert(blocks)
    return makers


def dense(depth: int, outputs: tuple[str, ...]) -> keras.Model:
    x = inputs = layers.Input((64,))
    for _ in range(depth - 1):
        x = layers.Dense(64, activation="relu")(x)
    made = {name: layers.Dense(CLASSES, name=name)(x) for name in outputs}
    return keras.Model(inputs, made if len(made) > 1 else made[outputs[0]])


def bert(blocks: int) -> keras.Model:
    import keras_hub

    size = {"num_heads": 4, "hidden_dim": 64, "intermediate_dim": 128, "max_sequence_length": 32}
    backbone = keras_hub.models.BertBackbone(vocabulary_size=1000, num_layers=blocks, **size)
    return keras.Model(backbone.input, layers.Dense(CLASSES)(backbone.output["pooled_output"]))


def in_turns(make: Maker, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each round but the first."""
    found: dict[str, list[float]] = {"plain": [], "forward": [], "live": []}
    random = np.random.default_rng(0)
    for number in range(-1, rounds):
        for who in random.permutation(list(found)):
            keras.utils.clear_session()
            elapsed = first_step(make, str(who))
            if number >= 0:
                found[who].append(elapsed)
    return found


def first_step(make: Maker, who: str) -> float:
    """Return the seconds of the first step of new models; "forward" is the teacher's prediction."""
    student = make(False)
    outputs = student.outputs if isinstance(student, keras.Sequential) else student.output
    names = list(outputs) if isinstance(outputs, dict) else []
    model: Any = student
    if who == "forward":
        model = make(True)
    elif who == "live":
        terms = [kd.Term(kd.losses.kl_divergence, at=(name, name), name=f"kd_{name}") for name in names]
        model = kd.Distiller(student=student, teacher=make(True), terms=terms or None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics: Any = {name: ["accuracy"] for name in names} or ["accuracy"]
    model.compile("adam", dict.fromkeys(names, loss) or loss, metrics=metrics)
    x, y = data(student, names)
    started = time.perf_counter()
    model.predict(x, verbose=0) if who == "forward" else model.fit(x, y, batch_size=ROWS, verbose=0)
    return time.perf_counter() - started


def data(model: keras.Model, outputs: list[str]) -> tuple[Any, Any]:
    """Return a batch of ones for a model, and labels for each output."""
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    x = keras.tree.map_structure(lambda each: np.ones((ROWS, *_lengths(each.shape)), each.dtype), inputs)
    y = np.zeros(ROWS, "int32")
    return x, dict.fromkeys(outputs, y) or y


def _lengths(shape: tuple[int | None, ...]) -> list[int]:
    return [size or 32 for size in shape[1:]]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny models, one round")
    parser.add_argument("--rounds", type=int, default=5, help="first steps of each contestant (default: 5)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"argument --rounds: expected at least 1. Received: {options.rounds}")
    if options.smoke:
        options.rounds = 1
    return options


if __name__ == "__main__":
    main()
