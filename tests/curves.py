"""Train a student with BatchNormalization under Adam, for several seeds, and write its validation losses.

    python -m tests.curves FILE.npy one|mirrored|worker

On several replicas the statistics are those of a replica's share of the batch: the curves cannot be equal, but may
differ by no more than the seed changes them. tests/test_strategies.py compares them.
"""

import sys

import keras
import numpy as np

import keras_kd as kd
from tests.strategies import CROSS_ENTROPY, strategy_of

SEEDS, EPOCHS, BATCH = 4, 6, 32
CLASSES, FEATURES = 10, 16


def groups(random: np.random.Generator, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = random.integers(0, CLASSES, 480)
    return (centres[y] + random.normal(size=(len(y), FEATURES))).astype("float32"), y


def curve(seed: int, train, validation, centres: np.ndarray) -> list[float]:
    """Return the validation loss after each epoch."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    student = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(24, use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(),
            layers.Dense(CLASSES),
        ]
    )
    teacher = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES)])
    teacher.set_weights([centres.T, -np.sum(centres**2, axis=-1) / 2])  # the best there is, for groups of this shape
    distiller = kd.Distiller(student=student, teacher=teacher)
    distiller.compile(keras.optimizers.Adam(5e-3), CROSS_ENTROPY, temperature=2.0, alpha=0.5)
    fitted = distiller.fit(*train, BATCH, EPOCHS, validation_data=validation, shuffle=False, verbose=0)
    return fitted.history["val_loss"]


def main(file: str, kind: str) -> None:
    strategy = strategy_of(kind)
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLASSES, FEATURES)).astype("float32")
    train, validation = groups(random, centres), groups(random, centres)
    with strategy.scope():
        np.save(file, [curve(seed, train, validation, centres) for seed in range(SEEDS)])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
