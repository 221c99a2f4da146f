"""Pruned students under the model that they came from: channels that both have, and rounds."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.transforms import KeptChannels
from tests import pruned as architectures


def built(name):
    return architectures.perturbed(architectures.ALL[name](architectures.uncut))


def test_kept_channels_are_those_of_the_teacher_and_a_students_pass():
    features = np.arange(24.0).reshape(2, 3, 4)
    kept = KeptChannels([0, 3], before=4)
    np.testing.assert_array_equal(kept(features), features[..., [0, 3]])
    np.testing.assert_array_equal(kept(features[..., :2]), features[..., :2])
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kept))
    np.testing.assert_array_equal(again(features), features[..., [0, 3]])


@pytest.mark.parametrize("arguments", [([], 4), ([0, 1], 2), ([0, 4], 4), ([-1], 4)])
def test_channels_that_a_teacher_does_not_have_are_refused(arguments):
    with pytest.raises(ValueError, match="Expected fewer channels than before"):
        KeptChannels(*arguments)


def test_features_are_compared_with_the_kept_channels_of_the_same_layer():
    model = built("resnet")
    x = architectures.data(model, rows=8)
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude")
    terms = kd.pruning.feature_terms(report, at=["sum", "scores"])
    distiller = kd.Distiller(student=pruned, teacher=model, terms=terms)
    distiller.compile("sgd", alpha=1.0)
    parts = distiller.objective(x)
    ours, theirs = (keras.Model(each.input, each.get_layer("sum").output)(x).numpy() for each in (pruned, model))
    (kept,) = (each for each in kd.pruning.matched_layers(report) if each.layer == "sum")
    expected = np.square(ours - theirs[..., kept.transform.channels]).mean()
    found = [float(value) for name, value in parts.items() if "sum" in name]
    assert found == [pytest.approx(expected, rel=1e-4)]


def test_layers_without_fewer_channels_have_no_transform():
    model = built("transformer")
    _, report = kd.prune(model, keep=0.5, importance="magnitude")
    found = {each.layer: each.transform for each in kd.pruning.matched_layers(report)}
    assert found["norm"] is None and found["wide"].before == 12 and len(found["wide"].channels) == 6
    with pytest.raises(ValueError, match="Expected layers that both models have"):
        kd.pruning.feature_terms(report, at=["nowhere"])


@pytest.mark.slow
def test_a_pruned_model_learns_again_from_what_it_was():
    model = built("resnet")
    x = architectures.data(model, rows=64)
    pruned, report = kd.prune(model, multiplications=0.5, data=x)
    terms = kd.methods.kd() + kd.pruning.feature_terms(report, at=["sum"], weight=0.1)
    distiller = kd.Distiller(student=pruned, teacher=model, terms=terms)
    distiller.compile(keras.optimizers.Adam(3e-3), alpha=1.0)
    losses = distiller.fit(x, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_rounds_compose_their_reports():
    model = built("mlp")
    healed = []
    small, report = kd.pruning.rounds(
        model,
        prune=lambda each, share: kd.prune(each, keep=share, importance="magnitude"),
        heal=lambda student, report: healed.append((student.count_params(), report.parameters)),
        shares=(0.75, 0.5),
    )
    assert [kept for kept, _ in healed] == [after for _, (_, after) in healed]
    assert report.parameters == (model.count_params(), small.count_params())
    widths = {each.layer: each for each in report.widths}
    assert widths["first"].before == 8 and widths["first"].kept == 3
    before = model.get_layer("first").get_weights()[0]
    np.testing.assert_array_equal(small.get_layer("first").get_weights()[0], before[:, widths["first"].units])
    assert report.channels["first"][0] == 8
    np.testing.assert_array_equal(report.channels["first"][1], widths["first"].units)
    with pytest.raises(ValueError, match="one round at least"):
        kd.pruning.rounds(model, None, None, ())
