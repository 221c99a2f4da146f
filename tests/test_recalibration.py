"""Statistics of normalisations are those of the data, and nothing else changes."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.pruning import recalibrate


def images(count, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, (count, 5, 4, 3)).astype("float32")


def network(**arguments):
    """Return a model with two normalisations behind one another, one of them nested, and their layers."""
    keras.utils.set_random_seed(0)
    first, second = layers.BatchNormalization(name="first", **arguments), layers.BatchNormalization(epsilon=0.1)
    inner = keras.Sequential([keras.Input((3,)), second, layers.Dense(2)])
    inputs = keras.Input((5, 4, 3))
    x = layers.GlobalAveragePooling2D()(first(inputs))
    return keras.Model(inputs, inner(x)), first, second


def moments(x):
    """Return the means of the batches' means and of their variances, in float64."""
    axes = tuple(range(1, x[0].ndim - 1))
    means, variances = ([np.float64(f(batch, axis=(0, *axes))) for batch in x] for f in (np.mean, np.var))
    return np.mean(means, axis=0), np.mean(variances, axis=0)


@pytest.mark.parametrize(("count", "size", "whole"), [(12, 4, 3), (11, 4, 2), (3, 4, 1)])
def test_statistics_are_the_means_of_those_of_whole_batches(count, size, whole):
    model, first, second = network()
    x = images(count)
    batches = [np.float64(x[start : start + size]) for start in range(0, whole * size, size)]
    assert recalibrate(model, x, batch_size=size) is model
    mean, variance = moments(batches)
    np.testing.assert_allclose(first.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(first.moving_variance, variance, rtol=1e-5)
    # The second one is behind the first in training mode: of each batch's own statistics.
    normal = [(batch - batch.mean((0, 1, 2))) / np.sqrt(batch.var((0, 1, 2)) + first.epsilon) for batch in batches]
    mean, variance = moments([each.mean((1, 2)) for each in normal])
    np.testing.assert_allclose(second.moving_mean, mean, atol=1e-6)
    np.testing.assert_allclose(second.moving_variance, variance, rtol=1e-4)


def test_weights_and_momenta_stay():
    model, first, second = network(momentum=0.7)
    before = [np.array(each) for each in model.trainable_variables]
    recalibrate(model, images(8))
    assert (first.momentum, second.momentum) == (0.7, 0.99)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_second_call_changes_nothing():
    model, first, _ = network()
    recalibrate(model, images(8))
    expected = [np.array(each) for each in model.weights]
    recalibrate(model, images(8))
    for variable, value in zip(model.weights, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-6)


def test_layers_that_are_not_trained_keep_theirs():
    model, first, second = network()
    first.trainable = False
    recalibrate(model, images(8))
    np.testing.assert_array_equal(first.moving_mean, np.zeros(3))
    assert np.any(np.array(second.moving_mean) != 0)


def test_momenta_stay_where_a_batch_does_not_fit():
    model, first, _ = network()
    with pytest.raises(ValueError, match="shape"):
        recalibrate(model, images(8)[..., :2])
    assert first.momentum == 0.99


def test_a_model_without_normalisation_is_not_run():
    model = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5, seed=1), layers.Dense(2)])
    state = np.array(model.layers[0].seed_generator.state)
    recalibrate(model, np.ones((8, 4), "float32"))
    np.testing.assert_array_equal(model.layers[0].seed_generator.state, state)


def test_inputs_by_name_are_read():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((3,), name="b")}
    model = keras.Model(inputs, layers.BatchNormalization(name="norm")(inputs["a"] - inputs["b"]))
    a, b = np.random.default_rng(0).normal(1, 2, (2, 6, 3)).astype("float32")
    recalibrate(model, {"a": a, "b": b})
    np.testing.assert_allclose(model.get_layer("norm").moving_mean, (a - b).mean(0), rtol=1e-5)


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match=r"Expected some examples to measure statistics on\. Received: none"):
        recalibrate(network()[0], images(0))
