"""What XLA does to a step, by what the models consist of: whether `jit_compile=True` pays on this machine.

    python examples/benchmarks/xla.py    # about eight minutes on two CPU cores

Each pair is trained with and without XLA: the student alone ("plain") and under a live teacher. The four take a call
each in turns, in a random order, in a process of their own, for 60 rounds or half a minute; the figures are medians of
a step. "first" are the seconds from the models to the end of the second step, without XLA and with it, once.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for models.py

import contestants
import keras
import numpy as np
from contestants import Task
from keras import layers
from models import build_student, build_teacher
from timing import in_turns

CLASSES = 10

#: Seconds of rounds for a pair; at least five rounds are taken.
PATIENCE = 30


def main() -> None:
    options = read_arguments()
    if options.pair:
        print(json.dumps(measured(options.pair, options.rounds)))
        return
    head = ("live", "XLA", "XLA/without", "plain", "XLA", "XLA/without", "first", "XLA")
    print(f"{'milliseconds a step':<26}" + "".join(f"{name:>12}" for name in head))
    figures = {}
    for name in [options.only] if options.only else pairs():
        command = [sys.executable, __file__, "--pair", name, "--rounds", str(options.rounds)]
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = figures[name] = json.loads(ended.stdout.splitlines()[-1])
        cells = [f"{found[which]:.2f}" for which in ("live", "live, XLA")] + [
            f"{found['live, XLA'] / found['live']:.2f}"
        ]
        cells += [f"{found[which]:.2f}" for which in ("plain", "plain, XLA")]
        cells += [f"{found['plain, XLA'] / found['plain']:.2f}"]
        cells += [f"{found['seconds'][which]:.1f} s" for which in ("live", "live, XLA")]
        print(f"{name:<26}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Return the milliseconds of a step of each contestant, and the seconds until the second step has ended."""
    made, seconds = {}, {}
    for xla in (False, True):
        for who in (contestants.plain, contestants.live):
            label = f"{who.__name__}, XLA" if xla else who.__name__
            started = time.perf_counter()
            made[label] = who(task(name, xla))
            seconds[label] = time.perf_counter() - started
    started = time.perf_counter()
    for call in made.values():
        call()
    rounds = min(rounds, max(5, int(PATIENCE / (time.perf_counter() - started))))
    times = in_turns(made, rounds, warm_up=2)
    return {**{label: float(np.median(values)) for label, values in times.items()}, "seconds": seconds}


def pairs() -> dict[str, tuple[Callable[[], keras.Model], Callable[[], keras.Model], tuple[int, ...], int, int]]:
    """Return by name: teacher, student, shape of an example, its number of token ids or 0, batch size."""
    mobile = functools.partial(
        keras.applications.MobileNetV2, (64, 64, 3), weights=None, classes=CLASSES, classifier_activation=None
    )
    return {
        "dense": (lambda: dense(512, 512), lambda: dense(64), (100,), 0, 128),
        "dense, large": (lambda: dense(2048, 2048, 2048), lambda: dense(512, 512), (100,), 0, 256),
        "convolutions (quickstart)": (
            lambda: build_teacher((28, 28, 1), CLASSES),
            lambda: build_student((28, 28, 1), CLASSES),
            (28, 28, 1),
            0,
            128,
        ),
        "MobileNetV2": (lambda: mobile(alpha=1.0), lambda: mobile(alpha=0.35), (64, 64, 3), 0, 32),
        "GRU": (lambda: recurrent(layers.GRU, 128), lambda: recurrent(layers.GRU, 32), (40, 16), 0, 64),
        "LSTM, two ways": (
            lambda: recurrent(two_ways, 128),
            lambda: recurrent(two_ways, 32),
            (40, 16),
            0,
            64,
        ),
        "transformer": (lambda: transformer(4, 128), lambda: transformer(2, 64), (64,), 1000, 32),
        "convolutions, then GRU": (lambda: mixed(128), lambda: mixed(32), (80, 16), 0, 64),
        "embeddings, averaged": (lambda: averaged(256), lambda: averaged(16), (64,), 10_000, 128),
    }


def task(name: str, xla: bool) -> Task:
    teacher, student, shape, tokens, batch_size = pairs()[name]
    random = np.random.default_rng(0)
    rows = (8 * batch_size, *shape)
    x = random.integers(0, tokens, rows, dtype=np.int32) if tokens else random.random(rows, dtype=np.float32)
    y = random.integers(0, CLASSES, len(x), dtype=np.int32)
    return Task(student, teacher, (x, y), batch_size, jit_compile=xla)


def dense(*units: int) -> keras.Model:
    hidden = [layers.Dense(each, activation="relu") for each in units]
    return keras.Sequential([layers.Input((100,)), *hidden, layers.Dense(CLASSES)])


def two_ways(units: int) -> layers.Layer:
    return layers.Bidirectional(layers.LSTM(units))


def recurrent(layer: Callable[[int], layers.Layer], units: int) -> keras.Model:
    return keras.Sequential([layers.Input((40, 16)), layer(units), layers.Dense(CLASSES)])


def mixed(units: int) -> keras.Model:
    return keras.Sequential(
        [
            layers.Input((80, 16)),
            layers.Conv1D(units, 5, padding="same", activation="relu"),
            layers.MaxPooling1D(),
            layers.GRU(units),
            layers.Dense(CLASSES),
        ]
    )


def averaged(width: int) -> keras.Model:
    return keras.Sequential(
        [layers.Input((64,)), layers.Embedding(10_000, width), layers.GlobalAveragePooling1D(), layers.Dense(CLASSES)]
    )


def transformer(blocks: int, width: int) -> keras.Model:
    """Return an encoder of token ids that ends in logits of the sequence."""
    ids = layers.Input((64,), dtype="int32")
    x = layers.Embedding(1000, width)(ids)
    for _ in range(blocks):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, width // 4)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(x)))
    return keras.Model(ids, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x)))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="steps of each contestant (default: 60)")
    parser.add_argument("--only", choices=list(pairs()), help="one pair")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--pair", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"argument --rounds: expected at least 1. Received: {options.rounds}")
    return options


if __name__ == "__main__":
    main()
