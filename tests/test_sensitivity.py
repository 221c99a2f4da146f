"""Which layers lose most when Keras quantises them: costs by a reference in NumPy, plans, and what is refused."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.quantization import sensitivity
from keras_kd.quantization.sensitivity import LayerCost, Sensitivity

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 16)).astype("float32")


def model():
    inputs = keras.Input((16,))
    x = layers.Dense(32, name="first")(inputs)
    made = keras.Model(inputs, layers.Dense(3, name="last")(x))
    random = np.random.default_rng(1)
    made.set_weights([random.normal(size=each.shape) for each in made.get_weights()])
    return made


def eight_bits(x, axis):
    scale = np.abs(x).max(axis, keepdims=True) / 127
    return np.round(x / scale) * scale


def of_int8(x, kernel, bias, rounds):
    if rounds:
        return eight_bits(x, -1) @ eight_bits(kernel, 0) + bias
    return x @ kernel + bias


def reference(made, *rounds):
    """Outputs in float64, with a layer's weights and its inputs in 8 bits where it rounds."""
    (w_1, b_1, w_2, b_2), x = [np.asarray(each, "float64") for each in made.get_weights()], X.astype("float64")
    return of_int8(of_int8(x, w_1, b_1, rounds[0]), w_2, b_2, rounds[1])


def test_a_cost_is_the_squared_change_of_the_outputs_relative_to_their_variance():
    made = model()
    found = sensitivity(made, X, modes=["int8"])
    exact = reference(made, False, False)
    for cost, rounds in zip(found.costs, [(True, False), (False, True)], strict=True):
        expected = np.mean((reference(made, *rounds) - exact) ** 2) / np.var(exact)
        assert cost.noise == pytest.approx(expected, rel=1e-2)
    # A kernel of 32 bits becomes one of 8 and a scale of 32 bits for each unit.
    assert [cost.saved for cost in found.costs] == [16 * 32 * 3 - 32 * 4, 32 * 3 * 3 - 3 * 4]
    assert found.nbytes == 4 * made.count_params()


def test_four_bits_cost_more_and_save_more_and_the_model_stays_as_it_is():
    made = model()
    before = made.get_weights()
    found = sensitivity(made, X)
    by_mode = {mode: [cost for cost in found.costs if cost.mode == mode] for mode in ("int8", "int4")}
    for eight, four in zip(*by_mode.values(), strict=True):
        assert four.noise > 10 * eight.noise and four.layer == eight.layer
    assert by_mode["int4"][0].saved > by_mode["int8"][0].saved
    assert all(map(np.array_equal, before, made.get_weights())) and made.get_layer("first").quantization_mode is None


def test_a_quantised_copy_is_what_the_plan_has_and_its_noise_is_measured():
    found = sensitivity(model(), X)
    small = found.quantized({"first": "int4", "last": "int8"})
    assert [small.get_layer(name).quantization_mode for name in ("first", "last")] == ["int4", "int8"]
    costs = {(cost.layer, cost.mode): cost.noise for cost in found.costs}
    assert found.noise(small) == pytest.approx(costs["first", "int4"] + costs["last", "int8"], rel=0.2)
    assert found.noise(found.quantized({})) == 0.0


def best_plan(costs, noise):
    """The plan that saves most, by trying all."""
    names = list(dict.fromkeys(cost.layer for cost in costs))
    choices = [[None, *(cost for cost in costs if cost.layer == name)] for name in names]
    plans = [[cost for cost in plan if cost] for plan in itertools.product(*choices)]
    return max(sum(cost.saved for cost in plan) for plan in plans if sum(cost.noise for cost in plan) <= noise)


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_stays_within_its_noise_and_saves_nearly_what_the_best_one_does(seed):
    random = np.random.default_rng(seed)
    found = Sensitivity(model(), X, 64)
    for number in range(6):
        saved, noise = int(random.integers(1_000, 9_000)), 10 ** random.uniform(-5, -2)
        found.costs += [
            LayerCost(f"l{number}", "int8", saved, noise),
            LayerCost(f"l{number}", "int4", 2 * saved, 9 * noise),
        ]
    budget = sum(cost.noise for cost in found.costs) / 4
    plan = found.plan(budget)
    taken = [cost for cost in found.costs if plan.get(cost.layer) == cost.mode]
    assert sum(cost.noise for cost in taken) <= budget
    assert sum(cost.saved for cost in taken) >= 0.8 * best_plan(found.costs, budget)
    assert found.plan(1e9) == dict.fromkeys([f"l{number}" for number in range(6)], "int4")
    assert found.plan(1e-9) == {}


@pytest.mark.slow
def test_layers_in_layers_are_found_and_what_cannot_be_quantised_is_named():
    inputs = keras.Input((6, 6, 2))
    x = layers.Reshape((9, 8))(layers.Conv2D(8, 3, padding="same", strides=2, name="conv")(inputs))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    inner = keras.Sequential([keras.Input((9, 8)), layers.Dense(4, name="dense")], name="inner")
    made = keras.Model(inputs, [inner(x), layers.Dense(1, name="dense")(x)])
    found = sensitivity(made, RANDOM.normal(size=(8, 6, 6, 2)).astype("float32"), modes=["int8"])
    names = [cost.layer for cost in found.costs]
    assert len(set(names)) == 6 and {"attention/query", "attention/key", "inner/dense", "dense"} <= set(names)
    assert all(np.isfinite(cost.noise) and cost.saved > -100 for cost in found.costs)
    assert found.left == ["conv"] and str(found).endswith("left as they are: conv")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"model": "model"}, TypeError, "Expected a keras.Model. Received: 'model' of str"),
        ({"model": keras.Sequential([layers.Dense(2)])}, ValueError, "Expected a built model"),
        ({"modes": ["int2"]}, ValueError, r"some of \('int8', 'int4'\). Received: modes=\['int2'\]"),
        ({"x": X[:0]}, ValueError, "Received: `x` without examples"),
        (
            {"model": keras.Sequential([keras.Input((16, 1)), layers.Conv1D(2, 3, name="c")], name="m")},
            ValueError,
            r"whose layers with weights are \['m/c'\]. See `quantization_aware`",
        ),
    ],
    ids=["type", "unbuilt", "mode", "empty", "convolution"],
)
def test_what_cannot_be_measured_is_refused(arguments, error, match):
    given = {"model": model(), "x": X, **arguments}
    if match.startswith("whose"):
        given["x"] = X[..., None]
    with pytest.raises(error, match=match):
        sensitivity(**given)


def test_a_plan_of_other_layers_or_noise_is_refused():
    found = sensitivity(model(), X, modes=["int8"])
    with pytest.raises(ValueError, match=r"Expected paths of layers, as in \['input.*Received: \['middle'\]"):
        found.quantized({"middle": "int8"})
    with pytest.raises(ValueError, match="Expected `noise` to be above 0. Received: noise=0"):
        found.plan(0)
