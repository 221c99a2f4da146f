"""Adapters (LoRA): on a pruned model as on any other, merged in one that is pruned. Integers are refused."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd._internal import lora_adapters
from keras_kd._keras import layer_tree
from tests import pruned as architectures

RANK, ALPHA = 2, 3

#: Which layers of an architecture get an adapter, by their names.
ADAPTED = {
    "mlp": ("first", "second"),
    "vgg": ("one", "hidden"),
    "einsums": ("split",),
    "recurrent": ("words",),
    "tied": ("table", "mixed"),
    "transformer": ("query", "value", "wide"),
    "attentive": ("stream", "key"),
    "nested": ("deep", "hidden"),
    "many": ("stem", "joint"),
}


def built(name):
    keras.utils.clear_session(free_memory=False)
    return architectures.perturbed(architectures.ALL[name](architectures.uncut))


def chosen(model, names):
    """Return all layers of these names, at whatever depth."""
    return [each for each in layer_tree.all_layers(model) if each.name in names and hasattr(each, "enable_lora")]


def adapt(layers, seed=5):
    """Enable adapters, and give them weights as if they had been trained."""
    random = np.random.default_rng(seed)
    for layer in layers:
        layer.enable_lora(RANK, lora_alpha=ALPHA)
        for factor in factors(layer):
            factor.assign(random.normal(0, 0.3, factor.shape))


def factors(layer):
    kind = "embeddings" if hasattr(layer, "lora_embeddings_a") else "kernel"
    return [getattr(layer, f"lora_{kind}_{end}") for end in "ab"]


def merge(layer, twin):
    """Give a layer without an adapter what one with an adapter computes with: W + alpha / rank * A B."""
    first, second = (np.asarray(each, "float64") for each in factors(layer))
    base = twin.weights[0]  # a kernel, or a table
    base.assign(np.asarray(base, "float64") + ALPHA / RANK * first @ second)


def outputs(model, x):
    return [np.asarray(each) for each in keras.tree.flatten(model(x, training=False))]


def assert_same(received, expected, tolerance=1e-5):
    for ours, theirs in zip(received, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ADAPTED)
def test_a_model_with_adapters_is_pruned_as_one_of_the_merged_weights(name):
    model, reference = built(name), built(name)
    layers, twins = chosen(model, ADAPTED[name]), chosen(reference, ADAPTED[name])
    adapt(layers)
    for layer, twin in zip(layers, twins, strict=True):
        merge(layer, twin)
    x = architectures.data(model)
    before = outputs(model, x)
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude")
    expected, of_merged = kd.prune(reference, keep=0.5, importance="magnitude")
    assert_same(outputs(pruned, x), outputs(expected, x))
    assert lora_adapters.count(pruned) == 0 and lora_adapters.count(model) == len(layers) > 0
    assert pruned.count_params() == expected.count_params() < reference.count_params()
    assert report.parameters == of_merged.parameters and report.fixed == of_merged.fixed
    assert_same(outputs(model, x), before, 0)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_a_unit_that_an_adapter_has_made_matters_most_and_stays(importance):
    model = built("mlp")
    layer = model.get_layer("second")
    layer.kernel.assign(np.full(layer.kernel.shape, 1e-3))
    model.get_layer("scores").kernel.assign(np.ones((10, 3)) * [1.0, -1.0, 0.5])
    layer.bias.assign(np.zeros(10))
    layer.enable_lora(1)
    layer.lora_kernel_a.assign(np.ones((8, 1)))
    layer.lora_kernel_b.assign(np.eye(10)[[7]])
    worth = kd.prune(
        model, keep=0.1, importance=importance, data=architectures.data(model, rows=32), protect=("first",)
    )
    (width,) = (each for each in worth[1].widths if each.layer == "second")
    assert width.units.tolist() == [7]


def test_a_model_without_adapters_is_not_made_twice(monkeypatch):
    made = []
    original = kd.pruning.plain_floats.smaller
    monkeypatch.setattr(kd.pruning.plain_floats, "smaller", lambda *each: made.append(1) or original(*each))
    kd.prune(built("mlp"), keep=0.5, importance="magnitude")
    assert not made


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_quantised_model_is_refused(mode):
    model = built("mlp")
    model.get_layer("second").quantize(mode)
    with pytest.raises(ValueError, match=rf"are quantised: {{'second': '{mode}'}}. Prune the model that it was before"):
        kd.prune(model, keep=0.5, importance="magnitude")


def test_a_model_that_learns_with_the_rounding_of_integers_is_refused():
    model = built("sequential")
    aware = kd.quantization_aware(model, architectures.data(model))
    with pytest.raises(ValueError, match="Expected a model of floats to prune.*'images_quantized': 'rounding'"):
        kd.prune(aware, keep=0.5, importance="magnitude")


def train_adapters(pruned, teacher, x):
    """Train a step, of adapters alone, and return how far the largest weight beside them has moved."""
    others = [each for each in pruned.weights if "lora" not in each.path and not each.trainable]
    before = [keras.ops.convert_to_numpy(each) for each in others]
    distiller = kd.Distiller(student=pruned, teacher=teacher)
    distiller.compile(keras.optimizers.Adam(1e-2), alpha=1.0, jit_compile=False)
    for _ in range(2):  # the second factor begins at 0: the first one moves from the second step on
        distiller.fit(x, epochs=1, batch_size=4, verbose=0)
    return max(np.abs(np.asarray(each) - value).max() for each, value in zip(others, before, strict=True))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("einsums", "tied", "vgg", "transformer", "recurrent")]


@pytest.mark.one_in(1)
@pytest.mark.parametrize("name", ["mlp", *SLOW])
def test_adapters_of_a_pruned_model_learn_alone_are_saved_merged_and_quantised(name, tmp_path):
    model = built(name)
    x = architectures.data(model, rows=8)
    pruned, _ = kd.prune(model, keep=0.5, importance="magnitude")
    before = outputs(pruned, x)
    for layer in layer_tree.all_layers(pruned)[1:]:
        layer.trainable = False
    layers = chosen(pruned, ADAPTED[name])
    for layer in layers:
        layer.trainable = True
        layer.enable_lora(RANK)
    assert_same(outputs(pruned, x), before, 0)
    assert train_adapters(pruned, model, x) == 0
    assert all(np.any(np.asarray(each)) for layer in layers for each in factors(layer))
    after = outputs(pruned, x)
    assert max(np.abs(ours - theirs).max() for ours, theirs in zip(after, before, strict=True)) > 1e-4
    pruned.save(tmp_path / "pruned.keras")
    assert_same(outputs(keras.saving.load_model(tmp_path / "pruned.keras"), x), after)
    again, _ = kd.prune(pruned, keep=1.0)
    assert_same(outputs(again, x), after)


RUN = """
import sys
import keras, numpy as np
if sys.argv[3] == "hub":
    import keras_hub
model = keras.saving.load_model(sys.argv[1] + "/pruned.keras")
with np.load(sys.argv[1] + "/x.npz") as arrays:
    x = dict(arrays)
np.save(sys.argv[1] + "/" + sys.argv[2], model(x if len(x) > 1 else x["x"], training=False))
"""


def in_a_fresh_process(folder, kind=""):
    """Load the file of a folder in a process without keras_kd, and return its outputs."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", RUN, str(folder), "received.npy", kind]
    subprocess.run(command, check=True, env=environment, cwd=folder, capture_output=True)
    return np.load(pathlib.Path(folder) / "received.npy")


def language_model(name, **arguments):
    """Return a small model of texts: a backbone of KerasHub, and a head."""
    hub = pytest.importorskip("keras_hub").models
    sizes = {"vocabulary_size": 20, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
    backbone = getattr(hub, name)(**{**sizes, **arguments})
    head = keras.layers.Dense(20, name="head")
    return architectures.perturbed(keras.Model(backbone.input, head(backbone.output), name="language_model"))


GPT2 = {"num_heads": 2, "max_sequence_length": 8}
LLAMA = {"num_query_heads": 4, "num_key_value_heads": 2}


@pytest.mark.slow
def test_adapters_of_a_pruned_language_model_learn_are_saved_exported_and_quantised(tmp_path):
    hub = pytest.importorskip("keras_hub").models
    model = language_model("GPT2Backbone", **GPT2)
    x = {name: np.asarray(each)[:, :8] for name, each in architectures.data(model, rows=8).items()}
    pruned, _ = kd.prune(model, keep=0.5, importance="taylor", data=x)
    hub.Backbone.enable_lora(pruned, RANK, target_layer_names=["query", "value"])
    assert lora_adapters.count(pruned) == 4
    learning = {each.path.rsplit("/", 1)[-1] for each in pruned.trainable_weights}
    assert learning == {"lora_kernel_a", "lora_kernel_b", "bias"}  # Keras leaves the biases of adapted layers
    assert train_adapters(pruned, model, x) == 0
    (expected,) = outputs(pruned, x)
    pruned.save(tmp_path / "pruned.keras")
    np.savez(tmp_path / "x.npz", **x)
    np.testing.assert_allclose(in_a_fresh_process(tmp_path, "hub"), expected, rtol=1e-5, atol=1e-5)
    report = kd.export(pruned, tmp_path / "1", representative=x, fresh=False)
    assert report.passed and report.difference < 1e-4
    pruned.quantize("int8")
    (rounded,) = outputs(pruned, x)
    assert np.mean((rounded - expected) ** 2) < 0.01 * np.var(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), [("GPT2Backbone", GPT2), ("LlamaBackbone", LLAMA)])
def test_adapters_of_a_backbone_are_merged_where_it_is_pruned(name, arguments):
    hub = pytest.importorskip("keras_hub").models
    sizes = {"vocabulary_size": 20, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
    model = architectures.perturbed(getattr(hub, name)(**{**sizes, **arguments}))
    x = {key: np.asarray(each)[:, :8] for key, each in architectures.data(model).items()}
    base = outputs(model, x)
    model.enable_lora(RANK)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "lora" in weight.path:
            weight.assign(random.normal(0, 0.5, weight.shape))
    expected = outputs(model, x)
    whole, _ = kd.prune(model, keep=1.0)
    assert_same(outputs(whole, x), expected)
    assert np.abs(expected[0] - base[0]).max() > 0.01
    small, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert lora_adapters.count(small) == 0 and small.count_params() < whole.count_params() == report.parameters[0]
