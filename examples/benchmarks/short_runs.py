"""After how many steps is a distilled student ahead of the same student on its labels alone?

    python examples/benchmarks/short_runs.py [--dataset fashion_mnist] [--seeds 3] [--smoke]

The quickstart's models and teacher. All students of a seed start from the same weights and see the same batches; each
is tested after so many steps, in percent of the test images. At a high temperature the terms compare small differences
of nearly equal probabilities, and a student begins by learning how large its logits have to be: a short run is better
off on its labels.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
import dataclasses
import statistics

import keras
import quickstart
from models import build_student

import keras_kd as kd

#: Temperature and alpha; None for the labels alone.
SETTINGS: tuple[tuple[float, float] | None, ...] = (None, (1.0, 0.5), (2.0, 0.5), (4.0, 0.5), (4.0, 0.9), (10.0, 0.9))
STEPS = (50, 100, 200, 400, 800, 1600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="as in examples/quickstart.py (default: digits)")
    parser.add_argument("--seeds", type=quickstart.count, default=3, help="runs of each (default: 3)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam (default: 1e-3, as in Keras)")
    parser.add_argument("--smoke", action="store_true", help="one seed, few steps: does it run?")
    parser.add_argument("--output", type=pathlib.Path, default="runs/quickstart", help="default: runs/quickstart")
    options = parser.parse_args()
    recipe = quickstart.RECIPES["digits" if options.dataset == "digits" else "fashion_mnist"]
    steps, seeds, folder = STEPS, options.seeds, options.output / options.dataset
    if options.smoke:
        steps, seeds, folder = (2,), 1, options.output / f"{options.dataset}-smoke"
        recipe = dataclasses.replace(recipe, teacher_epochs=1)
    images = kd.data.load(options.dataset)
    teacher = quickstart.get_teacher(images, recipe, folder)
    print(f"{'steps':<22}" + "".join(f"{each:>8,}" for each in steps))
    for setting in SETTINGS:
        scores = [run(images, recipe, teacher, setting, options.learning_rate, seed, steps) for seed in range(seeds)]
        label = "labels alone" if setting is None else f"T={setting[0]:g}, alpha={setting[1]:g}"
        means = [statistics.mean(each) for each in zip(*scores, strict=True)]
        print(f"{label:<22}" + "".join(f"{each:>8.1f}" for each in means), flush=True)


def run(
    images: kd.data.Images,
    recipe: quickstart.Recipe,
    teacher: keras.Model,
    setting: tuple[float, float] | None,
    learning_rate: float,
    seed: int,
    steps: tuple[int, ...],
) -> list[float]:
    """Return the test accuracy after each number of steps, in percent."""
    keras.utils.set_random_seed(seed)
    student = build_student(images.input_shape, images.classes)
    compiled = {**quickstart.supervised(learning_rate), "metrics": None}
    model = student
    if setting is not None:
        model = kd.Distiller(student=student, teacher=teacher)
        compiled |= {"temperature": setting[0], "alpha": setting[1]}
    model.compile(**compiled)
    data = quickstart.batches(images.train, recipe.batch_size, seed).repeat()
    found, batches = [], iter(data)
    done = 0
    for target in steps:
        while done < target:
            model.train_on_batch(*next(batches))
            done += 1
        found.append(100 * quickstart.accuracy(student, images.test))
    return found


if __name__ == "__main__":
    main()
