"""ViTKD: which tokens are masked, what is generated in their place, and the weights of the authors' code."""

import keras
import numpy as np
import pytest

from keras_kd import losses, methods
from tests import references
from tests.test_cross_architecture import assert_trained_and_saved, convolutional, made, of_tokens

RANDOM = np.random.default_rng(0)


def built(shape, masked=0.5):
    """Return a loss with weights that are not zero, and the maps that its generator has seen."""
    keras.utils.set_random_seed(0)
    layer = losses.MaskedTokenGeneration(masked)
    layer.build(shape, shape)
    layer.built = True
    layer.token.assign(RANDOM.normal(5.0, 1.0, shape[-1]))
    seen, generator = [], layer.generator
    object.__setattr__(layer, "generator", lambda maps: seen.append(np.array(maps)) or generator(maps))
    return layer, generator, seen


@pytest.mark.parametrize(("masked", "size"), [(0.5, (4, 4)), (0.3, (3, 5)), (0.9, (2, 3)), (0.01, (2, 2))])
def test_the_value_of_a_step_is_that_of_the_masked_tokens(masked, size):
    student, teacher = RANDOM.normal(size=(2, 6, *size, 3)).astype("float32")
    layer, generator, seen = built(student.shape, masked)
    value = layer(student, teacher, training=True)
    [x] = seen
    mask = np.all(np.isclose(x, np.array(layer.token)), axis=-1, keepdims=True)
    np.testing.assert_array_equal(np.where(mask, 0, x), np.where(mask, 0, student))
    count = size[0] * size[1]
    assert np.all(mask.sum((1, 2, 3)) == count - int(count * (1 - masked)))  # as many of each example
    weights = [each.get_weights() for each in generator.layers]
    expected = references.masked_token_generation(student, teacher, *weights, layer.token.numpy(), mask, masked)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_each_token_of_each_example_is_masked_as_often_and_another_one_in_each_step():
    student = np.zeros((300, 3, 3, 2), "float32")
    layer, _, seen = built(student.shape, 0.4)
    for _ in range(2):
        layer(student, student, training=True)
    first, second = ((each != 0).all(-1) for each in seen)
    assert not np.array_equal(first, second)
    share = first.mean(0)
    assert np.all(np.abs(share - 4 / 9) < 4 * np.sqrt(0.25 / 300))


def test_outside_of_training_nothing_is_masked():
    student, teacher = RANDOM.normal(size=(2, 3, 4, 4, 2)).astype("float32")
    layer, generator, seen = built(student.shape)
    value = layer(student, teacher)
    np.testing.assert_array_equal(seen[0], student)
    weights = [each.get_weights() for each in generator.layers]
    expected = references.masked_token_generation(student, teacher, *weights, layer.token.numpy())
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("masked", [0.0, 1.0, -0.5])
def test_shares_out_of_range_are_refused(masked):
    with pytest.raises(ValueError, match=r"a share above 0 and below 1\. Received: masked="):
        losses.MaskedTokenGeneration(masked)


def test_vitkd_has_the_weights_of_its_code():
    first, second, deep = methods.vitkd([("a", "b"), ("c", "d")], ("maps", "tokens:map"))
    assert first.weight == second.weight == pytest.approx(3e-5 * 196 * 384)
    assert (deep.weight, deep.loss.masked, deep.bridge, deep.name) == (3e-6, 0.5, "auto", "vitkd_deep")
    for shallow, last in (([], ("a", "b")), (["a"], ("a", "b")), ([("a", "b")], "maps")):
        with pytest.raises(ValueError, match="Expected pairs of layers"):
            methods.vitkd(shallow, last)


@pytest.mark.parametrize(
    "way", ["eager", pytest.param("graph", marks=pytest.mark.slow), pytest.param("XLA", marks=pytest.mark.slow)]
)
def test_vitkd_trains_a_student(way, tmp_path):
    pair = ("maps", "tokens:map")
    terms = methods.vitkd([pair], pair, masked=0.1, shallow_weight=1.0, weight=1e-4)
    distiller = made(terms, convolutional(), of_tokens(), run_eagerly=way == "eager", jit_compile=way == "XLA")
    assert_trained_and_saved(distiller, 2 + 2 + 4 + 1, 8, tmp_path)
