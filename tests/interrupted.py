"""Run pipelines that kill themselves: `python -m tests.interrupted FOLDER [POINT...]`, for test_stages.

A point is "stage:moment", as in "2:train_begin", "1:epoch_1" or "2:train_end". Each kills the process once, with
SIGKILL; run again until it ends well. Prints nothing, writes the final weights and a line for each epoch that was run.
"""

import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_kd import stages

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Interrupt(keras.callbacks.Callback):
    """Kill the process at the given points, once at each, and note the epochs that are run."""

    def __init__(self, folder: pathlib.Path, points: list[str]) -> None:
        super().__init__()
        self.folder = folder
        self.points = points
        self.stage = 0

    def on_train_begin(self, logs=None):
        self.stage = len(list(self.folder.glob("kept/*/done.json"))) + 1
        self._die("train_begin")

    def on_epoch_end(self, epoch, logs=None):
        with open(self.folder / "epochs.txt", "a") as file:
            file.write(f"{self.stage}:{epoch}\n")
        self._die(f"epoch_{epoch}")

    def on_train_end(self, logs=None):
        self._die("train_end")

    def _die(self, moment):
        marker = self.folder / f"{self.stage}-{moment}"
        if f"{self.stage}:{moment}" in self.points and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def model(units: int, name: str) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3),
        ],
        name=name,
    )


def main() -> None:
    folder, points = pathlib.Path(sys.argv[1]), sys.argv[2:]
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
    y = np.argmax(x[:, :3], axis=-1)
    common = {
        "compile_arguments": {"optimizer": keras.optimizers.Adam(0.01), "loss": LOSS, "metrics": ["accuracy"]},
        "fit_arguments": {
            "x": x,
            "y": y,
            "batch_size": 10,
            "epochs": 3,
            "verbose": 0,
            "validation_data": (x, y),
            "callbacks": [Interrupt(folder, points)],
        },
        "folder": folder / "kept",
    }
    teacher = model(16, "teacher")
    shuffled = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(48, seed=1).batch(10)
    without = {name: value for name, value in common["fit_arguments"].items() if name not in ("x", "y", "batch_size")}
    chain = {**common, "fit_arguments": {"x": shuffled, **without}}
    student, record = stages.teacher_assistants(teacher, [model(8, "assistant")], model(4, "small"), **chain)
    refined, last = stages.refine(student, **{**common, "folder": folder / "refined"})
    record += last
    np.savez(folder / "weights.npz", *[weight for stage in record for weight in stage.model.get_weights()])


if __name__ == "__main__":
    main()
