"""Distil a teacher into a small student, and see whether it was worth it.

    python examples/quickstart.py                                                             # embedded digits
    python examples/quickstart.py --dataset fashion_mnist --train-examples 5000 --epochs 20   # TensorFlow Datasets

The teacher learns from the whole training split, the student from the first `--train-examples` of it: labels are
scarce, and a teacher is at hand that has seen more. For each seed the student is trained twice, alone and distilled,
with the same initial weights and the same batches in the same order: the teacher is the only difference. Settings
were chosen on the validation split; the test split is read once, for the table.

On two CPU cores, seeds 0, 1 and 2, test accuracy as mean and standard deviation:

                              teacher    student alone    student distilled    gain    minutes    memory
    digits                     95.5 %     85.9 % ± 0.5         91.9 % ± 0.7     6.0          1    0.9 GB
    fashion_mnist, as above    91.7 %     84.1 % ± 0.7         87.7 % ± 0.2     3.6         10    1.5 GB

The teacher of Fashion-MNIST takes half of the ten minutes, once: later runs take it from `--output`.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import inspect
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable

import quiet

quiet.load_tensorflow()

import keras
import numpy as np
import tensorflow as tf
from models import build_student, build_teacher
from report import draw_curves, peak_memory, print_table, verdict

import keras_kd as kd

tf.get_logger().setLevel("ERROR")  # evaluating many models is a correct use of tf.function


@dataclasses.dataclass
class Recipe:
    """What suits one data set: --train-examples and --epochs where they are not given, and how both models learn."""

    train_examples: int = 5000
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 3e-3
    teacher_epochs: int = 12


RECIPES = {
    "digits": Recipe(train_examples=100, epochs=120, batch_size=10, learning_rate=1e-2, teacher_epochs=30),
}


@dataclasses.dataclass
class Run:
    """One trained student."""

    seed: int
    student: keras.Model
    curve: list[float]  # validation accuracy after each epoch
    test: float  # test accuracy


def main() -> None:
    started = time.perf_counter()
    options, images = read_arguments()
    folder = options.output / (f"{options.dataset}-smoke" if options.smoke else options.dataset)
    print(
        f"{images.name}: {len(images.train[0]):,} training images for the teacher, the first "
        f"{options.train_examples:,} of them for the students; "
        f"temperature {options.temperature:g}, alpha {options.alpha:g}"
    )
    teacher = get_teacher(images, options.recipe, folder)
    alone, distilled = zip(*(train_pair(seed, teacher, images, options) for seed in range(options.seeds)), strict=True)
    report(teacher, alone, distilled, images, folder)
    best = max(distilled, key=lambda run: run.curve[-1])
    path = save(best, images, options.output / "student")
    check_in_fresh_process(path, best.student, images.test[0])
    print(f"{time.perf_counter() - started:.0f} seconds, {peak_memory()}")


def report(
    teacher: keras.Model,
    alone: tuple[Run, ...],
    distilled: tuple[Run, ...],
    images: kd.data.Images,
    folder: pathlib.Path,
) -> None:
    student, x = alone[0].student, images.test[0][:256]  # all students are of one size and speed
    alone_tests, distilled_tests = [run.test for run in alone], [run.test for run in distilled]
    rows = [
        ("teacher", teacher, [accuracy(teacher, images.test)]),
        ("student alone", student, alone_tests),
        ("student distilled", student, distilled_tests),
    ]
    print_table(rows, x)
    print(
        f"Accuracy on {len(images.test[0]):,} images, mean ± standard deviation over the seeds. "
        f"Size: the .keras file. Time: in batches of {len(x)}, median.\n"
    )
    print(verdict(alone_tests, distilled_tests))
    draw_curves(
        folder / "curves.png",
        f"{images.name}: one student, alone and distilled (mean and range over {len(alone)} seeds)",
        accuracy(teacher, images.validation),
        {"student, distilled": [run.curve for run in distilled], "student, alone": [run.curve for run in alone]},
    )
    print(f"Learning curves: {folder / 'curves.png'}")


def train_teacher(images: kd.data.Images, recipe: Recipe, build: Callable[..., keras.Model]) -> keras.Model:
    keras.utils.set_random_seed(0)
    teacher = build(images.input_shape, images.classes)
    steps = recipe.teacher_epochs * -(-len(images.train[0]) // 64)
    teacher.compile(**supervised(keras.optimizers.schedules.CosineDecay(2e-3, steps)))
    fit("teacher", teacher, batches(images.train, 64, seed=0), images, recipe.teacher_epochs)
    return teacher


def train_pair(seed: int, teacher: keras.Model, images: kd.data.Images, options: argparse.Namespace) -> tuple[Run, Run]:
    """Train one student alone and its twin under the teacher."""
    recipe: Recipe = options.recipe
    few = tuple(values[: options.train_examples] for values in images.train)
    keras.utils.set_random_seed(seed)
    alone = build_student(images.input_shape, images.classes)
    twin = keras.models.clone_model(alone)
    twin.set_weights(alone.get_weights())
    distiller = kd.Distiller(student=twin, teacher=teacher)

    alone.compile(**supervised(recipe.learning_rate))
    distiller.compile(**supervised(recipe.learning_rate), temperature=options.temperature, alpha=options.alpha)
    runs = []
    for label, trained, student in (("student alone", alone, alone), ("distilled", distiller, distiller.student)):
        train = batches(few, recipe.batch_size, seed)
        curve = fit(f"{label}, seed {seed}", trained, train, images, options.epochs)
        runs.append(Run(seed, student, curve, accuracy(student, images.test)))
    return runs[0], runs[1]


def supervised(learning_rate: float | keras.optimizers.schedules.LearningRateSchedule) -> dict:
    """Return what every model here is compiled with, alone or distilled."""
    return {
        "optimizer": keras.optimizers.Adam(learning_rate),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def batches(part: tuple[np.ndarray, np.ndarray], batch_size: int, seed: int) -> tf.data.Dataset:
    """Return shuffled batches: the same ones in the same order each time this is called with the same seed."""
    return tf.data.Dataset.from_tensor_slices(part).shuffle(len(part[0]), seed=seed).batch(batch_size).prefetch(1)


def fit(label: str, model: keras.Model, train: tf.data.Dataset, images: kd.data.Images, epochs: int) -> list[float]:
    """Fit a model with a dot for every twentieth of the way; return its validation accuracy after each epoch."""
    started = time.perf_counter()
    print(f"  {label:<24}", end="", flush=True)
    due = set(np.linspace(0, epochs, 21, dtype=int)[1:] - 1)
    dots = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: print("." if epoch in due else "", end="", flush=True)
    )
    validation = tf.data.Dataset.from_tensor_slices(images.validation).batch(500)
    history = model.fit(
        train, validation_data=validation, epochs=epochs, callbacks=[dots], verbose=0, shuffle=False
    ).history
    seconds = time.perf_counter() - started
    print(f" validation accuracy {history['val_accuracy'][-1]:.1%} after {seconds:.0f} s", flush=True)
    return history["val_accuracy"]


def accuracy(model: keras.Model, part: tuple[np.ndarray, np.ndarray]) -> float:
    x, y = part
    return float(np.mean(np.argmax(model.predict(x, batch_size=500, verbose=0), axis=-1) == y))


def get_teacher(
    images: kd.data.Images, recipe: Recipe, folder: pathlib.Path, build: Callable[..., keras.Model] = build_teacher
) -> keras.Model:
    """Load the teacher of an earlier run if this run would train the same one; otherwise train it."""
    path, settings_path = folder / "teacher.keras", folder / "teacher.json"
    settings = json.dumps(teacher_settings(images, recipe, build), indent=2)
    if path.exists() and settings_path.exists() and settings_path.read_text() == settings:
        print(f"Teacher of an earlier run: {path}")
        return keras.models.load_model(path)
    if path.exists():
        print(f"{path} was not written by these settings and this code. It is kept as {rename(path)}.")
    teacher = train_teacher(images, recipe, build)
    folder.mkdir(parents=True, exist_ok=True)
    settings_path.unlink(missing_ok=True)  # removed first and written last: an interrupted run leaves no valid pair
    teacher.save(path)
    settings_path.write_text(settings)
    return teacher


def teacher_settings(images: kd.data.Images, recipe: Recipe, build: Callable[..., keras.Model]) -> dict[str, str | int]:
    """Return all that determines which teacher is trained."""
    code = "".join(inspect.getsource(part) for part in (build, train_teacher, supervised, batches))
    return {
        "dataset": images.name,
        "images": zlib.crc32(images.train[0].tobytes()),
        "labels": zlib.crc32(images.train[1].tobytes()),
        "epochs": recipe.teacher_epochs,
        "code": hashlib.sha256(code.encode()).hexdigest(),
        "keras": keras.__version__,
    }


def rename(path: pathlib.Path) -> pathlib.Path:
    """Rename a file to the next free teacher-1.keras, teacher-2.keras..."""
    number = 1
    while (free := path.with_stem(f"{path.stem}-{number}")).exists():
        number += 1
    return path.rename(free)


def save(best: Run, images: kd.data.Images, folder: pathlib.Path) -> pathlib.Path:
    """Export the best distilled student under the next version number: earlier versions stay as they are."""
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    path = folder / str(max(versions, default=0) + 1)
    kd.export(best.student, path, representative=images.test[0][:16])
    print(f"Best distilled student by validation accuracy, seed {best.seed}: {path}")
    return path


RELOAD = """
import sys
import numpy as np
import tensorflow as tf

path, inputs, outputs = sys.argv[1:]
student = tf.saved_model.load(path)
np.save(outputs, student.serve(np.load(inputs)))
assert "keras_kd" not in sys.modules
"""


def check_in_fresh_process(path: pathlib.Path, student: keras.Model, x: np.ndarray) -> None:
    """Run the SavedModel where neither keras_kd nor the teacher is, and compare it with the student in memory."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = f"{folder}/inputs.npy", f"{folder}/outputs.npy"
        np.save(inputs, x)
        ended = subprocess.run([sys.executable, "-c", RELOAD, path, inputs, outputs], stderr=subprocess.PIPE, text=True)
        if ended.returncode:
            raise SystemExit(f"The exported student could not be run in a fresh process:\n{ended.stderr}")
        expected, received = student.predict(x, batch_size=500, verbose=0), np.load(outputs)
    difference = np.max(np.abs(expected - received))
    if not difference <= 1e-4 * max(1.0, np.max(np.abs(expected))):
        raise SystemExit(f"The reloaded student differs from the one in memory: largest difference {difference:.1e}.")
    print(
        "Reloaded in a fresh process with only tensorflow and numpy: the outputs agree "
        f"on {len(x):,} test images (largest difference {difference:.1e})."
    )


def read_arguments() -> tuple[argparse.Namespace, kd.data.Images]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="default: digits; or a name in TensorFlow Datasets")
    parser.add_argument(
        "--train-examples", type=count, help="labelled images for the student (default: 100 of digits, or 5000)"
    )
    parser.add_argument("--epochs", type=count, help="epochs of each student (default: 120 on digits, or 20)")
    parser.add_argument("--seeds", type=count, help="pairs of students, alone and distilled (default: 3)")
    parser.add_argument("--temperature", type=positive, default=6.0, help="softens both outputs (default: 6)")
    parser.add_argument("--alpha", type=fraction, default=0.9, help="weight of the teacher, 0 to 1 (default: 0.9)")
    parser.add_argument("--smoke", action="store_true", help="a few epochs, in seconds: does it run?")
    parser.add_argument("--output", type=pathlib.Path, default="runs/quickstart", help="default: runs/quickstart")
    options = parser.parse_args()
    options.recipe = RECIPES.get(options.dataset, Recipe())
    if options.smoke:
        options.recipe = dataclasses.replace(options.recipe, train_examples=100, epochs=2, teacher_epochs=1)
    options.seeds = options.seeds or (2 if options.smoke else 3)
    options.train_examples = options.train_examples or options.recipe.train_examples
    options.epochs = options.epochs or options.recipe.epochs
    try:
        images = kd.data.load(options.dataset)
    except (ValueError, ImportError, ConnectionError) as error:
        parser.error(str(error))
    if options.train_examples > len(images.train[0]):
        parser.error(
            f"argument --train-examples: expected at most {len(images.train[0])}, the training images of "
            f"{options.dataset}. Received: {options.train_examples}"
        )
    return options, images


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1. Received: {text!r}")
    return int(text)


def positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number above 0. Received: {text!r}")


def fraction(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 1. Received: {text!r}")


if __name__ == "__main__":
    main()
