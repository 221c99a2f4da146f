"""How much of a teacher's lead does a student close by more data: mixtures, rows without labels, and both?

    python examples/benchmarks/levers.py [--only digits fraud] [--seeds 3] [--steps 600] [--smoke]

Each teacher has learned from all training rows. A student sees the labels of 15 % of them, 32 rows in each step.
Beside these, for as many steps of the same cosine schedule, it sees nothing else; mixtures of the batch's rows
(`augment.MixUp`); 32 rows without labels (`augment.with_unlabelled`); or both, with mixtures of all rows. The teacher
predicts live for all of them, but for "alone". Printed are the mean over the seeds and its standard error, on a test
set, and the share of the lead that is closed, (student - alone) / (teacher - alone), seed by seed. All of it takes 25
minutes on two cores that have other work, too.
"""

import os
import pathlib
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # boosted trees wait for each other's threads longer than they compute
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import fraud
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score

import keras_kd as kd

LABELLED = 0.15
ROWS = 32
WAYS = ("on the labelled rows", "+ mixtures", "+ rows without labels", "+ both")
Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class Problem:
    """Data, a trained teacher, and how a student is made and scored."""

    train: Part
    test: Part
    teacher: Any
    build: Callable[[], keras.Model]
    codes: Sequence[int] = ()
    binary: bool = False

    def score(self, predicted: np.ndarray) -> float:
        """Return the average precision of logits of one unit, or the accuracy, in percent."""
        if self.binary:
            return 100 * float(average_precision_score(self.test[1], predicted.reshape(len(predicted))))
        return 100 * float(np.mean(predicted.argmax(-1) == self.test[1]))


def dense(x: np.ndarray, units: int, width: int, dropout: float = 0.0) -> keras.Model:
    """Return a network of two layers that scales its columns."""
    inputs = keras.Input(x.shape[1:])
    hidden = layers.Normalization(mean=x.mean(0), variance=x.var(0) + 1e-6)(inputs)
    for _ in range(2):
        hidden = layers.Dropout(dropout)(layers.Dense(width, activation="relu")(hidden))
    return keras.Model(inputs, layers.Dense(units)(hidden))


def convolutional(shape: tuple[int, ...], units: int, width: int, dropout: float = 0.0) -> keras.Model:
    """Return a network of two convolutions."""
    inputs = keras.Input(shape)
    hidden = layers.MaxPooling2D()(layers.Conv2D(width, 3, padding="same", activation="relu")(inputs))
    hidden = layers.Conv2D(2 * width, 3, padding="same", activation="relu")(hidden)
    hidden = layers.Dropout(dropout)(layers.Flatten()(hidden))
    return keras.Model(inputs, layers.Dense(units)(hidden))


def trained(model: keras.Model, train: Part, epochs: int) -> keras.Model:
    steps = epochs * -(-len(train[0]) // 64)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*train, batch_size=64, epochs=epochs, verbose=0)
    return model


def digits(smoke: bool) -> Problem:
    """Return scikit-learn's digits as a table of 64 columns; the teacher is a wide network."""
    images = kd.data.load("digits")
    train, test = ((x.reshape(len(x), -1), y) for x, y in (images.train, images.test))
    teacher = trained(dense(train[0], 10, 512, dropout=0.5), train, 1 if smoke else 60)
    return Problem(train, test, teacher, lambda: dense(train[0], 10, 24))


def images(smoke: bool) -> Problem:
    """Return the digits as images; the teacher is a wide convolutional network."""
    digits = kd.data.load("digits")
    teacher = trained(convolutional((8, 8, 1), 10, 32, dropout=0.5), digits.train, 1 if smoke else 30)
    return Problem(digits.train, digits.test, teacher, lambda: convolutional((8, 8, 1), 10, 3))


def synthetic(smoke: bool) -> Problem:
    """Return clusters of 4 classes in 20 columns, by scikit-learn; the teacher is of boosted trees."""
    rows = 400 if smoke else 6000
    x, y = make_classification(
        2 * rows, 20, n_informative=8, n_redundant=4, n_classes=4, n_clusters_per_class=3, class_sep=1.2, random_state=0
    )
    train, test = ((x[part].astype("float32"), y[part]) for part in (slice(rows), slice(rows, None)))
    teacher = HistGradientBoostingClassifier(max_iter=2 if smoke else 50, random_state=0).fit(*train)
    return Problem(train, test, teacher, lambda: dense(train[0], 4, 32))


def transactions(smoke: bool) -> Problem:
    """Return examples/fraud.py's transactions, fraud or not; the teacher is of boosted trees. Average precision."""
    rows = 2000 if smoke else 30_000
    (x, y), (x_test, y_test) = (fraud.generate(rows, seed=seed) for seed in (0, 1))
    train, test = (x, fraud.any_fraud(y)), (x_test, fraud.any_fraud(y_test))
    teacher = HistGradientBoostingClassifier(max_iter=2 if smoke else 60, learning_rate=0.05, random_state=0)
    codes = [
        number
        for number, name in enumerate(fraud.FEATURES)
        if name in ("online", "new_device", "foreign", *fraud.MERCHANTS)
    ]

    def build() -> keras.Model:
        inputs = keras.Input((x.shape[1],))
        tail = dense(np.log1p(x), 1, 32)
        return keras.Model(inputs, tail(ops.log(1.0 + ops.relu(inputs))))

    return Problem(train, test, teacher.fit(x, train[1].ravel()), build, codes, binary=True)


PROBLEMS = {"digits": digits, "synthetic": synthetic, "fraud": transactions, "images": images}


def batches(problem: Problem, way: str, few: int, seed: int) -> tf.data.Dataset:
    """Return the batches of a way to train, without an end."""
    x, y = problem.train
    if way in ("alone", "on the labelled rows", "+ mixtures"):
        rows = tf.data.Dataset.from_tensor_slices((x[:few], y[:few]))
        data = rows.shuffle(few, seed=seed).repeat().batch(ROWS, drop_remainder=True)
    else:
        data = kd.augment.with_unlabelled(
            (x[:few], y[:few]), x[few:], batch_size=2 * ROWS, share=0.5, seed=seed
        ).repeat()
    if way in ("+ mixtures", "+ both"):
        data = kd.augment.apply(data, kd.augment.Beside(kd.augment.MixUp(codes=problem.codes)), seed=seed)
    return data


def run(problem: Problem, way: str, temperature: float, steps: int, seed: int) -> float:
    """Train a student, and return its score."""
    keras.utils.set_random_seed(seed)
    student = model = problem.build()
    losses = keras.losses
    loss = losses.BinaryCrossentropy if problem.binary else losses.SparseCategoricalCrossentropy
    compiled: dict[str, Any] = {
        "optimizer": keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, steps)),
        "loss": loss(from_logits=True),
        # A try is quicker without a graph, a training of models this small without a return to Python in each step.
        **({"run_eagerly": True} if steps < 10 else {"steps_per_execution": 10}),
    }
    if way == "alone":
        student.compile(**compiled)
    else:
        term = kd.losses.binary_kl if problem.binary else kd.losses.kl_divergence
        terms = [kd.Term(term, sample_weight=None)]
        model = kd.Distiller(student=student, teacher=problem.teacher, terms=terms)
        model.compile(**compiled, temperature=temperature, alpha=0.9)
    few = round(LABELLED * len(problem.train[0]))
    model.fit(batches(problem, way, few, seed), steps_per_epoch=steps, verbose=0, shuffle=False)
    return problem.score(student.predict(problem.test[0], batch_size=5000, verbose=0))


def error(values: Sequence[float]) -> str:
    return f" ± {statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""


def line(name: str, scores: Sequence[float], alone: Sequence[float], teacher: float) -> None:
    shares = [(score - base) / (teacher - base) for score, base in zip(scores, alone, strict=True)]
    closed = "" if scores is alone else f"{statistics.mean(shares):.2f}{error(shares)}"
    print(f"{name:<32}{f'{statistics.mean(scores):.2f}{error(scores)}':>16}{closed:>18}", flush=True)


def of_teacher(problem: Problem) -> float:
    x = problem.test[0]
    if isinstance(problem.teacher, keras.Model):
        return problem.score(problem.teacher.predict(x, verbose=0))
    probabilities = problem.teacher.predict_proba(x)
    return problem.score(probabilities[:, 1] if problem.binary else probabilities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, metavar="NAME", help="some of the data sets")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--steps", type=int, default=600, help="of each run (default: 600)")
    parser.add_argument("--smoke", action="store_true", help="one seed, few rows and steps: does it run?")
    options = parser.parse_args()
    steps, seeds, temperatures = (2, 1, (1.0,)) if options.smoke else (options.steps, options.seeds, (1.0, 2.0))
    names = options.only or (["digits", "fraud"] if options.smoke else list(PROBLEMS))
    started = time.perf_counter()
    print(f"{steps} steps, {seeds} seeds\n{'':<32}{'score':>16}{'share closed':>18}")
    for name in names:
        keras.utils.set_random_seed(0)
        problem = PROBLEMS[name](options.smoke)
        teacher = of_teacher(problem)
        rows = len(problem.train[0])
        print(f"\n{name}, {round(LABELLED * rows):,} of {rows:,} rows with labels\n{'teacher':<32}{teacher:>9.2f}")
        alone = [run(problem, "alone", 1.0, steps, seed) for seed in range(seeds)]
        line("alone", alone, alone, teacher)
        for temperature in temperatures:
            for way in WAYS:
                scores = [run(problem, way, temperature, steps, seed) for seed in range(seeds)]
                line(f"T={temperature:g} {way}", scores, alone, teacher)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
