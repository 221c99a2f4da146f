"""Targets that name a few classes, compared without a tensor of all, against their definition in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import losses, schedules
from keras_kd._internal import soft_targets
from keras_kd._internal.sparse_targets import SparseTarget
from keras_kd.language import vocabulary_heads
from keras_kd.language.fused import fused
from keras_kd.losses import _many_values
from tests import references
from tests.caches import built
from tests.models import assert_same
from tests.test_objective import distill

OF_NAMED = {
    losses.kl_divergence: references.kl_divergence,
    losses.reverse_kl: references.reverse_kl,
    losses.jensen_shannon: references.jensen_shannon,
    losses.skew_kl: references.skew_kl,
    losses.skew_reverse_kl: references.skew_reverse_kl,
}


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def coarse(logits, ids):
    """Return the logarithms of the probabilities of the named classes, and of the sum of all others, in float64."""
    log_p = log_softmax(logits)
    named = np.zeros(log_p.shape, bool)
    np.put_along_axis(named, ids, True, -1)
    columns = [np.take_along_axis(log_p, ids, -1)]
    if ids.shape[-1] < log_p.shape[-1]:
        columns.append(np.logaddexp.reduce(np.where(named, -np.inf, log_p), -1, keepdims=True))
    return np.concatenate(columns, -1)


def spread(logits, ids):
    """Return the logarithms of probabilities of which the mass outside of `ids` is spread evenly, in float64."""
    found, log_p = coarse(logits, ids), log_softmax(logits)
    outside = log_p.shape[-1] - ids.shape[-1]
    rest = found[..., -1:] - np.log(outside) if outside else 0.0
    dense = np.broadcast_to(rest, log_p.shape).copy()
    np.put_along_axis(dense, ids, found[..., : ids.shape[-1]], -1)
    return dense


def target(logits, ids, tail):
    found, classes = coarse(logits, ids).astype("float32"), logits.shape[-1]
    rest = tf.constant(found[..., -1]) if ids.shape[-1] < classes else None
    return SparseTarget(tf.constant(ids, tf.int32), tf.constant(found[..., : ids.shape[-1]]), rest, classes, tail)


def value_and_gradient(term, student, theirs, temperature=1.0, labels=None):
    student = tf.constant(student, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = term.row_values(student, theirs, labels, temperature=temperature)
    return values.numpy(), tape.gradient(values, student).numpy()


@st.composite
def cases(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, classes = draw(st.integers(1, 4)), draw(st.integers(2, 14))
    k = draw(st.integers(1, classes))
    scales = draw(st.tuples(*[st.sampled_from([0.1, 1.0, 5.0, 20.0])] * 2))
    student, teacher = (random.normal(0, scale, (rows, classes)).astype("float32") for scale in scales)
    return student, teacher, random.permuted(np.tile(np.arange(classes), (rows, 1)), axis=-1)[:, :k]


@settings(deadline=None, max_examples=40)
@given(cases(), st.sampled_from(sorted(OF_NAMED, key=lambda each: each.__name__)))
def test_a_bucket_is_the_divergence_of_the_named_classes_and_the_rest(drawn, loss):
    student, teacher, ids = drawn
    values, _ = value_and_gradient(kd.Term(loss), student, target(teacher, ids, "bucket"))
    if ids.shape[-1] == 1 and ids.shape[-1] == student.shape[-1]:
        return
    expected = OF_NAMED[loss](coarse(student, ids), coarse(teacher, ids))
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=2e-5)
    dense = OF_NAMED[loss](log_softmax(student), log_softmax(teacher))
    assert np.all(values <= dense + 1e-4 * (1 + dense))  # a coarse-graining is never further apart


@settings(deadline=None, max_examples=40)
@given(cases(), st.sampled_from([1.0, 2.0, 7.0]), st.sampled_from(sorted(OF_NAMED, key=lambda each: each.__name__)))
def test_a_spread_rest_is_the_divergence_of_all_classes(drawn, temperature, loss):
    student, teacher, ids = drawn
    values, _ = value_and_gradient(kd.Term(loss), student, target(teacher, ids, "spread"), temperature)
    softened = student.astype("float64") / temperature
    expected = temperature**2 * OF_NAMED[loss](softened, spread(teacher, ids) / temperature)
    np.testing.assert_allclose(values, expected, rtol=5e-5, atol=temperature**2 * 1e-5)


@pytest.mark.parametrize(("tail", "temperature"), [("bucket", 1.0), ("spread", 1.0), ("spread", 4.0)])
@pytest.mark.parametrize(("classes", "k"), [(9, 3), (9, 8), (9, 9), (9000, 4)])  # the last goes by chunks
def test_the_gradient_of_the_divergence_is_that_of_float64(classes, k, tail, temperature):
    random = np.random.default_rng(0)
    student, teacher = (random.normal(0, 3, (5, classes)).astype("float32") for _ in range(2))
    ids = np.argsort(-teacher, -1)[:, :k]
    _, found = value_and_gradient(kd.Term(losses.kl_divergence), student, target(teacher, ids, tail), temperature)
    q = np.exp(log_softmax(student / temperature))
    if tail == "spread":  # T (q - p), of all classes
        p = np.exp(log_softmax(spread(teacher, ids) / temperature))
        expected = temperature * (q - p)
    else:  # q - p of the named classes; q_c (1 - p_r / q_r) of the others
        named = np.zeros(q.shape, bool)
        np.put_along_axis(named, ids, True, -1)
        p, rest = np.exp(coarse(teacher, ids)), np.where(named, 0, q).sum(-1, keepdims=True)
        expected = np.zeros(q.shape) if k == classes else q * (1 - p[:, -1:] / np.maximum(rest, 1e-300))
        np.put_along_axis(expected, ids, np.take_along_axis(q, ids, -1) - p[:, :k], -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize("of_rest", [-40.0, -16.0, 16.0, 40.0])
def test_a_rest_of_nearly_nothing_or_of_nearly_all_has_a_right_gradient(of_rest):
    student = np.array([[0.0, 1.0, of_rest, of_rest + 1.0, of_rest]], "float32")  # 1 - sum q: 1e-7, or q: 1e-7
    teacher, ids = np.array([[1.0, 0.0, -1.0, -2.0, -3.0]], "float32"), np.array([[1, 0]])
    values, found = value_and_gradient(kd.Term(losses.kl_divergence), student, target(teacher, ids, "bucket"))
    log_q, p = coarse(student, ids), np.exp(coarse(teacher, ids))
    np.testing.assert_allclose(values, np.sum(p * (np.log(p) - log_q), -1), rtol=2e-6)
    q = np.exp(log_softmax(student))
    of_others = q[:, 2:] - p[:, 2:] * np.exp(log_softmax(student[:, 2:]))
    expected = np.concatenate([(q[:, [1, 0]] - p[:, :2])[:, ::-1], of_others], -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_a_tail_of_exactly_nothing_teaches_that_the_others_are_nothing(tail):
    ids, student = np.array([[2, 0]]), np.zeros((1, 4), "float32")
    theirs = SparseTarget(tf.constant(ids), tf.math.log([[0.75, 0.25]]), tf.constant([-np.inf]), 4, tail)
    values, found = value_and_gradient(kd.Term(losses.kl_divergence), student, theirs)
    p = np.array([0.25, 0.0, 0.75, 0.0])
    np.testing.assert_allclose(values, [np.sum(p * np.log(np.maximum(p, 1e-30) / 0.25))], rtol=1e-6)
    np.testing.assert_allclose(found, [0.25 - p], atol=1e-7)


def test_the_most_probable_named_class_is_the_hard_label():
    ids, student = np.array([[3, 1]]), np.array([[0.0, 1.0, 2.0, 3.0]], "float32")
    for tail in ("bucket", "spread"):  # the rest has more mass than any class
        theirs = SparseTarget(tf.constant(ids), tf.math.log([[0.1, 0.2]]), tf.math.log([0.7]), 4, tail)
        values, _ = value_and_gradient(kd.Term(losses.hard_label), student, theirs)
        np.testing.assert_allclose(values, [-log_softmax(student)[0, 1]], rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.decoupled_kl, losses.normalized_kl, losses.skew_kl])
def test_losses_that_read_each_class_go_by_rows(loss):
    random = np.random.default_rng(0)
    student, teacher = (random.normal(0, 3, (300, 8200)).astype("float32") for _ in range(2))
    ids, labels = np.argsort(-teacher, -1)[:, :3], tf.constant(random.integers(0, 8200, 300))
    theirs, term = target(teacher, ids, "spread"), kd.Term(loss)
    expected = value_and_gradient(term, student, theirs.dense(), 2.0, labels)
    for found, known in zip(value_and_gradient(term, student, theirs, 2.0, labels), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("tail", "temperature"), [("bucket", 1.0), ("spread", 3.0)])
@pytest.mark.parametrize("classes", [11, 9000])
def test_graphs_and_xla_give_what_eager_code_gives(classes, tail, temperature):
    random = np.random.default_rng(0)
    student, teacher = (random.normal(0, 3, (4, classes)).astype("float32") for _ in range(2))
    theirs, term = target(teacher, np.argsort(-teacher, -1)[:, :3], tail), kd.Term(losses.kl_divergence)

    def run(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = term.row_values(student, theirs, temperature=temperature)
        return values, tape.gradient(values, student)

    expected = run(tf.constant(student))
    for jit in (False, True):
        for found, known in zip(tf.function(run, jit_compile=jit)(student), expected, strict=True):
            np.testing.assert_allclose(found, known, rtol=2e-5, atol=1e-7)


def tagger(seed, classes=6):
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((5,), dtype="int32")
    hidden = keras.layers.Embedding(8, 4, mask_zero=True)(tokens)
    return keras.Model(tokens, keras.layers.Dense(classes)(hidden))


TOKENS = np.random.default_rng(0).integers(0, 8, (20, 5))
LABELS = np.random.default_rng(1).integers(0, 6, (20, 5))
WEIGHTS = np.random.default_rng(2).uniform(0, 2, (20, 5)).astype("float32")


def joined(tokens=TOKENS, k=3, fill=0.0):
    """Return tokens with top-k targets of a teacher, which are garbage in masked positions."""
    log_p = log_softmax(tagger(7)(tokens))
    ids = np.argsort(-log_p, -1)[..., :k]
    named = np.take_along_axis(log_p, ids, -1)
    ids, named = (np.where(tokens[..., None] == 0, other, each) for each, other in ((ids, -1), (named, -np.inf)))
    targets = kd.targets.TopK(ids, named, classes=6)
    targets["log_probabilities"] = np.where(tokens[..., None] == 0, np.float32(fill), targets["log_probabilities"])
    return kd.Joined(tokens, {"logits": targets})


def trained(x, tail, epochs=1, temperature=1.0, terms=None, **arguments):
    distiller = distill(tagger(3), kd.teachers.Cached(tail=tail), terms, temperature=temperature, **arguments)
    history = distiller.fit(x, LABELS[: len(x.inputs)], batch_size=8, epochs=epochs, verbose=0, shuffle=False)
    return distiller.student.get_weights(), history.history


@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_masks_and_weights_count_as_for_dense_targets(tail):
    x = joined()
    distiller = distill(tagger(3), kd.teachers.Cached(tail=tail), temperature=1.0, alpha=0.5)
    found = distiller.objective(x, LABELS, WEIGHTS)["distillation_loss"]
    ours, theirs, counted = (np.asarray(each) for each in (tagger(3)(TOKENS), tagger(7)(TOKENS), TOKENS != 0))
    ids = np.argsort(-theirs, -1)[..., :3]
    sides = [coarse(side, ids) for side in (ours, theirs)] if tail == "bucket" else [ours, spread(theirs, ids)]
    expected = np.sum(references.kl_divergence(*sides) * WEIGHTS * counted) / counted.sum()
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_what_masked_positions_hold_changes_nothing(tail):
    weights, logs = trained(joined(), tail)
    for fill in (np.nan,):
        again, again_logs = trained(joined(fill=fill), tail)
        assert again_logs == logs
        assert_same(again, weights, 0)


@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_a_batch_of_padding_alone_and_of_one_example_is_0_and_finite(tail):
    distiller = distill(tagger(3), kd.teachers.Cached(tail=tail), temperature=1.0, loss=None, alpha=1.0)
    tokens = np.zeros((1, 5), "int64")
    targets = {**joined(np.ones((1, 5), "int64")).targets["logits"], "mask": np.zeros((1, 5), bool)}
    assert float(distiller.objective(kd.Joined(tokens, {"logits": targets}))["loss"]) == 0.0
    assert np.isfinite(float(distiller.objective(joined(TOKENS[:1]))["loss"]))


@pytest.mark.slow
def test_a_cache_of_all_classes_trains_as_the_dense_one(tmp_path):
    found = []
    for k in (None, 6):
        cache = built(
            tmp_path / str(k),
            tf.data.Dataset.from_tensor_slices((TOKENS,)),
            teacher=tagger(7),
            top_k=k,
            dtype="float32",
        )
        distiller = distill(tagger(3), kd.teachers.Cached(cache, tail="bucket"), temperature=1.0, loss=None, alpha=1.0)
        distiller.fit(cache.join(tf.data.Dataset.from_tensor_slices((TOKENS,))).batch(10), epochs=2, verbose=0)
        found.append(distiller.student.get_weights())
    assert_same(*found, 1e-6)


@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_evaluate_without_labels_check_and_predict_work(tail):
    distiller = distill(tagger(3), kd.teachers.Cached(tail=tail), temperature=1.0, loss=None, alpha=1.0)
    x = joined()
    assert distiller.evaluate(x, verbose=0, return_dict=True)["loss"] == pytest.approx(
        float(distiller.objective(x)["loss"]), rel=1e-5
    )
    assert distiller.check(x, LABELS).teacher_scale > 0
    assert distiller.predict(x, verbose=0).shape == (20, 5, 6)


@pytest.mark.parametrize("temperature", [2.0, lambda step: 1.0, schedules.Ramp(1.0, 2.0, 10)])
def test_a_bucket_is_refused_at_another_temperature(temperature):
    with pytest.raises(ValueError, match=r'temperature of term .* to be 1 .*Cached\(tail="spread"\)'):
        distill(tagger(3), kd.teachers.Cached(tail="bucket"), temperature=temperature)
    term = kd.Term(losses.kl_divergence, temperature=temperature)
    with pytest.raises(ValueError, match="to be 1"):
        distill(tagger(3), kd.teachers.Cached(tail="bucket"), [term], temperature=1.0)


def test_a_temperature_that_is_assigned_and_a_teacher_that_is_changed_are_checked():
    distiller = distill(tagger(3), kd.teachers.Cached(tail="bucket"), temperature=1.0)
    with pytest.raises(ValueError, match="to be 1"):
        distiller.temperature = 3.0
    assert distiller.temperature == 1.0
    distiller = distill(tagger(3), kd.teachers.Cached(), temperature=3.0)
    with pytest.raises(ValueError, match="to be 1"):
        distiller.teacher = kd.teachers.Cached(tail="bucket")


def test_terms_that_are_not_softened_have_no_temperature():
    terms = [kd.Term(losses.kl_divergence, soften=False)]
    distill(tagger(3), kd.teachers.Cached(tail="bucket"), terms, temperature=4.0).objective(joined(), LABELS)


@pytest.mark.parametrize(
    "term",
    [
        lambda: kd.Term(losses.decoupled_kl),
        lambda: kd.Term(losses.squared_error),
        lambda: kd.Term(losses.kl_divergence, transform=kd.transforms.standardize),
    ],
)
def test_a_bucket_is_refused_by_losses_that_read_each_class(term):
    with pytest.raises(ValueError, match=r'no transform, and one of the losses.*tail="spread"'):
        distill(tagger(3), kd.teachers.Cached(tail="bucket"), [term()], temperature=1.0)


@pytest.mark.parametrize(
    "term",
    [lambda: kd.Term(losses.squared_error), lambda: kd.Term(losses.kl_divergence, transform=kd.transforms.standardize)],
)
def test_an_even_rest_is_expanded_where_each_class_is_read(term):
    x, theirs = joined(), np.asarray(tagger(7)(TOKENS))
    dense = spread(theirs, np.argsort(-theirs, -1)[..., :3]).astype("float32")
    counted = {"values": dense, "mask": TOKENS != 0}
    found, expected = (
        float(distill(tagger(3), kd.teachers.Cached(), [term()], temperature=2.0).objective(each, LABELS)["loss"])
        for each in (x, kd.Joined(TOKENS, {"logits": counted}))
    )
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_a_compiled_step_is_the_eager_one(tail):
    expected, _ = trained(joined(), tail, optimizer="sgd")
    for jit in (False, True):
        found, _ = trained(joined(), tail, optimizer="sgd", run_eagerly=False, jit_compile=jit)
        assert_same(found, expected, 1e-6)


@pytest.mark.parametrize(("tail", "temperature"), [("bucket", 1.0), ("spread", 2.0)])
def test_blocks_of_rows_read_targets_of_their_own(tail, temperature):
    random, term = np.random.default_rng(0), kd.Term(losses.kl_divergence)
    hidden, kernel = (
        tf.constant(random.normal(size=(10, 4)), tf.float32),
        tf.Variable(random.normal(size=(4, 9)), dtype="float32"),
    )
    whole = target(random.normal(0, 3, (10, 9)), random.permuted(np.tile(np.arange(9), (10, 1)), axis=-1)[:, :3], tail)
    product = vocabulary_heads.Product(kernel, None, False, None, "float32")

    def of_block(logits, *rows):
        ids, log_probabilities, log_tail = rows
        theirs = SparseTarget(ids, log_probabilities, log_tail[:, 0], 9, tail)
        return [term.row_values(logits, theirs, temperature=temperature)]

    with tf.GradientTape(persistent=True) as tape:
        total, _ = fused(hidden, product, of_block, list(whole.parts()), tf.fill([10, 1], 0.1), tf.ones(1), size=4)
        expected = tf.reduce_mean(term.row_values(hidden @ kernel, whole, temperature=temperature))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(total, kernel), tape.gradient(expected, kernel), rtol=1e-4, atol=1e-6)


def test_a_bucket_is_no_member_of_an_ensemble():
    both = kd.teachers.Ensemble([kd.teachers.Cached(tail="bucket"), tagger(8)])
    with pytest.raises(ValueError, match="members of an ensemble"):
        distill(tagger(3), both, temperature=1.0).objective(joined(), LABELS)


def test_targets_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"one shape.*\(20, 5, 7\).*\(20, 5, 6\)"):
        distill(tagger(3, classes=7), kd.teachers.Cached(tail="bucket"), temperature=1.0).objective(joined(), LABELS)


@pytest.mark.parametrize("classes", [7, 8200])
def test_another_vocabulary_is_compared_by_an_even_rest(classes):
    random, term = np.random.default_rng(0), kd.Term(losses.universal_logits)
    student, teacher = (random.normal(0, 3, (5, size)).astype("float32") for size in (classes, classes + 3))
    theirs = target(teacher, np.argsort(-teacher, -1)[:, :3], "spread")
    expected = value_and_gradient(term, student, theirs.dense(), 2.0)
    for found, known in zip(value_and_gradient(term, student, theirs, 2.0), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-5, atol=1e-7)


def test_a_tail_is_one_of_two_and_is_saved():
    with pytest.raises(ValueError, match="spread.*bucket.*tail='even'"):
        kd.teachers.Cached(tail="even")
    config = kd.teachers.Cached(tail="bucket").get_config()
    assert kd.teachers.Cached.from_config(config).tail("logits") == "bucket"


@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_a_target_is_looked_at_as_logits_of_all_classes(tail):
    logits = np.random.default_rng(0).normal(size=(2, 3, 6)).astype("float32") * 3
    ids = np.argsort(-logits, -1)[..., :2]
    np.testing.assert_allclose(target(logits, ids, tail).dense(), spread(logits, ids), rtol=1e-5)


def test_a_target_has_the_shape_of_its_logits():
    parts = soft_targets.encode(tf.random.normal((2, 3, 7)), "logits", 4, "float32")
    read = soft_targets.decode(parts, "bucket")
    assert read.shape == (2, 3, 7) and read.outside == 3 and read.dense().shape == (2, 3, 7)


@pytest.mark.parametrize("of_classes", [False, True])
def test_chunks_are_read_under_a_persistent_tape(of_classes, monkeypatch):
    monkeypatch.setattr(_many_values, "MANY", 2**40)  # what XLA would compile goes by chunks, as what is larger
    random, term = np.random.default_rng(0), kd.Term(losses.kl_divergence)
    student, teacher = (random.normal(0, 3, (150, 9000)).astype("float32") for _ in range(2))
    whole = target(teacher, np.argsort(-teacher, -1)[:, :3], "spread")

    @tf.function
    def gradient(student):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(student)
            values = term.row_values(student, whole.dense() if of_classes else whole)
        return tape.gradient(values, student)

    _, expected = value_and_gradient(term, student, whole)
    np.testing.assert_allclose(gradient(tf.constant(student)), expected, rtol=1e-4, atol=1e-6)
