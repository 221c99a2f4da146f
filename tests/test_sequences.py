"""The reverse divergence of whole sequences: value and gradient from the paper, by enumeration, under masks, fused."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import Term
from keras_kd.language import sequence_reverse_kl
from keras_kd.losses._sequences import future, token_rewards
from tests import references
from tests.models import assert_same
from tests.test_row_choice import ORIGIN, X, Y, cross_entropy, distiller, trained

WORDS, TOKENS = 3, 3
TEXTS = np.array(list(itertools.product(range(WORDS), repeat=TOKENS)))
PREFIXES = [prefix for length in range(TOKENS) for prefix in itertools.product(range(WORDS), repeat=length)]
PLACES = np.array([[PREFIXES.index(tuple(text[:length])) for length in range(TOKENS)] for text in TEXTS])


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def of_texts(table):
    """Return the log-probability of every token of every text, for logits behind each prefix."""
    return np.take_along_axis(log_softmax(table)[PLACES], TEXTS[..., None], axis=-1)[..., 0]


def divergence_of_texts(ours, theirs):
    """KL(q || p) of all texts of three tokens: sum_y q(y) (log q(y) - log p(y))."""
    log_q, log_p = of_texts(ours).sum(axis=1), of_texts(theirs).sum(axis=1)
    return np.sum(np.exp(log_q) * (log_q - log_p))


def slopes(function, table, step=1e-6):
    found = np.zeros_like(table)
    for place in np.ndindex(table.shape):
        change = np.zeros_like(table)
        change[place] = step
        found[place] = (function(table + change) - function(table - change)) / (2 * step)
    return found


def expected_estimate(ours, theirs, **arguments):
    """Return the means over all texts that the student may write, of the sum of the values and of its gradient."""
    table, likely = tf.Variable(ours.astype("float32")), np.exp(of_texts(ours).sum(axis=1))
    with tf.GradientTape() as tape:
        sides = tf.gather(table, PLACES), tf.gather(theirs.astype("float32"), PLACES)
        values = sequence_reverse_kl(*sides, TEXTS, **arguments)
        total = tf.reduce_sum(values * likely[:, None].astype("float32"))
    return float(total), tf.convert_to_tensor(tape.gradient(total, table)).numpy()


def reference_gradient(student, teacher, labels, counted, normalized):
    """Per token: grad KL(q_t || p_t) - A_t grad log q_t(y_t), A_t of the rewards behind it. In float64."""
    log_q, log_p = log_softmax(student), log_softmax(teacher)
    q = np.exp(log_q)
    divergence = np.sum(q * (log_q - log_p), axis=-1, keepdims=True)
    exact = q * (log_q - log_p - divergence)
    rewards = np.take_along_axis(log_p - log_q, labels[..., None], axis=-1)[..., 0]
    one_hot, found = np.eye(student.shape[-1])[labels], np.zeros_like(student)
    for row, token in np.ndindex(labels.shape):
        behind = [rewards[row, later] for later in range(token + 1, labels.shape[1]) if counted[row, later]]
        advantage = (np.mean if normalized else np.sum)(behind) if behind else 0.0
        found[row, token] = exact[row, token] - advantage * (one_hot - q)[row, token]
    return found


# Values and gradients


def test_the_gradients_of_all_texts_have_the_mean_of_the_gradient_of_their_divergence():
    ours, theirs = np.random.default_rng(0).normal(size=(2, len(PREFIXES), WORDS))
    value, gradient = expected_estimate(ours, theirs, normalized=False)
    assert value == pytest.approx(divergence_of_texts(ours, theirs), rel=1e-5)
    expected = slopes(lambda table: divergence_of_texts(table, theirs), ours)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5)
    # Token by token, as `reverse_kl` is, it is another one.
    _, blind = expected_estimate(ours, theirs, advantages=np.zeros(TEXTS.shape, "float32"))
    assert np.max(np.abs(blind - expected)) > 0.05


def test_the_mean_behind_a_token_differs_from_the_sum_by_its_length():
    rewards = np.float32([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]])
    counted = np.array([[True] * 4, [True, False, True, False]])
    np.testing.assert_array_equal(future(rewards, counted, False), [[14, 12, 8, 0], [4, 4, 0, 0]])
    np.testing.assert_allclose(future(rewards, counted, True), [[14 / 3, 6, 8, 0], [4, 4, 0, 0]], rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 3), tokens=st.integers(1, 6), words=st.integers(2, 5), seed=st.integers(0, 2**32 - 1),
    normalized=st.booleans(), temperature=st.sampled_from([1.0, 2.0]),
)  # fmt: skip
def test_value_and_gradient_are_those_of_the_paper(rows, tokens, words, seed, normalized, temperature):
    random = np.random.default_rng(seed)
    student, teacher = random.normal(scale=2.0, size=(2, rows, tokens, words))
    labels, weights = random.integers(0, words, (rows, tokens)), random.random((rows, tokens)).astype("float32")
    weights *= random.random((rows, tokens)) < 0.7
    mask = random.random((rows, tokens)) < 0.8
    counted = (weights > 0) & mask
    term = Term(sequence_reverse_kl, temperature=temperature, normalized=normalized)
    ours = tf.constant(student.astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(ours)
        value = term(
            ours, teacher.astype("float32"), labels, tf.constant(weights),
            student_mask=tf.constant(mask), temperature=temperature, softened=True,
        )  # fmt: skip
    softened = student / temperature, teacher / temperature
    shares = weights * counted / max(mask.sum(), 1)
    expected = temperature**2 * np.sum(shares * references.reverse_kl(*softened))
    gradient = temperature * shares[..., None] * reference_gradient(*softened, labels, counted, normalized)
    assert float(value) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(tape.gradient(value, ours), gradient, rtol=1e-4, atol=1e-5)


def test_rewards_of_tokens_that_one_side_excludes_are_finite():
    student, teacher = np.float32([[[0.0, 0.0, 0.0]] * 3]), np.float32([[[0.0, -np.inf, 0.0]] * 3])
    np.testing.assert_allclose(
        token_rewards(student, teacher, np.array([[1, 0, 2]]))[0], [-80, *[np.log(1.5)] * 2], 1e-5
    )
    with tf.GradientTape() as tape:
        x = tf.constant(student)
        tape.watch(x)
        values = sequence_reverse_kl(x, teacher, np.array([[2, 1, 1]]))
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(tape.gradient(values, x)))


# What counts


def after(counted):
    """Return where nothing counts any more in a row."""
    return np.cumsum(counted[:, ::-1], axis=1)[:, ::-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("fused_head", [False, True])
def test_nothing_behind_the_last_token_that_counts_changes_a_bit(fused_head):
    random = np.random.default_rng(3)
    weights = (np.arange(5) < random.integers(1, 5, (12, 1))).astype("float32")
    weights[4] = 0.0
    behind = after(weights > 0)
    found = []
    for other in (0, 5):
        x = kd.Joined(np.where(np.roll(behind, 1, 1) & behind, other, X), columns={"origin": ORIGIN})
        made = distiller([*kd.methods.minillm(), *kd.methods.distillm2()], fused_head=fused_head)
        found.append(trained(made, x, np.where(behind, other, Y), weights))
    assert_same(found[1][0], found[0][0])
    assert found[1][1] == found[0][1]


def test_rewards_do_not_cross_from_row_to_row():
    student, teacher = np.random.default_rng(1).normal(size=(2, 4, 5, 6)).astype("float32")
    labels = np.random.default_rng(2).integers(0, 6, (4, 5))
    rewards = token_rewards(student, teacher, labels)
    alone = [future(rewards[row : row + 1], None, True)[0] for row in range(4)]
    np.testing.assert_array_equal(future(rewards, None, True), np.stack(alone))


# However it is run


def sequences(**arguments):
    return [Term(sequence_reverse_kl, temperature=1.0, rows={"origin": (0, 1)}, **arguments)]


@pytest.mark.slow
@pytest.mark.parametrize("normalized", [True, False])
def test_a_fused_head_has_the_same_advantages(normalized):
    x = kd.Joined(X, columns={"origin": ORIGIN})
    loss, found = cross_entropy(ignore_class=3, reduction="mean_with_sample_weight"), []
    for fused_head in (False, True):
        settings = {"fused_head": fused_head, "run_eagerly": False, "jit_compile": False}
        made = distiller(sequences(normalized=normalized), loss=loss, alpha=0.7, **settings)
        found.append(trained(made, x, epochs=7))  # of 3 steps
    assert_same(found[1][0], found[0][0], 1e-5)
    for name, values in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], values, rtol=1e-5)
    blind = Term(kd.losses.reverse_kl, temperature=1.0, rows={"origin": (0, 1)})
    other = trained(distiller([blind], loss=loss, alpha=0.7), x, epochs=7)
    assert max(np.abs(a - b).max() for a, b in zip(other[0], found[0][0], strict=True)) > 1e-3


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("way", [{"run_eagerly": True}, {}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize("fused_head", [False, True])
def test_eager_graph_and_xla_agree(way, fused_head):
    x = kd.Joined(X, columns={"origin": ORIGIN})
    expected = trained(distiller(sequences()), x)
    settings = {"run_eagerly": False, "jit_compile": False, "fused_head": fused_head, **way}
    received = trained(distiller(sequences(), **settings), x)
    assert_same(received[0], expected[0], 1e-6)
    np.testing.assert_allclose(received[1]["loss"], expected[1]["loss"], rtol=1e-5)


def test_rows_of_several_blocks_have_the_rewards_of_one():
    from keras_kd.language.fused import by_blocks
    from keras_kd.language.vocabulary_heads import Product

    random = np.random.default_rng(0)
    hidden, kernel = random.normal(size=(11, 4)).astype("float32"), random.normal(size=(4, 6)).astype("float32")
    ids = random.integers(0, 6, 11).astype("int32")
    product = Product(tf.constant(kernel), None, False, None, "float32")

    def picked(logits, ids):
        return tf.gather(logits, ids, batch_dims=1)

    expected = (hidden @ kernel)[np.arange(11), ids]
    for size in (1, 4, 11, 64, None):
        found = by_blocks(tf.constant(hidden), product, picked, [tf.constant(ids)], size=size)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"temperature": 2.0}, {"temperature": 1.0, "transform": kd.transforms.standardize}],
    ids=["the compiled T", "T = 2", "a transform"],
)
def test_a_fused_head_refuses_sequences_that_are_not_compared_as_they_are(arguments):
    terms = [Term(sequence_reverse_kl, **arguments)]
    with pytest.raises(ValueError, match="on whole sequences has a transform, or not a temperature=1.0 of its own"):
        distiller(terms, fused_head=True)


def test_no_gradient_reaches_the_teacher_and_labels_are_needed():
    made = distiller(sequences())
    with pytest.raises(ValueError, match="learns from labels as well"):
        made.objective(kd.Joined(X, columns={"origin": ORIGIN}))
    sides = [tf.constant(each) for each in np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype("float32")]
    with tf.GradientTape() as tape:
        tape.watch(sides)
        value = sequences()[0](*sides, labels=np.zeros((2, 3), int))
    ours, theirs = tape.gradient(value, sides)
    assert np.any(ours) and theirs is None


def test_a_term_on_sequences_is_created_again_from_its_config(tmp_path):
    term = sequences(normalized=False)[0]
    again = Term.from_config(term.get_config())
    assert again.loss is sequence_reverse_kl and again.loss_arguments == {"normalized": False}
    made = distiller(sequences())
    trained(made, kd.Joined(X, columns={"origin": ORIGIN}))
    made.save(tmp_path / "made.keras")
    loaded = keras.models.load_model(tmp_path / "made.keras")
    assert loaded.terms[0].rows == {"origin": (0, 1)} and loaded.terms[0].loss is sequence_reverse_kl
    assert_same(loaded.student.get_weights(), made.student.get_weights())
