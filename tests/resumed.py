"""Train with BackupAndRestore on two replicas, or as one of two workers; with `kill`, kill the process in the middle.

    python -m tests.resumed FOLDER mirrored|worker [kill]

Everything that has a state is included: Adam, Dropout, BatchNormalization, schedules, a bridge, a memory bank and a
teacher that follows the student. Writes the weights and the logs at the end.
"""

import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from tests.models import dense
from tests.strategies import CROSS_ENTROPY, data, strategy_of

EPOCHS, KILLED_IN = 4, 2


class Kill(keras.callbacks.Callback):
    """Kill this process in the middle of an epoch."""

    def __init__(self):
        super().__init__()
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == KILLED_IN and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def student() -> keras.Model:
    """Return a model of random layers and statistics, those of all replicas: Keras saves the first replica's alone."""
    inputs = keras.Input((4,))
    x = dense(6, 1, name="hidden")(inputs)
    x = keras.layers.BatchNormalization(name="norm", synchronized=True)(x)
    x = keras.layers.Dropout(0.4, seed=1)(keras.layers.ReLU()(x))
    return keras.Model(inputs, dense(3, 2, name="scores")(x))


def distiller() -> kd.Distiller:
    """Return a Distiller with all that is to be restored."""
    terms = [
        kd.Term(kd.losses.kl_divergence, weight=kd.schedules.Ramp(0.5, 1.0, 10)),
        kd.Term(kd.losses.squared_error, at=("norm", "hidden"), bridge=dense(6, 9), weight=0.5, name="hint"),
        kd.Term(kd.losses.ContrastiveMemory(dimension=4, memory=32), at=("hidden", "hidden"), weight=0.1, name="crd"),
    ]
    made = kd.Distiller(student=student(), teacher=kd.teachers.EMA(0.8), terms=terms)
    ramp = kd.schedules.Ramp(0.2, 0.9, 15)
    made.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY, metrics=["accuracy"], temperature=2.0, alpha=ramp)
    return made


def main(folder: pathlib.Path, kind: str, kill: bool) -> None:
    """Train, or continue to train, and write the results."""
    name = f"{kind}-{json.loads(os.environ['TF_CONFIG'])['task']['index']}" if "TF_CONFIG" in os.environ else kind
    strategy = strategy_of(kind)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        made = distiller()
    examples = tf.data.Dataset.from_tensor_slices(data(64)[:2]).batch(16)
    callbacks = [keras.callbacks.BackupAndRestore(folder / f"backup-{name}"), *([Kill()] if kill else [])]
    history = made.fit(examples, epochs=EPOCHS, callbacks=callbacks, shuffle=False, verbose=0).history
    weights = {f"weight {number}": np.array(each) for number, each in enumerate(made.variables)}
    np.savez(folder / f"{name}.npz", **weights, **{f"log {key}": value[-1] for key, value in history.items()})


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(pathlib.Path(sys.argv[1]), sys.argv[2], "kill" in sys.argv[3:])
