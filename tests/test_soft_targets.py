"""What is stored of a teacher's outputs, against its definition in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_kd import losses
from keras_kd._internal import soft_targets
from keras_kd._internal.ensemble_logits import Mixture
from tests import references
from tests.models import few


def read_back(logits, top_k=None, dtype="float32", kind="auto"):
    """Return logits that were stored and read, as float64."""
    return np.asarray(soft_targets.decode(soft_targets.encode(tf.constant(logits), kind, top_k, dtype)), np.float64)


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
    read = soft_targets.decode(soft_targets.encode(tf.constant(logits), "auto", k, "float32"))
    received = losses.kl_divergence(student / np.float32(temperature), read / np.float32(temperature))
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(logits_and_k())
def test_top_k_of_all_classes_is_the_dense_target(drawn):
    logits, _ = drawn
    np.testing.assert_allclose(softmax(read_back(logits, logits.shape[-1])), softmax(read_back(logits)), atol=1e-6)


@pytest.mark.parametrize("k", [None, 1, 10, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0, 200.0])
def test_probabilities_in_half_precision_are_those_of_the_teacher(k, scale):
    logits = (scale * np.random.default_rng(0).uniform(-1, 1, (8, 1000))).astype("float32")
    parts = soft_targets.encode(tf.constant(logits), "auto", k, "float16")
    found = softmax(np.asarray(soft_targets.decode(parts), np.float64))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-3)
    expected = top_k_target(logits, k) if k and scale else softmax(logits.astype(np.float64))
    # A logarithm or logit z is rounded by at most |z| / 2048, and p changes by that share of itself, of it and the sum.
    largest = np.abs(np.log(np.maximum(expected, 1e-300)) if k else logits)
    np.testing.assert_array_less(np.abs(found - expected), 1e-6 + expected * np.expm1(2 * largest.max() / 2048))


@pytest.mark.parametrize(("classes", "dtype"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "int32")])
def test_indices_take_the_smallest_type_that_is_wide_enough(classes, dtype):
    logits = np.zeros((1, classes), "float32")
    logits[0, [classes - 1, 3]] = 8.0, 5.0
    parts = soft_targets.encode(tf.constant(logits), "auto", 2, "float32")
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
    np.testing.assert_array_equal(softmax(read_back([[1e9, 0.0]], dtype="float16")), [[1.0, 0.0]])
    np.testing.assert_array_equal(read_back([[1e9, 0.0]], dtype="float16", kind="sigmoid"), [[65504.0, 0.0]])


OFFSETS = [0.0, -1000.0, 1000.0, 3000.0, 30000.0]


@pytest.mark.parametrize("offset", OFFSETS)
def test_half_precision_keeps_the_classes_and_probabilities_of_logits_with_an_offset(offset):
    logits = (2 * np.random.default_rng(0).normal(size=(500, 10)) + offset).astype("float32")
    found = read_back(logits, dtype="float16")
    np.testing.assert_array_equal(found.argmax(-1), logits.argmax(-1))
    # A logit that is d below the largest is rounded by at most d / 2048, and float32 by |z| / 2**24 here and there.
    expected, distance = softmax(logits.astype(np.float64)), np.ptp(logits.astype(np.float64), axis=-1).max()
    bound = np.expm1(2 * distance / 2048 + 4 * abs(offset) / 2**22)
    np.testing.assert_array_less(np.abs(found - logits), distance / 2048 + abs(offset) / 2**21 + 1e-6)
    np.testing.assert_array_less(np.abs(softmax(found) - expected), expected * bound + 1e-9)


def test_a_term_that_reads_the_offset_of_logits_still_reads_it():
    student, logits = np.zeros((4, 6)), np.random.default_rng(0).normal(size=(4, 6)) + 250.0
    read = soft_targets.decode(soft_targets.encode(tf.constant(logits, tf.float32), "softmax", None, "float16"))
    expected = np.mean((student - logits) ** 2, axis=-1)  # 6e4: without the offset it would be about 3
    np.testing.assert_allclose(losses.squared_error(tf.zeros((4, 6)), read), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sigmoid", "values"])
def test_labels_and_values_that_mean_something_alone_are_rounded_alone(kind):
    outputs = np.array([[60.0, 0.01234, -7.0]], "float32")
    np.testing.assert_array_equal(read_back(outputs, dtype="float16", kind=kind), outputs.astype("float16"))


@pytest.mark.parametrize("logits", [[[-np.inf, 1.0, 2.0]], [[-np.inf, -np.inf, -np.inf]]])
def test_classes_that_are_masked_stay_masked_in_half_precision(logits):
    found = read_back(np.array(logits, "float32"), dtype="float16")
    assert np.isfinite(found).all()
    np.testing.assert_allclose(softmax(found)[0, 0], 0 if np.isfinite(logits).any() else 1 / 3, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 2, 2, 4)])
def test_centred_logits_have_the_shape_of_logits(shape):
    logits = np.random.default_rng(0).normal(size=shape).astype("float32")
    parts = soft_targets.encode(tf.constant(logits), "logits", None, "float16")
    assert soft_targets.shape(parts) == shape[1:] and parts["centred"].shape == (*shape[:-1], shape[-1] + 2)
    np.testing.assert_allclose(soft_targets.decode(parts), logits, atol=5e-3)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_logit_has_nothing_to_be_centred_on(shape):
    assert list(soft_targets.encode(tf.ones(shape), "logits", None, "float16")) == ["values"]


def test_members_of_an_ensemble_are_centred_each():
    members = tuple(tf.random.normal((2, 5, 3)) + offset for offset in (0.0, 5000.0))
    read = soft_targets.decode(
        soft_targets.encode(Mixture(members, tf.math.log([0.5, 0.5])), "logits", None, "float16")
    )
    for found, expected in zip(read.logits, members, strict=True):
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_features_keep_their_shape_and_no_classes():
    features = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_array_equal(read_back(features, top_k=2, kind="values"), features)


def test_members_of_an_ensemble_are_kept_apart():
    members = tuple(tf.random.normal((2, 5, 3)) for _ in range(3))
    for log_weights in (tf.math.log([0.2, 0.3, 0.5]), tf.nn.log_softmax(tf.random.normal((2, 5, 3)))):
        parts = soft_targets.encode(Mixture(members, log_weights), "auto", None, "float32")
        assert soft_targets.shape(parts) == (5, 3)
        read = soft_targets.decode(parts)
        np.testing.assert_array_equal(tf.stack(read.logits), tf.stack(members))
        np.testing.assert_allclose(
            read.log_weights,
            tf.broadcast_to(log_weights, read.log_weights.shape[:1] + read.log_weights.shape[1:]),
            atol=1e-7,
        )  # noqa: E501


def test_the_mask_of_an_output_is_kept():
    logits = tf.random.normal((2, 3, 4))
    logits._keras_mask = tf.constant([[True, True, False], [True, False, False]])
    read = soft_targets.decode(soft_targets.encode(logits, "auto", 2, "float16"))
    np.testing.assert_array_equal(read._keras_mask, logits._keras_mask)


@pytest.mark.parametrize("jit", [False, True])
def test_a_graph_reads_what_eager_code_reads(jit):
    logits = tf.random.normal((4, 6, 11)) * 5
    parts = soft_targets.encode(logits, "auto", 3, "float16")
    compiled = tf.function(soft_targets.decode, jit_compile=jit)
    np.testing.assert_allclose(compiled(parts), soft_targets.decode(parts), atol=1e-6)


def test_inputs_without_targets_stay_unchanged():
    x = {"a": 1}
    assert soft_targets.inputs(x) is x and soft_targets.inputs(soft_targets.Joined(x, {})) is x
    assert keras.tree.flatten(soft_targets.Joined(1, {"b": 2})) == [1, 2]


@few
@given(st.integers(2, 7), st.data())
def test_of_classes_that_are_named_the_most_probable_are_kept(classes, data):
    named = data.draw(st.integers(1, classes))
    kept = data.draw(st.integers(1, named))
    logits = tf.constant(np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(2, 3, classes)), tf.float32)
    target = soft_targets.decode(soft_targets.encode(logits, "logits", named, "float32"), "spread")
    found = soft_targets.encode(target, "logits", kept, "float32")
    expected = soft_targets.encode(logits, "logits", kept, "float32")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_allclose(np.asarray(found[name], "float64"), np.asarray(values, "float64"), atol=1e-5)
    whole = soft_targets.encode(target, "logits", None, "float32")
    np.testing.assert_array_equal(whole["log_probabilities"], target.log_probabilities)
