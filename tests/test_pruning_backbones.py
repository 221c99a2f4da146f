"""Models of keras.applications and KerasHub: what can be pruned of them is, and computes the same as with zeros."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.pruning import graph_walk
from keras_kd.pruning.kept_units import Choices
from keras_kd.pruning.opened_models import as_one_layer, opened
from tests import pruned as architectures

APPLICATIONS = {
    "MobileNet": 0.6,
    "MobileNetV2": 0.6,
    "MobileNetV3Small": 0.6,
    "EfficientNetB0": 0.6,
    "EfficientNetV2B0": 0.6,
    "ResNet50": 0.6,
    "ResNet50V2": 0.6,
    "DenseNet121": 0.6,
    "InceptionV3": 0.6,
    "VGG16": 0.6,
    "Xception": 0.6,
    "NASNetMobile": 0.9,
    "ConvNeXtTiny": 0.7,
}


def zeros_for(model, report, x):
    """Return the outputs of a model whose weights that read removed units are zeros.

    Which weights read a unit is taken from the trace, that of the units from the report.
    """
    choices = Choices(graph_walk.trace(model if opened(model) is not None else as_one_layer(model)))
    before = [weight.numpy() for weight in model.weights]
    removed = np.zeros(len(choices.roots), bool)
    widths = {}
    for each in report.widths:
        widths.setdefault(each.layer, []).append(each)
    for axis in choices.made:
        width = widths[axis.owner].pop(0)
        removed[choices.roots[np.delete(axis.ids, width.units)]] = True
    for axis in choices.trace.axes.values():
        if axis.reads and axis.ids is not None:
            value = axis.variable.numpy().copy()
            np.moveaxis(value, axis.axis, 0)[removed[choices.roots[axis.ids]]] = 0
            axis.variable.assign(value)
    outputs = [np.asarray(each) for each in keras.tree.flatten(model(x, training=False))]
    for weight, value in zip(model.weights, before, strict=True):
        weight.assign(value)
    return outputs


def check(model, share, seed=0):
    """Prune half of each layer's units, compare the outputs, and require a model smaller than a share."""
    architectures.perturbed(model)
    x = architectures.data(model, rows=2)
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert pruned.count_params() < share * model.count_params()
    for ours, theirs in zip(
        [np.asarray(each) for each in keras.tree.flatten(pruned(x, training=False))],
        zeros_for(model, report, x),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(theirs).max()))
    return pruned, report


@pytest.mark.slow
@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_model_of_keras_applications_is_pruned(name):
    least = {"InceptionV3": 75, "Xception": 71}.get(name, 32)
    model = getattr(keras.applications, name)(weights=None, input_shape=(least, least, 3), classes=5)
    check(model, APPLICATIONS[name])


def text(name, **arguments):
    hub = pytest.importorskip("keras_hub").models
    sizes = {"vocabulary_size": 20, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}
    return getattr(hub, name)(**{**sizes, **arguments})


TEXT = {
    "BertBackbone": {"num_heads": 2, "max_sequence_length": 8},
    "DistilBertBackbone": {"num_heads": 2, "max_sequence_length": 8},
    "RobertaBackbone": {"num_heads": 2, "max_sequence_length": 8},
    "GPT2Backbone": {"num_heads": 2, "max_sequence_length": 8},
    "GemmaBackbone": {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_dim": 32},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", TEXT)
def test_hidden_units_of_a_language_model_of_kerashub_are_pruned(name):
    pruned, report = check(text(name, **TEXT[name]), 0.9)
    kept = {each.layer: (each.kept, each.before) for each in report.widths if ":intermediate_dim" in each.layer}
    assert len(kept) == 2 and all(2 * left == before for left, before in kept.values())
    assert type(pruned) is type(keras.Model(pruned.input, pruned.output))


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["vit", "dinov2", "deit", "resnet", "densenet", "vgg", "mobilenet"])
def test_a_backbone_of_kerashub_for_images_is_pruned(name):
    backbones = pytest.importorskip("tests.backbones")
    check(backbones.ALL[name](), 1.0)


@pytest.mark.slow
def test_a_language_model_whose_layers_it_alone_can_make_is_pruned_as_one(tmp_path):
    model = text("LlamaBackbone", num_query_heads=2, num_key_value_heads=1)
    pruned, report = check(model, 0.95)
    assert type(pruned) is type(model) and pruned.intermediate_dim == model.intermediate_dim // 2
    (width,) = report.widths
    assert width.layer == f"{model.name}:intermediate_dim"
    assert report.multiplications[1] < report.multiplications[0]
    pruned.save(tmp_path / "pruned.keras")
    x = architectures.data(model)
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    np.testing.assert_allclose(loaded(x), pruned(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin", "mit"])
def test_a_backbone_of_which_nothing_is_known_is_named_and_stays(name):
    model = pytest.importorskip("tests.backbones").ALL[name]()
    x = architectures.data(model)
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert "is a layer without a rule" in report.fixed[model.name]
    for ours, theirs in zip(keras.tree.flatten(pruned(x)), keras.tree.flatten(model(x)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
