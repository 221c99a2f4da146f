"""A step of a language model with its head fused and with all its logits: time, and the memory that it takes.

    python examples/benchmarks/fused_heads.py            # about ten minutes on two CPU cores
    python examples/benchmarks/fused_heads.py --smoke    # tiny vocabularies: does it run?

A student of width 256 under a teacher of width 512, 1,024 tokens in a batch, the divergence and the cross-entropy, SGD.
The body of both models is small, so that nearly all of a step is the products with the vocabulary and what follows.
"tied" heads read the embedding of the tokens in reverse, "dense" ones have a matrix of their own.

Times are medians over the rounds, of steps in turns. Memory is the highest resident memory of two steps in a process of
its own, less what is resident after a step with 8,000 ids, all weights, and twice the head's matrix, for its gradient
and for what SGD makes of that; TensorFlow keeps what it has freed, so that this is at least what it took. "logits" is
what a tensor of (tokens, vocabulary) takes in float32.

The aims: at most a quarter of such a tensor at 151,936 ids, at most 1.15 times the plain way at 32,000.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported

import keras
import numpy as np
import tensorflow as tf
from aims import at_most
from keras import layers
from memory import peak_of, resident
from timing import in_turns

import keras_kd as kd

tf.get_logger().setLevel("ERROR")  # a new function for each way is intended here

TOKENS, LENGTH, WIDTHS = 1_024, 128, (256, 512)

#: Vocabularies, of which the second fits as a whole and is timed both ways.
VOCABULARIES, SMOKE = (8_000, 32_000, 151_936), (500,)
TIME_LIMIT, MEMORY_LIMIT = 1.15, 0.25


def main() -> None:
    options = read_arguments()
    if options.memory_of:  # in the process that is measured
        kind, way, classes, tokens = options.memory_of
        print(extra_megabytes(kind, way == "fused", int(classes), int(tokens)))
        return
    vocabularies = SMOKE if options.smoke else VOCABULARIES
    tokens = 2 * LENGTH if options.smoke else TOKENS
    figures = {"times": times(vocabularies, tokens, options.rounds), "megabytes": memory(vocabularies, tokens)}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def times(vocabularies: tuple[int, ...], tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """Print milliseconds of a step."""
    found = {}
    print(f"\n\nMilliseconds of a step of {tokens:,} tokens, medians of {rounds} rounds\n")
    print(f"{'':<20}{'plain':>12}{'fused':>12}{'fused / plain':>16}")
    for classes in vocabularies:
        for kind in ("dense", "tied"):
            steps = {way: step(kind, way == "fused", classes, tokens) for way in ("plain", "fused")}
            taken = {name: float(np.median(each)) for name, each in in_turns(steps, rounds, warm_up=1).items()}
            ratio = taken["fused"] / taken["plain"]
            aim = f"  {at_most(ratio, TIME_LIMIT)}" if classes == 32_000 else ""
            cells = "".join(f"{each:>12.0f}" for each in taken.values())
            print(f"\n{f'{kind}, {classes:,}':<20}{cells}{ratio:>16.2f}{aim}", flush=True)
            found[f"{kind}, {classes}"] = taken
    return found


def memory(vocabularies: tuple[int, ...], tokens: int) -> dict[str, dict[str, float]]:
    """Print megabytes of a step beyond weights, gradients and updates."""
    found = {}
    print(f"\nMegabytes of a step of {tokens:,} tokens, beyond weights, gradients and updates\n")
    print(f"{'':<20}{'logits':>12}{'plain':>12}{'fused':>12}{'fused / logits':>16}")
    for classes in vocabularies:
        for kind in ("dense", "tied"):
            logits = 4e-6 * tokens * classes
            taken = {way: in_own_process(kind, way, classes, tokens) for way in ("plain", "fused")}
            ratio = taken["fused"] / logits
            aim = f"  {at_most(ratio, MEMORY_LIMIT)}" if classes == max(VOCABULARIES) else ""
            cells = "".join(f"{each:>12.0f}" for each in (logits, *taken.values()))
            print(f"{f'{kind}, {classes:,}':<20}{cells}{ratio:>16.2f}{aim}", flush=True)
            found[f"{kind}, {classes}"] = taken
    return found


def step(kind: str, fused: bool, classes: int, tokens: int):
    """Return a function that takes a step."""
    distiller, x, y = prepared(kind, fused, classes, tokens)
    return lambda: distiller.train_on_batch(x, y)


def prepared(
    kind: str, fused: bool, classes: int, tokens: int, initializer: str = "uniform"
) -> tuple[kd.Distiller, np.ndarray, np.ndarray]:
    # The teacher first: the student's weights then lie where its initial values were.
    teacher, student = (language_model(kind, classes, width, initializer) for width in reversed(WIDTHS))
    distiller = kd.Distiller(student=student, teacher=teacher)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(1e-3), loss, temperature=1.0, alpha=0.5, fused_head=fused)
    x, y = np.random.default_rng(0).integers(0, classes, (2, tokens // LENGTH, LENGTH))
    return distiller, x, y


def language_model(kind: str, classes: int, width: int, initializer: str) -> keras.Model:
    ids = keras.Input((None,), dtype="int32")
    embedding = layers.ReversibleEmbedding(classes, width, embeddings_initializer=initializer)
    hidden = layers.Dense(width, activation="gelu")(embedding(ids))
    dense = layers.Dense(classes, kernel_initializer=initializer)
    return keras.Model(ids, dense(hidden) if kind == "dense" else embedding(hidden, reverse=True))


def in_own_process(kind: str, way: str, classes: int, tokens: int) -> float:
    command = [sys.executable, __file__, "--memory-of", kind, way, str(classes), str(tokens)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def extra_megabytes(kind: str, fused: bool, classes: int, tokens: int) -> float:
    """Return what two steps take at most beyond weights, gradient and update of the head, and a smaller step."""
    few, x, y = prepared(kind, fused, min(classes, VOCABULARIES[0]), LENGTH)
    few.train_on_batch(x, y)  # what tracing and compiling take is there then
    before = resident() / 1e6
    distiller, x, y = prepared(kind, fused, classes, tokens, "zeros")
    distiller.optimizer.build(distiller.student.trainable_variables)
    models = (distiller.student, distiller.teacher.model)
    weights = sum(4e-6 * np.prod(weight.shape) for model in models for weight in model.weights)
    start = resident() / 1e6
    extra = peak_of(lambda: [distiller.train_on_batch(x, y) for _ in range(2)])
    return start + extra - before - weights - 2 * 4e-6 * classes * WIDTHS[0]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each way (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="a tiny vocabulary: does it run?")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"argument --rounds: expected at least 1. Received: {options.rounds}")
    return options


if __name__ == "__main__":
    main()
