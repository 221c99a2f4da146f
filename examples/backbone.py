"""A backbone that learns from images alone, and is worth more than its labels: probes, and a few labels on top.

    python examples/backbone.py                              # embedded digits
    python examples/backbone.py --dataset fashion_mnist      # TensorFlow Datasets

The teacher is that of quickstart.py, a convolutional network with labels. The student is the body of a smaller one: it
sees all images of the training split, and no label, and learns the teacher's last map and the mean of it. Then, on the
first 100 labels (of Fashion-MNIST 1,000): a linear probe and 20 nearest neighbours read its frozen features, and a
classifier is put on top of it and trained as a whole. "random" is the same student before it has seen anything.

Test accuracy in percent, seeds 0, 1 and 2; a minute and a half of processor time for digits:

    digits            linear probe    20 neighbours      fine-tuned
    random            75.18 ± 3.54    53.76 ± 6.02    83.53 ± 1.18
    distilled         90.93 ± 0.19    70.62 ± 2.61    86.20 ± 0.70
    teacher                  91.15           65.94           95.49

Images without labels are worth 16 points of a linear probe. The last column of the teacher is its own head, which has
all labels, and reads its whole last map instead of the mean.
"""

import argparse
import dataclasses
import pathlib
import statistics

import quiet

quiet.load_tensorflow()

import keras
import numpy as np
import quickstart
from report import spread

import keras_kd as kd

#: Labels for probes and fine-tuning, and passes over all images, by data set.
LABELS, EPOCHS = {"digits": 100}, {"digits": 60}


def main() -> None:
    options = read_arguments()
    recipe = quickstart.RECIPES.get(options.dataset, quickstart.Recipe())
    if options.smoke:
        recipe = dataclasses.replace(recipe, teacher_epochs=1)
    images = kd.data.load(options.dataset)
    folder = options.output / (f"{options.dataset}-smoke" if options.smoke else options.dataset)
    teacher = quickstart.get_teacher(images, recipe, folder)
    labels = LABELS.get(options.dataset, 1000)
    few = tuple(values[:labels] for values in images.train)
    print(
        f"{images.name}: {len(images.train[0]):,} images without labels for the student, {labels:,} labels on top of "
        f"it, {options.seeds} seeds; accuracy on {len(images.test[0]):,} test images, in percent\n"
    )
    epochs = 1 if options.smoke else EPOCHS.get(options.dataset, 10)
    found = [measured(seed, teacher, images, few, epochs) for seed in range(options.seeds)]
    show(found)


def measured(
    seed: int, teacher: keras.Model, images: kd.data.Images, few: tuple[np.ndarray, np.ndarray], epochs: int
) -> dict[str, list[float]]:
    """Return, for each backbone, the accuracy of both probes, and fine-tuned."""
    backbones = {"random": build(images.input_shape, seed), "distilled": build(images.input_shape, seed)}
    distil(backbones["distilled"], teacher, images.train[0], seed, epochs)
    probes = kd.probe({**backbones, "teacher": teacher}, few, images.test).quality
    found = {name: [100 * each["linear"], 100 * each["nearest"]] for name, each in probes.items()}
    for name, backbone in backbones.items():
        found[name].append(fine_tuned(backbone, images, few, epochs))
    found["teacher"].append(100 * quickstart.accuracy(teacher, images.test))
    return found


def build(input_shape: tuple[int, ...], seed: int) -> keras.Model:
    """Return the student: its last map is a quarter of the image in height and width."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
        ],
        name="backbone",
    )


def distil(student: keras.Model, teacher: keras.Model, images: np.ndarray, seed: int, epochs: int) -> None:
    """Teach a student the teacher's features: nothing but images is needed."""
    keras.utils.set_random_seed(seed)
    terms = kd.methods.backbone(student, teacher, images)
    distiller = kd.Distiller(student=student, teacher=kd.teachers.InMemory(teacher), terms=terms)
    steps = epochs * -(-len(images) // 32)
    distiller.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)), alpha=1.0)
    distiller.fit(images, batch_size=32, epochs=epochs, verbose=0)


def fine_tuned(backbone: keras.Model, images: kd.data.Images, few: tuple[np.ndarray, np.ndarray], epochs: int) -> float:
    """Return the accuracy of a classifier with this backbone, all of it trained on a few labels, in percent."""
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(images.classes)]
    classifier = keras.Sequential([keras.Input(images.input_shape), backbone, *head])
    classifier.compile(**quickstart.supervised(3e-3))
    classifier.fit(*few, batch_size=10, epochs=epochs, verbose=0)
    return 100 * quickstart.accuracy(classifier, images.test)


def show(found: list[dict[str, list[float]]]) -> None:
    """Print mean ± standard deviation over the seeds, and what the student gains over itself."""
    print(f"{'':<14}{'linear probe':>16}{'20 neighbours':>17}{'fine-tuned':>16}")
    for name in found[0]:
        columns = zip(*(each[name] for each in found), strict=True)
        print(f"{name:<14}" + "".join(f"{spread(column):>16}" for column in columns))
    gains = [each["distilled"][0] - each["random"][0] for each in found]
    print(f"\nThe linear probe gains {statistics.mean(gains):.2f} points from images without labels.")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="default: digits; or a name in TensorFlow Datasets")
    parser.add_argument("--seeds", type=quickstart.count, help="default: 3")
    parser.add_argument("--smoke", action="store_true", help="one seed, one epoch, in seconds: does it run?")
    parser.add_argument("--output", type=pathlib.Path, default="runs/quickstart", help="default: runs/quickstart")
    options = parser.parse_args()
    options.seeds = options.seeds or (1 if options.smoke else 3)
    return options


if __name__ == "__main__":
    main()
