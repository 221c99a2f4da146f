"""Teacher, student and student in 8 bits, as a phone would run them: size, accuracy and time for one image.

    python examples/benchmarks/deployment.py            # Fashion-MNIST: five minutes on two CPU cores
    python examples/benchmarks/deployment.py --smoke    # embedded digits: does it run?

The quickstart's student is distilled on all 60,000 training images, with the quickstart's temperature and alpha, for 30
epochs; the teacher predicts once. Then it is trained for three more epochs at a tenth of the learning rate in two ways:
as it is, and as `kd.quantization_aware` of it. `kd.export` writes the first as float32 and, with 300 images for ranges,
as 8-bit LiteRT (post-training quantisation), and the second as 8-bit LiteRT. Accuracy is that of LiteRT's interpreter
on the test split; the time is the median for one image on one thread, the files in turns. The teacher is wider than the
quickstart's, and learns by its recipe; it is taken from --output or trained there, which takes ten minutes more, once.

On two CPU cores, seed 0:

                                      bytes   smaller   accuracy   below       ms   faster
    teacher, float32                968,324      1.0x      92.36    0.00   0.1260     1.0x
    student, float32                 85,008     11.4x      90.65    1.71   0.0190     6.6x
    student, int8 after training     25,416     38.1x      90.55    1.81   0.0253     5.0x
    student, int8 in training        25,400     38.1x      90.62    1.74   0.0253     5.0x

As a file the 8-bit student is 38 times smaller than its teacher and 0.299 of its float32 self, at 1.7 points less
accuracy, and five times faster. It is not faster than in float32 here: of 19 microseconds a good part is the call
itself, and this processor has no instructions for products of 8-bit integers.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for the quickstart

import keras
import numpy as np
import quickstart
from models import build_large_teacher, build_student
from quantization import accuracy

import keras_kd as kd
from keras_kd.evaluation import model_runners
from keras_kd.runtimes import timing

TEACHER, FLOAT = "teacher, float32", "student, float32"
AFTER, AWARE = "student, int8 after training", "student, int8 in training"
BATCH = 128


def distil(model: keras.Model, teacher: kd.teachers.Teacher, train: tuple, rate: float, epochs: int) -> None:
    distiller = kd.Distiller(student=model, teacher=teacher)
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(train[0]) // BATCH))
    distiller.compile(**quickstart.supervised(schedule), temperature=6.0, alpha=0.9)
    distiller.fit(*train, batch_size=BATCH, epochs=epochs, verbose=2)


def train(teacher: keras.Model, images: kd.data.Images, options: argparse.Namespace) -> list[keras.Model]:
    """Return the student and the one that learned to round."""
    keras.utils.set_random_seed(0)
    every = tuple(
        np.concatenate(both)[: options.examples] for both in zip(images.train, images.validation, strict=True)
    )
    in_memory = kd.teachers.InMemory(teacher)
    student = build_student(images.input_shape, images.classes)
    distil(student, in_memory, every, 3e-3, options.epochs)
    aware = kd.quantization_aware(student, every[0][:500])
    for model in (student, aware):
        distil(model, in_memory, every, 3e-4, options.more_epochs)
    return [student, aware]


def write(models: list[keras.Model], images: kd.data.Images, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Write teacher, student and the one that learned to round; return the files that are compared."""
    arguments = {"formats": ("litert",), "representative": images.train, "fresh": False}
    quantize: tuple = (None, (None, "int8"), "int8")
    teacher, student, aware = (
        kd.export(model, folder / str(i), quantize=quantize[i], **arguments) for i, model in enumerate(models)
    )
    return {
        TEACHER: teacher["litert float32"].path,
        FLOAT: student["litert float32"].path,
        AFTER: student["litert int8"].path,
        AWARE: aware["litert int8"].path,
    }


def milliseconds(files: dict[str, pathlib.Path], image: np.ndarray, rounds: int) -> dict[str, float]:
    """Return the median time of each file for one image, on one thread."""
    calls = {name: model_runners.of_export(path)(image[np.newaxis]) for name, path in files.items()}
    return {name: 1e3 * float(np.median(times)) for name, times in timing.in_turns(calls, rounds).items()}


def main() -> None:
    started = time.perf_counter()
    options, images = read_arguments()
    folder = options.output / (f"{images.name}-large" + "-smoke" * options.smoke)
    teacher = quickstart.get_teacher(images, options.recipe, folder, build_large_teacher)
    models = [teacher, *train(teacher, images, options)]
    with tempfile.TemporaryDirectory() as scratch:
        files = write(models, images, pathlib.Path(scratch))
        times = milliseconds(files, images.test[0][0], options.rounds)
        right = {name: accuracy(path.read_bytes(), images.test) for name, path in files.items()}
        sizes = {name: path.stat().st_size for name, path in files.items()}
    print(f"\n{'':<30}{'bytes':>9}{'smaller':>10}{'accuracy':>11}{'below':>8}{'ms':>9}{'faster':>9}")
    for name, size in sizes.items():
        print(
            f"{name:<30}{size:>9,}{sizes[TEACHER] / size:>9.1f}x{100 * right[name]:>11.2f}"
            f"{100 * (right[TEACHER] - right[name]):>8.2f}{times[name]:>9.4f}{times[TEACHER] / times[name]:>8.1f}x"
        )
    print(f"\nint8 / float32 of the student: {sizes[AWARE] / sizes[FLOAT]:.3f}")
    print(f"{time.perf_counter() - started:.0f} seconds")


def read_arguments() -> tuple[argparse.Namespace, kd.data.Images]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="embedded digits, one epoch")
    parser.add_argument("--epochs", type=int, default=30, help="default: 30")
    parser.add_argument("--more-epochs", type=int, default=3, help="at a tenth of the learning rate (default: 3)")
    parser.add_argument("--examples", type=int, default=60_000, help="for the student (default: 60000, all)")
    parser.add_argument("--rounds", type=int, default=1000, help="timed calls of each file (default: 1000)")
    parser.add_argument("--output", type=pathlib.Path, default="runs/quickstart", help="where teacher and files go")
    options = parser.parse_args()
    options.recipe = quickstart.Recipe()
    if options.smoke:
        options.recipe = dataclasses.replace(options.recipe, teacher_epochs=1)
        options.epochs = options.more_epochs = 1
        options.rounds = 100
    return options, kd.data.load("digits" if options.smoke else "fashion_mnist")


if __name__ == "__main__":
    main()
