"""A patient and consistent teacher: does it help if the teacher sees the same view as the student?

    python examples/consistent_teacher.py                            # embedded digits: about four minutes
    python examples/consistent_teacher.py --dataset fashion_mnist    # 5,000 images, in TensorFlow Datasets: an hour

alpha=1: no labels, the student only matches a function. Its images are shifted at random and mixed in pairs by Keras's
own layers, in the dataset, so a live teacher sees them as they are ("one view"). For comparison the teacher sees the
image before these changes ("its own view"), or nothing is augmented. Each for --epochs and for four times as long.

Reference: Beyer et al., Knowledge distillation: A good teacher is patient and consistent, 2021, arXiv 2106.05237.
"""

import argparse
import pathlib

import quiet

quiet.load_tensorflow()

import keras
import numpy as np
import quickstart
import tensorflow as tf
from keras import layers
from models import build_student
from report import spread

import keras_kd as kd

VIEWS = ("no augmentation", "its own view", "one view")


def main() -> None:
    options = read_arguments()
    images = kd.data.load(options.dataset)
    recipe = quickstart.RECIPES.get(options.dataset, quickstart.Recipe())
    epochs, examples = options.epochs or recipe.epochs // 2, recipe.train_examples
    if options.smoke:
        epochs, options.seeds, recipe.teacher_epochs = 1, 1, 1
    teacher = quickstart.get_teacher(images, recipe, options.output / (images.name + "-smoke" * options.smoke))
    x = images.train[0][:examples]
    print(f"{images.name}, {len(x):,} images without labels, {options.seeds} seeds, test accuracy\n")
    print(f"{'the teacher sees':<18}{f'{epochs} epochs':>16}{f'{4 * epochs} epochs':>16}")
    for view in VIEWS:
        found = [train(seed, view, teacher, x, images, epochs, recipe) for seed in range(options.seeds)]
        print(
            f"{view:<18}"
            + "".join(f"{spread([100 * value for value in each]):>16}" for each in zip(*found, strict=True)),
            flush=True,
        )
    print(f"{'(the teacher)':<18}{100 * quickstart.accuracy(teacher, images.test):>16.2f}")


def train(
    seed: int,
    view: str,
    teacher: keras.Model,
    x: np.ndarray,
    images: kd.data.Images,
    epochs: int,
    recipe: quickstart.Recipe,
) -> list[float]:
    """Return the student's test accuracy after a short and after a long training, each of its own."""
    accuracies = []
    for length in (epochs, 4 * epochs):
        keras.utils.set_random_seed(seed)
        student = build_student(images.input_shape, images.classes)
        inputs = keras.Input(images.input_shape, name="view")
        reader = keras.Model(inputs, student(inputs))  # its input is named after the key that it reads
        own = kd.teachers.Frozen(teacher, preprocess=lambda batch: batch["original" if view == VIEWS[1] else "view"])
        distiller = kd.Distiller(student=reader, teacher=own)
        steps = length * -(-len(x) // recipe.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
        distiller.compile(keras.optimizers.Adam(schedule), temperature=2.0, alpha=1.0)
        distiller.fit(views(x, view, recipe.batch_size, seed), epochs=length, verbose=0, shuffle=False)
        accuracies.append(quickstart.accuracy(student, images.test))
    return accuracies


def views(x: np.ndarray, view: str, batch_size: int, seed: int) -> tf.data.Dataset:
    """Return batches of both what the student sees and the images as they were."""
    data = tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=seed).batch(batch_size)
    if view == VIEWS[0]:
        return data.map(lambda batch: {"view": batch, "original": batch}).prefetch(1)
    shift = layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=seed)
    mix = layers.MixUp(alpha=0.4, seed=seed)
    augment = lambda batch: {"view": mix(shift(batch, training=True), training=True), "original": batch}  # noqa: E731
    return data.map(augment).prefetch(1)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="default: digits; or a name in TensorFlow Datasets")
    parser.add_argument("--epochs", type=quickstart.count, help="of the short training (default: 60 on digits, or 10)")
    parser.add_argument("--seeds", type=quickstart.count, default=3, help="default: 3")
    parser.add_argument("--smoke", action="store_true", help="one seed, one and four epochs: does it run?")
    parser.add_argument("--output", type=pathlib.Path, default="runs/quickstart", help="default: runs/quickstart")
    return parser.parse_args()


if __name__ == "__main__":
    main()
