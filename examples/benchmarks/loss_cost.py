"""What each loss costs: time beside the plain divergence, and memory for the relations.

    python examples/benchmarks/loss_cost.py

Every loss on logits is timed forward and backward, in a graph as in `fit` on a CPU, without XLA, on (4096, 1000)
float32. The losses take one call each in turns, in a random order, so that what else the machine does falls on all of
them; the figures are medians over the rounds, and their ratios to `kl_divergence`. The memory of the relational losses
is that of one forward and backward pass on (512, 2048), each in a process of its own: the highest resident memory
during the call, less what was resident before it, after a call on a small batch.

Two of the losses compare all classes or all examples with each other, by products of matrices. What three such products
take alone, two for the value and one for the gradient, is timed as well: the least that these losses can cost.

The aims: at most 1.3 times `kl_divergence`, and at most 100 MB.
"""

import argparse
import inspect
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported

import numpy as np
import tensorflow as tf
from timing import in_turns

from keras_kd import losses
from keras_kd.losses import logits, relations

LOGITS_SHAPE, FEATURES_SHAPE = (4096, 1000), (512, 2048)
RATIO_LIMIT, MEGABYTES_LIMIT = 1.3, 100
WARM_UP = 2
PLAIN = "kl_divergence"

#: For a loss that multiplies matrices, whether those of student and teacher are transposed before.
PRODUCTS = {"class_correlation": True, "batch_correlation": False}


def main() -> None:
    options = read_arguments()
    if options.memory_of:  # in the process that is measured
        print(extra_megabytes(getattr(losses, options.memory_of)))
        return
    steps = {name: logits_step(name) for name in public(logits)}
    steps |= {f"{name}, products": products_step(transposed) for name, transposed in PRODUCTS.items()}
    milliseconds = in_turns(steps, options.rounds, WARM_UP)
    medians = {name: float(np.median(values)) for name, values in milliseconds.items()}
    figures = {
        "rounds": options.rounds,
        "time": [
            {"loss": name, "milliseconds": median, "ratio": median / medians[PLAIN]} for name, median in medians.items()
        ],
        "memory": [{"loss": name, "megabytes": in_own_process(name)} for name in public(relations)],
    }
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def public(module: object) -> list[str]:
    """Return the names of the losses that keras_kd.losses has from one of its modules."""
    return [name for name, value in vars(losses).items() if getattr(value, "__module__", "") == module.__name__]


def logits_step(name: str) -> Callable[[], object]:
    """Return a function that takes the value and the gradient of a loss, and waits for both."""
    random = np.random.default_rng(0)
    student, teacher = tf.constant(random.normal(scale=2.0, size=(2, *LOGITS_SHAPE)), "float32")
    loss = getattr(losses, name)
    arguments = {}
    if "labels" in inspect.signature(loss).parameters:
        arguments["labels"] = tf.constant(random.integers(0, LOGITS_SHAPE[-1], LOGITS_SHAPE[0]))
    step = traced(lambda student, teacher: loss(student, teacher, **arguments), LOGITS_SHAPE)
    return lambda: step(student, teacher)[1].numpy()


def products_step(transposed: bool) -> Callable[[], object]:
    """Return a function that multiplies matrices of the logits' shape with their transposes, twice, and once back."""
    random = np.random.default_rng(0)
    student, teacher = tf.constant(random.random((2, *LOGITS_SHAPE)), "float32")

    @tf.function(autograph=False)
    def step(a, b):
        difference = tf.matmul(a, a, transposed, not transposed) - tf.matmul(b, b, transposed, not transposed)
        return tf.matmul(b, difference) if transposed else tf.matmul(difference, b)

    return lambda: step(teacher, student).numpy()


def traced(loss: Callable, shape: tuple[int | None, int]) -> Callable[[tf.Tensor, tf.Tensor], tuple]:
    """Return a graph function of student and teacher that returns the mean of the loss and the student's gradient."""

    @tf.function(autograph=False)
    def step(student, teacher):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = tf.reduce_mean(loss(student, tf.stop_gradient(teacher)))
        return value, tape.gradient(value, student)

    return step.get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec(shape))


def in_own_process(name: str) -> float:
    """Return the megabytes that a loss takes, measured where no other loss has left memory to be used again."""
    command = [sys.executable, __file__, "--memory-of", name]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def extra_megabytes(loss: Callable | type) -> float:
    """Return by how much the resident memory grows at most during a forward and backward pass."""
    random = np.random.default_rng(0)
    sides = tf.constant(random.normal(size=(2, *FEATURES_SHAPE)), "float32")
    loss = loss() if inspect.isclass(loss) else loss
    step = traced(loss, (None, FEATURES_SHAPE[1]))
    step(*sides[:, :4])  # the memory of the first call's initialisation is not the loss's
    return peak_of(lambda: step(*sides)[1].numpy())


def peak_of(call: Callable[[], object]) -> float:
    """Return the highest resident memory during a call, less that before it, in megabytes."""
    before, peak, done = resident(), resident(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(2e-4):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    peak = max(peak, resident())
    done.set()
    watcher.join()
    return (peak - before) / 1e6


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def print_figures(figures: dict) -> None:
    rows, columns = LOGITS_SHAPE
    print(f"\nForward and gradient on ({rows}, {columns}), {figures['rounds']} rounds\n")
    width = max(len(row["loss"]) for row in figures["time"] + figures["memory"])
    judged = public(logits)
    print(f"{'':<{width}}  {'ms':>8}  {'ratio':>6}  at most {RATIO_LIMIT}")
    for row in sorted(figures["time"], key=lambda row: row["ratio"]):
        met = "met" if row["ratio"] <= RATIO_LIMIT else "missed"
        met = met if row["loss"] in judged else ""
        print(f"{row['loss']:<{width}}  {row['milliseconds']:>8.1f}  {row['ratio']:>6.2f}  {met}".rstrip())
    print(f"\nPeak memory of forward and gradient on {FEATURES_SHAPE}, beyond what was there\n")
    print(f"{'':<{width}}  {'MB':>8}  at most {MEGABYTES_LIMIT}")
    for row in sorted(figures["memory"], key=lambda row: row["megabytes"]):
        met = "met" if row["megabytes"] <= MEGABYTES_LIMIT else "missed"
        print(f"{row['loss']:<{width}}  {row['megabytes']:>8.1f}  {met}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="calls of each loss (default: 21)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--memory-of", choices=public(relations), metavar="LOSS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"argument --rounds: expected at least 1. Received: {options.rounds}")
    return options


if __name__ == "__main__":
    main()
