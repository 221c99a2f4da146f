"""An epoch of distillation beside others, a loop in PyTorch among them: seconds, and the student's accuracy after it.

    python examples/benchmarks/epochs.py                            # five minutes on two CPU cores
    pip install 'keras_kd[pytorch]'                                 # two contestants more

Fashion-MNIST, 20,000 images in batches of 128, the quickstart's models. The teacher is trained once, for three epochs.
All contestants start from the same student, take the same batches in the same order, and optimize the same objective
with Adam: those in PyTorch have the weights of the Keras models. "by hand" is the least that the objective costs in
TensorFlow: a step without metrics, weights, masks and checks. They take an epoch each in turns, in a random order, in
one process; the seconds are medians over the rounds, the accuracy is that of the test images after the first epoch.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for models.py

import contestants
import keras
import numpy as np
import tensorflow as tf
from aims import at_most
from contestants import Task
from models import build_student, build_teacher
from timing import in_turns

import keras_kd as kd

tf.get_logger().setLevel("ERROR")  # a new function for each contestant is intended here

IMAGES, BATCH_SIZE = 20_000, 128

#: What is divided by the sum of what, and the most that it may be.
RATIOS = [
    ("live", ("pytorch, compiled",), 1.0),
    ("live", ("pytorch",), 0.7),
    ("live", ("plain", "teacher"), 1.0),
    ("live", ("keras.distillation",), 1.0),
    ("live", ("by hand",), 1.1),
    ("in memory", ("plain",), 1.0),
]


#: Takes an epoch; and returns the accuracy on the test images.
Contestant = tuple[Callable[[], object], Callable[[], float] | None]


def main() -> None:
    options = read_arguments()
    keras.utils.set_random_seed(0)
    images = kd.data.load(options.dataset)
    x, y = images.train[0][: options.images], images.train[1][: options.images].astype("int32")
    test = images.test[0], images.test[1]
    models = [build(x.shape[1:], len(images.class_names)) for build in (build_student, build_teacher)]
    models[1].compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    models[1].fit(x, y, batch_size=BATCH_SIZE, epochs=options.teacher_epochs, verbose=0)
    student, teacher = ((lambda model=model: same(model)) for model in models)
    task = Task(student, teacher, (x, y), BATCH_SIZE, steps=options.steps, jit_compile=options.xla)
    made = everybody(task, test)
    print(
        f"{images.name}: {len(x):,} images an epoch in batches of {BATCH_SIZE}, {options.steps} steps an execution, "
        f"{'with' if options.xla else 'without'} XLA; teacher {accuracy(models[1], test):.1%}\n"
    )
    for epoch, _ in made.values():
        epoch()
    after_one = {name: measure() for name, (_, measure) in made.items() if measure}
    times = in_turns({name: epoch for name, (epoch, _) in made.items()}, options.rounds, warm_up=0)
    seconds = {name: values / 1e3 for name, values in times.items()}
    print_figures(seconds, after_one, options.rounds)
    if options.json:
        figures = {name: {"seconds": list(values), "accuracy": after_one.get(name)} for name, values in seconds.items()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def everybody(task: Task, test: tuple[np.ndarray, np.ndarray]) -> dict[str, Contestant]:
    """Return who takes part, by name."""
    student, teacher = task.student(), task.teacher()
    student.compile(**contestants.supervised(task))
    in_memory = kd.Distiller(student=task.student(), teacher=kd.teachers.InMemory(task.teacher()))
    live = kd.Distiller(student=task.student(), teacher=task.teacher())
    for distiller in (live, in_memory):
        settings = {"temperature": contestants.TEMPERATURE, "alpha": contestants.ALPHA}
        distiller.compile(**contestants.supervised(task), **settings)
    others = contestants.keras_distiller(task, [])
    made = {
        "plain": (fitted(student, task), lambda: accuracy(student, test)),
        "teacher": (lambda: teacher.predict(task.data[0], BATCH_SIZE, verbose=0), None),
        "live": (fitted(live, task), lambda: accuracy(live.student, test)),
        "in memory": (fitted(in_memory, task), lambda: accuracy(in_memory.student, test)),
        "keras.distillation": (fitted(others, task), lambda: accuracy(others.student, test)),
        "by hand": (epoch_of(contestants.floor(task), task), None),
    }
    try:
        import pytorch_contestant
    except ImportError:
        print("PyTorch is not installed: left out (pip install 'keras_kd[pytorch]')")
        return made
    for compiled in (False, True):
        steps, trained = pytorch_contestant.trainer(task, compiled)
        made["pytorch, compiled" if compiled else "pytorch"] = (
            epoch_of(steps, task),
            lambda trained=trained: pytorch_contestant.accuracy(trained, *test),
        )
    return made


def epoch_of(steps: Callable[[], object], task: Task) -> Callable[[], object]:
    """Return a function that takes an epoch, of one that takes `task.steps` steps."""
    count = len(task.data[0]) // BATCH_SIZE // task.steps
    return lambda: [steps() for _ in range(count)]


def same(model: keras.Model) -> keras.Model:
    """Return another model with the same weights."""
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def fitted(model: keras.Model, task: Task) -> Callable[[], object]:
    """Return a function that takes an epoch; a batch that is not full is left out, as for the others."""
    whole = len(task.data[0]) // BATCH_SIZE * BATCH_SIZE
    x, y = (part[:whole] for part in task.data)
    return lambda: model.fit(x, y, batch_size=BATCH_SIZE, shuffle=False, verbose=0)


def accuracy(model: keras.Model, test: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.mean(model.predict(test[0], verbose=0).argmax(-1) == test[1]))


def print_figures(seconds: dict[str, np.ndarray], after_one: dict[str, float], rounds: int) -> None:
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    head = ("median", "quartiles", "over plain", "after one")
    print("\n\n{:<24}{:>8}{:>16}{:>12}{:>11}".format(f"seconds an epoch of {rounds}", *head))
    for name, values in seconds.items():
        low, high = np.percentile(values, [25, 75])
        share = f"{after_one[name]:.1%}" if name in after_one else ""
        quartiles = f"{low:.2f} to {high:.2f}"
        print(f"{name:<24}{medians[name]:>8.2f}{quartiles:>16}{medians[name] / medians['plain']:>12.2f}{share:>11}")
    print()
    for over, under, limit in RATIOS:
        if medians.keys() >= {over, *under}:
            value = medians[over] / sum(medians[name] for name in under)
            label = f"{over} / {' + '.join(under)}"
            print(f"{label:<36}{value:>8.2f}  {at_most(value, limit, '.1f')}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion_mnist", help='as for the quickstart; "digits" needs no network')
    parser.add_argument("--images", type=int, default=20_000, help="training images in an epoch (default: 20000)")
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each contestant (default: 9)")
    parser.add_argument("--steps", type=int, default=1, help="steps per execution (default: 1)")
    parser.add_argument("--xla", action="store_true", help="compile the Keras contestants with XLA")
    parser.add_argument("--teacher-epochs", type=int, default=3, help="default: 3")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file as well")
    options = parser.parse_args()
    for name, least in (("images", BATCH_SIZE), ("rounds", 1), ("steps", 1), ("teacher_epochs", 1)):
        received = getattr(options, name)
        if received < least:
            parser.error(f"argument --{name.replace('_', '-')}: expected at least {least}. Received: {received}")
    return options


if __name__ == "__main__":
    main()
