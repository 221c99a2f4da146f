"""A model inside a teacher, a term or a student may have been compiled for itself: the logs do not change."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import losses, teachers
from tests.models import batch, dense, mlp

X, Y = batch(24)
OTHER_X, OTHER_Y = batch(24, seed=1)
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model):
    model.compile("adam", CROSS_ENTROPY, metrics=["accuracy"])
    return model


def make(student=None, teacher=None, terms=None):
    distiller = kd.Distiller(student=student or mlp(1), teacher=teacher or mlp(2), terms=terms)
    distiller.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, metrics=["accuracy"])
    return distiller


def in_a_bridge():
    bridge = compiled(keras.Sequential([keras.Input((5,)), dense(5, 7)]))
    return make(terms=[kd.Term(losses.squared_error, at=("hidden", "hidden"), bridge=bridge)]), bridge


def in_an_average():
    distiller = make(teacher=teachers.EMA(0.5))
    return distiller, compiled(distiller.teacher.model)


def in_an_ensemble():
    distiller = make(teacher=[mlp(2), teachers.EMA(0.5)])
    return distiller, compiled(distiller.teacher.teachers[1].model)


def of_a_compiled_student():
    distiller = make(compiled(mlp(1)), teachers.EMA(0.5))
    return distiller, compiled(distiller.teacher.model)


def wrapping(inner):
    return keras.Sequential([keras.Input((1, 4)), keras.layers.TimeDistributed(inner), keras.layers.Flatten()])


def in_a_wrapper():
    inner = compiled(keras.Sequential([keras.Input((4,)), dense(3, 4)]))
    return make(wrapping(inner), lambda x: x[:, 0, :3]), inner


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("build", [in_a_bridge, in_an_average, in_an_ensemble, of_a_compiled_student, in_a_wrapper])
def test_its_loss_and_metrics_do_not_replace_the_distillers(build):
    distiller, inner = build()
    x = X[:, None] if build is in_a_wrapper else X
    # Keras itself cannot evaluate a model in which a wrapper holds a compiled one.
    wrapped = wrapping(keras.Sequential([keras.Input((4,)), dense(3, 4)]))
    student = compiled(wrapped if build is in_a_wrapper else keras.models.clone_model(distiller.student))
    student.set_weights(distiller.student.get_weights())
    expected = student.evaluate(x, Y, verbose=0, return_dict=True)
    before = distiller.evaluate(x, Y, verbose=0, return_dict=True)  # before the first fit, too
    assert {name: before[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    if build is not in_a_bridge:
        inner.evaluate(OTHER_X, OTHER_Y, verbose=0)
    history = distiller.fit(x, Y, validation_data=(x, Y), verbose=0).history
    student.set_weights(distiller.student.get_weights())
    expected = student.evaluate(x, Y, verbose=0, return_dict=True)
    assert {name: history[f"val_{name}"][0] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert distiller.evaluate(x, Y, verbose=0, return_dict=True)["accuracy"] == pytest.approx(expected["accuracy"])


class Counting(keras.layers.Layer):
    """A layer with a metric of its own, which Keras logs."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.mean = keras.metrics.Mean(name="activity")

    def call(self, x):
        self.mean.update_state(keras.ops.mean(x))
        return x


def test_metrics_of_the_students_layers_are_logged_as_keras_logs_them():
    student = mlp(1, extra=Counting())
    distiller = make(student)
    found = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    expected = compiled(student).evaluate(X, Y, verbose=0, return_dict=True)
    assert "activity" in expected and {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_a_distiller_whose_average_was_compiled_is_saved_and_continues(tmp_path):
    distiller, model = in_an_average()
    distiller.fit(X, Y, verbose=0)
    model.fit(X, Y, epochs=0, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    for one in (distiller, loaded):
        one.fit(X, Y, shuffle=False, verbose=0)
    for ours, theirs in zip(loaded.student.get_weights(), distiller.student.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
