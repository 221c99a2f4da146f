"""How much of what can be closed does `kd.distill` close, with one budget for five data sets?

    pip install "keras_kd[results]"
    python examples/benchmarks/one_budget.py [--only digits texts] [--seeds 1] [--budget 40000] [--smoke]

- digits: scikit-learn's, as a table; 150 labels; the teacher is a wide network.
- fashion: Fashion-MNIST, 1,000 labels and 19,000 images without; the teacher is a wide convolutional network.
- texts: which of eight packages a docstring comes from; 15 % of the labels; token ids, the teacher has ten times the
  width.
- cuts: the cut of a diamond, five classes, of its measures and its price; all rows have labels; boosted trees.
- prices: the logarithm of its price; 500 rows have labels; boosted trees.

What a student can close is what the same student reaches that learns from the teacher's outputs for all rows, with or
without labels, in ten times the steps of the longest training of the search, at the learning rate that was chosen.
Alone is the better control of the search. The share is (distilled - alone) / (closable - alone) on test examples, and
"± examples" is the standard error of distilled - alone over these. Scores are accuracies in percent, for prices the
root mean squared error times -100: more is better everywhere.
"""

import os
import pathlib
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # boosted trees wait for each other's threads longer than they compute
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
import ast
import dataclasses
import importlib.util
import io
import re
import tarfile
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from levers import convolutional, dense, trained
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

import keras_kd as kd

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PACKAGES = ("keras", "matplotlib", "numpy", "pandas", "pip", "scipy", "sklearn", "tensorflow")
WORDS, LENGTH = 4000, 40


@dataclasses.dataclass
class Problem:
    """Data, the number of labels, a trained teacher, and how a student is made."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    labels: int
    teacher: Any
    build: Callable[[], keras.Model]
    regresses: bool = False
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def compiled(self) -> dict[str, Any]:
        if self.regresses:
            return {"loss": "mse", "metrics": [keras.metrics.RootMeanSquaredError(name="rmse")]}
        return {"loss": SPARSE, "metrics": ["accuracy"]}

    def score(self, value: float) -> float:
        """Return a metric so that more is better, times 100."""
        return -100 * value if self.regresses else 100 * value


def digits(smoke: bool, random: np.random.Generator) -> Problem:
    images = kd.data.load("digits")
    train, test = ((x.reshape(len(x), -1), y) for x, y in (images.train, images.test))
    teacher = trained(dense(train[0], 10, 512, dropout=0.5), train, 1 if smoke else 60)
    return Problem(drawn(train, random), test, 150, teacher, lambda: dense(train[0], 10, 24))


def fashion(smoke: bool, random: np.random.Generator) -> Problem:
    images = kd.data.load("fashion_mnist")
    rows = 200 if smoke else 20_000
    train = tuple(each[:rows] for each in images.train)
    teacher = trained(convolutional((28, 28, 1), 10, 32, dropout=0.5), images.train, 1 if smoke else 4)
    test = tuple(each[:rows] for each in images.test)
    return Problem(drawn(train, random), test, rows // 20, teacher, lambda: convolutional((28, 28, 1), 10, 4))


def texts(smoke: bool, random: np.random.Generator) -> Problem:
    found = [(text, label) for label, name in enumerate(PACKAGES) for text in docstrings(name, 20 if smoke else 2500)]
    y = np.array([label for _, label in found], "int32")
    words = layers.TextVectorization(WORDS, output_sequence_length=LENGTH)
    words.adapt([text for text, _ in found])
    x = np.asarray(words([text for text, _ in found])).astype("int32")
    order = np.random.default_rng(0).permutation(len(y))
    part = len(y) * 3 // 4
    train, test = ((x[rows], y[rows]) for rows in (order[:part], order[part:]))
    teacher = trained(bag(64, dropout=0.5), train, 1 if smoke else 8)
    return Problem(drawn(train, random), test, part * 15 // 100, teacher, lambda: bag(6))


def cuts(smoke: bool, random: np.random.Generator) -> Problem:
    x, price, cut = diamonds()
    x = np.concatenate([x, price[:, None]], 1)
    return trees(x, cut, HistGradientBoostingClassifier, 400 if smoke else 40_000, None, smoke, random)


def prices(smoke: bool, random: np.random.Generator) -> Problem:
    x, price, _ = diamonds()
    return trees(x, price, HistGradientBoostingRegressor, 400 if smoke else 40_000, 500, smoke, random)


def trees(
    x: np.ndarray, y: np.ndarray, kind: type, rows: int, labels: int | None, smoke: bool, random: np.random.Generator
) -> Problem:
    order = np.random.default_rng(0).permutation(len(x))
    train, test = ((x[part], y[part]) for part in (order[:rows], order[rows : 2 * rows]))
    regresses = kind is HistGradientBoostingRegressor
    teacher = kind(max_iter=2 if smoke else 200, random_state=0).fit(*train)
    units = 1 if regresses else int(y.max()) + 1
    return Problem(
        drawn(train, random), test, min(labels or rows, rows // 4 if labels else rows), teacher,
        lambda: dense(train[0], units, 24), regresses,
    )  # fmt: skip


def drawn(train: Any, random: np.random.Generator) -> Any:
    """Return the rows in an order of a seed: the first have labels."""
    order = random.permutation(len(train[1]))
    return tuple(each[order] for each in train)


def bag(width: int, dropout: float = 0.0) -> keras.Model:
    """Return a mean of word vectors with a hidden layer."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    hidden = layers.GlobalAveragePooling1D()(layers.Embedding(WORDS, width, mask_zero=True)(inputs))
    hidden = layers.Dropout(dropout)(layers.Dense(4 * width, activation="relu")(hidden))
    return keras.Model(inputs, layers.Dense(len(PACKAGES))(hidden))


def docstrings(package: str, count: int) -> list[str]:
    """Return docstrings of functions and classes of an installed package, without the names of packages."""
    root = folder_of(package)
    names = re.compile("|".join([*PACKAGES, "scikit", "torch", "np", "tf", "pd", "plt"]) + r"|\W+", re.IGNORECASE)
    found: dict[str, None] = {}
    paths = sorted(root.rglob("*.py"))
    for number in np.random.default_rng(0).permutation(len(paths)):
        try:
            nodes = ast.walk(ast.parse(paths[number].read_bytes()))
            said = [ast.get_docstring(node) for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        except SyntaxError:
            continue
        found.update((names.sub(" ", text)[:400], None) for text in said if text and len(text) > 40)
        if len(found) >= count:
            break
    return list(found)[:count]


def folder_of(package: str) -> pathlib.Path:
    """Return where a package is installed, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None:
        sys.exit(f'{package} is not installed: pip install "keras_kd[results]"')
    return pathlib.Path(found.origin).parent


def diamonds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return measures, logarithms of prices and cuts of 53,940 diamonds, from the package pydataset."""
    import pandas as pd

    with tarfile.open(folder_of("pydataset") / "resources.tar.gz") as files:
        table = pd.read_csv(io.BytesIO(files.extractfile("resources/rdata/csv/ggplot2/diamonds.csv").read()))
    orders = {
        "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
        "color": tuple("DEFGHIJ"),
        "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
    }
    for column, order in orders.items():
        table[column] = table[column].map({name: number for number, name in enumerate(order)})
    x = table[["carat", "color", "clarity", "depth", "table", "x", "y", "z"]].to_numpy("float32")
    return x, np.log(table["price"].to_numpy("float32")), table["cut"].to_numpy("int32")


PROBLEMS = {"digits": digits, "fashion": fashion, "texts": texts, "cuts": cuts, "prices": prices}


def closable(problem: Problem, rate: float, steps: int, seed: int) -> float:
    """Return the score of a student that learns what its teacher predicts for all rows."""
    x = problem.train[0]
    x = np.concatenate([x] * -(-20_000 // len(x)))  # an epoch of a few steps would take longer than these
    keras.utils.set_random_seed(seed)
    student = problem.build()
    terms = kd.methods.regression() if problem.regresses else kd.methods.kd(temperature=1.0)
    distiller = kd.Distiller(student=student, teacher=kd.teachers.InMemory(problem.teacher), terms=terms)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    distiller.compile(optimizer, problem.compiled["loss"], alpha=1.0, steps_per_execution=10)
    distiller.fit(x, batch_size=64, epochs=-(-64 * steps // len(x)), verbose=0)
    student.compile(**problem.compiled)
    return problem.score(student.evaluate(*problem.test, batch_size=1000, verbose=0)[1])


def row(name: str, options: argparse.Namespace, seed: int) -> None:
    """Search, and print a line."""
    keras.utils.set_random_seed(0)
    began = time.perf_counter()
    problem = PROBLEMS[name](options.smoke, np.random.default_rng(seed))
    (x, y), few = problem.train, problem.labels
    fixed = {"temperature": 1.0, "alpha": 0.9, "change": "", "learning_rate": 1e-2}
    with tempfile.TemporaryDirectory() as folder:
        result = kd.distill(
            problem.build(),
            problem.teacher,
            (x[:few], y[:few]),
            unlabelled=x[few:] if few < len(x) else None,
            test=problem.test,
            folder=folder,
            compile_arguments=problem.compiled,
            budget=1200 if options.smoke else options.budget,
            fixed=fixed if options.smoke else None,
            seed=seed,
            verbose=options.verbose,
            **problem.arguments,
        )
    verdict = result.verdict
    most = closable(
        problem, result.candidate.learning_rate, (2 if options.smoke else 10) * result.rounds[-1][0].steps, seed
    )
    alone, distilled = problem.score(verdict.control), problem.score(verdict.student)
    share = (distilled - alone) / (most - alone)
    teacher = problem.score(verdict.teacher)
    minutes = (time.perf_counter() - began) / 60
    print(
        f"{name:<9}{seed:>4}{few:>8,}{teacher:>9.2f}{alone:>8.2f}{distilled:>10.2f}{100 * verdict.gain_error:>10.2f}"
        f"{most:>10.2f}{share:>7.0%}{minutes:>8.1f}  {result.candidate}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, metavar="NAME", help="some of the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the labels and the search (default: 0)")
    parser.add_argument("--budget", type=int, default=40_000, help="steps of a search (default: 40,000)")
    parser.add_argument("--verbose", type=int, default=0, help="1: a line for each training")
    parser.add_argument("--smoke", action="store_true", help="few rows and steps: does it run?")
    options = parser.parse_args()
    print(
        f"{'':<9}{'seed':>4}{'labels':>8}{'teacher':>9}{'alone':>8}{'distilled':>10}{'± examples':>10}"
        f"{'closable':>10}{'share':>7}{'minutes':>8}  what was chosen"
    )
    for name in options.only or (["digits"] if options.smoke else list(PROBLEMS)):
        for seed in options.seeds:
            row(name, options, seed)


if __name__ == "__main__":
    main()
