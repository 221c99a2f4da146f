"""Which layers lose most when Keras quantises them: costs by a reference in NumPy, plans, and what is refused."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.quantization import kernel_rounding, sensitivity
from keras_kd.quantization.layer_sensitivity import LayerCost, Sensitivity

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
    assert len(set(names)) == 7 and {"attention/query", "attention/key", "inner/dense", "dense"} <= set(names)
    assert all(np.isfinite(cost.noise) and cost.saved > -100 for cost in found.costs)
    assert [cost.layer for cost in found.costs if cost.simulated] == ["conv"] and found.left == []
    assert str(found).endswith("Keras cannot quantise them: conv")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"model": "model"}, TypeError, "Expected a keras.Model. Received: 'model' of str"),
        ({"model": keras.Sequential([layers.Dense(2)])}, ValueError, "Expected a built model"),
        ({"modes": ["int2"]}, ValueError, r"some of \('int8', 'int4'\). Received: modes=\['int2'\]"),
        ({"x": X[:0]}, ValueError, "Received: `x` without examples"),
        (
            {"model": keras.Sequential([keras.Input((16, 1)), layers.BatchNormalization(name="n")], name="m")},
            ValueError,
            r"whose layers with weights are \['m/n'\]",
        ),
    ],
    ids=["type", "unbuilt", "mode", "empty", "normalisation"],
)
def test_what_cannot_be_measured_is_refused(arguments, error, match):
    given = {"model": model(), "x": X, **arguments}
    if match.startswith("whose"):
        given["x"] = X[..., None]
    with pytest.raises(error, match=match):
        sensitivity(**given)


def in_bits(kernel, bits, axes):
    """A kernel whose output channels, the last axes of `axes`, have integers of so many bits, in float64."""
    moved = np.moveaxis(np.asarray(kernel, "float64"), axes, range(-len(axes), 0))
    flat = moved.reshape(-1, int(np.prod(moved.shape[-len(axes) :])))
    scale = np.abs(flat).max(0) / {8: 127, 4: 7}[bits]
    return np.moveaxis((np.rint(flat / scale) * scale).reshape(moved.shape), range(-len(axes), 0), axes)


#: A layer, the shape of an example, and of each of its kernels the axes of the output channels.
CONVOLUTIONS = {
    "Conv1D": (lambda: layers.Conv1D(4, 3, name="conv"), (9, 3), [(-1,)]),
    "Conv2D": (lambda: layers.Conv2D(4, 3, 2, "same", groups=2, name="conv"), (6, 5, 4), [(-1,)]),
    "Conv3D": (lambda: layers.Conv3D(3, 2, name="conv"), (4, 3, 4, 2), [(-1,)]),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2, name="conv"), (9, 3), [(-2, -1)]),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, name="conv"), (6, 5, 3), [(-2, -1)]),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(4, 3, name="conv"), (9, 3), [(-2, -1), (-1,)]),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(4, 3, name="conv"), (6, 5, 3), [(-2, -1), (-1,)]),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(4, 3, name="conv"), (9, 3), [(-2,)]),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(4, 3, name="conv"), (6, 5, 3), [(-2,)]),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(3, 2, name="conv"), (4, 3, 4, 2), [(-2,)]),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_kernels_of_convolutions_are_rounded_for_each_output_channel(name):
    build, shape, axes = CONVOLUTIONS[name]
    random = np.random.default_rng(2)
    made = keras.Sequential([keras.Input(shape), build()])
    # Channels of very different sizes: one scale for several of them would show.
    weights = [random.normal(size=each.shape) * np.exp(random.normal(size=each.shape)) for each in made.get_weights()]
    made.set_weights(weights)
    x = random.normal(size=(16, *shape)).astype("float32")
    exact = np.asarray(made(x), "float64")
    found = sensitivity(made, x, modes=["int8", "int4"])
    other = keras.models.clone_model(made)
    for cost, bits in zip(found.costs, (8, 4), strict=True):
        kernels = [in_bits(each, bits, channels) for each, channels in zip(weights, axes, strict=False)]
        other.set_weights(kernels + weights[len(kernels) :])
        expected = np.mean((np.asarray(other(x), "float64") - exact) ** 2) / np.var(exact)
        assert cost.noise == pytest.approx(expected, rel=1e-3) and cost.simulated
        counts = [
            np.prod([each.shape[axis] for axis in channels]) for each, channels in zip(weights, axes, strict=False)
        ]
        size = sum(each.size for each in kernels)
        assert cost.saved == np.floor(size * (4 - bits / 8) - 4 * sum(counts))
    assert all(map(np.allclose, weights, made.get_weights())) and found.left == []


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 7)])
def test_rounded_kernels_have_as_many_values_as_bits_hold_and_zeros_stay(bits, largest):
    kernel = np.linspace(-1, 1, 3000).reshape(1500, 2) * [1.0, 1e-20]
    kernel = np.concatenate([kernel, np.zeros((1500, 1))], 1)
    found = kernel_rounding.rounded(kernel, bits, (-1,))
    assert [len(np.unique(column)) for column in found.T] == [2 * largest + 1, 2 * largest + 1, 1]
    np.testing.assert_allclose(np.abs(found).max(0), [1.0, 1e-20, 0.0], rtol=1e-2)
    assert np.all(np.abs(found - kernel).max(0) <= np.abs(kernel).max(0) / largest / 2 * (1 + 1e-9))


def test_plans_leave_convolutions_out_and_copies_refuse_them():
    made = keras.Sequential([keras.Input((9, 3)), layers.Conv1D(4, 3, name="conv"), layers.Dense(2, name="dense")])
    found = sensitivity(made, RANDOM.normal(size=(8, 9, 3)).astype("float32"), modes=["int4"])
    assert [(cost.layer, cost.simulated) for cost in found.costs] == [
        ("sequential/conv", True),
        ("sequential/dense", False),
    ]
    assert [name.rpartition("/")[-1] for name in found.plan(1e9)] == ["dense"]
    assert found.plan(1e9) != {} and found.noise(found.quantized(found.plan(1e9))) == pytest.approx(
        found.costs[1].noise
    )
    with pytest.raises(ValueError, match=r"Received convolutions: \['.*conv'\]. LiteRT has them in 8"):
        found.quantized({found.costs[0].layer: "int8"})


def test_a_plan_of_other_layers_or_noise_is_refused():
    found = sensitivity(model(), X, modes=["int8"])
    with pytest.raises(ValueError, match=r"Expected paths of layers, as in \['input.*Received: \['middle'\]"):
        found.quantized({"middle": "int8"})
    with pytest.raises(ValueError, match="Expected `noise` to be above 0. Received: noise=0"):
        found.plan(0)
