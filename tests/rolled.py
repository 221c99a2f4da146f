"""Train a student on what it writes, and kill this process: `python -m tests.rolled FOLDER [EPOCH]`, for test_rollouts.

With BackupAndRestore; killed by SIGKILL in the middle of the epoch of that number. Prompts and examples name one of two
teachers, and texts have scores. Writes the weights, the rows and the logs at the end.
"""

import os
import pathlib
import signal
import sys

import keras
import numpy as np

import keras_kd as kd
from tests.models import dense, initial
from tests.writers import PROMPTS

EPOCHS = 5


class Kill(keras.callbacks.Callback):
    """Kill this process in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.killed_in, self.epoch = epoch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.killed_in and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def small(seed: int) -> keras.Model:
    """Return a model of ids, (batch, time), that predicts the next one from the last, and drops some units."""
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(8, 6, embeddings_initializer=initial(seed))(inputs)
    outputs = dense(8, seed + 1)(keras.layers.Dropout(0.3, seed=1)(x))
    return keras.Model(inputs, outputs, name=f"small_{seed}")


def examples(rows: int = 6, seed: int = 8) -> kd.language.completions:
    """Return examples of random tokens."""
    tokens = np.random.default_rng(seed).integers(1, 8, (rows, 5)).tolist()
    return kd.language.completions([row[:2] for row in tokens], [row[2:] for row in tokens], length=6, end=0)


def rollouts(student, teacher, **arguments) -> kd.language.Rollouts:
    """Return rows of all three origins, some of them used again."""
    settings = {
        "length": 6, "stop_ids": [0], "batch_size": 4, "every": 3, "replay": 2, "seed": 3,
        "data": examples(), "student_share": kd.schedules.Ramp(0.2, 0.4, 12), "teacher_share": 0.3,
    }  # fmt: skip
    return kd.language.Rollouts(PROMPTS, student=student, teacher=teacher, **{**settings, **arguments})


def distiller(student, teacher) -> kd.Distiller:
    """Return a Distiller that goes by the reverse divergence."""
    made = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.gkd(beta=1.0))
    made.compile(keras.optimizers.Adam(0.02), alpha=1.0)
    return made


def scored(x, y, sample_weight) -> np.ndarray:
    """Return a number for each text, by its tokens."""
    return 0.5 + np.mean(y, axis=1)


def main(folder: pathlib.Path, killed_in: int | None) -> None:
    """Train, or continue to train, and write the results."""
    student, teacher = small(1), kd.teachers.Routed({0: small(5), 1: small(7)}, "teacher")
    x, *others = examples()
    given = (kd.Joined(x, columns={"teacher": np.arange(len(others[0])) % 2}), *others)
    columns = {"teacher": np.arange(len(PROMPTS)) // 2 % 2}
    share = kd.language.AdaptiveShare(0.2, 0.6, tolerance=-0.1)
    data = rollouts(
        student, teacher, columns=columns, data=given, score=scored, student_share=share,
        replay=kd.schedules.Ramp(1.0, 3.0, 12),
    )  # fmt: skip
    callbacks = [keras.callbacks.BackupAndRestore(folder / "backup")]
    callbacks += [] if killed_in is None else [Kill(killed_in)]
    history = (
        distiller(student, teacher)
        .fit(data, epochs=EPOCHS, callbacks=callbacks, validation_data=given, verbose=0)
        .history
    )
    logs = {f"log {name}": value[-1] for name, value in history.items() if not name.endswith("_time")}
    weights = {f"weight {number}": each for number, each in enumerate(student.get_weights())}
    rows = {f"rows {name}": value for name, value in data.state().items()}
    carried = [data[number][0].columns["teacher"] for number in range(len(data))]
    np.savez(folder / "results.npz", **weights, **rows, **logs, carried=np.concatenate(carried))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
