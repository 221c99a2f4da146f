"""The quickstart's task on the embedded digits, for examples that compare ways to teach one student.

The teacher has learned from 1,078 images, the student sees the first 100 of them. For each seed, all ways start from
the same initial weights and see the same batches in the same order, for the same number of steps.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import quickstart
import tensorflow as tf
from models import build_student

import keras_kd as kd


@dataclasses.dataclass
class Task:
    """Data, teacher, and how students are trained and tested."""

    images: kd.data.Images
    recipe: quickstart.Recipe
    teacher: Any  # what a Distiller takes
    few: tuple[np.ndarray, np.ndarray]  # what the students see
    folder: pathlib.Path  # where the teacher is kept
    smoke: bool

    def student(self, seed: int, build: Callable = build_student) -> keras.Model:
        """Return a student whose initial weights follow from the seed, as all that is random after this."""
        keras.utils.set_random_seed(seed)
        return build(self.images.input_shape, self.images.classes)

    def compiled(self, **numbers: Any) -> dict:
        """Return what every model here is compiled with, alone or distilled."""
        # A try is quicker without a graph; a training of models this small without a return to Python after each step.
        way = {"run_eagerly": True} if self.smoke else {"steps_per_execution": 10}
        return {**quickstart.supervised(self.recipe.learning_rate), **way, **numbers}

    def fit(self, model: keras.Model, seed: int, **numbers: float) -> None:
        """Compile a student, or a Distiller with its temperature and alpha, and train it."""
        model.compile(**self.compiled(**numbers))
        model.fit(self.batches(seed), epochs=self.recipe.epochs, verbose=0, shuffle=False)

    def arguments(self, seed: int, **numbers: float) -> dict:
        """Return what the functions of `kd.stages` take: the same training, for each of their stages."""
        return {
            "compile_arguments": self.compiled(**numbers),
            "fit_arguments": {
                "x": self.batches(seed),
                "epochs": self.recipe.epochs,
                "verbose": 0,
            },
            "seed": seed,
        }

    def batches(self, seed: int) -> tf.data.Dataset:
        """Return the student's batches: their order follows from the seed, whatever was random before."""
        keras.utils.set_random_seed(seed)
        return quickstart.batches(self.few, self.recipe.batch_size, seed)

    def test(self, model: keras.Model) -> float:
        """Return the accuracy on the test split, in percent."""
        return 100 * quickstart.accuracy(model, self.images.test)

    def alone(self, seed: int) -> dict[str, float]:
        """Train the student on its labels."""
        student = self.student(seed)
        self.fit(student, seed)
        return {"alone": self.test(student)}

    def distilled(
        self, seed: int, name: str = "kd", terms: Sequence[kd.Term] | None = None, alpha: float = 0.9
    ) -> dict[str, float]:
        """Train the student under the teacher."""
        student = self.student(seed)
        distiller = kd.Distiller(student=student, teacher=self.teacher, terms=terms)
        self.fit(distiller, seed, temperature=4.0, alpha=alpha)
        return {name: self.test(student)}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all these examples take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=quickstart.count, help="default: 3")
    made.add_argument("--smoke", action="store_true", help="one seed, one epoch, in seconds: does it run?")
    made.add_argument("--output", type=pathlib.Path, default="runs/quickstart", help="default: runs/quickstart")
    return made


def make(options: argparse.Namespace) -> Task:
    """Load the digits, and take the quickstart's teacher or train it, once."""
    options.seeds = options.seeds or (1 if options.smoke else 3)
    recipe = quickstart.RECIPES["digits"]
    if options.smoke:
        recipe = dataclasses.replace(recipe, epochs=1, teacher_epochs=1)
    images = kd.data.load("digits")
    folder = options.output / ("digits-smoke" if options.smoke else "digits")
    teacher = quickstart.get_teacher(images, recipe, folder)
    few = tuple(values[: recipe.train_examples] for values in images.train)
    print(
        f"digits: the first {len(few[0])} of {len(images.train[0]):,} training images for the students, "
        f"{recipe.epochs} epochs, {options.seeds} seeds; accuracy on {len(images.test[0])} test images, in percent"
    )
    return Task(images, recipe, teacher, few, folder, options.smoke)
