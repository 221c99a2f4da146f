"""What a student overrides of Keras's own steps applies under a Distiller as in its own fit, evaluate and predict."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd as kd
from tests.models import batch, dense, mlp

X, Y = batch(24)
WEIGHTS = np.random.default_rng(0).uniform(0, 2, 24).astype("float32")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def graph():
    """Return the inputs and outputs of a small model with a regulariser."""
    inputs = keras.Input((4,))
    hidden = dense(5, 1, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    return inputs, dense(3, 2)(hidden)


class Focused(keras.Model):
    """Adds to the loss of `compile` what its logits weigh."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight, training) + 0.1 * ops.mean(ops.square(y_pred))


class Unregularised(keras.Model):
    """Ignores its regulariser, and what `compile` was given; an old signature, without `training`."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return ops.mean(ops.square(ops.one_hot(ops.cast(y, "int32"), 3) - y_pred))


class Unlabelled(keras.Model):
    """Learns from x alone."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(ops.sum(y_pred, axis=-1) - ops.sum(x, axis=-1)))


class Tracking(keras.Model):
    """Follows a number of its own, as Keras's documentation of `compute_metrics` shows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.largest = keras.metrics.Mean(name="largest")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.largest.update_state(ops.max(y_pred, axis=-1))
        return super().compute_metrics(x, y, y_pred, sample_weight)


class Listing(keras.Model):
    """Has a tracker named "loss", as Keras's documentation of `compute_loss` shows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True))
        self.loss_tracker.update_state(loss)
        return loss


class Evaluating(keras.Model):
    """Evaluates at another temperature, and reports a number that Keras does not."""

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False) / 3.0
        self._loss_tracker.update_state(self.compute_loss(x, y, y_pred, sample_weight))
        return {**self.compute_metrics(x, y, y_pred, sample_weight), "seen": ops.sum(y_pred)}


class Predicting(keras.Model):
    """Predicts classes."""

    def predict_step(self, data):
        return ops.argmax(super().predict_step(data), axis=-1)


def both(kind, loss=CROSS_ENTROPY, **arguments):
    """Return a model compiled for itself, and one of the same weights under a Distiller at alpha=0."""
    plain, student = kind(*graph()), kind(*graph())
    student.set_weights(plain.get_weights())
    plain.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    distiller = kd.Distiller(student=student, teacher=mlp(5))
    distiller.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], **{"alpha": 0.0, **arguments})
    return plain, distiller


LABELLED = [Focused, Unregularised, Tracking, Listing, Evaluating, Predicting]


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("kind", LABELLED)
def test_alpha_0_is_the_students_own_fit_and_evaluate(kind, eager):
    plain, distiller = both(kind)
    plain.run_eagerly = distiller.run_eagerly = eager
    settings = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    expected = plain.fit(X, Y, validation_data=(X, Y, WEIGHTS), **settings).history
    found = distiller.fit(X, Y, validation_data=(X, Y, WEIGHTS), **settings).history
    for ours, theirs in zip(distiller.student.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
    scores = distiller.evaluate(X, Y, batch_size=8, verbose=0, return_dict=True)
    for name, value in plain.evaluate(X, Y, batch_size=8, verbose=0, return_dict=True).items():
        np.testing.assert_allclose(scores[name], value, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(distiller.predict(X, verbose=0), plain.predict(X, verbose=0), atol=1e-6)


def test_the_objective_weighs_what_compute_loss_returns():
    # alpha * (term + regularisation) + (1 - alpha) * compute_loss, as compute_loss counts the regularisation itself.
    _, distiller = both(Focused, alpha=0.3, temperature=2.0)
    z = np.float64(distiller.student.predict(X, verbose=0))
    regularisation = 0.1 * np.sum(np.square(np.float64(distiller.student.layers[1].kernel)))
    hard = -np.mean((z - np.log(np.sum(np.exp(z), axis=1, keepdims=True)))[np.arange(24), Y])
    parts = distiller.objective(X, Y)
    expected = 0.3 * float(parts["distillation_loss"]) + 0.7 * (hard + 0.1 * np.mean(z**2)) + regularisation
    np.testing.assert_allclose(float(parts["loss"]), expected, rtol=1e-5)
    np.testing.assert_allclose(float(parts["student_loss"]), hard + 0.1 * np.mean(z**2), rtol=1e-5)


def test_a_student_with_a_loss_of_its_own_needs_none_and_no_labels():
    plain, student = Unlabelled(*graph()), Unlabelled(*graph())
    student.set_weights(plain.get_weights())
    plain.compile(keras.optimizers.SGD(0.01))
    distiller = kd.Distiller(student=student, teacher=mlp(5))
    distiller.compile(keras.optimizers.SGD(0.01), alpha=0.0)
    expected = plain.fit(X, batch_size=8, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(distiller.fit(X, batch_size=8, shuffle=False, verbose=0).history["loss"], expected, 1e-5)
    for ours, theirs in zip(student.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    distiller.alpha = 0.5
    distiller.fit(X, verbose=0)
    np.testing.assert_allclose(distiller.evaluate(X, verbose=0)[0], student_loss_of(student), rtol=1e-5)


def student_loss_of(student):
    z = np.float64(student.predict(X, verbose=0))
    return np.mean(np.square(z.sum(axis=1) - X.sum(axis=1)))


def test_the_compile_arguments_of_a_student_stay_unchanged():
    student = Focused(*graph())
    student.compile(keras.optimizers.Adam(), "mse", metrics=["mae"])
    before = {name: vars(student)[name] for name in ("optimizer", "loss", "_compile_loss", "_compile_metrics")}
    distiller = kd.Distiller(student=student, teacher=mlp(5))
    distiller.compile("sgd", CROSS_ENTROPY, metrics=["accuracy"])
    distiller.fit(X, Y, verbose=0)
    distiller.evaluate(X, Y, verbose=0)
    assert all(vars(student)[name] is value for name, value in before.items())
    assert set(student.evaluate(X, keras.utils.to_categorical(Y), verbose=0, return_dict=True)) == {"loss", "mae"}


def test_targets_that_x_carries_do_not_reach_them():
    _, distiller = both(Evaluating)
    distiller.teacher = kd.teachers.Cached(head="logits")
    x = kd.Joined(X, {"logits": np.zeros((24, 3), "float32")})
    dataset = tf.data.Dataset.from_tensor_slices((x, Y)).batch(8)
    distiller.fit(dataset, verbose=0)
    plain = distiller.evaluate(X, Y, batch_size=8, verbose=0, return_dict=True)
    assert distiller.evaluate(dataset, verbose=0, return_dict=True) == pytest.approx(plain, rel=1e-5)
    np.testing.assert_allclose(
        distiller.predict(dataset, verbose=0), distiller.student.predict(X, verbose=0), atol=1e-6
    )


class SelfTeacher(keras.Model):
    def train_step(self, data):
        return {}


@pytest.mark.parametrize("how", ["a class", "an instance", "a Distiller"])
def test_a_train_step_of_its_own_is_refused_by_name(how):
    student = SelfTeacher(*graph()) if how == "a class" else keras.Model(*graph())
    if how == "an instance":
        student.train_step = lambda data: {}
    if how == "a Distiller":
        student = kd.Distiller(student=student, teacher=mlp(5))
    with pytest.raises(ValueError, match=r"Keras's own `train_step`.*compute_loss"):
        kd.Distiller(student=student, teacher=mlp(5))


def test_a_teacher_may_have_a_train_step_of_its_own():
    kd.Distiller(student=mlp(1), teacher=SelfTeacher(*graph()))


def test_a_regularised_bridge_is_not_part_of_the_students_evaluation():
    bridge = keras.layers.Dense(5, kernel_regularizer=keras.regularizers.L2(1.0))
    term = kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), bridge=bridge)
    student = mlp(1)
    distiller = kd.Distiller(student=student, teacher=mlp(2), terms=[term])
    distiller.compile("sgd", CROSS_ENTROPY)
    student.compile("sgd", CROSS_ENTROPY)
    expected = student.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(distiller.evaluate(X, Y, verbose=0, return_dict=True)["loss"], expected, rtol=1e-6)
