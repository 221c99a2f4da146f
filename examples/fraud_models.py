"""The teacher and the student of examples/serve.py: trained on generated transactions, and exported for LiteRT.

    python examples/fraud_models.py            # about a minute on two CPU cores
    python examples/fraud_models.py --smoke    # seconds, and poor models

100,000 transactions (seed 0); both models predict three labels at once. Average precision on 100,000 others (seed 1):

                           stolen card    account takeover    chargeback    parameters
    teacher                       0.50                0.44          0.34       537,603
    student, distilled            0.50                0.44          0.32           771
"""

import argparse
import pathlib

import quiet

quiet.load_tensorflow()

import keras
import numpy as np
from fraud import LABELS, generate
from keras import layers, ops
from sklearn.metrics import average_precision_score

import keras_kd as kd

BATCH = 512


def build(name: str, widths: tuple[int, ...], x: np.ndarray, dropout: float = 0.0) -> keras.Model:
    """Return a dense network with one sigmoid for each label. The preprocessing of the raw numbers is part of it."""
    inputs = keras.Input((x.shape[1],), name="transaction")
    logarithms = np.log1p(x)  # amounts, kilometres and minutes span orders of magnitude
    hidden = layers.Normalization(mean=logarithms.mean(axis=0), variance=logarithms.var(axis=0) + 1e-6)(
        ops.log(1.0 + ops.relu(inputs))
    )
    for width in widths:
        hidden = layers.Dropout(dropout)(layers.Dense(width, activation="relu")(hidden))
    return keras.Model(inputs, layers.Dense(len(LABELS), activation="sigmoid")(hidden), name=name)


def compile_arguments(rate: float, steps: int) -> dict:
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    return {"optimizer": keras.optimizers.Adam(schedule), "loss": "binary_crossentropy"}


def train_and_export(output: pathlib.Path, smoke: bool = False) -> dict[str, pathlib.Path]:
    """Train a teacher, distil a student, export both for LiteRT; return the folders of the exports."""
    count, epochs, student_epochs = (5_000, 1, 1) if smoke else (100_000, 6, 20)
    x, y = generate(count, seed=0)
    keras.utils.set_random_seed(0)
    teacher = build("teacher", (512, 512, 512), x, dropout=0.3)
    teacher.compile(**compile_arguments(1e-3, epochs * count // BATCH))
    teacher.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)

    student = build("student", (32,), x)
    distiller = kd.Distiller(
        student=student, teacher=kd.teachers.InMemory(teacher, batch_size=5000), terms=kd.methods.multi_label()
    )
    distiller.compile(**compile_arguments(1e-2, student_epochs * count // BATCH), alpha=0.9)
    distiller.fit(x, y, batch_size=BATCH, epochs=student_epochs, verbose=0)

    x_test, y_test = generate(count, seed=1)
    return {
        name: report_and_export(model, output / name, x_test, y_test)
        for name, model in (("teacher", teacher), ("fraud", student))
    }


def report_and_export(model: keras.Model, folder: pathlib.Path, x: np.ndarray, y: np.ndarray) -> pathlib.Path:
    """Print how good a model is on new transactions, and export it as the next version."""
    precision = average_precision_score(y, model.predict(x, batch_size=5000, verbose=0), average=None)
    each = ", ".join(f"{label} {value:.2f}" for label, value in zip(LABELS, precision, strict=True))
    print(f"{model.name}, {model.count_params():,} parameters. Average precision: {each}")
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    path = folder / str(max(versions, default=0) + 1)
    kd.export(model, path, formats=("litert",), representative=x[:1000])
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few transactions, an epoch: does it run?")
    parser.add_argument("--output", type=pathlib.Path, default="runs/serve", help="default: runs/serve")
    options = parser.parse_args()
    train_and_export(options.output, options.smoke)
