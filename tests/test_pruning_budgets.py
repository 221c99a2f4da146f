"""Budgets of `kd.prune`: what they count, what they refuse, and that they hold."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.evaluation import sizes
from keras_kd.evaluation.predictors import Predictor
from keras_kd.pruning import graph_walk, unit_budget
from keras_kd.pruning.kept_units import Choices
from tests import pruned as architectures


def built(name):
    return architectures.perturbed(architectures.ALL[name](architectures.uncut))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", ["resnet", "mlp", "densenet", "transformer", "recurrent"])
@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_share_of_the_parameters_is_what_is_left_at_most(name, share):
    model = built(name)
    pruned, report = kd.prune(model, parameters=share, importance="magnitude")
    assert 0.6 * share < pruned.count_params() / model.count_params() <= share
    assert report.parameters == (model.count_params(), pruned.count_params())


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["resnet", "inverted", "separable", "vgg", "einsums", "attentive"])
def test_multiplications_are_half_of_tensorflows_operations(name):
    """TensorFlow counts a multiplication and an addition as two, and the additions of biases and sums besides."""
    model = built(name)
    x = architectures.data(model)
    pruned, report = kd.prune(model, multiplications=0.5, importance="magnitude")
    for each, counted in zip((model, pruned), report.multiplications, strict=True):
        assert counted == pytest.approx(sizes.flops(Predictor("model", each), x) / 2, rel=0.25)
    assert report.multiplications[1] <= 0.5 * report.multiplications[0]


def test_multiplications_of_a_convolution_are_counted_by_hand():
    inputs = keras.Input((10, 8, 3))
    x = layers.Conv2D(4, 3, 2, "same", name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    _, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert report.multiplications == (
        5 * 4 * 9 * 3 * 4 + 5 * 4 * 9 * 4 + 4 * 2,
        5 * 4 * 9 * 3 * 2 + 5 * 4 * 9 * 2 + 2 * 2,
    )


def test_the_units_with_the_least_importance_go_first():
    model = built("mlp")
    worth = {"first": np.arange(8.0), "second": np.arange(10.0)[::-1]}
    _, report = kd.prune(model, keep=0.5, importance=lambda each: worth)
    units = {each.layer: each.units.tolist() for each in report.widths if each.kept < each.before}
    assert units == {"first": [4, 5, 6, 7], "second": [0, 1, 2, 3, 4]}


def test_a_layer_keeps_a_unit_and_a_multiple():
    model = built("mlp")
    worth = {"first": np.arange(8.0), "second": 1e6 + np.arange(10.0)}
    _, report = kd.prune(model, parameters=0.4, importance=lambda each: worth)
    assert {each.layer: each.kept for each in report.widths}["first"] == 1
    _, report = kd.prune(model, keep=0.5, importance="magnitude", round_to=4)
    assert {each.layer: each.kept for each in report.widths} == {"first": 4, "second": 8, "scores": 3}


def test_protected_layers_keep_their_units():
    model = built("nested")
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude", protect=["backbone/inner", "head"])
    kept = {each.layer: each.kept for each in report.widths}
    assert kept["backbone/stem"] == 2 and kept["backbone/inner/deep"] == 6 and kept["head/hidden"] == 8
    assert "protected" in report.fixed["head/hidden"]
    with pytest.raises(ValueError, match="`protect` to name layers.*'nowhere'"):
        kd.prune(model, keep=0.5, importance="magnitude", protect=["nowhere"])


def test_what_stays_is_named_with_the_reason():
    model = built("transformer")
    _, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert "LayerNormalization" in report.fixed["projected"] and "the model returns" in report.fixed["scores"]
    assert "projected" in str(report) and "multiplications" in str(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Expected one of keep, parameters"),
        ({"keep": 0.5, "parameters": 0.5}, "Expected one of keep, parameters"),
        ({"keep": 0.0}, "`keep` to be above 0"),
        ({"keep": 1.5}, "`keep` to be above 0"),
        ({"parameters": -3}, "`parameters` to be above 0"),
        ({"multiplications": 1e-6}, "With all units removed"),
        ({"keep": 0.5, "importance": "size"}, '"magnitude", "activations"'),
        ({"keep": 0.5, "importance": "taylor"}, "Expected `data`"),
        ({"keep": 0.5, "importance": "activations"}, "Expected `data`"),
        ({"keep": 0.5, "round_to": 0}, "`round_to` to be a whole number"),
        ({"file_bytes": {"tflite": 3}}, "`file_bytes` to be a dict of one of"),
        ({"latency": {"litert": 0}}, "`latency` to be above 0"),
        ({"keep": 0.5, "blocks": ("none",)}, "`blocks` to be some of"),
        ({"blocks": 9}, "at most 0 blocks"),
        ({"keep": 0.5, "importance": lambda model: {"first": [1.0]}}, "importance of each unit"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.prune(built("mlp"), **{"importance": "magnitude", **arguments})


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"keras.Model\(inputs, outputs\)"):
        kd.prune(Own(), keep=0.5)
    with pytest.raises(TypeError, match="keras.Model to prune"):
        kd.prune("model", keep=0.5)


def test_bytes_of_a_file_are_a_budget():
    model = built("vgg")
    whole = kd.prune(model, keep=1.0, importance="magnitude")[0]
    most = 0.8 * sizes.file_size(whole)
    pruned, _ = kd.prune(model, file_bytes={"keras": most}, importance="magnitude", data=architectures.data(model))
    assert 0.9 * most < sizes.file_size(pruned) <= 1.01 * most


@pytest.mark.slow
def test_bytes_of_an_8_bit_file_are_a_budget(tmp_path):
    model = built("vgg")
    x = architectures.data(model, rows=32)
    pruned, _ = kd.prune(model, file_bytes={"litert_int8": 12_000}, importance="magnitude", data=x)
    report = kd.export(pruned, tmp_path / "1", formats=("litert",), quantize="int8", representative=x, fresh=False)
    assert 9_000 < report["litert int8"].size <= 12_000


@pytest.mark.slow
def test_a_latency_that_holds_before_removes_nothing():
    model = built("vgg")
    pruned, _ = kd.prune(model, latency={"litert": 1e4}, importance="magnitude", data=architectures.data(model))
    assert pruned.count_params() == model.count_params()


def test_weights_that_two_layers_share_are_refused():
    inputs = keras.Input((4,))
    first, second = layers.Dense(4, name="first"), layers.Dense(4, name="second")
    model = keras.Model(inputs, second(first(inputs)))
    object.__setattr__(second, "_kernel", first.kernel)
    second._trainable_variables[0] = first.kernel
    with pytest.raises(ValueError, match="'first' and 'second' share"):
        kd.prune(model, keep=0.5, importance="magnitude")


def test_what_a_model_learned_from_its_data_goes_along():
    words = layers.StringLookup(vocabulary=["a", "b", "c"], name="words")
    numbers = layers.Normalization(name="numbers")
    numbers.adapt(np.array([[1.0, 2.0], [3.0, 6.0]]))
    inputs = [keras.Input((1,), dtype="string"), keras.Input((2,))]
    x = layers.Flatten()(layers.Embedding(4, 6, name="embedding")(words(inputs[0])))
    x = layers.Dense(8, "relu", name="hidden")(layers.Concatenate()([x, numbers(inputs[1])]))
    model = keras.Model(inputs, layers.Dense(2)(x))
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert {each.layer: each.kept for each in report.widths} == {"embedding": 3, "hidden": 4, "dense": 2}
    assert pruned.get_layer("words").get_vocabulary() == words.get_vocabulary()
    np.testing.assert_array_equal(pruned.get_layer("numbers").mean, numbers.mean)


def test_frozen_layers_and_names_stay():
    model = architectures.perturbed(architectures.ALL["nested"](architectures.uncut))
    model.get_layer("backbone").trainable = False
    pruned, _ = kd.prune(model, keep=0.5, importance="magnitude")
    assert not pruned.get_layer("backbone").trainable and pruned.get_layer("scores").trainable
    assert len(pruned.trainable_weights) == len(model.trainable_weights)
    assert [each.name for each in pruned.layers] == [each.name for each in model.layers]
    assert pruned.name == model.name and pruned.output_names == model.output_names


def test_functions_of_the_users_pass_channels_or_keep_them():
    def double(x):
        return 2 * x

    def centred(x):
        return x - keras.ops.mean(x, axis=-1, keepdims=True)

    def pruned(function):
        inputs = keras.Input((4,))
        x = layers.Dense(8, name="hidden")(inputs)
        x = layers.Lambda(function, name="own")(x)
        return kd.prune(keras.Model(inputs, layers.Dense(2, function)(x)), keep=0.5, importance="magnitude")[1]

    assert {each.layer: each.kept for each in pruned(double).widths}["hidden"] == 4
    report = pruned(centred)
    assert {each.layer: each.kept for each in report.widths}["hidden"] == 8
    assert "'own' (Lambda) reads its channels together" in report.fixed["hidden"]


@pytest.mark.parametrize(("most", "kept"), [(51, 6), (58, 6), (59, 7), (83, 10)])
def test_no_unit_is_removed_that_a_budget_has_room_for(most, kept):
    """4 inputs, h units and 3 outputs have 5 h + 3 h + 3 parameters."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(10, name="hidden")(inputs)))
    pruned, report = kd.prune(model, parameters=most, importance="magnitude")
    assert report.widths[0].kept == kept and pruned.count_params() == 8 * kept + 3


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A layer of two, with hidden units that an argument counts."""

    def __init__(self, hidden_dim, activation, **arguments):
        super().__init__(**arguments)
        self.hidden_dim, self.activation = hidden_dim, activation
        self.wide, self.narrow = layers.Dense(hidden_dim, activation), layers.Dense(4)

    def build(self, shape):
        """Build both."""
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], self.hidden_dim))

    def call(self, x):
        """Return a sum, as a block of a transformer does."""
        return x + self.narrow(self.wide(x))

    def get_config(self):
        """Return the arguments."""
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "activation": self.activation}


@pytest.mark.parametrize(("activation", "kept"), [("gelu", 4), ("softmax", 8)])
def test_hidden_units_of_a_layer_of_the_users_go_where_zeros_are_the_same(activation, kept, tmp_path):
    inputs = keras.Input((4,))
    model = architectures.perturbed(keras.Model(inputs, layers.Dense(2)(Block(8, activation, name="block")(inputs))))
    x = architectures.data(model)
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert pruned.get_layer("block").hidden_dim == kept
    weights = [weight.numpy() for weight in model.weights]
    gone = np.setdiff1d(np.arange(8), report.widths[0].units) if kept < 8 else []
    weights[2][gone] = 0
    model.set_weights(weights)
    np.testing.assert_allclose(pruned(x), model(x), rtol=1e-5, atol=1e-5)


def test_channels_that_meet_what_stays_do_too():
    _, report = kd.prune(built("staying"), keep=0.5, importance="magnitude")
    assert [each.layer for each in report.widths if each.kept < each.before] == ["free"]
    reasons = {
        "added": "joins them with channels that all stay",
        "between": "has groups of channels that all stay",
        "over_maps:heads": "attends over other axes",
        "unit": "reads its channels together",
        "shares": "the activation of 'shares' (Conv2D) reads its channels together",
        "scores": "the model returns them",
    }
    assert {name: part in report.fixed[name] for name, part in reasons.items()} == dict.fromkeys(reasons, True)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cost_that_takes_long_is_found_a_few_times(share):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(300, name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Dense(200, name="more")(hidden)))
    choices = Choices(graph_walk.trace(model))
    importance = np.random.default_rng(0).random(len(choices.roots))
    ranking = unit_budget.Ranking(choices, importance, importance)
    tried = []

    def cost(kept):
        tried.append(kept)
        parameters = kept.parameters(model.weights)
        return 3_000 + 4 * parameters + 500 * (parameters % 7)

    most = share * cost(choices.kept(np.array([], int)))
    kept = ranking.until(cost, most, "bytes", like=lambda kept: kept.parameters(model.weights))
    assert 0.95 * most < cost(kept) <= most
    assert len(tried) <= 8  # 11 by halves, with those of this test
