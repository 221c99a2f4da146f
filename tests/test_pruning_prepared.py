"""A model that is pruned to several sizes: what they share is found once, and is what each alone would find."""

import collections

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression import shapes
from keras_kd.pruning import graph_walk, hidden_units, prepared_model
from keras_kd.pruning.pruner import prepare, prune_prepared
from tests import pruned as architectures
from tests.test_pruning_budgets import Block


@pytest.fixture
def counts(monkeypatch):
    """Count calls of what takes time."""
    found = collections.Counter()

    def counted(owner, name):
        original = getattr(owner, name)

        def call(*arguments):
            found[name] += 1
            return original(*arguments)

        monkeypatch.setattr(owner, name, call)

    counted(graph_walk, "trace")
    counted(prepared_model, "measured")
    counted(prepared_model, "divergence")
    counted(hidden_units, "_found")
    return found


def model():
    return architectures.perturbed(architectures.ALL["resnet"](architectures.uncut))


SIZES = [({"multiplications": 0.5}, 0), ({"parameters": 0.4}, 0), ({"keep": 0.5}, 1), ({"multiplications": 0.3}, 1)]


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_several_sizes_share_what_each_would_find_alone(counts, importance):
    whole = model()
    x = architectures.data(whole, rows=16)
    prepared = prepare(whole, importance, x)
    together = [prune_prepared(prepared, *size) for size in SIZES]
    assert dict(counts) == {"trace": 2, "measured": 2, "divergence": 1}  # with its one block, and without
    for (ours, report), (budget, blocks) in zip(together, SIZES, strict=True):
        theirs, alone = kd.prune(whole, **budget, blocks=blocks, importance=importance, data=x)
        assert str(report) == str(alone)
        for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_shapes_of_a_search_are_pruned_from_one_trace(counts, tmp_path):
    whole = model()
    how = {"importance": "magnitude", "round_to": 1, "data": architectures.data(whole, rows=16)}
    found = [shapes.Shape(f"{width:.0%}", {"multiplications": width}) for width in (0.6, 0.4, 0.2)]
    made = shapes.pruned(whole, found, tmp_path, how)
    assert dict(counts) == {"trace": 1, "measured": 1}
    assert [each.shape.name for each in made] == ["60%", "40%", "20%"]
    again = shapes.pruned(whole, found, tmp_path, how)
    assert dict(counts) == {"trace": 1, "measured": 1}  # read back
    assert [each.multiplications for each in again] == [each.multiplications for each in made]


def blocks(*activations, width=8):
    x = inputs = keras.Input((4,))
    for number, activation in enumerate(activations):
        x = Block(width, activation, name=f"block_{number}")(x)
    return architectures.perturbed(keras.Model(inputs, layers.Dense(2, name="scores")(x)))


@pytest.mark.parametrize(
    ("activations", "tried"), [(("relu",) * 4, 1), (("relu", "gelu", "relu"), 2), (("relu", "softmax"), 2)], ids=str
)
@pytest.mark.one_in(1)
def test_layers_that_differ_in_names_and_weights_alone_are_tried_once(counts, activations, tried):
    _, report = kd.prune(blocks(*activations), keep=0.5, importance="magnitude")
    assert counts["_found"] == tried
    kept = {each.layer: each.kept for each in report.widths if ":hidden_dim" in each.layer}
    assert kept == {f"block_{n}:hidden_dim": 4 for n, each in enumerate(activations) if each != "softmax"}


def test_layers_with_an_object_for_an_argument_are_tried_each(counts):
    whole = blocks("relu", "relu")
    for layer in whole.layers[1:3]:
        layer.activation = keras.activations.relu  # which its configuration returns, and JSON does not hold
    kd.prune(whole, keep=0.5, importance="magnitude")
    assert counts["_found"] == 2


def test_units_whose_weights_are_zeros_are_found_by_what_the_layer_does():
    whole = blocks("gelu")
    block = whole.get_layer("block_0")
    block.narrow.kernel.assign(np.zeros((8, 4)))  # as a residual block may begin with
    pruned, report = kd.prune(whole, keep=0.5, importance="magnitude")
    assert pruned.get_layer("block_0").hidden_dim == 4
    assert [each.layer for each in report.widths if each.kept < each.before] == ["block_0:hidden_dim"]
