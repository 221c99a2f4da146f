"""Relations between tokens: what is masked is related to nothing, and a student with fewer heads learns from more."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd import losses
from tests import references

RANDOM = np.random.default_rng(0)
STUDENT, TEACHER = (RANDOM.normal(size=(2, 5, width)).astype("float32") for width in (4, 6))


def masked(vectors, mask):
    """Return a tensor with a Keras mask, as `Term` gives it to a loss."""
    tensor = tf.constant(vectors)
    tensor._keras_mask = tf.constant(mask)
    return tensor


def test_masked_tokens_are_related_to_nothing():
    mask = np.array([[True] * 3 + [False] * 2, [True] * 5])
    received = np.asarray(losses.token_relations(masked(STUDENT, mask), TEACHER, heads=2))
    expected = references.token_relations(STUDENT[:1, :3], TEACHER[:1, :3], 2)
    np.testing.assert_allclose(received[:1, :3], expected, rtol=1e-5)
    np.testing.assert_allclose(received[1:], references.token_relations(STUDENT[1:], TEACHER[1:], 2), rtol=1e-5)


def test_an_example_of_masked_tokens_alone_has_a_finite_value_and_gradient():
    student = masked(STUDENT, np.zeros((2, 5), bool))
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = losses.token_relations(student, TEACHER, heads=2)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(tape.gradient(value, student)))


@pytest.mark.parametrize(
    "student, teacher, heads, message",
    [
        ((2, 5, 4), (2, 4, 4), 1, "vectors of the same tokens"),
        ((2, 4), (2, 4), 1, "vectors of the same tokens"),
        ((2, 5, 4), (2, 5, 6), 4, "divides the widths 4 and 6"),
        ((2, 5, 4), (2, 5, 6), 0, "divides the widths"),
        ((2, 5, 4), (2, 5, 6), 2.0, "divides the widths"),
    ],
)
def test_what_cannot_be_related_is_refused(student, teacher, heads, message):
    with pytest.raises(ValueError, match=message):
        losses.token_relations(np.zeros(student), np.zeros(teacher), heads)


def transformer(seed, width, heads):
    """Return a model of ids with one attention layer, which masks the id 0."""
    keras.utils.set_random_seed(seed)
    ids = keras.Input((None,), dtype="int32")
    tokens = layers.Embedding(9, width, keras.initializers.RandomNormal(stddev=1.0), mask_zero=True)(ids)
    attention = layers.MultiHeadAttention(heads, width // heads, name="attention")
    return keras.Model(ids, layers.Dense(9)(tokens + attention(tokens, tokens)))


AT = [(f"attention:{name}", f"attention:{name}") for name in ("query", "key", "value")]
IDS = RANDOM.integers(1, 9, (6, 5)) * (np.arange(5) < RANDOM.integers(1, 6, (6, 1)))


@pytest.mark.slow
def test_a_student_of_fewer_heads_learns_the_relations_of_its_teacher():
    student, teacher = transformer(0, 4, 1), transformer(1, 8, 4)
    distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.minilm(AT, heads=2))
    distiller.compile(keras.optimizers.Adam(0.02), alpha=1.0)
    logs = distiller.fit(IDS, batch_size=6, epochs=30, verbose=0).history["loss"]
    assert logs[-1] < 0.3 * logs[0]


def test_what_stands_in_padding_changes_nothing():
    student, teacher = transformer(0, 4, 1), transformer(1, 8, 4)
    distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.minilm(AT, heads=2))
    distiller.compile("sgd", alpha=1.0)
    one = IDS[:1].copy()
    one[0, 3:] = 0
    longer = np.pad(one, ((0, 0), (0, 4)))
    assert float(distiller.objective(longer)["loss"]) == pytest.approx(
        float(distiller.objective(one)["loss"]), rel=1e-5
    )
