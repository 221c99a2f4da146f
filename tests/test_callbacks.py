"""Keras's callbacks do for a Distiller what they do for a plain model, and none of them writes the teacher."""

import csv
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from tests.models import assert_same, batch, mlp, numbers

X, Y = batch(32)
VALIDATION = (
    X[:9],
    (Y[:9] + 1) % 3,
)  # the labels disagree: the better it learns, the worse the student looks
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make(optimizer=None, student=None, **arguments):
    teacher = mlp(7, units=11)  # its first kernel is a run of bytes that no student holds
    distiller = kd.Distiller(student=student or mlp(1), teacher=teacher)
    arguments = {"loss": CROSS_ENTROPY, "metrics": ["accuracy"], "alpha": 0.5, **arguments}
    distiller.compile(optimizer or keras.optimizers.SGD(0.3), **arguments)
    return distiller, teacher


def run(distiller, callbacks, epochs=4, **arguments):
    arguments = {"validation_data": VALIDATION, "batch_size": 8, "shuffle": False, "verbose": 0, **arguments}
    return distiller.fit(X, Y, epochs=epochs, callbacks=callbacks, **arguments).history


def holds(folder, model):
    """Whether any file under a folder has the numbers of a model's first kernel in it."""
    wanted = numbers(model)[0].tobytes()
    return any(wanted in path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file())


class Diary(keras.callbacks.Callback):
    """Keep the student's weights after every epoch."""

    def on_train_begin(self, logs=None):
        self.weights, self.rates = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(numbers(self.model.student))
        self.rates.append(float(self.model.optimizer.learning_rate))


@pytest.mark.slow
@pytest.mark.parametrize("monitor, best", [("val_loss", np.argmin), ("val_accuracy", np.argmax)])
def test_early_stopping_ends_in_time_and_restores_the_best_student(monitor, best):
    distiller, _ = make()
    diary = Diary()
    stopping = keras.callbacks.EarlyStopping(monitor, patience=2, restore_best_weights=True)
    history = run(distiller, [diary, stopping], epochs=30)
    best_epoch = int(best(history[monitor]))
    assert len(history[monitor]) == best_epoch + 3
    assert_same(numbers(distiller.student), diary.weights[best_epoch])


@pytest.mark.slow
def test_restoring_the_best_student_leaves_alpha_and_temperature_as_assigned():
    def assign(epoch, logs):
        distiller.alpha, distiller.temperature = 0.25, 7.0

    distiller, _ = make()
    stopping = keras.callbacks.EarlyStopping(restore_best_weights=True)  # the best epoch is the first
    run(distiller, [stopping, keras.callbacks.LambdaCallback(on_epoch_end=assign)], epochs=30)
    assert (distiller.alpha, distiller.temperature) == (0.25, 7.0)
    step = distiller.optimizer.iterations
    assert (float(distiller._untracked.alpha(step)), float(distiller._untracked.temperature(step))) == (0.25, 7.0)


@pytest.mark.slow
def test_model_checkpoint_keeps_the_best_distiller_and_no_teacher(tmp_path):
    distiller, teacher = make()
    diary = Diary()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_accuracy", save_best_only=True)
    history = run(distiller, [diary, checkpoint])
    best = diary.weights[int(np.argmax(history["val_accuracy"]))]
    loaded = keras.models.load_model(tmp_path / "best.keras")
    assert_same(numbers(loaded.student), best)
    assert holds(tmp_path, loaded.student) and not holds(tmp_path, teacher)


@pytest.mark.slow
def test_model_checkpoint_of_weights_alone_is_one_a_name(tmp_path):
    distiller, teacher = make()
    diary = Diary()
    path = str(tmp_path / "{epoch:02d}.weights.h5")
    run(distiller, [diary, keras.callbacks.ModelCheckpoint(path, save_weights_only=True)], epochs=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["01.weights.h5", "02.weights.h5"]
    other, _ = make()
    other.load_weights(tmp_path / "01.weights.h5")
    assert_same(numbers(other.student), diary.weights[0])
    assert holds(tmp_path, other.student) and not holds(tmp_path, teacher)


@pytest.mark.slow
def test_tensorboard_draws_the_logs_and_the_students_weights(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    distiller, teacher = make()
    history = run(distiller, [keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)], epochs=2)

    def read(part):
        events = accumulator.EventAccumulator(str(tmp_path / part), {accumulator.TENSORS: 0})
        events.Reload()
        return events

    train, validation = read("train"), read("validation")
    drawn = [tf.make_ndarray(event.tensor_proto) for event in train.Tensors("epoch_distillation_loss")]
    np.testing.assert_allclose(drawn, history["distillation_loss"], rtol=1e-6)
    assert "epoch_accuracy" in validation.Tags()["tensors"]
    histograms = {tag for tag in train.Tags()["tensors"] if tag.endswith("histogram")}
    assert any("kernel" in tag for tag in histograms)
    if any("hidden" in tag for tag in histograms):  # Keras 3.12 names no layers
        assert {tag.split("/")[0] for tag in histograms} <= {distiller.student.name} | {
            layer.name for layer in distiller.student.layers
        }
    assert not holds(tmp_path, teacher)


@pytest.mark.slow
def test_csv_logger_writes_every_log_of_every_epoch(tmp_path):
    distiller, _ = make()
    history = run(distiller, [keras.callbacks.CSVLogger(tmp_path / "log.csv")], epochs=3)
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and set(rows[0]) == {"epoch", *history}
    assert {"student_loss", "distillation_loss", "val_loss"} <= set(history)
    for name, values in history.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-6)


@pytest.mark.slow
def test_reduce_lr_on_plateau_halves_the_rate_once_an_epoch_without_progress():
    distiller, _ = make()
    diary = Diary()
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=1e3)
    run(distiller, [plateau, diary], epochs=4)
    np.testing.assert_allclose(diary.rates, [0.3, 0.15, 0.075, 0.0375])  # the first epoch is the best by definition


class Kill(keras.callbacks.Callback):
    """End the process as a power cut would, in the middle of the third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 10:
            os.kill(os.getpid(), signal.SIGKILL)


def backed_up(folder, *callbacks):
    """Train four epochs of four steps with Adam, whose moments have to survive, and alpha assigned after one."""

    def assign(epoch, logs):
        if epoch == 0:
            distiller.alpha = 0.9

    distiller, teacher = make(keras.optimizers.Adam(0.05))
    backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
    assigning = keras.callbacks.LambdaCallback(on_epoch_end=assign)
    history = run(distiller, [assigning, backup, *callbacks], validation_data=None)
    return distiller, teacher, history


@pytest.mark.slow
def test_backup_and_restore_continues_a_killed_run_as_if_nothing_had_happened(tmp_path):
    script = f"from tests import test_callbacks as t; t.backed_up({str(tmp_path / 'killed')!r}, t.Kill())"
    root = pathlib.Path(__file__).parent.parent
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    resumed, teacher, history = backed_up(tmp_path / "killed")
    whole, _, whole_history = backed_up(tmp_path / "whole")
    assert (len(history["loss"]), len(whole_history["loss"])) == (2, 4)  # epochs 3 and 4 of 4
    assert_same(numbers(resumed.student), numbers(whole.student), 1e-6)
    assert resumed.alpha == 0.9
    np.testing.assert_allclose(history["loss"], whole_history["loss"][2:], rtol=1e-5)
    assert holds(tmp_path, resumed.student) and not holds(tmp_path, teacher)


@pytest.mark.slow
def test_terminate_on_nan_stops_at_the_batch():
    steps = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: steps.append(step))
    x = X.copy()
    x[12] = np.nan  # in the second batch of 8
    distiller, _ = make()
    callbacks = [count, keras.callbacks.TerminateOnNaN()]
    history = distiller.fit(x, Y, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=callbacks).history
    assert steps == [0, 1] and len(history["loss"]) == 1


@pytest.mark.slow
def test_swap_ema_weights_validates_the_moving_average():
    class Averages(keras.callbacks.Callback):
        seen = None

        def on_test_begin(self, logs=None):
            self.seen = [np.array(v) for v in self.model.optimizer._model_variables_moving_average]

    averages = Averages()  # before the swap, the optimizer still holds the averages
    distiller, _ = make(keras.optimizers.SGD(0.3, use_ema=True, ema_momentum=0.9))
    history = run(distiller, [averages, keras.callbacks.SwapEMAWeights()], epochs=1)
    average = mlp(1)
    average.set_weights(averages.seen)
    average.compile(loss=CROSS_ENTROPY)
    np.testing.assert_allclose(history["val_loss"], average.evaluate(*VALIDATION, verbose=0), rtol=1e-5)
    assert_same(numbers(distiller.student), averages.seen, 1e-6)


# The student alone.


@pytest.mark.slow
def test_student_checkpoint_writes_a_plain_model_that_needs_no_keras_kd(tmp_path):
    distiller, teacher = make()
    diary = Diary()
    checkpoint = kd.callbacks.StudentCheckpoint(tmp_path / "student.keras", "val_loss", save_best_only=True)
    history = run(distiller, [diary, checkpoint])
    best = diary.weights[int(np.argmin(history["val_loss"]))]
    script = (
        "import sys, keras, numpy\n"
        f"model = keras.models.load_model({str(tmp_path / 'student.keras')!r})\n"
        f"numpy.savez({str(tmp_path / 'weights.npz')!r}, *[numpy.array(v) for v in model.variables])\n"
        "assert 'keras_kd' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    with np.load(tmp_path / "weights.npz") as loaded:
        assert_same(list(loaded.values()), best)
    assert not holds(tmp_path, teacher)


@pytest.mark.slow
def test_student_checkpoint_finds_the_direction_of_a_metric_as_model_checkpoint_does(tmp_path):
    distiller, _ = make()
    diary = Diary()
    checkpoint = kd.callbacks.StudentCheckpoint(tmp_path / "student.keras", "val_accuracy", save_best_only=True)
    history = run(distiller, [diary, checkpoint])
    best = diary.weights[int(np.argmax(history["val_accuracy"]))]
    assert_same(numbers(keras.models.load_model(tmp_path / "student.keras")), best)


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "name, arguments",
    [
        ("{epoch}-{val_loss:.3f}.keras", {}),
        ("{epoch}.weights.h5", {"save_weights_only": True}),
        ("{epoch}.keras", {"save_freq": 4}),
    ],
)
def test_student_checkpoint_takes_the_arguments_of_model_checkpoint(tmp_path, name, arguments):
    distiller, _ = make()
    diary = Diary()
    path = str(tmp_path / name)
    history = run(distiller, [diary, kd.callbacks.StudentCheckpoint(path, **arguments)], epochs=2)
    for epoch in (1, 2):
        student = mlp(3)
        student.load_weights(path.format(epoch=epoch, val_loss=history["val_loss"][epoch - 1]))
        assert_same(numbers(student), diary.weights[epoch - 1])


def test_student_checkpoint_refuses_a_model_without_a_student(tmp_path):
    model = mlp(1)
    model.compile("sgd", CROSS_ENTROPY)
    with pytest.raises(TypeError, match="Distiller"):
        model.fit(X, Y, verbose=0, callbacks=[kd.callbacks.StudentCheckpoint(tmp_path / "student.keras")])
