"""Importances of units, against definitions in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.pruning import graph_walk
from keras_kd.pruning.block_divergence import divergence
from keras_kd.pruning.importance import measured
from keras_kd.pruning.kept_units import Choices
from tests import pruned as architectures
from tests.models import softmax

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


def two_layers(classes=3, activation=None, units=5):
    inputs = keras.Input((4,))
    x = layers.Dense(units, "relu", name="hidden")(inputs)
    return architectures.perturbed(keras.Model(inputs, layers.Dense(classes, activation, name="scores")(x)))


def importance(model, how, data=None, head="auto"):
    """Return the importance of each hidden unit."""
    choices = Choices(graph_walk.trace(model))
    (axis,) = (each for each in choices.made if each.owner == "hidden")
    return measured(model, choices, how, data, head)[choices.roots[axis.ids]]


def parts(model):
    """Return the two kernels and the hidden activations, in float64."""
    first, bias, second, _ = (np.asarray(each, "float64") for each in model.get_weights())
    return first, second, np.maximum(X.astype("float64") @ first + bias, 0)


def test_magnitude_is_the_norm_of_both_kernels_as_a_part_of_the_mean():
    model = two_layers()
    first, second, _ = parts(model)
    norms = np.sqrt(np.square(first).sum(0) + np.square(second).sum(1))
    np.testing.assert_allclose(importance(model, "magnitude"), norms / norms.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    "data", [X, (X, np.zeros(64)), tf.data.Dataset.from_tensor_slices(X).batch(10)], ids=["x", "xy", "tf"]
)
def test_activations_are_the_mean_absolute_value_where_they_are_read(data):
    model = two_layers()
    means = np.abs(parts(model)[2]).mean(0)
    np.testing.assert_allclose(importance(model, "activations", data), means / means.mean(), rtol=1e-5)


def fisher(model, jacobian_noise):
    """Return E[(d log p / d factor)**2] for each hidden unit, summed over the examples.

    The factor m multiplies the activation h, so that d logits / d m = h * W, and d log p(y) / d logits = noise.
    """
    _, second, hidden = parts(model)
    return np.einsum("nu,uc,ncd,ud,nu->u", hidden, second, jacobian_noise, second, hidden)


@pytest.mark.parametrize("head", ["logits", "softmax"])
def test_taylor_is_the_fisher_information_of_a_softmax(head):
    """The covariance of one_hot(y) - p is diag(p) - p p^T."""
    model = two_layers(activation=None if head == "logits" else head)
    _, second, hidden = parts(model)
    p = softmax(hidden @ second + np.asarray(model.get_weights()[3], "float64"))
    covariance = np.einsum("nc,cd->ncd", p, np.eye(3)) - np.einsum("nc,nd->ncd", p, p)
    many = np.concatenate([X] * 60)
    np.testing.assert_allclose(importance(model, "taylor", many) / 60, fisher(model, covariance), rtol=0.25)


@pytest.mark.slow
def test_taylor_is_the_fisher_information_of_a_sigmoid_and_of_values():
    many = np.concatenate([X] * 60)
    model = two_layers(2, "sigmoid")
    _, second, hidden = parts(model)
    p = 1 / (1 + np.exp(-(hidden @ second + np.asarray(model.get_weights()[3], "float64"))))
    found = importance(model, "taylor", many) / 60
    np.testing.assert_allclose(found, fisher(model, np.einsum("nc,cd->ncd", p * (1 - p), np.eye(2))), rtol=0.25)
    model = two_layers(2)
    identity = np.broadcast_to(np.eye(2), (64, 2, 2))
    found = importance(model, "taylor", many, "values") / 60
    np.testing.assert_allclose(found, fisher(model, identity), rtol=0.25)


@pytest.mark.slow
def test_half_of_the_taylor_term_is_the_divergence_of_a_factor_near_one():
    """KL(model || model with a factor of 1 - e on a unit) = e**2 / 2 * Fisher + O(e**3)."""
    model = two_layers()
    found = importance(model, "taylor", np.concatenate([X] * 60)) / 60
    for unit in range(5):
        other = keras.models.clone_model(model)
        weights = [each.copy() for each in model.get_weights()]
        weights[2][unit] *= 0.95
        other.set_weights(weights)
        np.testing.assert_allclose(64 * divergence(model, other, X), 0.05**2 / 2 * found[unit], rtol=0.3)


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["resnet", "transformer", "recurrent", "tied", "many", "shared", "nested"])
@pytest.mark.parametrize("how", ["taylor", "activations"])
def test_every_architecture_is_measured(name, how):
    model = architectures.perturbed(architectures.ALL[name](architectures.uncut))
    pruned, report = kd.prune(model, parameters=0.8, importance=how, data=architectures.data(model, rows=16))
    assert pruned.count_params() <= 0.8 * model.count_params()


def test_a_unit_that_is_never_active_goes_first():
    model = two_layers(units=6)
    weights = model.get_weights()
    weights[1][:] = 5.0
    weights[1][2] = -100.0
    model.set_weights(weights)
    for how in ("taylor", "activations"):
        _, report = kd.prune(model, keep=5 / 6, importance=how, data=X)
        assert report.widths[0].units.tolist() == [0, 1, 3, 4, 5]


def residual(blocks=3):
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="stem")(inputs)
    for number in range(blocks):
        y = layers.Dense(6, name=f"out_{number}")(layers.Dense(5, "relu", name=f"in_{number}")(x))
        x = layers.Add(name=f"sum_{number}")([x, y])
    return architectures.perturbed(keras.Model(inputs, layers.Dense(3, name="scores")(x)))


def test_blocks_are_sums_of_a_stream_and_what_is_computed_from_it():
    assert kd.pruning.find_blocks(residual()) == ["sum_0", "sum_1", "sum_2"]
    resnet = architectures.ALL["resnet"](architectures.uncut)
    assert kd.pruning.find_blocks(resnet) == ["sum"]  # the other one has a projection
    assert kd.pruning.find_blocks(architectures.ALL["mlp"](architectures.uncut)) == []


def test_a_block_is_left_out():
    model = residual()
    pruned, report = kd.prune(model, blocks=["sum_1"])
    weights = {weight.path: np.asarray(weight, "float64") for weight in model.weights}

    def dense(name, x):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    x = dense("stem", X)
    for number in (0, 2):
        x = x + dense(f"out_{number}", np.maximum(dense(f"in_{number}", x), 0))
    np.testing.assert_allclose(pruned(X), dense("scores", x), rtol=1e-4, atol=1e-4)
    assert report.blocks == ("sum_1",) and "out_1" not in {layer.name for layer in pruned.layers}
    assert report.parameters == (model.count_params(), pruned.count_params())


def test_the_blocks_that_change_the_outputs_least_go_first():
    model = residual()
    for name in ("out_2/kernel", "out_2/bias", "out_0/kernel", "out_0/bias"):
        (weight,) = (each for each in model.weights if each.path == name)
        weight.assign(weight * (1e-3 if "2" in name else 1e-2))
    assert kd.prune(model, blocks=1, data=X)[1].blocks == ("sum_2",)
    assert kd.prune(model, blocks=2, data=X)[1].blocks == ("sum_0", "sum_2")
    _, report = kd.prune(model, blocks=1, data=X, parameters=0.5, importance="magnitude")
    assert report.blocks == ("sum_2",) and report.parameters[1] <= 0.5 * report.parameters[0]
    with pytest.raises(ValueError, match="to find the blocks"):
        kd.prune(model, blocks=1)
