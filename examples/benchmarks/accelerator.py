"""What distilling costs on this machine's accelerator, from numbers that must be right to steps that should be fast.

    python examples/benchmarks/accelerator.py            # about ten minutes on one GPU; --minutes 30 for all of it
    python examples/benchmarks/accelerator.py --smoke    # tiny models: does it run? about two minutes on two CPU cores

Four pairs of teacher and student with random weights on random data: the quickstart's, a ResNet-50 with a MobileNetV3
at 224 x 224, a transformer of the size of BERT base with one of four layers at 128 tokens, and a vocabulary of 50,257.

1. The numbers: one step in float32 (no TF32) on the accelerator and on the processor, from the same weights. "rounding"
   is how far the processor's step is from one in float64: two devices round differently, and no less than that.
2. The places: which operations of a step run on the processor although there is an accelerator. Reading the data,
   checks and sizes belong there; products, convolutions and sums do not.
3. The steps: plain fit of the student, the teacher's forward passes, a live Distiller, one with stored targets and
   `keras.distillation`, each with the same batches, in turns in a random order. Each row is a process of its own, so
   that memory is its own. "rest" is the share of a live step that is neither the student's own step nor the teacher's
   forward pass; "MB" the peak of the accelerator's memory that a live step takes. "torch" is a live step of a usual
   loop in PyTorch, where it is installed, in a process after the row's: `torch.compile` beside XLA, else eager.

Rows are measured in the order of their interest until the minutes are over; the others are named.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else a process takes all memory, whatever it needs
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

#: The most that a live step may be of a plain one and a forward pass, and one with stored targets of a plain one.
LIVE, STORED = 1.05, 1.00

#: The largest relative difference between a step on the accelerator and one on the processor.
CLOSE = 1e-5

CONTESTANTS = [
    contestants.plain,
    contestants.forward,
    contestants.live,
    contestants.cached,
    contestants.keras_distillation,
]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A teacher and a student, and the shape of their data.

    Attributes:
        teacher: makes the teacher.
        student: makes the student.
        shape: of one example: floats, or token ids where `tokens` is given.
        classes: of the labels.
        batch_size: examples in a step.
        tokens: number of token ids.
        positions: whether there is a label for each position.
        pytorch: makes both in PyTorch, with weights of their own; None where the models of Keras can be converted.
    """

    teacher: Callable[[], keras.Model]
    student: Callable[[], keras.Model]
    shape: tuple[int, ...]
    classes: int
    batch_size: int
    tokens: int | None = None
    positions: bool = False
    pytorch: Callable[[], tuple[Any, Any]] | None = None

    def data(self, batches: int) -> tuple[np.ndarray, np.ndarray]:
        """Return random x and y."""
        random, rows = np.random.default_rng(0), batches * self.batch_size
        if self.tokens is None:
            x = random.random((rows, *self.shape), dtype=np.float32)
        else:
            x = random.integers(0, self.tokens, (rows, *self.shape), dtype=np.int32)
        y = random.integers(0, self.classes, (rows, *self.shape) if self.positions else rows, dtype=np.int32)
        return x, y


def main() -> None:
    options = read_arguments()
    if options.row:
        settings = json.loads(options.row)
        print(json.dumps(pytorch_row(**settings) if options.pytorch else row(**settings)))
        return
    started = time.monotonic()
    print_machine()
    chosen = [name for name in pairs(options.smoke) if name in options.pairs]
    figures: dict[str, Any] = {"numbers": numbers(chosen, options.smoke), "places": places(options.smoke), "steps": []}
    rows = [
        {"pair": pair, "precision": precision, "xla": xla, "rounds": options.rounds, "smoke": options.smoke}
        for precision in options.precisions
        for xla in (False, True)
        for pair in (chosen[:1] if xla and options.smoke else chosen)
    ]
    print_head()
    left_out = []
    for settings in rows:
        seconds = 60 * options.minutes - (time.monotonic() - started)
        found = in_own_process(settings, seconds) if seconds > 0 else None
        if found is None:
            left_out.append(f"{settings['pair']} {settings['precision']}{' XLA' if settings['xla'] else ''}")
            continue
        seconds = 60 * options.minutes - (time.monotonic() - started)
        if seconds > 0 and importlib.util.find_spec("torch"):
            found["pytorch"] = in_own_process(settings, seconds, "--pytorch") or {}
        figures["steps"].append({**settings, **found})
        print_row(settings, found)
    if left_out:
        print(
            f"\nNot measured in {options.minutes:g} minutes (--minutes, --pairs, --precisions): {', '.join(left_out)}"
        )
    print_aims(figures["steps"])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, default=float) + "\n")


# What is trained


def pairs(smoke: bool) -> dict[str, Pair]:
    """Return the pairs by name."""
    small = {"weights": None, "classifier_activation": None}
    side, classes = (32, 10) if smoke else (224, 1000)
    width, length = (32, 16) if smoke else (768, 128)
    words, vocabulary = (100, 300) if smoke else (30_522, 50_257)
    heads = max(1, width // 64)
    text = [
        {"words": words, "length": length, "classes": 2, "width": width, "blocks": 2 if smoke else 12, "heads": heads},
        {"words": words, "length": length, "classes": 2, "width": 312, "blocks": 1 if smoke else 4, "heads": 12},
    ]
    language = [
        {"words": vocabulary, "length": length, "classes": vocabulary, "blocks": blocks, "pool": False, **size}
        for blocks, size in (
            (2, {"width": width, "heads": heads}),
            (1, {"width": width // 3, "heads": max(1, heads // 3)}),
        )
    ]
    return {
        "quickstart": Pair(
            lambda: build_teacher((28, 28, 1), 10), lambda: build_student((28, 28, 1), 10), (28, 28, 1), 10, 128
        ),
        "images": Pair(
            lambda: keras.applications.ResNet50(input_shape=(side, side, 3), classes=classes, **small),
            lambda: keras.applications.MobileNetV3Small(
                input_shape=(side, side, 3), classes=classes, include_preprocessing=False, **small
            ),
            (side, side, 3),
            classes,
            2 if smoke else 64,
            pytorch=lambda: _pytorch().image_models(classes),
        ),
        "text": encoders(text, 4 if smoke else 32),
        "vocabulary": encoders(language, 2 if smoke else 8),
    }


def encoders(sizes: list[dict[str, Any]], batch_size: int) -> Pair:
    """Return a pair of transformers, of the sizes of the teacher and of the student."""
    return Pair(
        lambda: transformer(**sizes[0]),
        lambda: transformer(**sizes[1]),
        (sizes[0]["length"],),
        sizes[0]["classes"],
        batch_size,
        tokens=sizes[0]["words"],
        positions=not sizes[0].get("pool", True),
        pytorch=lambda: tuple(_pytorch().Encoder(**size) for size in sizes),
    )


def _pytorch() -> Any:
    import pytorch_contestant  # needs PyTorch

    return pytorch_contestant


def transformer(
    words: int, length: int, width: int, blocks: int, heads: int, classes: int, pool: bool = True
) -> keras.Model:
    """Return an encoder of token ids that ends in logits, of the sequence or of each position."""
    ids = layers.Input((length,), dtype="int32")
    x = Places()(layers.Embedding(words, width)(ids))
    for _ in range(blocks):
        attended = layers.MultiHeadAttention(heads, max(1, width // heads))(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        inner = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, inner]))
    x = layers.GlobalAveragePooling1D()(x) if pool else x
    return keras.Model(ids, layers.Dense(classes, dtype=head_type())(x))


class Places(layers.Layer):
    """Add a vector of its own to each position."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.vectors = self.add_weight(shape=shape[1:], initializer="uniform", name="vectors")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + self.vectors


def head_type() -> str | None:
    """Return float32 in mixed precision: logits are not rounded to half of the digits."""
    return "float32" if keras.config.dtype_policy().name.startswith("mixed") else None


def task(pair: Pair, xla: bool) -> Task:
    """Return what is trained, with one teacher for all: a large one takes long to make."""
    return Task(pair.student, functools.cache(pair.teacher), pair.data(batches=4), pair.batch_size, jit_compile=xla)


# The numbers and the places


def numbers(names: list[str], smoke: bool) -> list[dict[str, Any]]:
    """Print how far a step on the accelerator is from one on the processor, and that from one in float64."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    print(f"\nOne step in float32, without TF32, from the same weights: {accelerator()} and CPU:0\n")
    print(f"{'pair':<12}{'loss':>14}{'off by':>10}{'gradients off by':>18}{'rounding':>10}{'larger':>10}")
    found = []
    for name in names:
        pair = pairs(smoke)[name]
        pair = dataclasses.replace(pair, batch_size=min(8, pair.batch_size))
        here, there = one_step(pair, accelerator()), one_step(pair, "CPU:0")
        loss, change = apart(here, there)
        rounding, larger = max(apart(there, one_step(pair, "CPU:0", "float64"))), max(loss, change)
        cells = f"{there[0]:>14.6f}{loss:>10.1e}{change:>18.1e}{rounding:>10.1e}{larger:>10.1e}"
        print(f"{name:<12}{cells}  {at_most(larger, max(CLOSE, rounding), '.1e')}", flush=True)
        found.append({"pair": name, "loss": there[0], "loss_off": loss, "gradients_off": change, "rounding": rounding})
    tf.config.experimental.enable_tensor_float_32_execution(True)
    return found


def apart(one: tuple[float, list[np.ndarray]], other: tuple[float, list[np.ndarray]]) -> tuple[float, float]:
    """Return the relative difference of two losses, and the largest of changes of weights over the largest change."""
    scale = max(np.abs(each).max() for each in other[1])
    changes = [np.abs(ours - theirs).max() for ours, theirs in zip(one[1], other[1], strict=True)]
    return abs(one[0] - other[0]) / abs(other[0]), max(changes) / scale


def one_step(pair: Pair, device: str, dtype: str = "float32") -> tuple[float, list[np.ndarray]]:
    """Return the loss of a step of plain gradient descent, and by how much it moves each weight."""
    keras.utils.set_random_seed(0)
    with tf.device("CPU:0"):  # the same random numbers everywhere
        weights = [model().get_weights() for model in (pair.teacher, pair.student)]
    x, y = pair.data(batches=1)
    keras.config.set_dtype_policy(dtype)
    with tf.device(device):
        teacher, student = pair.teacher(), pair.student()
        keras.config.set_dtype_policy("float32")
        for model, values in zip((teacher, student), weights, strict=True):
            model.set_weights(values)
        for layer in student.layers:
            if isinstance(layer, layers.Dropout):
                layer.rate = 0.0  # each would have random numbers of its own
        distiller = kd.Distiller(student=student, teacher=teacher)
        distiller.compile(
            **supervised(), temperature=contestants.TEMPERATURE, alpha=contestants.ALPHA, jit_compile=False
        )
        before = [each.numpy() for each in student.trainable_variables]
        loss = distiller.train_on_batch(x, y, return_dict=True)["loss"]
        moved = [each.numpy() - old for each, old in zip(student.trainable_variables, before, strict=True)]
    return float(loss), moved


def supervised() -> dict[str, Any]:
    return {
        "optimizer": keras.optimizers.SGD(1.0),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }


def places(smoke: bool) -> dict[str, list[str]]:
    """Print the operations of a live step by device."""
    pair = pairs(smoke)["quickstart"]
    with placed() as found:
        contestants.live(task(pair, xla=False))()
    print("\nOperations of a live step of the quickstart's pair, by device\n")
    for device, kinds in sorted(found.items()):
        print(f"{device}: {len(kinds)} kinds: {', '.join(sorted(kinds))}")
    return {device: sorted(kinds) for device, kinds in found.items()}


@contextlib.contextmanager
def placed() -> Iterator[dict[str, set[str]]]:
    """Collect which kinds of operations run on which device, from the graphs as TensorFlow has parted them."""
    from tensorflow.python.eager import context  # the public way logs each operation to stderr, a line each

    found: dict[str, set[str]] = {}
    context.context().enable_graph_collection()  # of what is traced from here on
    context.context().enable_run_metadata()
    yield found
    metadata = context.context().export_run_metadata()
    context.context().disable_run_metadata()
    for function in metadata.function_graphs:
        nodes = [node for graph in function.partition_graphs for node in graph.node]
        if not any(node.op == "IteratorGetNext" for node in nodes):
            continue  # an operation outside of the step
        for node in nodes:
            device = tf.DeviceSpec.from_string(node.device)
            if node.op not in ("Const", "NoOp", "Identity", "_DeviceArg", "_DeviceRetval", "_Send", "_Recv"):
                found.setdefault(f"{device.device_type}:{device.device_index}", set()).add(node.op)


# The steps


def in_own_process(settings: dict[str, Any], seconds: float, *more: str) -> dict[str, Any] | None:
    """Return a row, or None where there is no time for it; what fails is in the row."""
    command = [sys.executable, __file__, "--row", json.dumps(settings), *more]
    environment = dict(os.environ)
    if more:  # it may name libraries for TensorFlow, and PyTorch brings its own
        environment.pop("LD_LIBRARY_PATH", None)
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
        return None
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip() and "port.cc" not in line]
        return {"failed": lines[-1] if lines else f"exit status {ended.returncode}"}
    return json.loads(ended.stdout.splitlines()[-1])


def row(pair: str, precision: str, xla: bool, rounds: int, smoke: bool) -> dict[str, Any]:
    """Return the milliseconds of a step of each contestant, and the memory that a live one takes."""
    keras.config.set_dtype_policy(precision)
    given = task(pairs(smoke)[pair], xla)
    made, memory, failed = {}, None, {}
    for who in CONTESTANTS:
        before = reset_memory()
        try:
            made[who.__name__] = who(given)
        except Exception as error:  # one that cannot take part
            failed[who.__name__] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
            continue
        if who is contestants.live and before is not None:
            memory = (peak_memory() - before) / 1e6
    times = in_turns(made, rounds, warm_up=2)
    return {
        "milliseconds": {name: float(np.median(values)) for name, values in times.items()},
        "quartiles": {
            name: [float(each) for each in np.percentile(values, [25, 75])] for name, values in times.items()
        },
        "megabytes": memory,
        "failed_contestants": failed,
    }


def pytorch_row(pair: str, precision: str, xla: bool, rounds: int, smoke: bool) -> dict[str, Any]:
    """Return the milliseconds of a step of a loop in PyTorch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # before TensorFlow opens its own libraries of the same names, which then leaves the GPU alone
        torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8, device=device), torch.zeros(1, 1, 3, 3, device=device))
        tf.config.set_visible_devices([], "GPU")
    import pytorch_contestant

    chosen = pairs(smoke)[pair]
    given = task(chosen, xla)
    precisions = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}
    models = chosen.pytorch() if chosen.pytorch else None
    step, _ = pytorch_contestant.trainer(given, xla, device, models, precisions.get(precision))
    times = in_turns({"pytorch": step}, rounds, warm_up=5)["pytorch"]
    return {"milliseconds": float(np.median(times)), "quartiles": [float(x) for x in np.percentile(times, [25, 75])]}


def accelerator() -> str:
    return "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"


def reset_memory() -> int | None:
    """Return the bytes in use on the accelerator, from which the next peak counts; None on a processor."""
    if accelerator() == "CPU:0":
        return None
    tf.config.experimental.reset_memory_stats("GPU:0")
    return tf.config.experimental.get_memory_info("GPU:0")["current"]


def peak_memory() -> int:
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


# What is printed


def print_machine() -> None:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError):
        print(subprocess.run(query, capture_output=True, text=True).stdout.strip())
    built = tf.sysconfig.get_build_info()
    cuda = f", CUDA {built['cuda_version']}, cuDNN {built['cudnn_version']}" if built.get("is_cuda_build") else ""
    print(f"TensorFlow {tf.__version__}{cuda}, Keras {keras.__version__}, {os.cpu_count()} processors")
    devices = [each.name.removeprefix("/device:") for each in tf.config.list_logical_devices("GPU")]
    print(f"accelerators: {', '.join(devices) or 'none: all on the processor'}")


def print_head() -> None:
    print("\nMilliseconds a step, medians in turns; s/plain: stored targets over plain fit\n")
    print(f"{'pair':<12}{'precision':<16}{'XLA':<5}", end="")
    print(
        "".join(
            f"{name:>9}" for name in ("plain", "forward", "live", "stored", "keras", "torch", "rest", "s/plain", "MB")
        )
    )


def print_row(settings: dict[str, Any], found: dict[str, Any]) -> None:
    print(f"{settings['pair']:<12}{settings['precision']:<16}{'yes' if settings['xla'] else 'no':<5}", end="")
    if "failed" in found:
        print(f"  failed: {found['failed']}", flush=True)
        return
    times = found["milliseconds"]
    names = ("plain", "forward", "live", "cached", "keras_distillation", "pytorch")
    if found.get("pytorch", {}).get("milliseconds"):
        times = {**times, "pytorch": found["pytorch"]["milliseconds"]}
    cells = [f"{times[name]:.2f}" if name in times else "" for name in names]
    parts = [times.get(name) for name in ("plain", "forward", "live", "cached")]
    plain, forward, live, cached = parts
    cells.append(f"{1 - (plain + forward) / live:.0%}" if None not in parts[:3] else "")
    cells.append(f"{cached / plain:.2f}" if cached and plain else "")
    cells.append(f"{found['megabytes']:.0f}" if found["megabytes"] is not None else "")
    print("".join(f"{cell:>9}" for cell in cells), flush=True)
    failed = dict(found["failed_contestants"])
    if found.get("pytorch", {}).get("failed"):
        failed["pytorch"] = found["pytorch"]["failed"]
    for name, reason in failed.items():
        print(f"  {name} failed: {reason}", flush=True)


def print_aims(rows: list[dict[str, Any]]) -> None:
    print()
    for row in rows:
        times = row.get("milliseconds", {})
        label = f"{row['pair']} {row['precision']}{' XLA' if row['xla'] else ''}"
        for over, under, limit in (("live", ("plain", "forward"), LIVE), ("cached", ("plain",), STORED)):
            if times.keys() >= {over, *under}:
                value = times[over] / sum(times[name] for name in under)
                what = f"{label}, {over} / {' + '.join(under)}"
                print(f"{what:<60}{value:>8.3f}  {at_most(value, limit)}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, precisions = list(pairs(smoke=True)), ["float32", "mixed_bfloat16", "mixed_float16"]
    parser.add_argument("--smoke", action="store_true", help="tiny models, three rounds, one precision")
    parser.add_argument("--minutes", type=float, default=10, help="for all of it (default: 10)")
    parser.add_argument("--rounds", type=int, default=30, help="steps of each contestant (default: 30)")
    parser.add_argument("--pairs", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--precisions", nargs="+", choices=precisions, default=precisions, help="default: all")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--pytorch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"argument --rounds: expected at least 1. Received: {options.rounds}")
    if options.smoke:
        options.rounds, options.precisions = 3, options.precisions[:1]
    return options


if __name__ == "__main__":
    main()
