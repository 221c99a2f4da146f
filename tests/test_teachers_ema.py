"""The student's own moving average as its teacher."""

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
from keras_kd import schedules
from keras_kd.teachers import EMA, Ensemble, Frozen
from tests.models import Penalty, Subclassed, assert_same, batch, dense, linear, mlp, numbers, softmax, statistical
from tests.test_objective import distill, fit

X, Y = batch(20)  # three batches of 8 an epoch, the last one ragged
SGD = keras.optimizers.SGD


class Diary(keras.callbacks.Callback):
    """Keep the student's weights before the first step and after each."""

    def on_train_begin(self, logs=None):
        self.weights = [[w.astype("float64") for w in numbers(self.model.student)]]

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append([w.astype("float64") for w in numbers(self.model.student)])


def normed(seed=1):
    """Return a model with statistics, and without Dropout, whose random state Keras does not save."""
    return mlp(seed, extra=keras.layers.BatchNormalization(momentum=0.8, name="norm"))


def taught(decay=0.9, student=None, optimizer=None, **arguments):
    return distill(student or normed(), EMA(decay), None, optimizer or SGD(0.3), **arguments)


def run(distiller, epochs=1, callbacks=()):
    return fit(distiller, X, Y, batch_size=8, epochs=epochs, callbacks=list(callbacks))


def average(distiller):
    return numbers(distiller.teacher.model)


def followed(weights, decays):
    """Return a_n, with a_0 = w_0 and a_i = d_i a_(i-1) + (1 - d_i) w_i."""
    result = weights[0]
    for decay, current in zip(decays, weights[1:], strict=True):
        result = [decay * a + (1 - decay) * w for a, w in zip(result, current, strict=True)]
    return result


# What is averaged


@pytest.mark.parametrize("eager", [True, False])
def test_after_n_steps_the_average_is_that_of_all_weights_and_statistics(eager):
    # a_n = d**n w_0 + (1 - d) sum_i d**(n - i) w_i
    distiller, diary = taught(0.9, run_eagerly=eager), Diary()
    run(distiller, 2, [diary])
    n = len(diary.weights) - 1
    shares = [0.9**n, *(0.1 * 0.9 ** (n - i) for i in range(1, n + 1))]
    expected = [sum(s * w for s, w in zip(shares, each, strict=True)) for each in zip(*diary.weights, strict=True)]
    assert n == 6 and sum(shares) == pytest.approx(1.0)
    assert_same(average(distiller), expected, 1e-6)
    for now, start in zip(average(distiller), diary.weights[0], strict=True):
        assert np.max(np.abs(now - start)) > 1e-4  # all of them have moved, the statistics too


def test_a_decay_of_0_copies_the_student_exactly():
    distiller = taught(0.0)
    run(distiller)
    assert_same(average(distiller), numbers(distiller.student))


def test_a_decay_of_1_never_moves():
    distiller = taught(1.0)
    run(distiller)
    assert_same(average(distiller), numbers(normed()))
    assert np.any(numbers(distiller.student)[0] != numbers(normed())[0])


def test_a_decay_may_be_a_schedule_of_the_steps_that_are_done():
    seen = []

    def decay(step):
        seen.append(int(step))
        return 0.5 + 0.1 * keras.ops.cast(step, "float32")

    distiller, diary = taught(decay), Diary()
    seen.clear()  # a schedule is tried once when it is given
    run(distiller, 1, [diary])
    assert sorted(set(seen)) == [1, 2, 3]  # each is checked before the step, and used after it
    assert_same(average(distiller), followed(diary.weights, [0.6, 0.7, 0.8]), 1e-6)


def test_a_schedule_works_in_a_compiled_step():
    distiller, diary = taught(schedules.Ramp(0.0, 1.0, steps=5), run_eagerly=False), Diary()
    run(distiller, 1, [diary])
    assert_same(average(distiller), followed(diary.weights, [0.4, 0.6, 0.8]), 1e-6)


def test_the_average_teaches_in_inference_mode():
    student = statistical(1)
    distiller = taught(0.5, student, SGD(0.0), loss=None, alpha=1.0, temperature=1.0, run_eagerly=False)
    fresh = statistical(1)
    t, s = fresh(X, training=False).numpy(), statistical(1)(X, training=True).numpy()
    p, q = softmax(t), softmax(s)
    expected = np.mean(np.sum(p * np.log(p / q), axis=-1))
    assert fit(distiller, X, None)["loss"] == pytest.approx([expected], rel=1e-4) and expected > 0.01


def test_the_head_of_an_average_is_unknown_where_that_of_its_student_is():
    halves = [keras.layers.Softmax(), keras.layers.Rescaling(0.5)]
    student = keras.Sequential([keras.Input((4,)), dense(3, 1), *halves])
    for of, head, known in ((linear(1), "auto", True), (student, "auto", False), (student, "logits", True)):
        teacher = EMA(head=head)
        teacher.bind(of, ("logits",))
        assert teacher.unrecognised(("logits",)) == ([] if known else [teacher])


def test_the_state_of_dropout_is_not_averaged():
    distiller = taught(0.5, statistical(1))
    (state,) = [v for v in distiller.teacher.model.variables if "seed" in v.path]
    (ours,) = [v for v in distiller.student.variables if "seed" in v.path]
    before = state.numpy()
    run(distiller)
    np.testing.assert_array_equal(state, before)
    assert np.any(ours.numpy() != before)


def test_a_frozen_layer_is_averaged_as_what_it_is():
    student = normed()
    student.get_layer("norm").trainable = student.get_layer("hidden").trainable = False
    distiller, diary = taught(0.5, student), Diary()
    run(distiller, 1, [diary])
    assert_same(average(distiller), followed(diary.weights, [0.5] * 3), 1e-6)


def test_a_student_that_was_compiled_and_trained_before_can_be_averaged():
    student = normed()
    student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    student.fit(X, Y, verbose=0)
    distiller, diary = taught(0.5, student), Diary()
    run(distiller, 1, [diary])
    assert_same(average(distiller), followed(diary.weights, [0.5] * 3), 1e-6)


def test_the_average_can_be_evaluated_between_epochs():
    distiller, diary = taught(0.5), Diary()
    run(distiller)
    distiller.teacher.model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    p = softmax(distiller.teacher.model(X).numpy())
    expected = -np.mean(np.log(p[np.arange(len(Y)), Y]))
    assert distiller.teacher.model.evaluate(X, Y, verbose=0) == pytest.approx(expected, rel=1e-5)
    start = average(distiller)
    run(distiller, 1, [diary])
    assert_same(average(distiller), followed([start, *diary.weights[1:]], [0.5] * 3), 1e-6)


def test_a_subclassed_student_that_keras_can_copy_is_averaged():
    student = Registered()
    student.build((None, 4))
    distiller, diary = taught(0.5, student), Diary()
    run(distiller, 1, [diary])
    assert_same(average(distiller), followed(diary.weights, [0.5] * 3), 1e-6)


class Registered(keras.Model):
    """A model without a graph that has a configuration."""

    def __init__(self, units=3, **arguments):
        super().__init__(**arguments)
        self.units = units
        self.layer = dense(units, 1)

    def build(self, shape):
        self.layer.build(shape)
        self.built = True

    def call(self, x):
        return self.layer(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_as_a_member_of_an_ensemble_it_follows_the_student_too():
    distiller = distill(normed(), Ensemble([EMA(0.5), Frozen(mlp(2))]), None, SGD(0.3))
    diary, frozen = Diary(), numbers(mlp(2))
    run(distiller, 1, [diary])
    follower, other = distiller.teacher.teachers
    assert_same(numbers(follower.model), followed(diary.weights, [0.5] * 3), 1e-6)
    assert_same(numbers(other.model), frozen)


# What it is to the Distiller


def test_its_weights_are_the_distillers_but_are_not_trained():
    distiller = taught()
    theirs = {id(v) for v in distiller.teacher.model.variables}
    assert len(theirs) == 8 and theirs <= {id(v) for v in distiller.variables}
    assert not theirs & {id(v) for v in distiller.student.variables}
    assert not theirs & {id(v) for v in distiller.trainable_variables}
    assert distiller.teacher.model.trainable_variables == []


def test_a_frozen_teacher_in_its_place_removes_them():
    distiller = taught()
    theirs = {id(v) for v in distiller.teacher.model.variables}
    distiller.teacher = mlp(2)
    assert {id(v) for v in distiller.variables} & theirs == set()
    assert "teacher" not in distiller.get_config()
    run(distiller)


def test_the_students_penalties_count_once():
    student = mlp(1, extra=Penalty(0.3), kernel_regularizer=keras.regularizers.L2(0.1))
    distiller = taught(0.5, student, SGD(0.3), alpha=0.25, run_eagerly=False)
    run(distiller)  # so that the average is no longer the student
    kernel, bias = student.get_layer("hidden").get_weights()
    penalty = 0.3 * np.mean(np.tanh(X @ kernel + bias) ** 2) + 0.1 * np.sum(student.get_layer("scores").kernel ** 2)
    parts = distiller.objective(tf.constant(X), tf.constant(Y))
    rest = 0.25 * parts["distillation_loss"] + 0.75 * parts["student_loss"]
    assert float(parts["loss"] - rest) == pytest.approx(penalty, rel=1e-4)
    logs = fit(distiller, X, Y)
    rest = 0.25 * logs["distillation_loss"][0] + 0.75 * logs["student_loss"][0]
    assert logs["loss"][0] - rest == pytest.approx(penalty, rel=1e-4)


def test_early_stopping_restores_the_best_student_and_its_average():
    class Averages(keras.callbacks.Callback):
        seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append((numbers(self.model.student), average(self.model)))

    distiller, averages = taught(), Averages()
    stopping = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    worse = X[:8], (Y[:8] + 1) % 3
    arguments = {"validation_data": worse, "batch_size": 8, "shuffle": False, "verbose": 0}
    losses = distiller.fit(X, Y, epochs=12, callbacks=[averages, stopping], **arguments).history["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3
    assert_same(numbers(distiller.student), averages.seen[best][0])
    assert_same(average(distiller), averages.seen[best][1])


# In files


def goes_on(part, restored, averaged, decays):
    """Train an epoch, let `restored` make another Distiller of it, train that for an epoch, and check its average.

    Args:
        part: a Distiller.
        restored: is called once `part` has trained, and returns the Distiller that goes on.
        averaged: the average in a Distiller, as arrays.
        decays: of the six steps.
    """
    first, second = Diary(), Diary()
    run(part, callbacks=[first])
    other = restored()
    run(other, callbacks=[second])
    assert_same(second.weights[0], numbers(part.student))
    expected = followed([followed(first.weights, decays[:3]), *second.weights[1:]], decays[3:])
    assert_same(averaged(other), expected, 1e-6)
    assert max(np.max(np.abs(a - b)) for a, b in zip(expected, first.weights[0], strict=True)) > 0.01
    return other


RAMP = [0.5 + 0.5 * (step + 1) / 6 for step in range(1, 6)] + [1.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "decay, decays", [(0.9, [0.9] * 6), (schedules.Ramp(0.5, 1.0, steps=6), RAMP)], ids=["number", "schedule"]
)
def test_a_distiller_that_is_saved_and_loaded_continues_as_if_never_interrupted(tmp_path, decay, decays):
    whole, part = (taught(decay, optimizer=keras.optimizers.Adam(0.05)) for _ in range(2))

    def restored():
        part.save(tmp_path / "distiller.keras")
        return keras.models.load_model(tmp_path / "distiller.keras")

    loaded = goes_on(part, restored, average, decays)
    assert isinstance(loaded.teacher, EMA)
    run(whole, 2)
    assert_same(numbers(loaded.student), numbers(whole.student), 1e-6)


def test_files_of_weights_contain_the_average_as_well(tmp_path):
    whole, part, other = taught(), taught(), taught(student=normed(5))

    def restored():
        part.save_weights(tmp_path / "distiller.weights.h5")
        other.load_weights(tmp_path / "distiller.weights.h5")
        return other

    goes_on(part, restored, average, [0.9] * 6)
    run(whole, 2)
    assert_same(numbers(other.student), numbers(whole.student), 1e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_in_an_ensemble_its_weights_are_in_the_file_for_an_ensemble_assigned_again(tmp_path, place):
    def made():
        members = [mlp(2)]
        members.insert(place, EMA(0.9))
        return distill(normed(), Ensemble(members), None, SGD(0.3))

    whole, part, other = made(), made(), made()

    def restored():
        part.save_weights(tmp_path / "distiller.weights.h5")
        other.load_weights(tmp_path / "distiller.weights.h5")
        return other

    goes_on(part, restored, lambda distiller: numbers(distiller.teacher.teachers[place].model), [0.9] * 6)
    run(whole, 2)
    assert_same(numbers(other.student), numbers(whole.student), 1e-6)


def test_a_lambda_for_the_decay_is_required_after_loading(tmp_path):
    distiller = taught(lambda step: 0.5)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    with pytest.raises(ValueError, match="ema.decay.*assigned again"):
        run(loaded)
    loaded.teacher.decay = lambda step: 0.5
    run(loaded)


class Kill(keras.callbacks.Callback):
    """End the process as a power cut would, in the middle of the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def backed_up(folder, *callbacks):
    """Train three epochs of three steps."""
    distiller = taught()
    backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
    return distiller, len(run(distiller, 3, [backup, *callbacks])["loss"])


@pytest.mark.one_in(2, group="kills")
@pytest.mark.slow
def test_a_killed_run_is_restored_with_its_average(tmp_path):
    script = f"from tests import test_teachers_ema as t; t.backed_up({str(tmp_path / 'killed')!r}, t.Kill())"
    root = pathlib.Path(__file__).parent.parent
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    resumed, epochs = backed_up(tmp_path / "killed")
    whole, diary = taught(), Diary()
    run(whole, 3, [diary])
    assert epochs == 2
    assert_same(numbers(resumed.student), numbers(whole.student), 1e-6)
    assert_same(average(resumed), followed(diary.weights, [0.9] * 9), 1e-6)


def test_the_student_is_saved_and_exported_without_the_average(tmp_path):
    distiller, plain = taught(), normed()
    run(distiller)
    distiller.student.save(tmp_path / "student.keras")
    plain.save(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert_same(numbers(loaded), numbers(distiller.student))
    assert (tmp_path / "student.keras").stat().st_size <= (tmp_path / "plain.keras").stat().st_size + 512
    kd.export(distiller.student, tmp_path / "export", fresh=False)
    exported = tf.saved_model.load(tmp_path / "export")
    assert len(exported.variables) == len(plain.variables)
    assert average(distiller)[0].tobytes() not in b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


# What is refused


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_outside_0_to_1_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay.*{decay}"):
        EMA(decay)


def test_a_schedule_that_leaves_0_to_1_at_one_end_is_refused():
    for begin, end in ((-1.0, 0.9), (0.9, 1.1)):
        with pytest.raises(ValueError, match="`decay` to be from 0 to 1"):
            EMA(schedules.Ramp(begin, end, steps=4))


@pytest.mark.parametrize("decay", ["0.9", None, [0.9]])
def test_a_decay_that_is_no_number_is_refused(decay):
    with pytest.raises(TypeError, match="decay.*number"):
        EMA(decay)


def test_a_student_that_is_not_built_is_refused():
    student = keras.Sequential([keras.layers.Dense(3)], name="unbuilt")
    with pytest.raises(ValueError, match="built, to copy it.*'unbuilt'.*call it on a batch"):
        kd.Distiller(student=student, teacher=EMA())


def test_a_student_that_keras_cannot_copy_is_refused():
    student = Subclassed(lambda x: x)
    student.built = True
    with pytest.raises(ValueError, match="(?s)can copy.*'subclassed'.*get_config"):
        kd.Distiller(student=student, teacher=EMA())


def test_one_average_cannot_follow_two_students():
    first, second = normed(), linear(3)
    average_of_first = taught(student=first).teacher
    with pytest.raises(ValueError, match=f"one EMA for each.*{first.name}.*{second.name}.*Make another"):
        kd.Distiller(student=second, teacher=average_of_first)
