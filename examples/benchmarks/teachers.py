"""Every kind of teacher and pipeline on one task: what helps this student, and what does not?

    python examples/benchmarks/teachers.py                        # Fashion-MNIST: about an hour and a half
    python examples/benchmarks/teachers.py --runs "one teacher"   # some of them
    python examples/benchmarks/teachers.py --smoke                # embedded digits: does it run?

The quickstart's data and models: the student sees the first 5,000 labelled images, a teacher has seen all. Each row is
trained for --epochs and compared with the same student trained alone for the same steps; a pipeline gives that many to
each of its stages. The small student has fewer than 2,000 parameters: next to it the teacher is large, and plain
distillation at T = 4 can hurt. The rows on 500 labels use the other training images without theirs; both students there
shift their images at random, which the moving average of the student does not. Nothing is tuned on the test split.

Stages and results are saved in --output, so that an interrupted benchmark can be continued.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for the quickstart

import keras
import numpy as np
import quickstart
import tensorflow as tf
from keras import layers
from models import build_small, build_student, build_teacher

import keras_kd as kd
from keras_kd import methods, stages

FEW = 500
IN_SMOKE = ("one teacher", "small, chain of 1 assistant", "500 labels, EMA on the rest")


def build_shifting(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """The quickstart's student, which shifts its images at random while it is trained."""
    shift = layers.RandomTranslation(0.1, 0.1, fill_mode="constant")
    student = build_student(input_shape, classes)
    return keras.Sequential([layers.Input(input_shape), shift, *student.layers], name="shifting")


@dataclasses.dataclass
class Task:
    """Data, teachers, and how a stage is trained."""

    images: kd.data.Images
    options: argparse.Namespace

    def teacher(self, number: int) -> keras.Model:
        """Return the quickstart's teacher, or another one that differs by its seed."""
        if number == 0:
            return quickstart.get_teacher(self.images, self.options.recipe, self.folder)
        path = self.folder / f"teacher-of-seed-{number}.keras"
        if not path.exists():
            keras.utils.set_random_seed(100 + number)
            model = build_teacher(self.images.input_shape, self.images.classes)
            model.compile(**quickstart.supervised(1e-3))
            model.fit(quickstart.batches(self.images.train, 64, number), epochs=self.options.teacher_epochs, verbose=0)
            model.save(path)
        return keras.models.load_model(path)

    @property
    def folder(self) -> pathlib.Path:
        return self.options.output / self.images.name

    def arguments(self, name: str, seed: int, temperature: float = 4.0, alpha: float = 0.9) -> dict:
        """Return what all functions of `stages` take."""
        few = tuple(values[: self.options.recipe.train_examples] for values in self.images.train)
        return {
            "compile_arguments": {**quickstart.supervised(3e-3), "temperature": temperature, "alpha": alpha},
            "fit_arguments": {
                "x": quickstart.batches(few, self.options.recipe.batch_size, seed),
                "epochs": self.options.epochs,
                "verbose": 0,
            },
            "folder": self.folder / f"{name}-{self.options.epochs}-{seed}",
            "seed": seed,
        }

    def fresh(self, build: Callable, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return build(self.images.input_shape, self.images.classes)

    def test(self, model: keras.Model) -> float:
        return quickstart.accuracy(model, self.images.test)


def alone(build: Callable) -> Callable[[Task, int], dict]:
    def run(task: Task, seed: int) -> dict:
        arguments = task.arguments(f"alone-{build.__name__}", seed)
        model = task.fresh(build, seed)
        stages.born_again(lambda: model, 1, **arguments)
        return {"": task.test(model)}

    return run


def distilled(
    build: Callable, name: str, teachers: int = 1, terms: Callable | None = None, **numbers: float
) -> Callable:
    def run(task: Task, seed: int) -> dict:
        arguments = task.arguments(name, seed, **numbers)
        teacher = [task.teacher(number) for number in range(teachers)]
        student = task.fresh(build, seed)
        stages.teacher_assistants(teacher, [], student, terms=terms, **arguments)
        return {"": task.test(student)}

    return run


def chain(count: int, **numbers: float) -> Callable[[Task, int], dict]:
    def run(task: Task, seed: int) -> dict:
        arguments = task.arguments(f"chain-of-{count}", seed, **numbers)
        student, record = stages.teacher_assistants(task.teacher(0), count, task.fresh(build_small, seed), **arguments)
        return {"": task.test(student), **{f"its {stage.model.name}": task.test(stage.model) for stage in record[:-1]}}

    return run


def generations(task: Task, seed: int) -> dict:
    def build() -> keras.Model:
        return build_student(task.images.input_shape, task.images.classes)

    student, record = stages.born_again(build, 3, **task.arguments("born-again", seed, temperature=2.0, alpha=0.5))
    models = [stage.model for stage in record]
    each = {f"generation {number}": task.test(model) for number, model in enumerate(models[:-1], start=1)}
    return {"": task.test(student), **each, "all three averaged": task.test(stages.averaged(models))}


def peers(task: Task, seed: int) -> dict:
    students = [task.fresh(build_student, seed), task.fresh(build_student, seed + 1000)]
    (first, second), _ = stages.mutual(students, **task.arguments("mutual", seed, temperature=1.0, alpha=0.5))
    return {"": task.test(first), "the other peer": task.test(second)}


def exits(task: Task, seed: int) -> dict:
    student = task.fresh(build_student, seed)
    first = student.layers[0].name
    arguments = task.arguments("exits", seed, temperature=3.0, alpha=0.3)
    student, record = stages.self_distillation(student, [first], **arguments)
    exit_1 = keras.Model(record[0].model.inputs, record[0].model.output["exit_1"])
    return {"": task.test(student), "its exit": task.test(exit_1)}


def few_labels(task: Task, seed: int) -> dict:
    student = task.fresh(build_shifting, seed)
    fit_on_few(task, student, student, seed)
    return {"": task.test(student)}


def moving_average(task: Task, seed: int) -> dict:
    student = task.fresh(build_shifting, seed)
    ramp = kd.schedules.Ramp(0.0, 0.5, steps=task.options.epochs * steps_per_epoch(task) // 4)
    terms = [kd.Term(kd.losses.kl_divergence, sample_weight=None)]  # images without labels count
    distiller = kd.Distiller(student=student, teacher=kd.teachers.EMA(decay=0.99), terms=terms)
    fit_on_few(task, distiller, student, seed, temperature=1.0, alpha=ramp)
    return {"": task.test(student), "its average": task.test(distiller.teacher.model)}


def steps_per_epoch(task: Task) -> int:
    return -(-task.options.recipe.train_examples // task.options.recipe.batch_size)


def fit_on_few(task: Task, model: keras.Model, student: keras.Model, seed: int, **numbers: object) -> None:
    """Train on batches of 32 labelled images and, under a teacher, 96 others whose label is -1: ignored by the loss."""
    x, y = task.images.train
    few = min(FEW, len(x) // 2)
    data = quickstart.batches((x[:few], y[:few]), 32, seed).repeat()
    if model is not student:
        rest = tf.data.Dataset.from_tensor_slices(x[few:]).shuffle(10_000, seed=seed).repeat().batch(96)
        data = tf.data.Dataset.zip(data, rest).map(
            lambda labeled, others: (
                tf.concat([labeled[0], others], 0),
                tf.concat([labeled[1], -tf.ones(tf.shape(others)[0], labeled[1].dtype)], 0),
            )
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss=loss, **numbers)
    model.fit(data, epochs=task.options.epochs, steps_per_epoch=steps_per_epoch(task), verbose=0, shuffle=False)


#: Row -> (what it is compared with, what to run).
RUNS: dict[str, tuple[str, Callable[[Task, int], dict]]] = {
    "alone": ("alone", alone(build_student)),
    "one teacher": ("alone", distilled(build_student, "one")),
    "ensemble of three": ("alone", distilled(build_student, "three", teachers=3)),
    "born-again, 3 generations": ("alone", generations),
    "mutual learning of two": ("alone", peers),
    "self-distillation, one exit": ("alone", exits),
    "small, alone": ("small, alone", alone(build_small)),
    "small, T=4 alpha=0.9": ("small, alone", distilled(build_small, "small-hard")),
    "small, T=1 alpha=0.5": ("small, alone", distilled(build_small, "small-soft", temperature=1.0, alpha=0.5)),
    "small, standardized logits": (
        "small, alone",
        distilled(build_small, "small-std", terms=lambda s, t: methods.standardized(weight=1.0), alpha=0.5),
    ),
    "small, chain of 1 assistant": ("small, alone", chain(1)),
    "small, chain of 2 assistants": ("small, alone", chain(2)),
    "500 labels": ("500 labels", few_labels),
    "500 labels, EMA on the rest": ("500 labels", moving_average),
}


def main() -> None:
    options, images = read_arguments()
    task = Task(images, options)
    task.folder.mkdir(parents=True, exist_ok=True)
    results = {name: [run(task, name, seed) for seed in range(options.seeds)] for name in options.runs}
    bases = {RUNS[name][0] for name in options.runs} - set(results)
    results |= {name: [run(task, name, seed) for seed in range(options.seeds)] for name in bases}
    print_table(images, results, options)


def run(task: Task, name: str, seed: int) -> dict:
    path = task.folder / f"{name.replace(' ', '_')}-{task.options.epochs}-{seed}.json"
    if not path.exists():
        started = time.perf_counter()
        result = RUNS[name][1](task, seed)
        path.write_text(json.dumps(result))
        print(f"  {name}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    return json.loads(path.read_text())


def print_table(images: kd.data.Images, results: dict[str, list[dict]], options: argparse.Namespace) -> None:
    print(f"\n{images.name}: {options.epochs} epochs a stage, {options.seeds} seeds, test accuracy\n")
    print(f"{'':<30}{'mean':>8}{'spread':>8}{'gain':>8}  {'each seed':<20}")
    for name in [name for name in RUNS if name in results]:
        base = [result[""] for result in results[RUNS[name][0]]]
        for part in results[name][0]:
            values = [result[part] for result in results[name]]
            gains = [100 * (value - before) for value, before in zip(values, base, strict=True)]
            spread = 100 * statistics.stdev(values) if len(values) > 1 else float("nan")
            label = f"    {part}" if part else name
            each = " ".join(f"{gain:+.2f}" for gain in gains)
            print(f"{label:<30}{100 * np.mean(values):>8.2f}{spread:>8.2f}{np.mean(gains):>+8.2f}  {each}")


def read_arguments() -> tuple[argparse.Namespace, kd.data.Images]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), metavar="NAME", help="some (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--epochs", type=int, default=10, help="of each stage (default: 10)")
    parser.add_argument("--smoke", action="store_true", help="embedded digits, one seed, one epoch")
    parser.add_argument("--output", type=pathlib.Path, default="runs/teachers", help="default: runs/teachers")
    options = parser.parse_args()
    options.runs = options.runs or list(IN_SMOKE if options.smoke else RUNS)
    options.recipe, options.teacher_epochs = quickstart.Recipe(), 6
    if options.smoke:
        options.recipe = dataclasses.replace(options.recipe, train_examples=100, epochs=1, teacher_epochs=1)
        options.seeds, options.epochs, options.teacher_epochs = 1, 1, 1
    return options, kd.data.load("digits" if options.smoke else "fashion_mnist")


if __name__ == "__main__":
    main()
