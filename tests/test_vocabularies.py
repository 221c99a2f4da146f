"""Vocabularies that are padded to two sizes, and how far tokenizers agree."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import language, losses, transforms
from tests import references
from tests.models import assert_same, softmax
from tests.test_fused_head import language_model

TOKENS, SMALL, LARGE = 151_665, 151_936, 152_064
X = np.array([[5, 0], [TOKENS - 1, 7]])
Y = np.array([[0, 3], [7, TOKENS - 1]])
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def distiller(fused_head, terms=None, loss=CROSS_ENTROPY):
    student, teacher = language_model(1, 2, classes=SMALL), language_model(5, 2, classes=LARGE)
    terms = terms or [kd.Term(losses.kl_divergence, transform=transforms.FirstClasses(TOKENS))]
    made = kd.Distiller(student=student, teacher=teacher, terms=terms)
    made.compile(keras.optimizers.SGD(1.0), loss, temperature=2.0, fused_head=fused_head, jit_compile=False)
    return made


@pytest.mark.slow
def test_two_paddings_of_a_vocabulary_compare_the_tokens_that_both_have():
    found = []
    for fused_head in (False, True):
        made = distiller(fused_head)
        s, t = (np.asarray(each(X), "float64") for each in (made.student, made.teacher.model))
        assert (s.shape[-1], t.shape[-1]) == (SMALL, LARGE)
        parts = {name: float(each) for name, each in made.objective(X, Y).items()}
        p, q = softmax(t[..., :TOKENS] / 2), softmax(s[..., :TOKENS] / 2)
        kl = 4.0 * np.sum(p * np.log(p / q), axis=-1)
        assert parts["distillation_loss"] == pytest.approx(kl.mean(), rel=1e-4) and kl.mean() > 1e-3
        labels = -np.log(np.take_along_axis(softmax(s), Y[..., None], -1))  # plain training: over all that it has
        assert parts["student_loss"] == pytest.approx(labels.mean(), rel=1e-4)
        made.fit(X, Y, verbose=0)
        found.append(made.student.get_weights())
    assert_same(found[1], found[0], 1e-5)


def test_what_is_behind_the_tokens_gets_no_gradient_from_the_teacher():
    made = distiller(False)
    made.compile(keras.optimizers.SGD(1.0), temperature=2.0, alpha=1.0, fused_head=False, jit_compile=False)
    before = made.student.get_weights()[0]
    made.fit(X, verbose=0)
    moved = np.any(made.student.get_weights()[0] != before, axis=-1)
    assert moved[:TOKENS].any() and not moved[TOKENS:].any()


def test_two_widths_are_refused_without_a_word_about_what_both_have():
    with pytest.raises(ValueError, match=r"one shape.*151936\), teacher .*152064\).*transforms.FirstClasses"):
        distiller(False, [kd.Term(losses.kl_divergence)])
    with pytest.raises(ValueError, match=r"at least the 152,000 classes .* 151936\)"):
        distiller(False, [kd.Term(losses.kl_divergence, transform=transforms.FirstClasses(152_000))])
    with pytest.raises(ValueError, match="at least 2. Received: classes=1"):
        transforms.FirstClasses(1)


@pytest.mark.parametrize("fused_head", [False, True])
def test_labels_are_among_the_tokens_that_are_compared(fused_head):
    terms = [kd.Term(losses.decoupled_kl, transform=transforms.FirstClasses(9))]
    student, teacher = language_model(1, 2, classes=12), language_model(5, 2, classes=14)
    made = kd.Distiller(student=student, teacher=teacher, terms=terms)
    made.compile("sgd", CROSS_ENTROPY, temperature=1.0, fused_head=fused_head, jit_compile=False)
    x, y = np.array([[1, 2]]), np.array([[3, 8]])
    ours, theirs = (np.asarray(each(x), "float64")[..., :9] for each in (student, teacher))
    expected = references.decoupled_kl(ours, theirs, y, 1.0, 8.0).mean()
    assert float(made.objective(x, y)["distillation_loss"]) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="labels from 0 to 8"):
        made.fit(x, y + 1, verbose=0)


def test_tokenizers_agree_on_what_the_smaller_one_has():
    words = ["<end>", "the", "film", "plot"]
    assert language.shared_vocabulary(words, words[:3]) == 3
    assert language.shared_vocabulary({"film": 2, "<end>": 0, "the": 1}, words) == 3
    with pytest.raises(ValueError, match="Of 3 ids, 2 are other tokens, first 1: 'the' for the student, 'film' for"):
        language.shared_vocabulary(words, ["<end>", "film", "the"])
    with pytest.raises(ValueError, match="first 1: 'the' for the student, None for the teacher"):
        language.shared_vocabulary(words, {"<end>": 0, "film": 2})


def test_tokenizers_of_kerashub_are_compared_id_by_id():
    pytest.importorskip("keras_hub")
    from tests.tasks import causal_lm

    student, teacher = causal_lm(1), causal_lm(2, more=["ab"])
    assert language.shared_vocabulary(student, teacher) == 29
    assert language.shared_vocabulary(student.preprocessor.tokenizer, teacher.preprocessor.tokenizer) == 29
