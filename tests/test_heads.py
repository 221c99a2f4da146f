"""Heads: from what a model says to logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, heads, losses
from keras_kd.taps import Reader
from keras_kd.teachers import Frozen
from keras_kd.terms import Term
from tests import models, references

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype("float32") * 3
ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}


def logits_of(model, x, **arguments):
    return Reader(model, **arguments)(tf.constant(x), training=False)[1]["logits"].numpy()


@pytest.mark.parametrize("kind", ["auto", "logits", "values"])
def test_what_is_not_recognised_passes_unchanged(kind):
    np.testing.assert_array_equal(heads.Head(kind)(tf.constant(LOGITS)), LOGITS)


def test_a_softmax_becomes_log_probabilities():
    probabilities = tf.constant([[0.5, 0.25, 0.25]])  # a plain tensor: nothing to recognise it by
    np.testing.assert_allclose(heads.Head("softmax")(probabilities), np.log([[0.5, 0.25, 0.25]]), rtol=1e-6)


def test_a_sigmoid_becomes_log_odds():
    # log(p / (1 - p)): 0.5 -> 0, 0.75 -> log 3, 0.2 -> -log 4
    received = heads.Head("sigmoid")(tf.constant([[0.5, 0.75, 0.2]]))
    np.testing.assert_allclose(received, [[0.0, np.log(3.0), -np.log(4.0)]], atol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_probabilities_rounded_to_0_and_1_have_finite_logits_and_gradients(kind):
    probabilities = tf.Variable([[1.0, 0.0]])
    with tf.GradientTape() as tape:
        logits = heads.Head(kind)(probabilities)
    assert np.all(np.isfinite(logits)) and np.all(np.isfinite(tape.gradient(logits, probabilities)))
    # log of the smallest normal float32 is -87.3, and the log-odds of 1 - 2**-24 are 16.6.
    assert logits[0, 1] < -87 and logits[0, 0] >= (16.6 if kind == "sigmoid" else 0.0)


@pytest.mark.parametrize("kind", ["auto", "softmax", "sigmoid"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_keras_activation_gives_its_exact_logits_back_however_extreme(activation, kind):
    extreme = 200 * LOGITS
    output = keras.activations.get(activation)(tf.constant(extreme))
    np.testing.assert_array_equal(heads.Head(kind)(output), extreme)


def test_probabilities_said_to_be_values_stay_what_they_are():
    output = keras.activations.softmax(tf.constant(LOGITS))
    np.testing.assert_array_equal(heads.Head("values")(output), output)


def test_an_unknown_head_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'auto', 'logits', 'softmax', 'sigmoid', 'values'.*'tanh'"):
        heads.Head("tanh")


def test_a_head_passes_the_mask_of_an_output_on():
    output = tf.constant([[[0.5, 0.5], [0.5, 0.5]]])
    output._keras_mask = tf.constant([[True, False]])
    np.testing.assert_array_equal(heads.Head("softmax")(output)._keras_mask, [[True, False]])


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["functional", "activation", "sequential", "nested"])
def test_a_head_is_recognised_however_the_model_is_built(kind, head):
    model = models.headed(0, head, kind)
    model = model if kind == "nested" else keras.Model(model.inputs[0], model.outputs[0])
    assert heads.recognise(model.outputs[0]) == head


def test_a_softmax_layer_and_a_distributed_one_are_recognised():
    inputs = keras.Input((2, 3))
    assert heads.recognise(keras.layers.Softmax()(inputs)) == "softmax"
    assert heads.recognise(keras.layers.TimeDistributed(models.dense(3, 0, activation="softmax"))(inputs)) == "softmax"


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "log_softmax"])
def test_another_end_is_not_taken_for_a_head(activation):
    assert heads.recognise(models.linear(0, activation=activation).output) == "auto"


@pytest.mark.parametrize("head", ["logits", "softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["functional", "activation", "sequential", "nested", "subclassed"])
def test_copies_of_one_model_with_any_head_have_its_logits(kind, head):
    x, _ = models.batch()
    weights = models.linear(0).get_weights()
    expected = x.astype("float64") @ weights[0] + weights[1]
    received = logits_of(models.headed(0, head, kind), x)
    np.testing.assert_allclose(received, expected, atol=1e-5)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_a_head_that_cannot_be_recognised_can_be_said(head):
    # An activation of TensorFlow leaves no logits on its tensor: log p is the logits up to a constant per example.
    x, _ = models.batch()
    model = models.linear(0, activation=ACTIVATIONS[head])
    weights = model.get_weights()
    expected = x.astype("float64") @ weights[0] + weights[1]
    received = logits_of(model, x, head=head)
    shift = references._logsumexp(expected)[:, None] if head == "softmax" else 0.0
    np.testing.assert_allclose(received, expected - shift, atol=1e-5)


def test_heads_are_said_by_output_in_a_model_with_several():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, {"classes": keras.layers.Softmax()(inputs), "box": keras.activations.sigmoid(inputs)})
    read = Reader(model, head={"box": "values"})(tf.constant(LOGITS), training=False)[1]
    np.testing.assert_array_equal(read["classes"], LOGITS)
    np.testing.assert_allclose(read["box"], 1 / (1 + np.exp(-LOGITS)), rtol=1e-5)


def test_a_head_for_an_output_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"\['bx'\].*\['logits'\]"):
        Reader(models.linear(0), head={"bx": "values"}, owner="teacher")


def test_values_are_learned_without_a_temperature():
    student, teacher = models.linear(1), models.linear(0)
    x, _ = models.batch()
    terms = [Term(losses.kl_divergence)]  # a loss on which the temperature would show
    distiller = Distiller(student=student, teacher=Frozen(teacher, head="values"), terms=terms, student_head="values")
    distiller.compile(keras.optimizers.SGD(0.0), temperature=7.0, alpha=1.0, jit_compile=False)
    expected = references.kl_divergence(student.predict(x, verbose=0), teacher.predict(x, verbose=0)).mean()
    assert distiller.fit(x, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)
