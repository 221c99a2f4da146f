"""Does a short training rank recipes as a long one does, and what tells them apart where labels are few?

    python examples/benchmarks/horizons.py [--only digits cuts] [--candidates 12] [--smoke]

Recipes drawn at random (temperature, alpha, mixtures, rows without labels, learning rate) are trained for 500, 1,500
and 4,500 steps, each with a whole cosine schedule, from the same first weights, as `kd.distill` does. A fifth of the
rows with labels is held out. For each length, Spearman's correlation with the test scores after the longest training:
of the test score itself, the score on the held-out rows, the loss on these, and how closely the student follows its
teacher on 2,000 training rows, as agreement and as cross-entropy. Behind each stands how many points of test accuracy
are lost if the recipe that is best by this is trained to the end, instead of the best of all.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
import time
from typing import Any

import keras
import numpy as np
import one_budget
import tensorflow as tf
from scipy import stats

import keras_kd as kd

STEPS = (500, 1500, 4500)
BATCH = 64
TASKS = ("digits", "texts", "cuts")
LEVERS = {
    "temperature": (1.0, 2.0, 4.0),
    "alpha": (0.5, 0.9, 1.0),
    "mixtures": (False, True),
    "share": (0.5, 0.75),
    "rate": (1e-2, 3e-3, 1e-3),
}
CRITERIA = ("test score", "held-out score", "held-out loss", "agreement", "cross-entropy")


class Task:
    """A problem, a fifth of whose labels is held out, and what its teacher predicts for some rows."""

    def __init__(self, problem: one_budget.Problem) -> None:
        self.problem = problem
        (x, y), few = problem.train, problem.labels
        part = few * 4 // 5
        self.labelled, self.held_out = (x[:part], y[:part]), (x[part:few], y[part:few])
        self.more = x[few:] if few < len(x) else None
        self.rows = x[-2000:]
        if isinstance(problem.teacher, keras.Model):
            self.targets = tf.nn.softmax(problem.teacher.predict(self.rows, verbose=0)).numpy()
        else:
            self.targets = problem.teacher.predict_proba(self.rows)

    def batches(self, recipe: dict[str, Any]) -> tf.data.Dataset:
        if self.more is not None:
            size = round(BATCH / (1 - recipe["share"]))
            data = kd.augment.with_unlabelled(self.labelled, self.more, size, recipe["share"], seed=0).repeat()
        else:
            rows = tf.data.Dataset.from_tensor_slices(self.labelled)
            data = rows.shuffle(len(self.labelled[1]), seed=0).repeat().batch(min(BATCH, len(self.labelled[1])))
        if recipe["mixtures"] and self.rows.dtype.kind == "f":
            data = kd.augment.apply(data, kd.augment.Beside(kd.augment.MixUp()), seed=0)
        return data

    def criteria(self, recipe: dict[str, Any], steps: int) -> list[float]:
        """Train a student by a recipe, and return the criteria, more is better."""
        keras.utils.set_random_seed(0)
        student = self.problem.build()
        terms = kd.augment.on_all_rows(kd.methods.kd(None))
        distiller = kd.Distiller(student=student, teacher=self.problem.teacher, terms=terms)
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe["rate"], steps))
        how = {"temperature": recipe["temperature"], "alpha": recipe["alpha"]}
        distiller.compile(optimizer, one_budget.SPARSE, steps_per_execution=10 if steps >= 10 else 1, **how)
        distiller.fit(self.batches(recipe), steps_per_epoch=steps, verbose=0, shuffle=False)
        tested, held_out, rows = (
            tf.nn.log_softmax(student.predict(x, batch_size=1000, verbose=0)).numpy()
            for x in (self.problem.test[0], self.held_out[0], self.rows)
        )
        y = self.held_out[1]
        return [
            100 * float(np.mean(tested.argmax(-1) == self.problem.test[1])),
            100 * float(np.mean(held_out.argmax(-1) == y)),
            float(held_out[np.arange(len(y)), y].mean()),
            100 * float(np.mean(rows.argmax(-1) == self.targets.argmax(-1))),
            float((self.targets * rows).sum(-1).mean()),
        ]


def report(name: str, steps: tuple[int, ...], candidates: int, smoke: bool) -> None:
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    task = Task(one_budget.PROBLEMS[name](smoke, np.random.default_rng(0)))
    recipes = [
        {lever: values[random.integers(len(values))] for lever, values in LEVERS.items()} for _ in range(candidates)
    ]
    found = np.array([[task.criteria(recipe, length) for recipe in recipes] for length in steps])
    last = found[-1, :, 0]
    print(f"\n{name}, {len(task.held_out[1])} held-out labels, test scores {last.min():.2f} to {last.max():.2f}")
    print(f"{'steps':>6}" + "".join(f"{criterion:>22}" for criterion in CRITERIA))
    for length, values in zip(steps, found, strict=True):
        cells = []
        for criterion in values.T:
            varies = np.ptp(criterion) > 0 and np.ptp(last) > 0
            correlation = f"{stats.spearmanr(criterion, last).statistic:.2f}" if varies else "none"
            best = np.isclose(criterion, criterion.max())  # of equals, the mean of what they reach
            cells.append(f"{correlation}, loses {last.max() - last[best].mean():.2f}")
        print(f"{length:>6,}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TASKS, metavar="NAME", help="some of the tasks")
    parser.add_argument("--candidates", type=int, default=12, help="recipes (default: 12)")
    parser.add_argument("--smoke", action="store_true", help="two recipes and few steps: does it run?")
    options = parser.parse_args()
    steps, candidates = ((1, 2), 2) if options.smoke else (STEPS, options.candidates)
    started = time.perf_counter()
    for name in options.only or (["digits"] if options.smoke else TASKS):
        report(name, steps, candidates, options.smoke)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
