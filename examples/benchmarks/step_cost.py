"""What a distillation step costs, against its parts and against keras.distillation.

    python examples/benchmarks/step_cost.py

The models are the quickstart's, on random images of 28 x 28 x 1. What is timed is the function that `fit` calls for a
step, on one tf.data dataset for all, after a warm-up. The contestants take one step each in turns, in a random order,
so that what else the machine does falls on all of them; the figures are medians over the steps, and their ratios.

The aims: at most 1.05 times the sum of the parts, and no more than keras.distillation. On two CPU cores, seed 0, one
minute: about 7 ms each for the student's step and the teacher's forward pass, 12 ms for either distiller; ratios 0.90
and 0.99.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for models.py

import keras
import numpy as np
import tensorflow as tf
from models import build_student, build_teacher
from timing import in_turns

import keras_kd as kd

INPUT_SHAPE, CLASSES = (28, 28, 1), 10
TEMPERATURE, ALPHA = 4.0, 0.5
WARM_UP = 20

PLAIN, FORWARD, OURS, KERAS = "student's plain fit", "teacher's forward", "keras_kd.Distiller", "keras.distillation"


def main() -> None:
    options = read_arguments()
    keras.utils.set_random_seed(0)
    milliseconds = in_turns(make_contestants(random_batches(options.batch_size)), options.steps, WARM_UP)
    figures = {
        "batch_size": options.batch_size,
        "steps": options.steps,
        "milliseconds_per_step": {name: spread(values) for name, values in milliseconds.items()},
        "ratios": [
            {"ratio": f"{OURS} / ({PLAIN} + {FORWARD})", "limit": 1.05, **ratio(milliseconds, OURS, PLAIN, FORWARD)},
            {"ratio": f"{OURS} / {KERAS}", "limit": 1.0, **ratio(milliseconds, OURS, KERAS)},
        ],
    }
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def random_batches(batch_size: int) -> tf.data.Dataset:
    random = np.random.default_rng(0)
    x = random.random((batch_size * 50, *INPUT_SHAPE), dtype=np.float32)
    y = random.integers(0, CLASSES, len(x), dtype=np.int32)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size).cache().repeat().prefetch(2)


def make_contestants(data: tf.data.Dataset) -> dict[str, Callable[[], object]]:
    """Return one function per contestant, each of which takes one step."""
    student = build_student(INPUT_SHAPE, CLASSES)
    student.compile(**supervised())

    teacher = build_teacher(INPUT_SHAPE, CLASSES)
    forward = tf.function(lambda x: teacher(x, training=False), jit_compile=student.jit_compile)
    images = next(iter(data))[0]  # in memory: reading it is counted in the student's step

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
        PLAIN: stepper(student, data),
        FORWARD: lambda: forward(images).numpy(),
        OURS: stepper(ours, data),
        KERAS: stepper(theirs, data),
    }


def stepper(model: keras.Model, data: tf.data.Dataset) -> Callable[[], object]:
    """Return the function that `fit` calls for each step of this model, on batches of its own."""
    model.fit(data, steps_per_epoch=2, verbose=0, shuffle=False)
    model.make_train_function()
    batches = iter(data)
    return lambda: float(model.train_function(batches)["loss"])  # waits until the step is done


def supervised() -> dict:
    return {
        "optimizer": keras.optimizers.Adam(1e-3),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def ratio(milliseconds: dict[str, np.ndarray], over: str, *under: str) -> dict[str, float]:
    """Return the ratio of the medians, and the median and the quartiles of the ratios within a round."""
    figures = spread(milliseconds[over] / sum(milliseconds[name] for name in under))
    medians = np.median(milliseconds[over]) / sum(np.median(milliseconds[name]) for name in under)
    return {**figures, "median_within_rounds": figures["median"], "median": float(medians)}


def spread(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "lower_quartile": float(low), "upper_quartile": float(high)}


def print_figures(figures: dict) -> None:
    print(f"Batches of {figures['batch_size']}, {figures['steps']} steps each\n")
    rows = [(f"{name} (ms a step)", row, "") for name, row in figures["milliseconds_per_step"].items()]
    for row in figures["ratios"]:
        met = "met" if row["median"] <= row["limit"] else "missed"
        rows.append((row["ratio"], row, f"at most {row['limit']:.2f}: {met}"))
    width = max(len(label) for label, _, _ in rows)
    print(f"{'':<{width}}  {'median':>7}  {'quartiles':>16}")
    for label, row, note in rows:
        quartiles = f"{row['lower_quartile']:.3f} to {row['upper_quartile']:.3f}"
        print(f"{label:<{width}}  {row['median']:>7.3f}  {quartiles:>16}  {note}".rstrip())


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64, help="examples a step (default: 64)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each contestant (default: 1000)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    options = parser.parse_args()
    for name, least in (("batch_size", 1), ("steps", 2)):
        received = getattr(options, name)
        if received < least:
            parser.error(f"argument --{name.replace('_', '-')}: expected at least {least}. Received: {received}")
    return options


if __name__ == "__main__":
    main()
