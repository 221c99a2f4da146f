"""Sorted probabilities: values from the paper by hand, other classes on both sides, and what the first k leave out."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import losses, methods
from tests import references
from tests.models import tagger

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
WORDS = np.array([[1, 2, 3], [4, 5, 0]])


def test_classes_that_one_side_alone_has_count_as_probabilities():
    # Sorted, (3/4, 1/4, 0) and (1/2, 1/4, 1/4): 1/4 + 0 + 1/4.
    student = np.log(np.float32([[1 / 4, 3 / 4]]))
    teacher = np.log(np.float32([[1 / 4, 1 / 2, 1 / 4]]))
    np.testing.assert_allclose(losses.universal_logits(student, teacher), [0.5], rtol=1e-6)
    np.testing.assert_allclose(losses.universal_logits(teacher, student), [0.5], rtol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(1, 9), classes=st.integers(2, 9), others=st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_what_the_first_probabilities_leave_out_is_bounded_by_both_remainders(seed, top_k, classes, others):
    random = np.random.default_rng(seed)
    student, teacher = (random.normal(scale=3, size=(4, n)).astype("float32") for n in (classes, others))
    whole = np.asarray(losses.universal_logits(student, teacher))
    first = np.asarray(losses.universal_logits(student, teacher, top_k=top_k))
    q, p = (-np.sort(-np.asarray(keras.ops.softmax(each)), axis=-1) for each in (student, teacher))
    rest = np.minimum(*(np.sum(each[:, top_k:], axis=-1) for each in (p, q)))
    assert np.all(first <= whole + 1e-6) and np.all(whole <= first + 2 * rest + 1e-6)


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_probabilities_at_all_are_refused(top_k):
    with pytest.raises(ValueError, match=f"`top_k` to be at least 1, or None. Received: top_k={top_k}"):
        losses.universal_logits(np.zeros((1, 2)), np.zeros((1, 2)), top_k=top_k)


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_with_more_classes():
    student, teacher = tagger(1), tagger(2, classes=5)
    made = kd.Distiller(student=student, teacher=teacher, terms=methods.universal_logits())
    made.compile(keras.optimizers.Adam(0.05), alpha=1.0)
    valid = WORDS > 0
    s, t = (np.asarray(each(WORDS), "float64")[valid] for each in (student, teacher))
    expected = np.mean(references.universal_logits(s, t))
    received = made.objective(WORDS)
    assert float(received["universal_logits"]) == pytest.approx(expected, rel=1e-5)
    assert float(received["loss"]) == pytest.approx(1.5 * expected, rel=1e-5)
    made.fit(WORDS, epochs=50, verbose=0)
    assert float(made.objective(WORDS)["universal_logits"]) < 0.6 * expected


def test_several_teachers_with_more_classes_are_averaged_first():
    student, members = tagger(1), [tagger(2, classes=5), tagger(3, classes=5)]
    made = kd.Distiller(student=student, teacher=members, terms=methods.universal_logits(weight=1.0))
    made.compile(alpha=1.0)
    s, *t = (np.asarray(keras.ops.softmax(each(WORDS)), "float64")[WORDS > 0] for each in (student, *members))
    expected = np.mean(references.universal_logits(np.log(s), np.log(np.mean(t, axis=0))))
    assert float(made.objective(WORDS)["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_divergence_of_other_classes_names_the_loss_that_takes_them():
    with pytest.raises(ValueError, match=r"teacher \(None, None, 5\).*keras_kd.losses.universal_logits"):
        kd.Distiller(student=tagger(1), teacher=tagger(2, classes=5))


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 5])
def test_a_teacher_of_other_classes_is_not_judged_by_the_students_labels(classes):
    made = kd.Distiller(student=tagger(1), teacher=tagger(2, classes=classes), terms=methods.universal_logits())
    made.compile("adam", CROSS_ENTROPY)
    report = made.check(np.tile(WORDS, (40, 1)), np.tile(WORDS % 3, (40, 1)))
    assert report.teacher_accuracy is None and report.entropy is not None
    assert not any("The teacher is right" in each or "The labels go" in each for each in report.advice)
