"""The loss on features of backbones: values and gradients in float64, masks, weights, graphs, files, refusals."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_kd import Term, losses
from tests import references
from tests.goldens import deviation, doubled, finite_differences, ours_and_gradient

SHAPES = [(4, 5), (3, 6, 5), (2, 3, 4, 5)]
MEAN, VARIANCE = [0.5, -200.0, 3.0, 0.0, 7.0], [2.0, 1e4, 0.01, 1.0, 0.0]  # the last channel is constant


def drawn(shape, seed=0):
    """Return a student's features, and a teacher's with channels of very different scales."""
    student, teacher = np.random.default_rng(seed).normal(size=(2, *shape)).astype("float32")
    return student, (teacher * np.sqrt(VARIANCE) + MEAN).astype("float32")


def made(share=0.9):
    return losses.StandardizedFeatures(MEAN, VARIANCE, share)


def expected(student, teacher, labels=None, share=0.9):
    return references.standardized_features(student, teacher, MEAN, VARIANCE, share)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_value_and_gradient_equal_the_float64_reference(shape, share):
    inputs = (*drawn(shape), None)
    layer, cotangent = made(share), np.random.default_rng(1).uniform(0.5, 1.5, shape[:-1]).astype("float32")

    def reference(student, teacher, labels=None):
        return expected(student, teacher, share=share)

    values, gradient = ours_and_gradient(lambda student, teacher, labels: layer(student, teacher), inputs, cotangent)
    assert deviation(values, reference(*doubled(inputs))) < 1e-5
    assert deviation(gradient, finite_differences(reference, inputs, cotangent)) < 1e-5


def test_a_channel_counts_by_its_deviations_and_not_by_its_size():
    # By hand: z = (0 - 1) / 2 = -0.5 and (400 - 0) / 100 = 4; the smooth L1 distances to (0, 0) are 0.125 and 3.5.
    layer = losses.StandardizedFeatures([1.0, 0.0], [4.0, 1e4], cosine_share=0.0)
    assert float(layer(np.zeros((1, 2), "float32"), np.array([[0.0, 400.0]], "float32"))[0]) == 1.8125
    np.testing.assert_array_equal(layer.standardized(np.array([[0.0, 400.0]], "float32")), [[-0.5, 4.0]])


def test_a_constant_channel_is_0_whatever_it_is_rounded_to():
    layer = losses.StandardizedFeatures([3e4, 1.0], [1e-4, 1.0])  # 1e-2 of 3e4 is the rounding of float32
    found = layer.standardized(np.array([[3e4 + 1, 3.0]], "float32"))
    np.testing.assert_array_equal(found, [[0.0, 2.0]])
    varying = losses.StandardizedFeatures([3e4, 1.0], [1.0, 1.0]).standardized(np.array([[3e4 + 1, 3.0]], "float32"))
    np.testing.assert_array_equal(varying, [[1.0, 2.0]])


@hypothesis.given(
    scale=st.floats(0.01, 100.0), shift=st.floats(-50.0, 50.0), share=st.floats(0.0, 1.0), seed=st.integers(0, 99)
)
@hypothesis.settings(max_examples=15, deadline=None)
def test_units_of_the_teachers_channels_do_not_matter(scale, shift, share, seed):
    student, teacher = np.random.default_rng(seed).normal(size=(2, 6, 3)).astype("float32")
    other = teacher.astype("float64") * [1.0, scale, 1.0] + [0.0, shift, 0.0]
    values = [
        losses.StandardizedFeatures(each.mean(axis=0), each.var(axis=0), share)(student, each.astype("float32"))
        for each in (teacher.astype("float64"), other)
    ]
    np.testing.assert_allclose(*values, rtol=1e-3, atol=1e-4)


def test_what_is_not_measured_stays_as_it_is():
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    for more in ({}, {"mean": MEAN}, {"variance": VARIANCE}):
        received = losses.StandardizedFeatures(**more)(student, teacher)
        np.testing.assert_allclose(received, references.standardized_features(student, teacher, **more), rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_graph_and_xla_compute_what_eager_execution_does(compiled):
    student, teacher = map(tf.constant, drawn((2, 3, 4, 5)))
    layer = made()
    graph = tf.function(lambda s, t: layer(s, t), jit_compile=compiled)
    np.testing.assert_allclose(graph(student, teacher), layer(student, teacher), rtol=1e-6, atol=1e-6)


def test_masked_positions_and_weights_of_0_leave_no_trace():
    student, teacher = drawn((3, 4, 5))
    mask = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]], bool)
    weights = np.array([1.0, 0.0, 2.0], "float32")
    garbage = [np.where(mask[..., None], side, np.float32("nan")) for side in (student, teacher)]
    term = Term(made(), at=("a", "b"))
    received = float(term(*garbage, sample_weight=weights, student_mask=mask, teacher_mask=mask))
    values = expected(student, teacher) * weights[:, None] * mask
    assert received == pytest.approx(values.sum() / mask.sum(), rel=1e-5)


def test_a_term_holds_what_was_measured_in_its_configuration():
    student, teacher = drawn((4, 5))
    term = Term(losses.StandardizedFeatures(np.array(MEAN), np.array(VARIANCE, "float32"), 0.5), at=("a", "b"))
    config = keras.saving.serialize_keras_object(term)
    again = keras.saving.deserialize_keras_object(config)
    assert again.loss.get_config() == term.loss.get_config()
    assert float(again(student, teacher)) == float(term(student, teacher))
    assert not term.loss.weights


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cosine_share": 1.5}, "`cosine_share` to be from 0 to 1. Received: cosine_share=1.5"),
        ({"variance": [1.0, -1.0]}, "`variance` to be at least 0. Received: -1.0"),
        ({"mean": [1.0], "variance": [1.0, 2.0]}, "of the same channels. Received: 1 and 2 numbers"),
        ({"mean": [np.nan]}, "`mean` to be one finite number for each channel"),
        ({"mean": []}, "`mean` to be one finite number for each channel"),
        ({"variance": 2.0}, "`variance` to be one finite number for each channel. Received: 2.0"),
    ],
)
def test_statistics_that_are_none_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        losses.StandardizedFeatures(**arguments)


def test_features_of_other_channels_are_refused_with_both_numbers():
    x = np.ones((2, 4), "float32")
    with pytest.raises(ValueError, match=r"features of 5 channels.*Received: teacher \(2, 4\)"):
        made()(x, x)
    with pytest.raises(ValueError, match=r"one shape.*student \(2, 4\), teacher \(2, 5\)"):
        made()(x, np.ones((2, 5), "float32"))
