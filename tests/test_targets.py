"""What is stored of what a teacher says, against its definition in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_kd import losses, targets
from keras_kd.mixtures import Mixture
from tests import references


def read_back(logits, top_k=None, dtype="float32", is_output=True):
    """Return what comes back of logits, as float64."""
    return np.asarray(targets.decode(targets.encode(tf.constant(logits), is_output, top_k, dtype)), np.float64)


def top_k_target(logits, k):
    """Return, in float64, the definition: the k largest probabilities, and the mass of the others spread evenly."""
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    kept = np.zeros(p.shape, bool)
    np.put_along_axis(kept, np.argsort(-p, axis=-1, kind="stable")[..., :k], True, axis=-1)
    rest = np.where(kept, 0, p).sum(-1, keepdims=True)
    return np.where(kept, p, rest / max(1, p.shape[-1] - k))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@st.composite
def logits_and_k(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))) + (draw(st.integers(2, 12)),)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 1.0, 10.0, 60.0]))
    # Ties would leave open which of the classes are kept.
    logits = scale * random.permutation(np.prod(shape)).reshape(shape) / np.prod(shape)
    return logits.astype("float32"), draw(st.integers(1, shape[-1]))


@settings(deadline=None, max_examples=60)
@given(logits_and_k())
def test_a_top_k_target_is_its_definition(drawn):
    logits, k = drawn
    expected = top_k_target(logits, k) if np.ptp(logits) else softmax(logits.astype(np.float64))
    np.testing.assert_allclose(softmax(read_back(logits, k)), expected, rtol=1e-5, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(logits_and_k(), st.sampled_from([1.0, 4.0]))
def test_the_kl_to_a_top_k_target_is_its_definition(drawn, temperature):
    logits, k = drawn
    if not np.ptp(logits):
        return
    student = np.random.default_rng(1).normal(size=logits.shape).astype("float32")
    teacher = np.log(np.maximum(top_k_target(logits, k), 1e-300))
    expected = references.kl_divergence(student / temperature, teacher / temperature)
    read = targets.decode(targets.encode(tf.constant(logits), True, k, "float32"))
    received = losses.kl_divergence(student / np.float32(temperature), read / np.float32(temperature))
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(logits_and_k())
def test_all_classes_are_the_dense_target(drawn):
    logits, _ = drawn
    np.testing.assert_allclose(softmax(read_back(logits, logits.shape[-1])), softmax(read_back(logits)), atol=1e-6)


@pytest.mark.parametrize("k", [None, 1, 10, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0, 200.0])
def test_probabilities_in_half_precision_are_those_of_the_teacher(k, scale):
    logits = (scale * np.random.default_rng(0).uniform(-1, 1, (8, 1000))).astype("float32")
    parts = targets.encode(tf.constant(logits), True, k, "float16")
    found = softmax(np.asarray(targets.decode(parts), np.float64))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-3)
    expected = top_k_target(logits, k) if k and scale else softmax(logits.astype(np.float64))
    # A logarithm or logit z is rounded by at most |z| / 2048, and p changes by that share of itself, of it and the sum.
    largest = np.abs(np.log(np.maximum(expected, 1e-300)) if k else logits)
    np.testing.assert_array_less(np.abs(found - expected), 1e-6 + expected * np.expm1(2 * largest.max() / 2048))


@pytest.mark.parametrize(("classes", "dtype"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "int32")])
def test_indices_take_the_smallest_type_that_is_wide_enough(classes, dtype):
    logits = np.zeros((1, classes), "float32")
    logits[0, [classes - 1, 3]] = 8.0, 5.0
    parts = targets.encode(tf.constant(logits), True, 2, "float32")
    indices = parts[f"indices_of_{classes}"]
    assert indices.dtype == dtype
    np.testing.assert_array_equal(indices, [[classes - 1, 3]])
    np.testing.assert_allclose(softmax(read_back(logits, 2)), softmax(logits.astype(np.float64)), rtol=1e-4)


def test_a_tail_smaller_than_the_rounding_of_the_sum_is_kept():
    logits = np.array([[40.0, 39.0, 0.0, 1.0]], "float32")
    expected = top_k_target(logits, 2)
    assert 1 - expected[0, :2].sum() < 1e-16  # so a tail of 1 - sum would be nothing
    np.testing.assert_allclose(softmax(read_back(logits, 2)), expected, rtol=1e-5)


def test_logits_too_large_for_half_precision_saturate():
    assert softmax(read_back([[-1e9, 0.0, 3.0]], dtype="float16"))[0, 0] == 0
    np.testing.assert_array_equal(read_back([[1e9, 0.0]], dtype="float16"), [[65504.0, 0.0]])


def test_features_keep_their_shape_and_no_classes():
    features = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_array_equal(read_back(features, top_k=2, is_output=False), features)


def test_members_of_an_ensemble_are_kept_apart():
    members = tuple(tf.random.normal((2, 5, 3)) for _ in range(3))
    for log_weights in (tf.math.log([0.2, 0.3, 0.5]), tf.nn.log_softmax(tf.random.normal((2, 5, 3)))):
        parts = targets.encode(Mixture(members, log_weights), True, None, "float32")
        assert targets.shape(parts) == (5, 3)
        read = targets.decode(parts)
        np.testing.assert_array_equal(tf.stack(read.logits), tf.stack(members))
        np.testing.assert_allclose(
            read.log_weights,
            tf.broadcast_to(log_weights, read.log_weights.shape[:1] + read.log_weights.shape[1:]),
            atol=1e-7,
        )  # noqa: E501


def test_the_mask_of_an_output_is_kept():
    said = tf.random.normal((2, 3, 4))
    said._keras_mask = tf.constant([[True, True, False], [True, False, False]])
    read = targets.decode(targets.encode(said, True, 2, "float16"))
    np.testing.assert_array_equal(read._keras_mask, said._keras_mask)


@pytest.mark.parametrize("jit", [False, True])
def test_a_graph_reads_what_eager_code_reads(jit):
    logits = tf.random.normal((4, 6, 11)) * 5
    parts = targets.encode(logits, True, 3, "float16")
    compiled = tf.function(targets.decode, jit_compile=jit)
    np.testing.assert_allclose(compiled(parts), targets.decode(parts), atol=1e-6)


def test_inputs_without_targets_are_left_as_they_are():
    x = {"a": 1}
    assert targets.inputs(x) is x and targets.inputs(targets.Joined(x, {})) is x
    assert keras.tree.flatten(targets.Joined(1, {"b": 2})) == [1, 2]
