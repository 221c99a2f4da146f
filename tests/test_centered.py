"""DINO's loss, whose center follows the teacher in training alone, and the method that has it; also test_replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import losses, methods
from tests import references
from tests.test_cross_architecture import assert_trained_and_saved, convolutional, made, of_tokens

RANDOM = np.random.default_rng(0)


def layer_for(width, **arguments):
    layer = losses.CenteredCrossEntropy(**arguments)
    layer.build((None, width), (None, width))
    layer.built = True
    return layer


@pytest.mark.parametrize("shape", [(6, 4), (5, 3, 4), (3, 2, 5, 4)])
def test_the_center_is_a_running_mean_that_moves_after_the_loss(shape):
    layer, center = layer_for(4, momentum=0.7), np.zeros(4)
    for _ in range(3):
        student, teacher = RANDOM.normal(2.0, 1.5, (2, *shape)).astype("float32")
        expected = references.centered_cross_entropy(student, teacher, center, 0.1, 0.04)
        np.testing.assert_allclose(layer(student, teacher, training=True), expected, rtol=2e-4, atol=1e-6)
        center = 0.7 * center + 0.3 * teacher.astype("float64").reshape(-1, 4).mean(0)
        np.testing.assert_allclose(layer.center, center, rtol=1e-5)


def test_outside_of_training_the_center_stays():
    layer = layer_for(4)
    layer.center.assign([1.0, 2.0, 3.0, 4.0])
    for training in (False, None):
        layer(np.ones((3, 4), "float32"), np.ones((3, 4), "float32"), training=training)
    np.testing.assert_array_equal(layer.center, [1.0, 2.0, 3.0, 4.0])


def test_a_channel_that_is_always_large_decides_nothing_once_the_center_is_known():
    teacher = RANDOM.normal(0, 0.1, (256, 8)).astype("float32")
    teacher[:, 3] += 100.0
    layer = layer_for(8, momentum=0.0)
    layer(teacher, teacher, training=True)
    chosen = np.argmax(teacher - np.array(layer.center), axis=1)
    assert np.bincount(chosen, minlength=8).max() < 64
    uniform = layer(np.zeros_like(teacher), teacher)
    np.testing.assert_allclose(uniform, np.log(8), rtol=1e-5)


def test_no_gradient_reaches_the_center_or_the_teacher():
    layer = layer_for(4)
    student, teacher = (tf.Variable(each) for each in RANDOM.normal(size=(2, 5, 4)).astype("float32"))
    assert layer.trainable_variables == []
    term = kd.Term(layer, at=("a", "b"))
    with tf.GradientTape() as tape:
        loss = term(student, teacher, training=True)
    assert tape.gradient(loss, [student, teacher])[1] is None


@pytest.mark.parametrize("arguments", [{"student_temperature": 0.0}, {"teacher_temperature": -1.0}, {"momentum": 1.0}])
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="above 0, and `momentum` from 0 to below 1. Received"):
        losses.CenteredCrossEntropy(**arguments)


@pytest.mark.parametrize(
    "way", ["eager", pytest.param("graph", marks=pytest.mark.slow), pytest.param("XLA", marks=pytest.mark.slow)]
)
def test_dino_trains_a_student_of_another_architecture(way, tmp_path):
    terms = methods.dino([("maps:global", "tokens:global"), ("maps", "tokens:map")], 0.5, 0.5)
    assert [(term.name, term.weight) for term in terms] == [("dino_1", 1.0), ("dino_2", 1.0)]
    assert terms[0].loss is not terms[1].loss
    student, teacher = convolutional(), of_tokens()
    distiller = made(terms, student, teacher, run_eagerly=way == "eager", jit_compile=way == "XLA")
    assert_trained_and_saved(distiller, 4, 4, tmp_path)


def test_a_saved_center_is_the_one_that_goes_on(tmp_path):
    student = convolutional()
    distiller = made(methods.dino([("maps:global", "tokens:global")]), student, of_tokens())
    distiller.fit(np.ones((4, 8, 8, 1), "float32"), np.zeros(4), epochs=1, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    center = np.array(distiller.terms[0].loss.center)
    assert np.any(center)
    again = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(again.terms[0].loss.center, center)
