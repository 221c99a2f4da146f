"""Taps: outputs and named layers of a model, in one forward pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd._internal.layer_reader import Reader
from tests import models
from tests.models import Counter, dense, mlp

X = models.batch()[0]


def hidden_of(model, x=X, layer="hidden"):
    """Return tanh(x W + b) of a Dense layer, in float64."""
    kernel, bias = (v.numpy().astype("float64") for v in model.get_layer(layer).weights)
    return np.tanh(x @ kernel + bias)


def read(model, names, x=X, training=False):
    return Reader(model, names, owner="student")(x, training=training)[1]


def backbone(seed=0, **arguments):
    """Return a model that ends in the layer "block", to be nested in another."""
    inputs = keras.Input((4,))
    x = dense(5, seed, activation="tanh", name="block")(inputs)
    return keras.Model(inputs, dense(2, seed, name="top")(x), **arguments)


def test_a_named_layer_of_a_functional_model_is_read():
    model = mlp(0)
    np.testing.assert_allclose(read(model, ("hidden",))["hidden"], hidden_of(model), atol=1e-6)


def test_a_named_layer_of_a_sequential_model_is_read():
    model = keras.Sequential([keras.Input((4,)), dense(5, 0, activation="tanh", name="hidden"), dense(3, 1)])
    np.testing.assert_allclose(read(model, ("hidden",))["hidden"], hidden_of(model), atol=1e-6)


@pytest.mark.parametrize("nested", ["functional", "sequential"])
def test_a_layer_of_a_nested_model_is_read_by_its_path(nested):
    inner = backbone(name="backbone")
    if nested == "sequential":
        inner = keras.Sequential(
            [keras.Input((4,)), dense(5, 0, activation="tanh", name="block"), dense(2, 0)], name="backbone"
        )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(3, 1)(inner(inputs)))
    features = read(model, ("backbone/block",))["backbone/block"]
    np.testing.assert_allclose(features, hidden_of(inner, layer="block"), atol=1e-6)


def test_a_layer_two_models_deep_is_read_by_its_path():
    inner, inputs = backbone(name="backbone"), keras.Input((4,))
    middle, outer = keras.Model(inputs, inner(inputs), name="encoder"), keras.Input((4,))
    model = keras.Model(outer, dense(3, 1)(middle(outer)))
    features = read(model, ("encoder/backbone/block", "encoder/backbone"))
    np.testing.assert_allclose(features["encoder/backbone/block"], hidden_of(inner, layer="block"), atol=1e-6)
    np.testing.assert_array_equal(features["encoder/backbone"], inner(X))


def test_a_nested_model_that_was_used_elsewhere_before_is_read_where_it_is_now():
    inner = backbone(name="backbone")
    inner(keras.Input((4,)))  # another use, on other inputs
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner(keras.layers.Rescaling(3.0)(inputs)))
    features = read(model, ("backbone/block",))["backbone/block"]
    np.testing.assert_allclose(features, hidden_of(inner, 3.0 * X, layer="block"), atol=1e-6)


def test_the_output_is_the_models_own_beside_its_logits():
    model = mlp(0, activation="softmax")
    output, outputs = Reader(model, ("hidden",))(X, training=False)
    np.testing.assert_array_equal(output, model(X))
    np.testing.assert_allclose(models.softmax(outputs["logits"]), output, atol=1e-6)


@pytest.mark.parametrize("names", [(), ("hidden",)])
def test_outputs_of_a_model_with_several_have_their_names(names):
    inputs = keras.Input((4,))
    hidden = dense(5, 0, name="hidden")(inputs)
    a, b = dense(2, 1, name="a")(hidden), dense(3, 1, name="b")(hidden)
    for outputs, expected in (([a, b], {"a", "b"}), ({"x": a, "y": b}, {"x", "y"})):
        assert set(read(keras.Model(inputs, outputs), names)) == expected | set(names)


def test_a_subclassed_model_offers_its_outputs_by_key_or_place():
    class Several(keras.Model):
        def __init__(self, make):
            super().__init__()
            self.make = make

        def call(self, x):
            return self.make(x)

    assert set(read(Several(lambda x: {"a": x, "b": 2 * x}), ())) == {"a", "b"}
    assert set(read(Several(lambda x: [x, 2 * x]), ())) == {"output_0", "output_1"}
    assert set(read(Several(lambda x: x), ())) == {"logits"}


def test_an_output_can_be_read_under_logits_or_its_own_name_in_a_dict_of_one():
    inputs = keras.Input((4,))
    offered = read(keras.Model(inputs, {"scores": dense(3, 0)(inputs)}), ())
    np.testing.assert_array_equal(offered["logits"], offered["scores"])


@pytest.mark.parametrize("names", [(), ("hidden",), ("hidden", "counter", "scores")])
def test_a_read_is_one_forward_pass(names):
    counter = Counter(name="counter")
    reader = Reader(mlp(0, extra=counter), names)
    before = counter.runs
    reader(tf.constant(X), training=False)
    assert counter.runs == before + 1


def test_features_and_output_come_from_the_same_random_pass():
    model = mlp(0, extra=keras.layers.Dropout(0.5, seed=3, name="drop"))
    output, features = Reader(model, ("drop",))(X, training=True)
    np.testing.assert_allclose(output, model.get_layer("scores")(features["drop"]), atol=1e-6)
    assert np.any(np.asarray(features["drop"]) == 0)


@pytest.mark.parametrize("training", [True, False])
def test_training_is_passed_to_the_layers(training):
    model = mlp(0, extra=keras.layers.Dropout(0.5, seed=3, name="drop"))
    assert np.any(np.asarray(read(model, ("drop",), training=training)["drop"]) == 0) == training


def test_the_mask_of_a_layer_comes_with_its_features():
    features = read(models.tagger(0), ("words",), np.array([[1, 2, 0]]))
    np.testing.assert_array_equal(features["words"]._keras_mask, [[True, True, False]])
    np.testing.assert_array_equal(features["logits"]._keras_mask, [[True, True, False]])


def test_a_model_reads_the_keys_it_knows_of_a_dict():
    inputs = {"image": keras.Input((4,), name="image")}
    model = keras.Model(inputs, dense(3, 0, name="scores")(inputs["image"]))
    features = read(model, (), {"depth": X + 1, "image": X})
    np.testing.assert_array_equal(features["logits"], model({"image": X}))


def test_one_tensor_is_what_a_model_with_one_key_reads_without_a_warning(recwarn):
    inputs = {"images": keras.Input((4,), name="images")}
    model = keras.Model(inputs, keras.layers.Dense(3, name="hidden")(inputs["images"]))
    x = np.ones((2, 4), "float32")
    expected = np.asarray(model({"images": x}))
    for given in (x, {"images": x, "other": x}):
        output, read = Reader(model, ("hidden",))(given, training=False)
        np.testing.assert_array_equal(output, expected)
        np.testing.assert_array_equal(read["hidden"], expected)
    assert not recwarn.list


def test_symbolic_shapes_are_known_without_data():
    specs = Reader(mlp(0), ("hidden",)).specs
    assert {name: tensor.shape for name, tensor in specs.items()} == {
        "hidden": (None, 5),
        "logits": (None, 3),
    }
    assert Reader(models.headed(0, "logits", "subclassed")).specs is None


def test_reading_leaves_the_model_unchanged():
    model = mlp(0)
    before, tensor, weights = model.to_json(), model.get_layer("hidden").output, models.numbers(model)
    read(model, ("hidden",))
    assert model.to_json() == before and model.get_layer("hidden").output is tensor
    models.assert_same(models.numbers(model), weights)


def test_a_name_that_does_not_exist_is_refused_with_close_matches():
    with pytest.raises(ValueError, match="'hiden'.*student.*Did you mean 'hidden'"):
        Reader(mlp(0), ("hiden",), owner="student")


def test_a_nested_name_that_does_not_exist_is_refused_with_close_matches():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, backbone(name="backbone")(inputs))
    with pytest.raises(ValueError, match="'blok'.*teacher's backbone.*Did you mean 'block'"):
        Reader(model, ("backbone/blok",), owner="teacher")


def test_a_layer_that_is_called_twice_is_refused_with_what_to_do():
    inputs, layer = keras.Input((4,)), dense(4, 0, name="shared")
    with pytest.raises(ValueError, match="'shared'.*called 2 times.*Identity"):
        Reader(keras.Model(inputs, layer(layer(inputs))), ("shared",))


def test_a_layer_with_several_tensors_is_refused():
    inputs = keras.Input((5, 4))
    states = keras.layers.LSTM(3, return_state=True, name="memory")(inputs)
    with pytest.raises(ValueError, match="'memory'.*several tensors"):
        Reader(keras.Model(inputs, states[0]), ("memory",))


def attention(seed=0):
    """Return a model of a nested backbone, whose attention returns its scores, and a convolution."""
    inputs = keras.Input((4, 6))
    x = dense(8, seed, activation="tanh", name="wide")(inputs)
    seen, scores = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x, return_attention_scores=True)
    backbone = keras.Model(inputs, [seen, scores], name="backbone")
    outer = keras.Input((4, 6))
    x = keras.layers.Conv1D(5, 3, activation="relu", name="conv")(backbone(outer)[0])
    return keras.Model(outer, dense(3, seed)(keras.layers.Flatten()(keras.layers.ReLU(name="relu")(x))))


def test_what_a_layer_reads_its_pre_activation_and_one_of_its_outputs_are_read():
    model, x = attention(), np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
    names = (
        "backbone/wide:input",
        "backbone/wide:pre_activation",
        "backbone/attention:1",
        "conv:pre_activation",
        "conv",
    )
    found = read(model, (*names, "relu:input", "backbone/wide"), x)
    kernel, bias = (each.numpy().astype("float64") for each in model.get_layer("backbone").get_layer("wide").weights)
    np.testing.assert_array_equal(found[names[0]], x)
    np.testing.assert_allclose(found[names[1]], x @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(found["backbone/wide"], np.tanh(x @ kernel + bias), atol=1e-6)
    assert found[names[2]].shape == (2, 2, 4, 4)
    np.testing.assert_allclose(np.sum(found[names[2]], axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.maximum(found[names[3]], 0), found["conv"], atol=1e-6)
    assert np.min(found[names[3]]) < 0
    np.testing.assert_array_equal(found["relu:input"], found["conv"])
    np.testing.assert_array_equal(Reader(model, names)(x, training=False)[0], model(x))


def test_reading_a_pre_activation_leaves_the_layer_unchanged():
    model = mlp(0)
    before, activation = model.to_json(), model.get_layer("hidden").activation
    reader = Reader(model, ("hidden:pre_activation",))
    tf.function(lambda: reader(X, training=True))()
    assert model.to_json() == before and model.get_layer("hidden").activation is activation
    assert [each.path for each in model.weights] == [each.path for each in mlp(0).weights]


def test_the_gradient_of_a_pre_activation_is_that_of_its_kernel():
    model = mlp(0)
    reader, kernel = Reader(model, ("hidden:pre_activation",)), model.get_layer("hidden").kernel
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(reader(X, training=True)[1]["hidden:pre_activation"])
    expected = np.repeat(np.sum(X.astype("float64"), axis=0)[:, None], 5, axis=1)
    np.testing.assert_allclose(tape.gradient(value, kernel.value), expected, rtol=1e-5)


def test_the_mask_of_a_pre_activation_is_that_of_its_layer():
    inputs = keras.Input((3,), dtype="int32")
    words = keras.layers.Embedding(5, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, dense(3, 0)(dense(6, 1, activation="tanh", name="hidden")(words)))
    found = read(model, ("hidden:pre_activation", "hidden:input"), np.array([[1, 2, 0]]))
    for each in found.values():
        np.testing.assert_array_equal(each._keras_mask, [[True, True, False]])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("conv:before", "'input', 'pre_activation'.*Received: conv:before"),
        ("conv:1", "Received: conv:1"),
        ("relu:pre_activation", "type ReLU.*'relu:input'"),
        ("backbone/attention", "'attention' of the student.*several tensors.*'attention:0'"),
        ("backbone/attention:2", "Received: attention:2.*'0', '1', 'input'"),
    ],
)
def test_parts_that_a_layer_does_not_have_are_refused_with_those_that_it_has(name, words):
    with pytest.raises(ValueError, match=words):
        Reader(attention(), (name,), owner="student")


def test_a_layer_whose_name_has_a_colon_is_read_by_its_name():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(3, 1)(dense(5, 0, activation="tanh", name="block:1")(inputs)))
    np.testing.assert_allclose(read(model, ("block:1",))["block:1"], hidden_of(model, layer="block:1"), atol=1e-6)


# What an attention layer makes of its inputs


def attending(**arguments):
    """Return a model of ids whose attention reads other tokens as keys and values than as queries."""
    ids, others = keras.Input((None,), dtype="int32", name="ids"), keras.Input((None, 3), name="others")
    tokens = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    return keras.Model(
        [ids, others], keras.layers.MultiHeadAttention(2, 3, value_dim=5, name="attention")(tokens, others, **arguments)
    )


def test_queries_keys_and_values_of_an_attention_layer_are_read():
    keras.utils.set_random_seed(0)
    model, x = attending(), [np.array([[1, 2, 0]]), np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")]
    found = read(model, ("attention:query", "attention:key", "attention:value"), x)
    layer, embedded = model.get_layer("attention"), np.asarray(model.layers[1](x[0]))
    for name, inputs in (("query", embedded), ("key", x[1]), ("value", x[1])):
        kernel, bias = (np.asarray(each, "float64") for each in getattr(layer, f"{name}_dense").weights)
        expected = np.einsum("btw,whd->bthd", inputs, kernel) + bias
        np.testing.assert_allclose(found[f"attention:{name}"], expected.reshape(1, len(inputs[0]), -1), atol=1e-6)
    np.testing.assert_array_equal(found["attention:query"]._keras_mask, [[True, True, False]])


def test_keys_that_are_given_by_themselves_are_read():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 4))
    keys = keras.layers.Dense(4, name="keys")(inputs)
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs, key=keys))
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    found = read(model, ("attention:key", "attention:value", "keys"), x)
    for name, of in (("key", found["keys"]), ("value", x)):
        expected = np.asarray(getattr(model.get_layer("attention"), f"{name}_dense")(of)).reshape(2, 3, 6)
        np.testing.assert_allclose(found[f"attention:{name}"], expected, atol=1e-6)


def test_a_layer_without_queries_is_refused():
    with pytest.raises(ValueError, match="hidden:query"):
        read(mlp(0), ("hidden:query",))
