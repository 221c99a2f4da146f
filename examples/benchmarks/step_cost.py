"""What a distillation step costs, against its parts and against keras.distillation.

    python examples/benchmarks/step_cost.py

The models are the quickstart's, on random images of 28 x 28 x 1. Training steps are timed through `fit`, on one tf.data
dataset for all, after a warm-up. All contestants run in turns in one process, in another order in each round, so that
what else the machine does falls on all of them; the figures are medians over the rounds, and their ratios.

The aims: at most 1.05 times the sum of the parts, and no more than keras.distillation. On two CPU cores, seed 0, two
minutes: about 7 ms each for the student's step and the teacher's forward pass, 13 ms for either distiller; ratios 0.92
and 1.01. That is on a calm machine: on one that does other work the quartiles lie far apart, and so do two runs.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for models.py

import keras
import numpy as np
import tensorflow as tf
from models import build_student, build_teacher

import keras_kd as kd

INPUT_SHAPE, CLASSES = (28, 28, 1), 10
TEMPERATURE, ALPHA = 4.0, 0.5

PLAIN, FORWARD, OURS, KERAS = "student's plain fit", "teacher's forward", "keras_kd.Distiller", "keras.distillation"


def main() -> None:
    options = read_arguments()
    keras.utils.set_random_seed(0)
    contestants = make_contestants(random_batches(options.batch_size, options.steps))
    seconds = measure(contestants, options.rounds)
    milliseconds = {name: [1e3 * value / options.steps for value in values] for name, values in seconds.items()}
    figures = {
        "batch_size": options.batch_size,
        "steps": options.steps,
        "rounds": options.rounds,
        "milliseconds_per_step": {name: spread(values) for name, values in milliseconds.items()},
        "ratios": [
            {"ratio": f"{OURS} / ({PLAIN} + {FORWARD})", "limit": 1.05, **ratio(milliseconds, OURS, PLAIN, FORWARD)},
            {"ratio": f"{OURS} / {KERAS}", "limit": 1.0, **ratio(milliseconds, OURS, KERAS)},
        ],
    }
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def random_batches(batch_size: int, steps: int) -> tf.data.Dataset:
    random = np.random.default_rng(0)
    x = random.random((batch_size * steps, *INPUT_SHAPE), dtype=np.float32)
    y = random.integers(0, CLASSES, len(x), dtype=np.int32)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size).cache().prefetch(2)


def make_contestants(data: tf.data.Dataset) -> dict[str, Callable[[], object]]:
    """Return one function per contestant, each of which runs through the data once."""
    student = build_student(INPUT_SHAPE, CLASSES)
    student.compile(**supervised())

    teacher = build_teacher(INPUT_SHAPE, CLASSES)
    forward = tf.function(lambda x: teacher(x, training=False), jit_compile=student.jit_compile)
    inputs = [x for x, _ in data]  # in memory: reading them is counted in the student's step

    ours = kd.Distiller(student=build_student(INPUT_SHAPE, CLASSES), teacher=teacher)
    ours.compile(**supervised(), temperature=TEMPERATURE, alpha=ALPHA)

    # Its default loss does not distil: the string resolves to a function, and the softmax is skipped.
    soft = keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=keras.losses.KLDivergence())
    theirs = keras.distillation.Distiller(
        teacher=build_teacher(INPUT_SHAPE, CLASSES),  # one of its own: it sets the flags of its teacher
        student=build_student(INPUT_SHAPE, CLASSES),
        distillation_losses=soft,
        student_loss_weight=1 - ALPHA,
    )
    theirs.compile(**supervised())
    return {
        PLAIN: lambda: student.fit(data, verbose=0, shuffle=False),
        FORWARD: lambda: [forward(x) for x in inputs][-1].numpy(),
        OURS: lambda: ours.fit(data, verbose=0, shuffle=False),
        KERAS: lambda: theirs.fit(data, verbose=0, shuffle=False),
    }


def supervised() -> dict:
    return {
        "optimizer": keras.optimizers.Adam(1e-3),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def measure(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    for run in contestants.values():  # traces, and fills the cache
        run()
        run()
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - started)
        print(".", end="", flush=True)
    print()
    return seconds


def ratio(milliseconds: dict[str, list[float]], over: str, *under: str) -> dict[str, float]:
    """Return the ratio of the medians, that of the fastest rounds, and the quartiles of the rounds' own ratios."""
    rounds = [a / sum(b) for a, *b in zip(*(milliseconds[name] for name in (over, *under)), strict=True)]
    figures = spread(rounds)
    for key, function in (("median", statistics.median), ("fastest", min)):
        figures[key] = function(milliseconds[over]) / sum(function(milliseconds[name]) for name in under)
    return figures


def spread(values: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "fastest": min(values), "lower_quartile": low, "upper_quartile": high}


def print_figures(figures: dict) -> None:
    print(f"Batches of {figures['batch_size']}, {figures['steps']} steps a turn, {figures['rounds']} rounds\n")
    rows = [(f"{name} (ms a step)", row, "") for name, row in figures["milliseconds_per_step"].items()]
    for row in figures["ratios"]:
        met = "met" if row["median"] <= row["limit"] else "missed"
        rows.append((row["ratio"], row, f"at most {row['limit']:.2f}: {met}"))
    width = max(len(label) for label, _, _ in rows)
    print(f"{'':<{width}}  {'median':>7}  {'quartiles':>16}  {'fastest':>7}")
    for label, row, note in rows:
        quartiles = f"{row['lower_quartile']:.3f} to {row['upper_quartile']:.3f}"
        print(f"{label:<{width}}  {row['median']:>7.3f}  {quartiles:>16}  {row['fastest']:>7.3f}  {note}".rstrip())


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41, help="turns of each contestant (default: 41)")
    parser.add_argument("--batch-size", type=int, default=64, help="examples a step (default: 64)")
    parser.add_argument("--steps", type=int, default=50, help="steps a turn (default: 50)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    options = parser.parse_args()
    for name, least in (("rounds", 2), ("batch_size", 1), ("steps", 1)):
        received = getattr(options, name)
        if received < least:
            parser.error(f"argument --{name.replace('_', '-')}: expected at least {least}. Received: {received}")
    return options


if __name__ == "__main__":
    main()
