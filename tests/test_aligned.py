"""Spans of two tokenizations compared: the formula by hand in float64, one tokenizer as plain divergence, training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import Term
from keras_kd.language import AlignedTeacher, Pieces, SpanDivergence, align, pieces, span_terms
from tests import references
from tests.models import assert_same
from tests.writers import writer

OURS = Pieces((None, b"a", b"b", b"ab", b"c", b"bc", b"d"))
THEIRS = Pieces((b"ab", b"c", b"abc", b"b", b"", None, b"a", b"dd"))
SHARED = [(1, 6), (2, 3), (3, 0), (4, 1)]  # a, b, ab, c


def tokens(rows, pad):
    """Return x, y and weights of whole rows."""
    width = max(map(len, rows))
    ids = np.array([[*row, *[pad] * (width - len(row))] for row in rows])
    present = np.array([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return {"token_ids": ids[:, :-1], "padding_mask": present[:, :-1]}, ids[:, 1:], present[:, 1:]


def aligned():
    """Return "ababc" and "abc", with the spans of each by hand: places in y of the student and of the teacher."""
    student = tokens([[0, 1, 2, 3, 4], [0, 3, 4]], 0)  # a b ab c, and ab c
    teacher = tokens([[5, 0, 6, 3, 1], [5, 6, 3, 1]], 5)  # ab a b c, and a b c
    return align(student, teacher, OURS, THEIRS), [
        [([0, 1], [0]), ([2], [1, 2]), ([3], [3])],
        [([0], [0, 1]), ([1], [2])],
    ]


def merged(logits, targets, places):
    """Return the distribution with which a span begins, times the probabilities of its other tokens."""
    p = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    return p[places[0]] * np.prod([p[place, targets[place]] for place in places[1:]])


def expected(student, teacher, x, spans, weight=None, top_k=None):
    """Return the value of each span, at the student's place where it begins."""
    values = np.zeros(student.shape[:2])
    weight = len(SHARED) / teacher.shape[-1] if weight is None else weight
    ours, theirs = ([pair[side] for pair in SHARED] for side in (0, 1))
    for row, of_row in enumerate(spans):
        for s, t in of_row:
            q, p = merged(student[row], x["targets"][row], s), merged(teacher[row], x["teacher_targets"][row], t)
            shared = np.sum(p[theirs] * np.log(p[theirs] / q[ours]) + q[ours] - p[theirs])
            p, q = (-np.sort(-np.delete(each, ids)) for each, ids in ((p, theirs), (q, ours)))
            size = max(len(p), len(q))
            p, q = (np.pad(each, (0, size - len(each))) for each in (p, q))
            k = size if top_k is None else top_k
            others = np.sum(np.abs(p - q)[:k]) + abs(np.sum(p[k:]) - np.sum(q[k:]))
            values[row, s[0]] = weight * shared + (1 - weight) * others
    return values


def logits_of(model, ids):
    return np.asarray(model(ids), "float64")


@pytest.mark.parametrize("arguments", [{}, {"shared_weight": 1.0}, {"shared_weight": 0.0}, {"top_k": 1}], ids=str)
def test_spans_have_the_value_of_the_formula(arguments):
    (x, y, weights), spans = aligned()
    student, teacher = writer(1, len(OURS.texts)), writer(5, len(THEIRS.texts))
    terms = span_terms(OURS, THEIRS, **arguments)
    made = kd.Distiller(student=student, teacher=AlignedTeacher(teacher), terms=terms)
    made.compile("sgd", alpha=1.0)
    sides = logits_of(student, x["token_ids"]), logits_of(teacher, x["teacher_token_ids"])
    known = {"weight": arguments.get("shared_weight"), "top_k": arguments.get("top_k")}
    values = expected(*sides, x, spans, **known)
    assert np.count_nonzero(values) == 5
    assert float(made.objective(x)["loss"]) == pytest.approx(np.mean(values), rel=1e-5)
    received = float(made.objective(x, y, weights)["distillation_loss"])
    assert received == pytest.approx(np.sum(values * weights) / values.size, rel=1e-5)


def test_the_gradient_is_that_of_the_formula_for_each_of_the_students_logits():
    (x, _, _), spans = aligned()
    random = np.random.default_rng(0)
    student, teacher = (random.normal(size=(2, 4, len(side.texts))) for side in (OURS, THEIRS))
    [term] = span_terms(OURS, THEIRS)
    predicted = AlignedTeacher(lambda ids: tf.constant(teacher[:, : ids.shape[1]], "float32"))(x, {})
    read = tuple(predicted[name] for name in term.teacher_names)
    s = tf.Variable(student, dtype="float32")
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(term.loss(s, read))
    assert float(value) == pytest.approx(np.sum(expected(student, teacher, x, spans)), rel=1e-5)
    slopes = np.zeros_like(student)
    for place in np.ndindex(student.shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = student.copy()
            moved[place] += step
            ends.append(np.sum(expected(moved, teacher, x, spans)))
        slopes[place] = (ends[0] - ends[1]) / 2e-5
    assert np.any(slopes[0, 1]) and np.any(slopes[0, 0])  # both tokens of a span learn
    np.testing.assert_allclose(tape.gradient(value, s), slopes, rtol=1e-4, atol=1e-6)


def test_one_tokenizer_on_both_sides_is_the_plain_divergence():
    rows = tokens([[0, 1, 2, 3, 4], [0, 4, 3]], 0)
    every = Pieces((b"!", *OURS.texts[1:]))  # a token that is shared, too
    x, _, _ = align(rows, rows, OURS, OURS)
    student, teacher = writer(1, 7), writer(5, 7)
    made = kd.Distiller(student=student, teacher=AlignedTeacher(teacher), terms=span_terms(every, every))
    made.compile("sgd", alpha=1.0)
    values = references.kl_divergence(*(logits_of(each, x["token_ids"]) for each in (student, teacher)))
    assert float(made.objective(x)["loss"]) == pytest.approx(np.sum(values * rows[2]) / values.size, rel=1e-5)


def test_padding_that_is_masked_changes_nothing():
    (x, _, _), _ = aligned()
    values = []
    for mask in (False, True):
        inputs = keras.Input((None,), dtype="int32", name="token_ids")
        embedded = keras.layers.Embedding(7, 7, embeddings_initializer="identity", mask_zero=mask)(inputs)
        student = keras.Model(inputs, embedded)
        made = kd.Distiller(student=student, teacher=AlignedTeacher(writer(5, 8)), terms=span_terms(OURS, THEIRS))
        made.compile("sgd", alpha=1.0)
        # Id 0 is the start as well: rows that begin with another one.
        values.append(float(made.objective({**x, "token_ids": np.array([[1, 1, 2, 3], [1, 4, 0, 0]])})["loss"]))
    assert values[1] == pytest.approx(values[0] * 8 / 6, rel=1e-5)  # the mean is over six of eight positions


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_with_another_tokenizer():
    (x, _, _), _ = aligned()
    made = kd.Distiller(
        student=writer(1, 7), teacher=AlignedTeacher(writer(5, 8)), terms=span_terms(OURS, THEIRS, top_k=2)
    )
    made.compile(keras.optimizers.Adam(0.06), alpha=1.0, jit_compile=False)
    before = float(made.objective(x)["loss"])
    made.fit(x, epochs=30, verbose=0)
    assert float(made.objective(x)["loss"]) < 0.5 * before


def test_examples_may_carry_columns():
    (x, _, _), _ = aligned()
    teacher = AlignedTeacher(writer(5, 8))
    joined = kd.Joined(x, columns={"origin": np.zeros(len(x["token_ids"]), "int32")})
    for name, value in teacher(x, {}).items():
        assert_same([np.array(teacher(joined, {})[name])], [np.array(value)])


def test_terms_and_teachers_are_created_again_from_their_configs():
    [term] = span_terms(OURS, THEIRS, shared_weight=0.25, top_k=3)
    again = Term.from_config(term.get_config())
    assert again.get_config() == term.get_config()
    assert again.loss.student_ids == [1, 2, 3, 4] and again.loss.teacher_ids == [6, 3, 0, 1]
    teacher = AlignedTeacher(writer(5, 8))
    (x, _, _), _ = aligned()
    copied = AlignedTeacher.from_config(teacher.get_config())
    copied.teacher.model.set_weights(teacher.teacher.model.get_weights())
    for name, value in teacher(x, {}).items():
        assert_same([np.array(copied(x, {})[name])], [np.array(value)])


@pytest.mark.slow
def test_tasks_of_keras_hub_with_tokenizers_of_their_own_are_distilled():
    pytest.importorskip("keras_hub")
    from tests.tasks import CROSS_ENTROPY, causal_lm

    student, teacher = causal_lm(1), causal_lm(2, more=["ab"])
    ours, theirs = (pieces(task.preprocessor.tokenizer) for task in (student, teacher))
    texts = ["the film", "a plot of it"]
    x, y, weights = align(student.preprocessor(texts), teacher.preprocessor(texts), ours, theirs)
    assert np.sum(x["teacher_places"] >= 0) > 12
    with pytest.raises(ValueError, match="what `align` has made.*set its `preprocessor` to None"):
        kd.Distiller(student=student, teacher=AlignedTeacher(teacher), terms=span_terms(ours, theirs))
    student.preprocessor = None
    made = kd.Distiller(student=student, teacher=AlignedTeacher(teacher), terms=span_terms(ours, theirs, top_k=5))
    made.compile(keras.optimizers.Adam(0.02), CROSS_ENTROPY, jit_compile=False)
    before = made.objective(x, y, weights)
    made.fit(x, y, sample_weight=weights, epochs=10, verbose=0)
    after = made.objective(x, y, weights)
    for name in ("span_divergence", "student_loss"):
        assert float(after[name]) < 0.9 * float(before[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_ids": [1]}, "as many ids on both sides. Received: 2 and 1"),
        ({"weight": 1.5}, "`weight` to be from 0 to 1, or None. Received: weight=1.5"),
        ({"top_k": 0}, "`top_k` to be at least 1, or None. Received: top_k=0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpanDivergence(**{"student_ids": [1, 2], "teacher_ids": [2, 1], **arguments})


def test_examples_without_spans_are_refused():
    made = kd.Distiller(student=writer(1, 7), teacher=AlignedTeacher(writer(5, 8)), terms=span_terms(OURS, THEIRS))
    made.compile("sgd", alpha=1.0)
    ids = np.ones((2, 4), "int32")
    for x, received in (({"token_ids": ids}, r"\['token_ids'\]"), (ids, "Tensor")):
        with pytest.raises(ValueError, match=f"language.align has made, with 'teacher_token_ids'.*{received}"):
            made.objective(x)
