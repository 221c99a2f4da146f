"""A bridge with orthonormal columns or rows, and VkD, which follows standardised features through it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import bridges, losses, methods
from tests import references
from tests.test_cross_architecture import assert_trained_and_saved, convolutional, made, of_tokens

RANDOM = np.random.default_rng(0)


def projection(ours, theirs, kernel=None):
    layer = bridges.OrthogonalProjection(theirs)
    layer.build((None, ours))
    if kernel is not None:
        layer.kernel.assign(kernel)
    return layer


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_whatever_was_trained_the_matrix_is_orthonormal_on_its_smaller_side(ours, theirs, seed):
    kernel = np.random.default_rng(seed).normal(size=(max(ours, theirs), min(ours, theirs)))
    q = np.asarray(projection(ours, theirs, kernel).matrix(), "float64")
    assert q.shape == (ours, theirs)
    gram = q.T @ q if ours >= theirs else q @ q.T
    np.testing.assert_allclose(gram, np.eye(min(ours, theirs)), atol=2e-6)
    if ours <= theirs:  # lengths and angles of the student's features are kept
        x = RANDOM.normal(size=(4, ours))
        np.testing.assert_allclose(x @ q @ (x @ q).T, x @ x.T, atol=1e-5)


def test_the_matrix_is_that_of_gram_and_schmidt():
    kernel = RANDOM.normal(size=(4, 3))
    q = np.zeros((4, 3))
    for column in range(3):
        rest = kernel[:, column] - q[:, :column] @ (q[:, :column].T @ kernel[:, column])
        q[:, column] = rest / np.linalg.norm(rest)
    np.testing.assert_allclose(projection(4, 3, kernel).matrix(), q, atol=1e-6)
    np.testing.assert_allclose(projection(3, 4, kernel).matrix(), q.T, atol=1e-6)


def test_positions_are_averaged():
    layer = projection(3, 5)
    maps = RANDOM.normal(size=(2, 4, 6, 3)).astype("float32")
    expected = maps.astype("float64").mean((1, 2)) @ np.asarray(layer.matrix(), "float64")
    np.testing.assert_allclose(layer(maps), expected, atol=1e-6)
    np.testing.assert_allclose(layer(maps.reshape(2, 24, 3)), expected, atol=1e-6)
    np.testing.assert_allclose(layer(maps.mean((1, 2))), expected, atol=1e-6)


@pytest.mark.parametrize("way", ["eager", "graph", "XLA"])
def test_the_gradient_is_that_of_differences(way):
    kernel, features = RANDOM.normal(size=(4, 3)), RANDOM.normal(size=(5, 3)).astype("float32")
    teacher = RANDOM.normal(size=(5, 2, 4)).astype("float32")
    layer = projection(3, 4, kernel)

    def value():
        return keras.ops.mean(losses.standardized_huber(layer(features), teacher))

    def gradient():
        with tf.GradientTape() as tape:
            loss = value()
        return tape.gradient(loss, layer.kernel.value)

    run = gradient if way == "eager" else tf.function(gradient, jit_compile=way == "XLA")

    def reference(changed):
        q, r = np.linalg.qr(changed)
        q = q * np.sign(np.diag(r))
        return references.standardized_huber(features.astype("float64") @ q.T, teacher).mean()

    expected = np.zeros((4, 3))
    for place in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[place] = 1e-6
        expected[place] = (reference(kernel + step) - reference(kernel - step)) / 2e-6
    np.testing.assert_allclose(run(), expected, atol=2e-6)


@pytest.mark.parametrize("eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_vkd_trains_a_convolutional_student_under_tokens(eagerly, tmp_path):
    [term] = terms = methods.vkd([("maps", "tokens:map")])
    assert (term.weight, term.loss) == (1.0, losses.standardized_huber)
    distiller = made(terms, convolutional(), of_tokens(), run_eagerly=eagerly)
    assert isinstance(term.bridge, bridges.OrthogonalProjection) and term.bridge.built
    before = term.bridge.matrix()
    assert_trained_and_saved(distiller, 1, 4, tmp_path)
    q = np.asarray(term.bridge.matrix(), "float64")
    assert np.any(q != before)
    smaller = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
    np.testing.assert_allclose(smaller, np.eye(min(q.shape)), atol=2e-6)


def test_a_bridge_of_another_name_is_refused():
    with pytest.raises(TypeError, match=r'"auto", "orthogonal" or None. Received: \'linear\' of type str'):
        kd.Term(losses.squared_error, at=("maps", "tokens"), bridge="linear")
    with pytest.raises(ValueError, match='has bridge="orthogonal", for which one layer has to be read on each side'):
        term = kd.Term(losses.squared_error, at=(("maps", "vectors"), "tokens:map"), bridge="orthogonal")
        made([term], convolutional(), of_tokens())
