"""When does distillation pay? The same recipe for a short and for a long training, alone against distilled.

    python examples/benchmarks/lengths.py [--only digits] [--seeds 3] [--smoke]

Each training has a whole cosine schedule of its own, from the same first weights: 100, 300, 1,000 or 3,000 steps of 64
rows. "digits" are scikit-learn's as a table, of which 150 have labels, and all others are rows without; "fashion" are
20,000 images of Fashion-MNIST, of which 1,000 have labels; "labelled" are the same images, all with labels. The
learning rate of each side and length is the better of 1e-2 and 3e-3 for that side. Printed are the mean accuracy on the
test set and its standard error over the seeds, and the gain with the standard error of the paired difference. The
picture goes to --output.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
import dataclasses
import time

import keras
import numpy as np
import one_budget
import tensorflow as tf
from matplotlib.figure import Figure
from report import COLORS

import keras_kd as kd

STEPS = (100, 300, 1000, 3000)
RATES = (1e-2, 3e-3)
BATCH = 64
TEMPERATURE, ALPHA = 2.0, 0.9


def labelled(smoke: bool, random: np.random.Generator) -> one_budget.Problem:
    """Return Fashion-MNIST where no label is missing."""
    problem = one_budget.fashion(smoke, random)
    return dataclasses.replace(problem, labels=len(problem.train[0]))


PROBLEMS = {"digits": one_budget.digits, "fashion": one_budget.fashion, "labelled": labelled}
TITLES = {
    "digits": "digits, 150 of 1,078 labels",
    "fashion": "Fashion-MNIST, 1,000 of 20,000 labels",
    "labelled": "Fashion-MNIST, 20,000 labels",
}


def batches(problem: one_budget.Problem, memory: kd.teachers.InMemory | None, seed: int) -> tf.data.Dataset:
    """Return batches without an end: rows with labels, and under a teacher those without beside them."""
    (x, y), few = problem.train, problem.labels
    x = x if memory is None else memory.before_fit(x, verbose=0)
    labelled, others = (keras.tree.map_structure(lambda leaf, part=part: leaf[part], x) for part in parts(few))
    if memory is not None and few < len(y):
        return kd.augment.with_unlabelled((labelled, y[:few]), others, 2 * BATCH, share=0.5, seed=seed).repeat()
    rows = tf.data.Dataset.from_tensor_slices((labelled, y[:few]))
    return rows.shuffle(few, seed=seed).repeat().batch(BATCH, drop_remainder=True)


def parts(few: int) -> tuple[slice, slice]:
    return slice(few), slice(few, None)


def accuracy(
    problem: one_budget.Problem, memory: kd.teachers.InMemory | None, rate: float, steps: int, seed: int
) -> float:
    """Train a student, alone or under a teacher, and return its test accuracy in percent."""
    keras.utils.set_random_seed(seed)
    student = trained = problem.build()
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    compiled = {"optimizer": optimizer, "loss": one_budget.SPARSE, "steps_per_execution": 10 if steps >= 10 else 1}
    if memory is not None:
        terms = kd.augment.on_all_rows(kd.methods.kd(temperature=TEMPERATURE))
        trained = kd.Distiller(student=student, teacher=memory, terms=terms)
        compiled["alpha"] = ALPHA
    trained.compile(**compiled)
    trained.fit(batches(problem, memory, seed), steps_per_epoch=steps, verbose=0, shuffle=False)
    predicted = student.predict(problem.test[0], batch_size=1000, verbose=0).argmax(-1)
    return 100 * float(np.mean(predicted == problem.test[1]))


def of_lengths(name: str, steps: tuple[int, ...], seeds: int, smoke: bool) -> dict[bool, np.ndarray]:
    """Return accuracies, (lengths, seeds), alone and distilled, and print them."""
    keras.utils.set_random_seed(0)
    problem = PROBLEMS[name](smoke, np.random.default_rng(0))
    logits = problem.teacher.predict(problem.test[0], batch_size=1000, verbose=0)
    teacher = 100 * np.mean(logits.argmax(-1) == problem.test[1])
    print(f"\n{name}, {problem.labels:,} of {len(problem.train[0]):,} rows with labels, teacher {teacher:.2f}")
    print(f"{'steps':>7}{'alone':>16}{'distilled':>16}{'gain':>16}")
    memory = kd.teachers.InMemory(problem.teacher)
    found: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for length in steps:
        for distilled, values in found.items():
            asked = memory if distilled else None
            runs = [[accuracy(problem, asked, rate, length, s) for s in range(seeds)] for rate in RATES]
            values.append(np.array(max(runs, key=np.mean)))
        alone, distilled_ = found[False][-1], found[True][-1]
        print(f"{length:>7,}{shown(alone):>16}{shown(distilled_):>16}{shown(distilled_ - alone):>16}", flush=True)
    return {distilled: np.array(values) for distilled, values in found.items()}


def shown(values: np.ndarray) -> str:
    return f"{values.mean():.2f}" + (f" ± {error(values):.2f}" if len(values) > 1 else "")


def error(values: np.ndarray) -> np.ndarray:
    return values.std(axis=-1, ddof=1) / values.shape[-1] ** 0.5


def plot(found: dict[str, dict[bool, np.ndarray]], steps: tuple[int, ...], path: pathlib.Path) -> None:
    """Draw a panel for each task."""
    figure = Figure(figsize=(4.2 * len(found), 3.2), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)
    for axis, (name, sides) in zip(axes[0], found.items(), strict=True):
        for distilled, values in sides.items():
            spread = error(values) if values.shape[-1] > 1 else None
            label, color, line = ("distilled", COLORS[0], "-o") if distilled else ("alone", COLORS[1], "--o")
            axis.errorbar(steps, values.mean(-1), spread, fmt=line, color=color, label=label, capsize=2, markersize=4)
        axis.set(title=TITLES[name], xlabel="steps of the training", xscale="log")
        axis.set_xticks(steps, [f"{each:,}" for each in steps])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy (%)")
    axes[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, metavar="NAME", help="one of the tasks")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/lengths.png"), help="the picture")
    parser.add_argument("--smoke", action="store_true", help="one seed, few rows and steps: does it run?")
    options = parser.parse_args()
    steps, seeds = ((2, 4), 1) if options.smoke else (STEPS, options.seeds)
    started = time.perf_counter()
    names = options.only or (["digits"] if options.smoke else list(PROBLEMS))
    plot({name: of_lengths(name, steps, seeds, options.smoke) for name in names}, steps, options.output)
    print(f"\n{options.output}\n{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
