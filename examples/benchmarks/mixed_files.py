"""Where 8-bit integers are too coarse: 16 bits for activations, or the worst layers in float?

    python examples/benchmarks/mixed_files.py [--seeds 3] [--smoke]

Two tables of scikit-learn, with columns of very different sizes, are classified by a network that takes them as they
are: a Normalization, two dense layers of 32 units and the scores. In a file of 8-bit integers all columns have one
scale, that of the largest. `exporting.file_sensitivity` names the layer whose integers cost most, which then stays in
float; "int8x16" keeps activations in 16 bits. Printed are the accuracy of LiteRT's interpreter on 40 % of the rows that
were held out, in percent, mean and standard deviation over the seeds, and the bytes of the file.

Seeds 0, 1 and 2 on one busy core, two minutes, 28 November 2026:

    wine                                   accuracy    bytes
    float32                            95.37 ± 2.89    8,948
    int8                               54.63 ± 2.89    6,304
    int8x16                            95.37 ± 2.89    7,416
    int8, normalization in float       50.93 ± 6.26    6,560

    breast cancer                          accuracy    bytes
    float32                            97.22 ± 1.10   11,176
    int8                              45.32 ± 14.69    6,864
    int8x16                            90.20 ± 2.42    7,992
    int8, normalization in float       70.91 ± 2.25    7,240

Integers of 8 bits throughout are of no use here, and no layer in float repairs what its input has lost already. With 16
bits, wine loses nothing, and breast cancer, whose columns differ 140,000 times, 7 points: columns of one size, from
before the model, are what a file of integers wants. `export` refuses all files here that are off so far.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
import contextlib
import io
import tempfile
import time
from typing import Any

import keras
import numpy as np
from keras import layers
from report import spread
from sklearn.datasets import load_breast_cancer, load_wine

import keras_kd as kd

TABLES = {"wine": load_wine, "breast cancer": load_breast_cancer}
NAMES = {"litert float32": "float32", "litert int8": "int8", "litert int8x16": "int8x16"}


def network(x: np.ndarray, classes: int) -> keras.Model:
    """Return a network that takes columns as they are."""
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(x)
    inputs = keras.Input(x.shape[1:], name="columns")
    hidden = layers.Dense(32, "relu", name="first")(normalization(inputs))
    hidden = layers.Dense(32, "relu", name="second")(hidden)
    return keras.Model(inputs, layers.Dense(classes, name="scores")(hidden))


def split(name: str, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return rows to train on, and rows to test on."""
    x, y = TABLES[name](return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y, count = x[order].astype("float32"), y[order].astype("int32"), int(0.6 * len(x))
    return (x[:count], y[:count]), (x[count:], y[count:])


def files(name: str, seed: int, epochs: int) -> dict[str, tuple[float, int]]:
    """Train a network, and return the accuracy and the bytes of each of its files."""
    keras.utils.set_random_seed(seed)
    (x, y), test = split(name, seed)
    model = network(x, int(y.max()) + 1)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    (worst,) = kd.exporting.file_sensitivity(model, x, fresh=False).worst(1) or ["normalization"]
    found = exported(model, x, test, (None, "int8", "int8x16"))
    mixed = exported(model, x, test, (None, "int8"), float_layers=[worst])
    return {**found, f"int8, {worst} in float": mixed["int8"]}


def exported(model: keras.Model, x: np.ndarray, test: Any, kinds: tuple[str | None, ...], **settings: Any) -> dict:
    """Return the accuracy and the bytes of files, those too that `export` refuses for how far they are off."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        report = kd.export(
            model, f"{folder}/1", formats=("litert",), quantize=kinds, representative=x, fresh=False, **settings
        )
        return {
            NAMES[each.name]: (
                100 * kd.evaluation.measure(kd.teachers.LiteRT(each.path), test)["accuracy"],
                each.path.stat().st_size,
            )
            for each in report.artefacts
        }


def main() -> None:
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--smoke", action="store_true", help="one table, one seed, one epoch")
    options = parser.parse_args()
    tables, seeds, epochs = (["wine"], 1, 1) if options.smoke else (list(TABLES), options.seeds, 40)
    for name in tables:
        runs = [files(name, seed, epochs) for seed in range(seeds)]
        print(f"\n{name:<32}{'accuracy':>15}{'bytes':>9}")
        for row in dict.fromkeys(row for run in runs for row in run):
            accuracies, sizes = zip(*[run[row] for run in runs if row in run], strict=True)
            print(f"{row:<32}{spread(accuracies):>15}{sizes[0]:>9,}", flush=True)
    print(f"{time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
