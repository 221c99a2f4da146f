"""The transforms, against float64 NumPy; what they do before the temperature."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_kd import Term, losses, transforms
from tests import references
from tests.goldens import GROUPS, TRANSFORMS, deviation, doubled, finite_differences, ours_and_gradient
from tests.models import few, pairs, softmax

every_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.name)


def inputs(shape, scale=1.5):
    return (scale * np.random.default_rng(0).normal(size=shape)).astype("float32")


def test_every_public_transform_is_in_the_table():
    public = {name for name, v in vars(transforms).items() if getattr(v, "__module__", "") == transforms.__name__}
    assert {name for name in public if not name.startswith("_")} == {transform.name for transform in TRANSFORMS}


@every_transform
def test_values_and_gradients_equal_the_float64_reference(transform):
    for shape in transform.shapes:
        x = inputs(shape)
        expected = transform.reference(doubled(x))
        cotangent = np.random.default_rng(1).normal(size=expected.shape).astype("float32")
        values, gradient = ours_and_gradient(lambda x, *_: transform.call(x), (x, x, None), cotangent)
        assert deviation(values, expected) < 1e-5
        slopes = finite_differences(lambda x, *_: transform.reference(x), (x, x, None), cotangent)
        # Two standardised logits are -0.7 and 0.7 whatever they were: a gradient of 0, up to rounding.
        np.testing.assert_allclose(gradient, slopes, atol=1e-5 * max(1e-1, np.max(np.abs(slopes))))


@every_transform
@pytest.mark.parametrize("value", [0.0, 1.5, -200.0])
def test_constant_inputs_have_finite_values_and_gradients(transform, value):
    x = np.full((2, 5), value, "float32")
    values, gradient = ours_and_gradient(lambda x, *_: transform.call(x), (x, x, None))
    np.testing.assert_allclose(values, transform.reference(doubled(x)), rtol=1e-5, atol=1e-5)
    assert np.all(np.isfinite(gradient))
    assert np.max(np.abs(gradient)) < 10


@every_transform
def test_logits_of_200_have_finite_values_and_gradients(transform):
    x = 200 * np.sign(inputs((4, 5)))
    values, gradient = ours_and_gradient(lambda x, *_: transform.call(x), (x, x, None))
    np.testing.assert_allclose(values, transform.reference(doubled(x)), rtol=1e-5)
    assert np.all(np.isfinite(gradient))


@every_transform
def test_eager_graph_and_xla_agree(transform):
    x = tf.constant(inputs((4, 5)))
    for jit in (False, True):
        np.testing.assert_allclose(tf.function(transform.call, jit_compile=jit)(x), transform.call(x), atol=1e-6)


@every_transform
def test_a_term_with_it_is_created_again_from_its_config(transform):
    term = Term(losses.kl_divergence, transform=transform.call, name="term")
    again = Term.from_config(term.get_config())
    assert again.get_config() == term.get_config()
    student, teacher = inputs((2, 2)), inputs((2, 5))[:, : 5 if transform.name == "ClassMap" else 2]
    assert float(again(student, teacher)) == float(term(student, teacher))


@given(pair=pairs(), scale=st.floats(0.5, 4, width=32), shift=st.floats(-4, 4, width=32))
@few
def test_standardised_logits_have_no_scale_and_no_mean(pair, scale, shift):
    # On a grid of 1/4: what is not constant is far from it, so that rounding stays small.
    logits = np.round(4 * pair[0]) / 4
    expected = references.standardize(logits)
    np.testing.assert_allclose(transforms.standardize(np.float32(scale) * logits + shift), expected, atol=2e-4)


def test_standardising_takes_the_unbiased_deviation():
    # Mean 2, deviations -2, 0, 2, variance 8 / (3 - 1) = 4.
    np.testing.assert_allclose(transforms.standardize(np.float32([[0, 2, 4]])), [[-1, 0, 1]], atol=1e-6)


def test_an_excluded_class_is_left_out_of_mean_and_deviation_and_stays_excluded():
    logits, cotangent = inputs((4, 5)), inputs((4, 4))
    excluding = np.insert(logits, 2, -np.inf, axis=-1)
    weights = np.insert(np.pad(cotangent, ((0, 0), (0, 1))), 2, 0.0, axis=-1)
    values, gradient = ours_and_gradient(
        lambda x, *_: tf.where(tf.math.is_inf(x), 0.0, transforms.standardize(x)), (excluding, excluding, None), weights
    )
    np.testing.assert_allclose(np.delete(values, 2, -1), references.standardize(logits), rtol=1e-5, atol=1e-6)
    assert np.all(transforms.standardize(excluding)[:, 2] == -np.inf)
    slopes = finite_differences(
        lambda x, *_: references.standardize(x), (logits, logits, None), np.delete(weights, 2, -1)
    )
    np.testing.assert_allclose(gradient, np.insert(slopes, 2, 0.0, axis=-1), rtol=1e-4, atol=1e-5)


def test_a_class_map_excludes_a_class_all_of_whose_own_are_excluded():
    teacher = inputs((3, 5))
    teacher[:, 1] = teacher[:, 3] = -np.inf  # class 1 is all of the second group, class 3 a part of the first
    mapped = transforms.ClassMap(GROUPS, teacher_classes=5)(teacher)
    np.testing.assert_allclose(mapped[:, 0], teacher[:, 0], rtol=1e-6)
    assert np.all(mapped[:, 1] == -np.inf)


def test_standardised_logits_are_compared_without_the_classes_that_both_sides_exclude():
    student, teacher = (np.insert(side, 2, -np.inf, axis=-1) for side in (inputs((4, 5)), inputs((4, 5))[::-1]))
    term = Term(losses.kl_divergence, transform=transforms.standardize)
    ours, theirs = (references.standardize(np.delete(side, 2, -1)) for side in (student, teacher))
    assert float(term(student, teacher)) == pytest.approx(np.mean(references.kl_divergence(ours, theirs)), rel=1e-5)


def test_the_temperature_comes_after_the_transform():
    student, teacher = inputs((4, 5)), inputs((4, 5))[::-1].copy()
    value = Term(losses.kl_divergence, transform=transforms.standardize)(student, teacher, temperature=2, softened=True)
    ours, theirs = (references.standardize(z) / 2 for z in (student, teacher))
    assert float(value) == pytest.approx(4 * np.mean(references.kl_divergence(ours, theirs)), rel=1e-5)


def test_one_logit_cannot_be_standardised():
    with pytest.raises(ValueError, match="at least 2 classes"):
        transforms.standardize(np.zeros((2, 1), "float32"))


def test_a_class_map_sums_the_probabilities_of_its_groups():
    teacher = inputs((3, 5))
    p = softmax(teacher)
    expected = np.stack([p[:, 3] + p[:, 0], p[:, 1]], axis=-1)
    mapped = softmax(transforms.ClassMap(GROUPS, teacher_classes=5)(teacher))
    np.testing.assert_allclose(mapped, expected / expected.sum(axis=-1, keepdims=True), rtol=1e-5)


def test_a_class_map_leaves_the_students_logits_alone():
    student = inputs((3, 2))
    assert transforms.ClassMap(GROUPS, teacher_classes=5)(student) is student


@pytest.mark.parametrize("groups", [[[5], [0]], [[-1], [0]], [[], [0]], [0, 1, 2, 3, 4]], ids=str)
def test_a_class_map_that_cannot_be_is_refused(groups):
    with pytest.raises(ValueError, match="Expected"):
        transforms.ClassMap(groups, teacher_classes=5)


def test_a_class_map_is_created_again_from_its_config():
    one = transforms.ClassMap(GROUPS, teacher_classes=5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(one))
    np.testing.assert_array_equal(again(inputs((3, 5))), one(inputs((3, 5))))
