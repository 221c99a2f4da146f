"""What training under a teacher costs: against its parts, against others, against a loop written by hand.

    python examples/benchmarks/training.py    # about ten minutes on two CPU cores

The models are the quickstart's, on random images of 28 x 28 x 1 in memory. What is timed is the function
that `fit` calls. The contestants take a call each in turns, in a random order, in one process; the figures are medians
over the rounds, and the ratios are ratios of medians. "floor" is the same training in a `tf.function` written by hand,
without metrics, weights, masks and checks.

The aims: live at most 1.03 times plain fit and the teacher's forward pass, 1.15 with two terms on features; at most 1.0
times `keras.distillation`, 0.8 with the same features; cached at most 1.05 times plain; all at most 1.10 times their
floor with 32 steps per execution; models of no size, where only the framework costs: at most 1.3 times plain;
`import keras_kd` at most 50 ms after `import keras`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for models.py

import contestants
import keras
import numpy as np
import tensorflow as tf
from aims import at_most
from contestants import Task
from keras import layers
from models import build_student, build_teacher
from timing import in_turns

import keras_kd as kd

tf.get_logger().setLevel("ERROR")  # a new function for each contestant is intended here

INPUT_SHAPE, CLASSES = (28, 28, 1), 10
EVERYBODY = [
    contestants.plain,
    contestants.forward,
    contestants.live,
    contestants.features,
    contestants.cached,
    contestants.keras_distillation,
    contestants.keras_distillation_features,
    contestants.keras_io,
    contestants.floor,
    contestants.floor_features,
    contestants.floor_cached,
]
# What is divided by the sum of what, and the most that it may be, with 1 and with 32 steps per execution.
RATIOS = [
    (("live",), ("plain", "forward"), 1.03, 1.03),
    (("features",), ("plain", "forward"), 1.15, 1.15),
    (("live",), ("keras_distillation",), 1.0, 1.0),
    (("features",), ("keras_distillation_features",), 0.8, 0.8),
    (("floor_features",), ("keras_distillation_features",), None, None),
    (("live",), ("keras_io",), None, None),
    (("cached",), ("plain",), 1.05, 1.05),
    (("live",), ("floor",), None, 1.10),
    (("features",), ("floor_features",), None, 1.10),
    (("cached",), ("floor_cached",), None, 1.10),
]


def main() -> None:
    options = read_arguments()
    keras.utils.set_random_seed(0)
    parts = {"steps": steps, "tiny": tiny, "start": start, "teacher": teachers, "import": imports}
    figures = {name: part(options) for name, part in parts.items() if options.only in (None, name)}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


# Steps


def steps(options: argparse.Namespace) -> dict[str, Any]:
    figures = {}
    for in_a_call, limits in ((1, 2), (32, 3)):
        task = images(options.batch_size, in_a_call)
        rounds = max(2, options.steps // in_a_call)
        made = {who.__name__: who(task) for who in EVERYBODY}
        times = {name: values / in_a_call for name, values in in_turns(made, rounds, max(2, rounds // 20)).items()}
        print(f"\n\nBatches of {options.batch_size}, {in_a_call} steps per execution, {rounds} rounds\n")
        print_times(times, floor="floor")
        figures[f"{in_a_call} steps per execution"] = {
            "milliseconds_per_step": {name: spread(values) for name, values in times.items()},
            "ratios": print_ratios(times, [(over, under, row[limits - 2]) for over, under, *row in RATIOS]),
        }
    return figures


def images(batch_size: int, in_a_call: int) -> Task:
    random = np.random.default_rng(0)
    x = random.random((batch_size * 50, *INPUT_SHAPE), dtype=np.float32)
    y = random.integers(0, CLASSES, len(x), dtype=np.int32)
    pairs = (("conv_2", "pool_2"), ("flat", "flat"))  # 7 x 7 x 32, and the same in a row
    return Task(
        lambda: build_student(INPUT_SHAPE, CLASSES),
        lambda: build_teacher(INPUT_SHAPE, CLASSES),
        (x, y),
        batch_size,
        in_a_call,
        pairs,
    )


def tiny(options: argparse.Namespace) -> dict[str, Any]:
    """Models of four weights: what remains is the cost of a step that computes nothing."""

    def model() -> keras.Model:
        return keras.Sequential([layers.Input((2,)), layers.Dense(2, use_bias=False)])

    random = np.random.default_rng(0)
    data = random.random((400, 2), dtype=np.float32), random.integers(0, 2, 400, dtype=np.int32)
    task = Task(model, model, data, batch_size=8)
    made = {who.__name__: who(task) for who in (contestants.plain, contestants.live, contestants.cached)}
    times = in_turns(made, options.steps, warm_up=50)
    print(f"\n\nModels of four weights, {options.steps} rounds\n")
    print_times(times, floor="plain")
    return {"ratios": print_ratios(times, [(("live",), ("plain",), 1.3), (("cached",), ("plain",), 1.3)])}


def start(options: argparse.Namespace) -> dict[str, Any]:
    """The time until training runs: models are created, the step is traced, two steps are run."""
    task = images(options.batch_size, in_a_call=1)
    chosen = (contestants.plain, contestants.live, contestants.features, contestants.keras_distillation)
    rounds = max(2, options.steps // 100)
    times = in_turns({who.__name__: (lambda who=who: who(task)) for who in chosen}, rounds, warm_up=1)
    print(f"\n\nFrom nothing to two steps, {rounds} rounds\n")
    print_times(times, floor="plain", unit="ms")
    return {name: spread(values) for name, values in times.items()}


def teachers(options: argparse.Namespace) -> dict[str, Any]:
    """What makes the teacher's forward pass cheaper, for each example."""
    task = images(options.batch_size, in_a_call=1)
    x = task.data[0]
    contenders = {}
    for name, arguments, batch_size, jit in (
        ("float32, XLA", {}, options.batch_size, True),
        ("float32, no XLA", {}, options.batch_size, False),
        ("bfloat16, XLA", {"dtype": "bfloat16"}, options.batch_size, True),
        ("bfloat16, no XLA", {"dtype": "bfloat16"}, options.batch_size, False),
        ("float32, XLA, 4 batches at once", {}, 4 * options.batch_size, True),
        ("float32, XLA, 16 batches at once", {}, 16 * options.batch_size, True),
    ):
        teacher = kd.teachers.Frozen(task.teacher(), **arguments)
        teacher.bind(task.student(), ("logits",))
        predict = tf.function(lambda x, teacher=teacher: teacher(x, {})["logits"], jit_compile=jit)
        rows = tf.constant(x[:batch_size])
        contenders[name] = lambda predict=predict, rows=rows: predict(rows).numpy()
    sizes = [options.batch_size] * 4 + [4 * options.batch_size, 16 * options.batch_size]
    rounds = max(2, options.steps // 10)
    times = in_turns(contenders, rounds, warm_up=3)
    each = {name: 1e3 * values / size for (name, values), size in zip(times.items(), sizes, strict=True)}
    print(f"\n\nThe teacher's forward pass, microseconds an example, {rounds} rounds\n")
    print_times(each, floor="float32, XLA", unit="us an example")
    return {name: spread(values) for name, values in each.items()}


def imports(options: argparse.Namespace) -> dict[str, Any]:
    code = "import time, keras; start = time.perf_counter(); import keras_kd; print(time.perf_counter() - start)"
    # With compiled modules, as an installed package has them: the first process compiles what is not.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    arguments = {"env": environment, "check": True, "capture_output": True, "text": True}
    runs = [subprocess.run([sys.executable, "-c", code], **arguments) for _ in range(options.imports + 1)]
    found = [1e3 * float(run.stdout) for run in runs[1:]]
    median = float(np.median(found))
    print(
        f"\nimport keras_kd, after import keras, ms, {min(found):.0f} to {max(found):.0f} in {len(found)} processes"
        f"{median:>8.0f}  {at_most(median, 50, '.0f')}"
    )
    return {"milliseconds": found}


# What is printed


def print_times(times: dict[str, np.ndarray], floor: str, unit: str = "ms a step") -> None:
    head = f"over {floor}"
    print(f"{unit:<34}{'median':>8}{'quartiles':>20}{head:>{len(head) + 4}}")
    for name, values in times.items():
        low, median, high = np.percentile(values, [25, 50, 75])
        quartiles = f"{low:.3f} to {high:.3f}"
        print(f"{name:<34}{median:>8.3f}{quartiles:>20}{median / np.median(times[floor]):>{len(head) + 4}.3f}")
    print()


def print_ratios(times: dict[str, np.ndarray], ratios: list[tuple]) -> list[dict[str, Any]]:
    figures = []
    for over, under, limit in ratios:
        value = sum(np.median(times[name]) for name in over) / sum(np.median(times[name]) for name in under)
        label = f"{' + '.join(over)} / {' + '.join(under)}"
        note = "" if limit is None else f"  {at_most(value, limit)}"
        print(f"{label:<48}{value:>8.3f}{note}")
        figures.append({"ratio": label, "value": float(value), "limit": limit})
    return figures


def spread(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "lower_quartile": float(low), "upper_quartile": float(high)}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("steps", "tiny", "start", "teacher", "import")
    parser.add_argument("--only", choices=parts, help="one part of it")
    parser.add_argument("--batch-size", type=int, default=64, help="examples a step (default: 64)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each contestant (default: 1000)")
    parser.add_argument("--imports", type=int, default=7, help="processes that import (default: 7)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    options = parser.parse_args()
    for name, least in (("batch_size", 1), ("steps", 2), ("imports", 1)):
        received = getattr(options, name)
        if received < least:
            parser.error(f"argument --{name.replace('_', '-')}: expected at least {least}. Received: {received}")
    return options


if __name__ == "__main__":
    main()
