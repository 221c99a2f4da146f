"""Train for long, and make and drop many Distillers; print what memory each took.

    python -m tests.leaks

A process of its own: what other tests hold must not count.
"""

import ctypes
import gc
import json
import pathlib
import weakref

import keras
import numpy as np

import keras_kd as kd
from tests.models import mlp
from tests.rolled import rollouts, small

PAGE = 4096
EPOCHS, DISTILLERS, UNITS = 200, 20, 1_000_000


def megabytes() -> float:
    """Return the memory that this process holds now, without what is free but not given back."""
    gc.collect()
    gc.collect()  # what the first has made unreachable
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def distilled(student, teacher, **arguments):
    distiller = kd.Distiller(student=student, teacher=teacher)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, metrics=["accuracy"], **arguments)
    return distiller


class Watch(keras.callbacks.Callback):
    """Note the memory after each tenth of the epochs."""

    def __init__(self):
        super().__init__()
        self.held = []

    def on_epoch_end(self, epoch, logs=None):
        if epoch % (EPOCHS // 10) == EPOCHS // 10 - 1:
            self.held.append(megabytes())


def of_epochs() -> list[float]:
    """Fit for long, the numbers of the objective assigned between epochs, with validation."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 4)).astype("float32"), random.integers(0, 3, 64)
    distiller, watch = distilled(mlp(1), mlp(2)), Watch()
    change = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(distiller, "alpha", 0.1 + 0.8 * epoch / EPOCHS)
    )
    distiller.fit(x, y, validation_data=(x, y), epochs=EPOCHS, callbacks=[watch, change], verbose=0)
    return watch.held


def of_rollouts() -> list[float]:
    """Fit for long on what the student writes, which is another thing in each epoch."""
    student, teacher = small(1), small(5)
    distiller, watch = kd.Distiller(student=student, teacher=teacher), Watch()
    distiller.compile("sgd", alpha=1.0)
    distiller.fit(rollouts(student, teacher), epochs=EPOCHS, callbacks=[watch], verbose=0)
    return watch.held


def wide() -> keras.Model:
    """Return a model of 12 MB."""
    layers = [keras.layers.Dense(units) for units in (UNITS, 1, 2)]
    return keras.Sequential([keras.Input((1,)), *layers])


def of_distillers() -> tuple[list[float], int]:
    """Make, train and drop Distillers of 24 MB."""
    held, references = [], []
    x, y = np.ones((4, 1), "float32"), np.zeros(4, int)
    for _ in range(DISTILLERS):
        models = [
            keras.Sequential(
                [keras.Input((1,)), keras.layers.Dense(UNITS), keras.layers.Dense(1), keras.layers.Dense(2)]
            )
            for _ in range(2)
        ]
        distiller = distilled(*models, jit_compile=False)
        distiller.fit(x, y, verbose=0)
        references += [weakref.ref(distiller), *map(weakref.ref, models)]
        del distiller, models
        held.append(megabytes())
    return held, sum(reference() is not None for reference in references)


if __name__ == "__main__":
    epochs = of_epochs()
    written = of_rollouts()
    distillers, alive = of_distillers()
    print(json.dumps({"epochs": epochs, "rollouts": written, "distillers": distillers, "alive": alive}))
