"""A pruned model computes what the model computes with zeros where the removed units were read."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd._internal.model_graphs import functional
from tests import pruned as architectures


def built(name, cut=architectures.uncut):
    """Build an architecture with names that do not depend on what was built before."""
    keras.utils.clear_session(free_memory=False)
    return architectures.ALL[name](cut)


def mask(report, name):
    """Return 1 for each channel that a layer has left, and 0 for the others."""
    widths = {each.layer: (each.before, each.units) for each in report.widths}
    before, units = report.channels.get(name) or widths[name]
    return np.isin(np.arange(before), units).astype("float32")


def reference(name, model, report):
    """Build the model again, with zeros where its removed channels are read."""

    def cut(x, *names):
        if len(names) == 1 and not {*names} & {*report.channels, *(each.layer for each in report.widths)}:
            return x  # all of what several layers make is left
        return architectures.Masked(np.concatenate([mask(report, each) for each in names]))(x)

    whole = built(name, cut)
    values = {path(weight): keras.ops.convert_to_numpy(weight) for weight in model.weights}
    assert {path(weight) for weight in whole.weights} == set(values)
    for weight in whole.weights:
        weight.assign(zeroed(values[path(weight)], weight.path, architectures.ZEROED.get(name, {}), report))
    return whole


def path(weight):
    return weight.path.removeprefix("sequential/")


def zeroed(value, name, places, report):
    """Return a weight with zeros in the rows of removed units, where it is one that reads them."""
    value = np.array(value)
    for layer, ends in places.items():
        for axis in [axis for end, axis in ends if name.endswith(end)]:
            gone = mask(report, layer) == 0
            several = value.shape[axis] // len(gone)  # a head of keys is read by several heads of queries
            np.moveaxis(value, axis, 0)[np.repeat(gone, several)] = 0
    return value


def outputs(model, x):
    return [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(model(x, training=False))]


def assert_same_outputs(received, expected, tolerance=1e-5):
    for ours, theirs in zip(received, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", architectures.ALL)
def test_a_pruned_model_is_the_model_with_zeros_where_removed_units_were_read(name):
    model = architectures.perturbed(built(name))
    x = architectures.data(model)
    before, weights = outputs(model, x), [weight.numpy() for weight in model.weights]
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert type(pruned) is type(model) and pruned.count_params() < 0.85 * model.count_params()
    assert_same_outputs(outputs(pruned, x), outputs(reference(name, model, report), x))
    assert_same_outputs(outputs(model, x), before, 0)
    assert all(np.array_equal(weight.numpy(), each) for weight, each in zip(model.weights, weights, strict=True))


@pytest.mark.slow
@pytest.mark.one_in(6)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", architectures.ALL)
def test_whatever_is_removed_it_is_as_zeros_are(name, seed):
    model = architectures.perturbed(built(name))
    x = architectures.data(model)
    _, whole = kd.prune(model, keep=1.0, importance="magnitude")
    random = np.random.default_rng(seed)
    worth = {each.layer: random.random(each.before) ** 4 for each in whole.widths}
    budget = ({"parameters": 0.75}, {"multiplications": 0.6}, {"keep": 0.3, "round_to": 2})[seed]
    pruned, report = kd.prune(model, importance=lambda each: worth, **budget)
    assert_same_outputs(outputs(pruned, x), outputs(reference(name, model, report), x), 1e-4)


@pytest.mark.one_in(8)
@pytest.mark.parametrize("name", architectures.ALL)
def test_pruning_nothing_changes_no_output(name):
    model = architectures.perturbed(built(name))
    x = architectures.data(model)
    pruned, report = kd.prune(model, keep=1.0, importance="magnitude")
    assert_same_outputs(outputs(pruned, x), outputs(model, x), 0)
    assert report.parameters == (model.count_params(), pruned.count_params())
    assert pruned.count_params() == model.count_params()
    assert not {id(each) for each in pruned.variables} & {id(each) for each in model.variables}


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", architectures.ALL)
def test_a_pruned_model_is_counted_saved_loaded_pruned_and_trained(name, tmp_path):
    model = architectures.perturbed(built(name))
    x = architectures.data(model)
    pruned, report = kd.prune(model, keep=0.5, importance="magnitude")
    assert report.parameters == (model.count_params(), pruned.count_params())
    again = kd.prune(pruned, keep=1.0, importance="magnitude")[1]
    assert again.multiplications == (report.multiplications[1],) * 2
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    assert_same_outputs(outputs(loaded, x), outputs(pruned, x), 1e-6)
    targets = keras.tree.map_structure(lambda each: np.zeros((4, *each.shape[1:])), functional(pruned).output)
    loaded.compile("sgd", "mse")
    assert np.isfinite(loaded.fit(x, targets, verbose=0).history["loss"][0])


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["resnet", "squeezed", "transformer", "waves"])
def test_a_pruned_model_is_exported(name, tmp_path):
    model = architectures.perturbed(built(name))
    pruned, _ = kd.prune(model, keep=0.5, importance="magnitude")
    x = architectures.data(model, rows=16)
    report = kd.export(
        pruned, tmp_path / "1", formats=("saved_model", "litert", "keras"), representative=x, fresh=False
    )
    assert [each.error for each in report.artefacts] == ["", "", ""]
