"""What a step costs from a large backbone to a small one, in time and memory: against its parts, nested against flat.

    python examples/benchmarks/backbones.py                   # ten minutes of one CPU core
    python examples/benchmarks/backbones.py --only memory

The teacher is ResNet-50 and the student MobileNetV3-Small of keras.applications, of random weights, with images of 64 x
64 in memory. "features" has two terms on maps, 8 x 8 and 4 x 4, where the student's 24 and 48 channels are brought to
the teacher's 512 and 1,024 by the automatic bridges; "bridges" is these alone, on maps from memory: a pass forward
and back, and their weights' update. The floors are the same training in a `tf.function` written by hand, with the same
bridges. "flat" and "nested" are "features" with KerasHub's ResNet-50, whose layers are the classifier's own, or those
of a backbone inside of it; so are the student's. The contestants take a step each in turns, in a random order, in one
process; the figures are medians over the rounds, and the ratios are ratios of medians.

Memory is the peak of the resident memory of a process of its own, less what it takes before: the models are created,
and run three steps. It includes weights, the optimizer's, and the graphs.

One thread, on a machine with other work to do, milliseconds a step and megabytes:

               plain  forward  bridges    live  features  cached    flat  nested
    time         152      265       10     392       414     146     376     374
    memory       439      236              474       466     325     584     589

The aims: what is distilled at most 1.05 times its parts, in time and in memory; nested at most 1.05 times flat.
"""

import argparse
import dataclasses
import functools
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
from contestants import Contestant, Task
from memory import peak_of
from timing import in_turns
from training import print_ratios, print_times, spread

tf.get_logger().setLevel("ERROR")  # a new function for each contestant is intended here

CLASSES = 10
#: Of the classifiers of keras.applications.
PUBLISHED = {"classes": CLASSES, "classifier_activation": None}
#: What is divided by the sum of what, and the most that it may be: times, and memory.
TIMES = [
    (("live",), ("plain", "forward"), 1.05),
    (("features",), ("plain", "forward", "bridges"), 1.05),
    (("cached",), ("plain",), 1.05),
    (("live",), ("floor",), 1.05),
    (("features",), ("floor_features",), 1.05),
    (("cached",), ("floor_cached",), 1.05),
    (("nested",), ("flat",), 1.05),
]
MEMORY = [
    (("live",), ("plain", "forward"), 1.05),
    (("features",), ("plain", "forward"), 1.05),
    (("cached",), ("plain",), 1.05),
    (("nested",), ("flat",), 1.05),
]


@dataclasses.dataclass(frozen=True)
class Size:
    """Images of `side` x `side`, examples in a step, and whether the models are the published ones or tiny ones."""

    side: int = 64
    batch_size: int = 16
    tiny: bool = False


TINY = Size(side=16, batch_size=4, tiny=True)


def main() -> None:
    options = read_arguments()
    size = TINY if options.smoke else Size(options.side, options.batch_size)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, size)))
        return
    figures = {}
    if options.only in (None, "steps"):
        figures["milliseconds"] = steps(size, 2 if options.smoke else options.rounds)
    if options.only in (None, "memory"):
        figures["megabytes"] = memory(size)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


# What is measured


def steps(size: Size, rounds: int) -> dict[str, Any]:
    times = in_turns({name: contestant_of(name, size) for name in EVERYBODY}, rounds, max(1, rounds // 10))
    print(f"\n\nBatches of {size.batch_size} images of {size.side} x {size.side}, {rounds} rounds\n")
    print_times(times, floor="floor")
    return {"times": {name: spread(values) for name, values in times.items()}, "ratios": print_ratios(times, TIMES)}


def memory(size: Size) -> dict[str, Any]:
    names = list(dict.fromkeys(name for over, under, _ in MEMORY for name in (*over, *under)))
    found = {name: np.array([memory_of(name, size) if size.tiny else elsewhere(name, size)]) for name in names}
    print(f"\n\nPeak memory of three steps, batches of {size.batch_size}\n\n{'':<34}{'MB':>8}")
    for name, values in found.items():
        print(f"{name:<34}{values[0]:>8.0f}")
    print()
    return {"peaks": {name: float(values[0]) for name, values in found.items()}, "ratios": print_ratios(found, MEMORY)}


def elsewhere(name: str, size: Size) -> float:
    """Return the megabytes of a contestant in a process of its own."""
    numbers = ["--side", str(size.side), "--batch-size", str(size.batch_size)]
    command = [sys.executable, __file__, "--memory-of", name, *numbers]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def memory_of(name: str, size: Size) -> float:
    """Return the megabytes that a contestant takes to be made and to run three steps."""
    if not size.tiny:
        three_steps(name, TINY)  # what is loaded and allocated once
    return peak_of(lambda: three_steps(name, size))


def three_steps(name: str, size: Size) -> None:
    contestant = contestant_of(name, size)
    for _ in range(3):
        contestant()


# Who is measured


def bridges(task: Task) -> Contestant:
    """The bridges of the features alone: maps from memory, forward and back, and their update."""
    names = list(zip(*task.pairs, strict=True))
    ours, theirs = (
        [model.get_layer(name).output.shape for name in layers]
        for model, layers in zip((task.student(), task.teacher()), names, strict=True)
    )
    maps, targets = ([random_maps(task, shape) for shape in shapes] for shapes in (ours, theirs))
    layers = [contestants.bridge(*both) for both in zip(maps, theirs, strict=True)]
    variables = [variable for layer in layers for variable in layer.trainable_variables]
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(variables)

    @tf.function(jit_compile=contestants.uses_xla(task))
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(maps)
            made = [layer(each) for layer, each in zip(layers, maps, strict=True)]
            loss = sum(tf.reduce_mean(tf.math.squared_difference(*both)) for both in zip(made, targets, strict=True))
        gradients, of_maps = tape.gradient(loss, (variables, maps))
        optimizer.apply(gradients, variables)
        return loss + sum(tf.reshape(each, [-1])[0] for each in of_maps)  # so that no compiler can leave them out

    return lambda: float(step())


def random_maps(task: Task, shape: Any) -> tf.Tensor:
    return tf.random.normal((task.batch_size, *shape[1:]), seed=0)


#: How each contestant trains, and which models.
EVERYBODY = {
    "plain": (contestants.plain, "published"),
    "forward": (contestants.forward, "published"),
    "bridges": (bridges, "published"),
    "live": (contestants.live, "published"),
    "features": (contestants.features, "published"),
    "cached": (contestants.cached, "published"),
    "floor": (contestants.floor, "published"),
    "floor_features": (contestants.floor_features, "published"),
    "floor_cached": (contestants.floor_cached, "published"),
    "flat": (contestants.features, "flat"),
    "nested": (contestants.features, "nested"),
}


def contestant_of(name: str, size: Size) -> Contestant:
    make, kind = EVERYBODY[name]
    return make(task(size, kind))


def task(size: Size, kind: str) -> Task:
    """Return what is trained; no model is made here, whose memory would be measured."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 255, (4 * size.batch_size, size.side, size.side, 3)).astype("float32")
    y = random.integers(0, CLASSES, len(x), dtype=np.int32)
    student, teacher = (functools.partial(make, size) for make in (mobilenet, resnet_50))
    if kind != "published":
        wrap = {"flat": flat, "nested": nested}[kind]
        student, teacher = (lambda make=make: wrap(make(size)) for make in (small_backbone, large_backbone))
    return Task(student, teacher, (x, y), size.batch_size, pairs=pairs(size, kind))


def pairs(size: Size, kind: str) -> tuple[tuple[str, str], ...]:
    """Return the ends of two stages, which `methods.suggest_pairs` finds among others."""
    ours, theirs = ("expanded_conv_2_add", "expanded_conv_7_add"), ("stack1_block3_out", "stack2_block5_out")
    if size.tiny:
        ours = theirs = ("stage_1", "stage_2")
    elif kind == "published":
        theirs = ("conv3_block4_out", "conv4_block6_out")
    inside = ("small/", "large/") if kind == "nested" else ("", "")
    return tuple((inside[0] + mine, inside[1] + other) for mine, other in zip(ours, theirs, strict=True))


# The models


def mobilenet(size: Size) -> keras.Model:
    return flat(small_backbone(size)) if size.tiny else small_backbone(size, include_top=True, **PUBLISHED)


def resnet_50(size: Size) -> keras.Model:
    if size.tiny:
        return flat(large_backbone(size))
    return keras.applications.ResNet50(input_shape=(size.side, size.side, 3), weights=None, **PUBLISHED)


def small_backbone(size: Size, include_top: bool = False, **arguments: Any) -> keras.Model:
    shape = (size.side, size.side, 3)
    if size.tiny:
        return convolutions(shape, 4, "small")
    arguments |= {"weights": None, "include_top": include_top, "name": "small"}
    return keras.applications.MobileNetV3Small(shape, **arguments)


def large_backbone(size: Size) -> keras.Model:
    shape = (size.side, size.side, 3)
    if size.tiny:
        return convolutions(shape, 8, "large")
    import keras_hub  # here, as it takes long

    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        image_shape=shape,
        name="large",
    )


def convolutions(shape: tuple[int, ...], filters: int, name: str) -> keras.Model:
    inputs = maps = keras.Input(shape)
    for number in (1, 2):
        maps = keras.layers.Conv2D(number * filters, 3, 2, "same", activation="relu", name=f"stage_{number}")(maps)
    return keras.Model(inputs, maps, name=name)


def flat(backbone: keras.Model) -> keras.Model:
    """Return a classifier whose layers are the backbone's and its own."""
    return keras.Model(backbone.input, head(backbone.output))


def nested(backbone: keras.Model) -> keras.Model:
    """Return a classifier that has the backbone as a layer."""
    inputs = keras.Input(backbone.input.shape[1:])
    return keras.Model(inputs, head(backbone(inputs)))


def head(maps: Any) -> Any:
    return keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(maps))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("steps", "memory"), help="one part of it")
    parser.add_argument("--smoke", action="store_true", help="tiny models, two rounds: does it run?")
    parser.add_argument("--side", type=int, default=64, help="height and width of the images (default: 64)")
    parser.add_argument("--batch-size", type=int, default=16, help="examples in a step (default: 16)")
    parser.add_argument("--rounds", type=int, default=40, help="steps of each contestant (default: 40)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    for name, least in (("side", 32), ("batch_size", 1), ("rounds", 2)):
        received = getattr(options, name)
        if received < least:
            parser.error(f"argument --{name.replace('_', '-')}: expected at least {least}. Received: {received}")
    return options


if __name__ == "__main__":
    main()
