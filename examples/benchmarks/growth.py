"""How time and memory of a distillation step grow, one thing at a time, beside what the parts of the step cost alone.

    python examples/benchmarks/growth.py                # about twenty minutes on two CPU cores
    python examples/benchmarks/growth.py --only terms   # one thing
    python examples/benchmarks/growth.py --smoke        # tiny models: does it run? half a minute

Dense students of images of 28 x 28 under live teachers of twice their width, with `kl_divergence` and the labels. What
grows: the examples of a batch; the classes; the width of the student; the terms, the first on the logits, the others
`squared_error` on pairs of layers; the layers that one more term reads, a unit of each; the replicas, logical devices
of one processor; the views of a cache. Terms and layers are those of models with 16 hidden layers, of one width.

The parts of a step are "plain", a step of the student's own fit; "forward", the teacher's forward pass, with the layers
that are read among its outputs; "losses", value and gradient of all losses on the teacher's side, in one graph, on
tensors that are there. With a cache there is no forward pass, and a step is an epoch's share: of 32 batches of joined
examples, and for "plain" of the same augmented examples from a pipeline without targets.

Times are medians of calls in turns in a random order, in a process of their own for each point. Memory is the highest
resident memory from the making of the models to the end of the third call, beyond what was there after the same with
tiny models, in a process of its own for each part. A step is compared with the sum of its parts' memory and not with
the largest: the weights of both models are there throughout, and nothing orders their forward passes.

The aim: at most 1.10 times the parts, in time and in memory, at each point.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported

import contestants
import keras
import numpy as np
import tensorflow as tf
from aims import at_most
from cache import untuned
from contestants import TEMPERATURE, Contestant, Task
from keras import layers
from memory import peak_of
from timing import in_turns

import keras_kd as kd

tf.get_logger().setLevel("ERROR")  # a new function for each contestant is intended here

INPUT_SHAPE = (28, 28, 1)
LIMIT = 1.10

#: Batches of the data, and those of an epoch over a cache.
BATCHES, EPOCH = 4, 32


@dataclasses.dataclass(frozen=True)
class Point:
    """What is trained.

    Attributes:
        batch: examples in a step.
        classes: of student and teacher.
        width: units of the student's hidden layers; the teacher has twice as many, or as many where layers are read.
        depth: hidden layers of both.
        terms: how many, the first on the logits.
        layers: how many one more term reads.
        replicas: logical devices.
        views: of a cache; 0 for a live teacher.
    """

    batch: int = 64
    classes: int = 10
    width: int = 64
    depth: int = 2
    terms: int = 1
    layers: int = 0
    replicas: int = 1
    views: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what a step consists of."""
        return ("plain", "losses") if self.views else ("plain", "forward", "losses")


USUAL, DEEP = Point(), Point(batch=512, width=256, depth=16)
GROWTH = {
    "batch": (USUAL, (32, 128, 512, 4096)),
    "classes": (USUAL, (10, 1000, 10_000, 50_257, 151_936)),
    "width": (USUAL, (12, 112, 900, 2900)),
    "terms": (DEEP, (1, 2, 4, 8)),
    "layers": (DEEP, (1, 4, 16)),
    "replicas": (dataclasses.replace(USUAL, batch=512), (1, 2)),
    "views": (dataclasses.replace(USUAL, batch=512), (1, 4, 16)),
}
TINY = Point(batch=8, width=8, depth=3)
IN_SMOKE = {"terms": (dataclasses.replace(TINY, layers=3), (2,)), "views": (TINY, (2,))}


def main() -> None:
    options = read_arguments()
    if options.measure:  # in the process that is measured
        print(json.dumps(measured(**json.loads(options.measure))))
        return
    growth = IN_SMOKE if options.smoke else GROWTH
    print(f"Medians of {options.rounds} rounds, peaks of memory\n")
    print("{:<24}{:>10}{:>10}{:>10}{:>10}{:>12}".format("", "plain", "forward", "losses", "step", "over parts"))
    rows = []
    for name, (usual, values) in growth.items():
        for value in values if options.only in (None, name) else ():
            point = dataclasses.replace(usual, **{name: value})
            found = in_processes(point, options)
            rows.append({**dataclasses.asdict(point), "grows": name, **found})
            for unit, figures in found.items():
                print_row(f"{name} {value:,}, {unit}", figures, point.parts)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def in_processes(point: Point, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return milliseconds and megabytes of a step and its parts."""
    names = (*point.parts, "step")
    with tempfile.TemporaryDirectory() as folder:

        def run(of: list[str]) -> dict[str, float]:
            settings = {"settings": dataclasses.asdict(point), "of": of, "rounds": options.rounds, "folder": folder}
            command = [sys.executable, __file__, "--measure", json.dumps(settings)]
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                sys.exit(f"{point} failed:\n{ended.stderr}")
            return json.loads(ended.stdout.splitlines()[-1])

        if options.smoke:
            found = run(["time", *names])
        else:
            found = run(["time"])
            with concurrent.futures.ThreadPoolExecutor(2) as pool:  # other processes change no memory of this one
                for one in pool.map(run, [[name] for name in names]):
                    found |= one
    return {"ms": found.pop("time"), "MB": found}


def measured(settings: dict[str, int], of: list[str], rounds: int, folder: str) -> dict[str, Any]:
    """Return the milliseconds of all contestants, where `of` names "time", and the megabytes of those that it names."""
    point = Point(**settings)
    strategy = strategy_of(point.replicas)
    with strategy.scope():
        scene = Scene(point, f"{folder}/cache")
        tiny = Scene(dataclasses.replace(point, batch=8, width=8, classes=10), f"{folder}/tiny-{of[-1]}")
        found: dict[str, Any] = {}
        for each in of:
            if each == "time":
                found[each] = times(scene, rounds)
            else:
                three_calls(CONTESTANTS[each](tiny))  # what is loaded and allocated once
                found[each] = peak_of(lambda make=CONTESTANTS[each]: three_calls(make(scene)))
    return found


def strategy_of(replicas: int) -> tf.distribute.Strategy:
    if replicas == 1:
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)])


def times(scene: "Scene", rounds: int) -> dict[str, float]:
    """Return the milliseconds of a step of each contestant."""
    made = {name: CONTESTANTS[name](scene) for name in (*scene.point.parts, "step")}
    in_a_call = {name: EPOCH if scene.point.views and name != "losses" else 1 for name in made}
    if scene.point.views:
        rounds = max(2, rounds // 4)  # of epochs
    # Each view's files are compared with their checksums when it comes for the first time.
    found = in_turns(made, rounds, warm_up=max(5, scene.point.views))
    return {name: float(np.median(values)) / in_a_call[name] for name, values in found.items()}


def three_calls(contestant: Contestant) -> None:
    for _ in range(3):
        contestant()


# What is trained


class Scene:
    """Models, data and what the losses compare, at one point; the data are there before anything is measured."""

    def __init__(self, point: Point, folder: str) -> None:
        random = np.random.default_rng(0)
        x = random.random((point.batch * (EPOCH if point.views else BATCHES), *INPUT_SHAPE), dtype=np.float32)
        y = random.integers(0, point.classes, len(x), dtype=np.int32)
        units = point.width if point.terms > 1 or point.layers else 2 * point.width
        self.point = point
        self.read = tuple(f"hidden_{number}" for number in range(max(point.terms - 1, point.layers)))
        self.task = Task(
            lambda: dense(point, point.width),
            lambda: dense(point, units),
            (x, y),
            point.batch,
            pairs=tuple((name, name) for name in self.read[: point.terms - 1]),
        )
        rows = [(point.batch, point.classes), *[(point.batch, point.width)] * len(self.read)]
        self.sides = [[tf.constant(random.random(shape, np.float32)) for shape in rows] for _ in range(2)]
        if point.views:
            self.examples = tf.data.Dataset.from_tensor_slices((x, y)).with_options(untuned())
            self.cache = cached(self.task.teacher(), self.examples, point.views, folder)

    def terms(self) -> list[kd.Term]:
        more = [kd.Term(glance, at=(self.read, self.read))] if self.point.layers else []
        return [kd.Term(kd.losses.kl_divergence), *contestants.hints(self.task), *more]


def dense(point: Point, units: int) -> keras.Model:
    hidden = [layers.Dense(units, activation="relu", name=f"hidden_{number}") for number in range(point.depth)]
    return keras.Sequential([layers.Input(INPUT_SHAPE), layers.Flatten(), *hidden, layers.Dense(point.classes)])


def glance(student: list[tf.Tensor], teacher: list[tf.Tensor]) -> tf.Tensor:
    """Return the squared difference of one unit of each layer: a loss that costs next to nothing."""
    return sum(keras.ops.square(mine[:, 0] - other[:, 0]) for mine, other in zip(student, teacher, strict=True))


def cached(teacher: keras.Model, examples: tf.data.Dataset, views: int, folder: str) -> kd.TeacherCache:
    """Return the cache in a folder, which the first process builds."""
    if not os.path.exists(folder):
        kd.TeacherCache(folder, teacher, views=views, augment=augment).build(examples, verbose=0)
    return kd.TeacherCache(folder, augment=augment)


def augment(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return x + tf.random.stateless_normal((), seed, stddev=0.1)


# The contestants


def plain(scene: Scene) -> Contestant:
    if not scene.point.views:
        return contestants.plain(scene.task)
    student = scene.task.student()
    student.compile(**contestants.supervised(scene.task))
    seen = scene.examples.enumerate().map(lambda place, example: (augment(example[0], [place, 0]), example[1]))
    return epochs(student, seen, scene.point.batch)


def step(scene: Scene) -> Contestant:
    if not scene.point.views:
        return contestants.distilled(scene.task, scene.task.teacher(), scene.terms(), scene.task.batches())
    distiller = kd.Distiller(student=scene.task.student(), teacher=kd.teachers.Cached(scene.cache), terms=scene.terms())
    distiller.compile(**contestants.supervised(scene.task), temperature=TEMPERATURE, alpha=contestants.ALPHA)
    return epochs(distiller, scene.cache.join(scene.examples), scene.point.batch)


def epochs(model: keras.Model, examples: tf.data.Dataset, batch: int) -> Contestant:
    """Return a function that takes the next epoch."""
    batches, numbers = examples.batch(batch).prefetch(2), itertools.count()

    def epoch() -> None:
        number = next(numbers)
        model.fit(batches, initial_epoch=number, epochs=number + 1, verbose=0, shuffle=False)

    return epoch


def forward(scene: Scene) -> Contestant:
    teacher = scene.task.teacher()
    outputs = [teacher.outputs[0], *(teacher.get_layer(name).output for name in scene.read)]
    reader = keras.Model(teacher.inputs, outputs)
    predict = tf.function(lambda x: reader(x, training=False), jit_compile=contestants.uses_xla(scene.task))
    return on_replicas(predict, [tf.constant(scene.task.data[0][: scene.point.batch])])


def losses(scene: Scene) -> Contestant:
    hints = scene.point.terms - 1

    @tf.function(autograph=False, jit_compile=contestants.uses_xla(scene.task))
    def values_and_gradients(student: list[tf.Tensor], teacher: list[tf.Tensor]) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(student)
            soft = kd.losses.kl_divergence(student[0] / TEMPERATURE, teacher[0] / TEMPERATURE)
            values = [TEMPERATURE**2 * soft]
            values += [kd.losses.squared_error(*pair) for pair in zip(student[1:], teacher[1:], strict=True)][:hints]
            if scene.point.layers:
                values.append(glance(student[1:], teacher[1:]))
            value = sum(tf.reduce_mean(each) for each in values)
        return value, tape.gradient(value, student)

    return on_replicas(values_and_gradients, scene.sides)


def on_replicas(function: Callable[..., Any], arguments: list[Any]) -> Contestant:
    """Return a function that calls another, on several replicas with a share of the examples on each, and waits."""
    strategy = tf.distribute.get_strategy()
    count = strategy.num_replicas_in_sync
    if count == 1:
        return lambda: [each.numpy() for each in keras.tree.flatten(function(*arguments))]

    def share(context: Any) -> Any:
        return tf.nest.map_structure(lambda x: tf.split(x, count)[context.replica_id_in_sync_group], arguments)

    shares = strategy.experimental_distribute_values_from_function(share)
    call = tf.function(lambda shares: strategy.run(function, shares))
    return lambda: [each.numpy() for each in tf.nest.flatten(strategy.experimental_local_results(call(shares)))]


CONTESTANTS: dict[str, Callable[[Scene], Contestant]] = {
    "plain": plain,
    "forward": forward,
    "losses": losses,
    "step": step,
}


# What is printed


def print_row(label: str, figures: dict[str, float], parts: tuple[str, ...]) -> None:
    over = figures["step"] / sum(figures[name] for name in parts)
    cells = [f"{figures[name]:.2f}" if name in figures else "" for name in CONTESTANTS]
    print(
        f"{label:<24}" + "".join(f"{cell:>10}" for cell in cells) + f"{over:>12.3f}  {at_most(over, LIMIT)}", flush=True
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(GROWTH), help="what grows (default: each, one after the other)")
    parser.add_argument("--rounds", type=int, default=40, help="calls of each contestant (default: 40)")
    parser.add_argument("--smoke", action="store_true", help="tiny models, two rounds")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"argument --rounds: expected at least 1. Received: {options.rounds}")
    if options.smoke:
        options.rounds = 2
    return options


if __name__ == "__main__":
    main()
