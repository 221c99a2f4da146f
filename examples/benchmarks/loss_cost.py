"""What each loss costs: time beside the plain divergence and TensorFlow's cross-entropy, memory for the relations.

    python examples/benchmarks/loss_cost.py
    python examples/benchmarks/loss_cost.py --ways    # large vocabularies whole, by chunks and compiled, alone

Every loss on logits is timed forward and backward, in a graph as in `fit` on a CPU, on (4096, 1000) float32. The losses
are called in turns, in a random order, so that other load on the machine affects all of them; the figures are medians
over the rounds, and their ratios to `kl_divergence`. The divergences are timed again on other shapes, beside what
TensorFlow has as one operation: `softmax_cross_entropy_with_logits` on the softmax of the teacher, which has the
gradient of `kl_divergence`. The memory of the relational losses is that of one forward and backward pass on
(512, 2048), each in a process of its own: the highest resident memory during the call, less what was resident before
it, after a call on a small batch.

Two of the losses compare all classes or all examples with each other, by products of matrices. What three such products
take by themselves, two for the value and one for the gradient, is timed as well: the least that these losses can cost.

The aims: `kl_divergence` at most 1.15 times the cross-entropy, the other divergences 1.5 times; those that multiply
matrices at most 1.1 times their products; at most 100 MB.
"""

import argparse
import functools
import inspect
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported

import numpy as np
import tensorflow as tf
from aims import at_most
from memory import peak_of
from timing import in_turns

from keras_kd import losses
from keras_kd.losses import _many_values, logits, relations

LOGITS_SHAPE, FEATURES_SHAPE = (4096, 1000), (512, 2048)
PRODUCTS_LIMIT, MEGABYTES_LIMIT = 1.1, 100

#: Shapes of the second table, and the most that a divergence may take of the cross-entropy's time.
SHAPES = [(32, 10), (4096, 1000), (256, 50_257), (64, 151_936)]
DIVERGENCES = {"kl_divergence": 1.15, "reverse_kl": 1.5, "jensen_shannon": 1.5, "skew_kl": 1.5, "decoupled_kl": 1.5}
WARM_UP = 2
PLAIN = "kl_divergence"

#: For a loss that multiplies matrices, whether those of student and teacher are transposed before.
PRODUCTS = {"class_correlation": True, "batch_correlation": False}


def main() -> None:
    options = read_arguments()
    if options.memory_of:  # in the process that is measured
        print(extra_megabytes(getattr(losses, options.memory_of)))
        return
    if options.ways:
        figures = {"rounds": options.rounds, "ways": ways(options.rounds)}
    else:
        figures = everything(options.rounds)
        print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def everything(rounds: int) -> dict:
    """Return the figures of all losses."""
    steps = {name: logits_step(name, LOGITS_SHAPE) for name in public(logits)}
    steps |= {f"{name}, products": products_step(transposed) for name, transposed in PRODUCTS.items()}
    milliseconds = in_turns(steps, rounds, WARM_UP)
    medians = {name: float(np.median(values)) for name, values in milliseconds.items()}
    return {
        "rounds": rounds,
        "time": [
            {"loss": name, "milliseconds": median, "ratio": median / medians[PLAIN]} for name, median in medians.items()
        ],
        "divergences": [beside_cross_entropy(shape, rounds) for shape in SHAPES],
        "memory": [{"loss": name, "megabytes": in_own_process(name)} for name in public(relations)],
    }


def public(module: object) -> list[str]:
    """Return the names of the losses that keras_kd.losses has from one of its modules."""
    return [name for name, value in vars(losses).items() if getattr(value, "__module__", "") == module.__name__]


def beside_cross_entropy(shape: tuple[int, int], rounds: int) -> dict:
    """Return the milliseconds of the divergences and of TensorFlow's cross-entropy."""
    student, teacher = sides(shape)
    fused = traced(lambda one, other: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(other), one), shape)
    steps = {"cross-entropy": lambda: fused(student, teacher)[2].numpy()}
    steps |= {name: logits_step(name, shape) for name in DIVERGENCES}
    calls = rounds * (20 if np.prod(shape) < 1e5 else 1)
    times = in_turns(steps, calls, WARM_UP)
    return {"shape": shape, "milliseconds": {name: float(np.median(values)) for name, values in times.items()}}


def ways(rounds: int) -> list[dict]:
    """Print what the divergences over many values cost as a whole, by chunks of rows, and compiled by XLA."""
    print(f"Forward and gradient, medians of {rounds} calls; MB: the most that a call takes of a GPU\n")
    figures = []
    for shape in SHAPES[1:]:
        fused = traced(lambda one, other: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(other), one), shape)
        figures.append(way(shape, "cross-entropy", "TensorFlow's", fused, rounds))
        for name in DIVERGENCES:
            for chunk in [2**power for power in (20, 23, 26) if 2**power < np.prod(shape)]:
                by_chunks = functools.partial(_many_values._by_chunks, size=max(1, chunk // shape[-1]))
                with mock.patch.object(_many_values, "_way", lambda *_, by_chunks=by_chunks: by_chunks):
                    step = traced(with_labels(name, shape), shape)
                figures.append(way(shape, name, f"by {chunk:,}", step, rounds))
            with mock.patch.object(_many_values, "_way", lambda *_: None):
                for xla in (False, True):
                    step = traced(tf.function(with_labels(name, shape), jit_compile=xla), shape)
                    figures.append(way(shape, name, "compiled" if xla else "whole", step, rounds))
    return figures


def way(shape: tuple[int, int], loss: str, name: str, step: Callable, rounds: int) -> dict:
    """Print what one way costs."""
    student, teacher = sides(shape)
    times = in_turns({name: lambda: step(student, teacher)[2].numpy()}, rounds, WARM_UP)[name]
    found = {"shape": shape, "loss": loss, "way": name, "milliseconds": float(np.median(times)), "megabytes": None}
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        step(student, teacher)[2].numpy()
        found["megabytes"] = (tf.config.experimental.get_memory_info("GPU:0")["peak"] - before) / 1e6
    memory = "" if found["megabytes"] is None else f"{found['megabytes']:>10.0f} MB"
    print(f"{shape!s:<16}{loss:<16}{name:<16}{found['milliseconds']:>10.2f} ms{memory}", flush=True)
    return found


def sides(shape: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return random logits of a student and a teacher."""
    student, teacher = np.random.default_rng(0).normal(scale=2.0, size=(2, *shape))
    return tf.constant(student, "float32"), tf.constant(teacher, "float32")


def logits_step(name: str, shape: tuple[int, int]) -> Callable[[], object]:
    """Return a function that takes the value and the gradient of a loss, and waits for both."""
    student, teacher = sides(shape)
    step = traced(with_labels(name, shape), shape)
    return lambda: step(student, teacher)[2].numpy()


def with_labels(name: str, shape: tuple[int, int]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return a loss as a function of student and teacher."""
    loss = getattr(losses, name)
    arguments = {}
    if "labels" in inspect.signature(loss).parameters:
        arguments["labels"] = tf.constant(np.random.default_rng(1).integers(0, shape[-1], shape[0]))
    return lambda student, teacher: loss(student, teacher, **arguments)


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
    """Return a graph function of student and teacher that returns the mean of the loss and the student's gradient.

    What waits for both reads one value of the gradient, the third that is returned: all of it takes long from a GPU.
    """

    @tf.function(autograph=False)
    def step(student, teacher):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = tf.reduce_mean(loss(student, tf.stop_gradient(teacher)))
        gradient = tape.gradient(value, student)
        return value, gradient, tf.reshape(gradient, (-1,))[0]

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


def print_figures(figures: dict) -> None:
    rows, columns = LOGITS_SHAPE
    print(f"\nForward and gradient on ({rows}, {columns}), {figures['rounds']} rounds\n")
    width = max(len(row["loss"]) for row in figures["time"] + figures["memory"])
    print(f"{'':<{width}}  {'ms':>8}  {'ratio':>6}")
    for row in sorted(figures["time"], key=lambda row: row["ratio"]):
        print(f"{row['loss']:<{width}}  {row['milliseconds']:>8.1f}  {row['ratio']:>6.2f}")
    times = {row["loss"]: row["milliseconds"] for row in figures["time"]}
    print()
    for name in PRODUCTS:
        value = times[name] / times[f"{name}, products"]
        print(f"{name} / its products{value:>8.2f}  {at_most(value, PRODUCTS_LIMIT, '.1f')}")
    print("\nOver TensorFlow's softmax and cross-entropy, forward and gradient\n")
    rows = [row["milliseconds"] for row in figures["divergences"]]
    shapes = ["({}, {})".format(*row["shape"]) for row in figures["divergences"]]
    print(f"{'':<{width}}" + "".join(f"{shape:>15}" for shape in shapes) + f"{'largest':>10}")
    print(f"{'cross-entropy, ms':<{width}}" + "".join(f"{row['cross-entropy']:>15.2f}" for row in rows))
    for name, limit in DIVERGENCES.items():
        ratios = [row[name] / row["cross-entropy"] for row in rows]
        cells = "".join(f"{ratio:>15.2f}" for ratio in ratios)
        print(f"{name:<{width}}{cells}{max(ratios):>10.2f}  {at_most(max(ratios), limit)}")
    print(f"\nPeak memory of forward and gradient on {FEATURES_SHAPE}, beyond what was there\n")
    print(f"{'':<{width}}  {'MB':>8}")
    for row in sorted(figures["memory"], key=lambda row: row["megabytes"]):
        print(f"{row['loss']:<{width}}  {row['megabytes']:>8.1f}  {at_most(row['megabytes'], MEGABYTES_LIMIT, '.0f')}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="calls of each loss (default: 21)")
    parser.add_argument("--ways", action="store_true", help="what large vocabularies cost whole, by chunks, compiled")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--memory-of", choices=public(relations), metavar="LOSS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"argument --rounds: expected at least 1. Received: {options.rounds}")
    return options


if __name__ == "__main__":
    main()
