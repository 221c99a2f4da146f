"""Heads fused with targets that are stored: as all logits, as a live teacher, and as a float64 reference."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import losses, targets, teachers
from tests import references
from tests.test_fused_head import CLASSES, LENGTH, PROMPTS, WEIGHTS, X, Y, both_ways, cross_entropy, language_model
from tests.test_fused_head import distiller as made

STUDENT, TEACHER = (1, 4), (5, 6)


def cached(path, **arguments):
    """Return the cache of a teacher's targets for X, and X joined with them, in order."""
    cache = kd.TeacherCache(path, language_model(*TEACHER), dtype=arguments.pop("dtype", "float32"), **arguments)
    data = tf.data.Dataset.from_tensor_slices((X, PROMPTS, WEIGHTS))
    cache.build(data, verbose=0)
    return cache, cache.join(data).batch(4)


def trained(fused_head, teacher, data, epochs=2, **arguments):
    """Return logs and weights of a student."""
    arguments = {"loss": cross_entropy(ignore_class=-100), **arguments}
    distilled = made(fused_head, language_model(*STUDENT), teacher, **arguments)
    logs = distilled.fit(data, epochs=epochs, verbose=0, shuffle=False).history
    assert (distilled._untracked.fused is not None) == fused_head
    return logs, distilled.student.get_weights()


def assert_equal(one, other, weights=1e-5):
    for name, values in one[0].items():
        np.testing.assert_allclose(other[0][name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    for ours, theirs in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=weights)


@pytest.mark.slow
def test_fused_plain_and_cached_ways_are_one_after_twenty_steps(tmp_path):
    _, joined = cached(tmp_path)
    plain = tf.data.Dataset.from_tensor_slices((X, PROMPTS, WEIGHTS)).batch(4)
    live = trained(False, language_model(*TEACHER), plain, epochs=7)
    assert_equal(live, trained(True, language_model(*TEACHER), plain, epochs=7), 1e-4)
    assert_equal(live, trained(True, teachers.Cached(), joined, epochs=7), 1e-4)
    assert_equal(live, trained(False, teachers.Cached(), joined, epochs=7), 1e-4)


@pytest.mark.slow
@pytest.mark.one_in(5)
@pytest.mark.parametrize(
    "settings, tail, temperature",
    [
        ({"top_k": 4}, "bucket", 1.0),
        ({"top_k": 4, "dtype": "packed"}, "bucket", 1.0),
        ({"top_k": 4}, "spread", 2.0),
        ({"top_k": CLASSES}, "spread", 2.0),
        ({"dtype": "float16"}, "spread", 2.0),
    ],
)
def test_stored_targets_teach_a_fused_head_as_all_logits(tmp_path, settings, tail, temperature):
    cache, joined = cached(tmp_path, **settings)
    for loss in (losses.kl_divergence, losses.skew_reverse_kl):
        arguments = {"terms": lambda loss=loss: [kd.Term(loss)], "temperature": temperature}
        ways = [trained(fused, teachers.Cached(cache, tail=tail), joined, **arguments) for fused in (False, True)]
        assert_equal(*ways)


@pytest.mark.slow
def test_a_large_block_of_named_classes_is_compiled():
    classes = 2_200
    random = np.random.default_rng(0)
    ids = np.argsort(random.random((*X.shape, classes)), axis=-1)[..., :3]
    x = kd.Joined(X, {"logits": targets.TopK(ids, np.log(np.full(ids.shape, 0.2)), classes)})

    def make(way):
        return made(way, language_model(1, 4, classes=classes), teachers.Cached(tail="bucket"), temperature=1.0)

    both_ways(make, x, Y)


def test_stored_targets_fuse_heads_by_themselves():
    large = language_model(1, 2, classes=16_384)
    assert made("auto", large, teachers.Cached())._untracked.fused is not None
    assert made("auto", large, teachers.Cached(), metrics=["accuracy"])._untracked.fused is None


HIDDEN = np.random.default_rng(3).normal(size=(*X.shape, 4)).astype("float32")


@pytest.mark.parametrize("labels", [Y, None], ids=["labels", "no labels"])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "live"])
def test_a_term_on_hidden_states_needs_no_logits_of_the_teacher(stored, labels):
    teacher, x = (teachers.Cached(), kd.Joined(X, {"body": HIDDEN})) if stored else (language_model(5, 4), X)
    alpha, loss = (0.5, cross_entropy()) if labels is not None else (1.0, None)

    def make(way):
        distilled = kd.Distiller(
            student=language_model(*STUDENT),
            teacher=teacher,
            terms=[kd.Term(losses.squared_error, at=("body", "body"), soften=False)],
        )
        distilled.compile(keras.optimizers.SGD(0.1), loss, alpha=alpha, jit_compile=False, fused_head=way)
        return distilled

    arguments = {"batch_size": 4, "epochs": 2, "verbose": 0, "shuffle": False}
    logs = [make(way).fit(x, labels, **arguments).history for way in (False, True)]
    assert logs[1].keys() == logs[0].keys()
    for name, values in logs[0].items():
        np.testing.assert_allclose(logs[1][name], values, rtol=1e-5)


@pytest.mark.parametrize("fused_head", [False, True])
def test_logits_that_are_not_among_the_targets_are_named(fused_head):
    distilled = made(fused_head, language_model(*STUDENT), teachers.Cached())
    with pytest.raises(ValueError, match="'kl_divergence' reads 'logits' from the teacher, which offers .'body'."):
        distilled.fit(kd.Joined(X, {"body": HIDDEN}), Y, verbose=0)


def test_targets_of_an_ensemble_are_refused(tmp_path):
    cache, joined = cached(tmp_path)
    pair = kd.TeacherCache(tmp_path / "pair", [language_model(*TEACHER), language_model(7, 6)])
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    pair.build(data, verbose=0)
    distilled = made(True, language_model(*STUDENT), teachers.Cached(pair))
    with pytest.raises(ValueError, match="targets of one teacher .* fused_head=False"):
        distilled.fit(pair.join(data).batch(4), verbose=0)


# Any configuration


FIXED = language_model(*STUDENT)


def expected(logits, ids, log_p, tail, temperature, loss, labels, weights, alpha):
    """Return the objective in float64: alpha T**2 D + (1 - alpha) CE, each a sum over all positions by their number."""
    # A probability of 0 is read as the smallest of float32, as `targets.TopK` documents.
    outside, lowest = logits.shape[-1] - ids.shape[-1], np.finfo("float32").tiny
    rest = np.maximum((1.0 - np.sum(np.exp(log_p), axis=-1)) / max(1, outside), lowest)  # of each class
    log_p = np.maximum(log_p, np.log(lowest))
    student = references._log_softmax(logits / temperature)
    if tail == "bucket":
        named = np.take_along_axis(np.exp(student), ids, axis=-1)
        others = np.ones(student.shape)
        np.put_along_axis(others, ids, 0.0, axis=-1)
        q = np.concatenate([named, np.sum(others * np.exp(student), axis=-1, keepdims=True)], axis=-1)
        p = np.concatenate([np.exp(log_p), outside * rest[..., None]], axis=-1)
    else:
        p = np.repeat(rest[..., None], logits.shape[-1], axis=-1)
        np.put_along_axis(p, ids, np.exp(log_p), axis=-1)
        p = np.exp(references._log_softmax(np.log(p) / temperature))
        q = np.exp(student)
    values = temperature**2 * loss(q, p)
    at_labels = np.take_along_axis(references._log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    values = np.where(weights > 0, values, 0.0)
    return alpha * np.mean(weights * values) - (1.0 - alpha) * np.mean(weights * at_labels)


def divergence(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sum(np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0), axis=-1)


LOSSES = {
    losses.kl_divergence: lambda q, p: divergence(p, q),
    losses.reverse_kl: lambda q, p: divergence(q, p),
    losses.jensen_shannon: lambda q, p: 0.5 * divergence(p, (p + q) / 2) + 0.5 * divergence(q, (p + q) / 2),
    losses.skew_kl: lambda q, p: divergence(p, 0.1 * p + 0.9 * q),
    losses.skew_reverse_kl: lambda q, p: divergence(q, 0.1 * q + 0.9 * p),
}
#: Distillers by loss, tail and way; made once.
DISTILLERS = {}


@pytest.mark.parametrize("number", [pytest.param(1_000, marks=pytest.mark.slow), 40])
def test_any_configuration_has_the_objective_of_a_float64_reference(number):
    @settings(max_examples=number, deadline=None, derandomize=True)
    @given(
        batch=st.sampled_from([1, 2, 5]), length=st.sampled_from([1, LENGTH]), k=st.integers(1, CLASSES),
        bucket=st.booleans(), temperature=st.sampled_from([0.5, 1.0, 3.0]), loss=st.sampled_from(list(LOSSES)),
        alpha=st.sampled_from([0.0, 0.3, 1.0]), kept=st.sampled_from([0.0, 0.5, 1.0]), fused=st.booleans(),
        sure=st.booleans(), seed=st.integers(0, 10**6),
    )  # fmt: skip
    def check(batch, length, k, bucket, temperature, loss, alpha, kept, fused, sure, seed):
        tail, temperature = ("bucket", 1.0) if bucket else ("spread", temperature)
        key = (loss, tail, fused)
        if key not in DISTILLERS:
            DISTILLERS[key] = made(
                fused, FIXED, teachers.Cached(tail=tail), terms=lambda: [kd.Term(loss)], temperature=1.0,
                run_eagerly=True,
            )  # fmt: skip
        distilled, random = DISTILLERS[key], np.random.default_rng(seed)
        distilled.temperature, distilled.alpha = temperature, alpha
        x, y = random.integers(0, CLASSES, (2, batch, length))
        given = 3.0 * random.normal(size=(batch, length, CLASSES)) * (5.0 if sure else 1.0)
        log_p = references._log_softmax(given)
        ids = np.argsort(-log_p, axis=-1)[..., :k] if random.random() < 0.5 else random.permuted(
            np.broadcast_to(np.arange(CLASSES), log_p.shape), axis=-1)[..., :k]  # fmt: skip
        log_p = np.take_along_axis(log_p, ids, axis=-1)
        weights = random.uniform(0.1, 2.0, (batch, length)) * (random.random((batch, length)) < kept)
        joined = kd.Joined(x, {"logits": targets.TopK(ids, log_p, CLASSES)})
        tensors = keras.tree.map_structure(tf.constant, joined)
        received = distilled.objective(tensors, y, sample_weight=weights.astype("float32"))["loss"]
        logits = np.asarray(FIXED(x), "float64")
        right = expected(logits, ids, log_p, tail, temperature, LOSSES[loss], y, weights, alpha)
        assert float(received) == pytest.approx(right, rel=1e-4, abs=1e-5)

    check()
