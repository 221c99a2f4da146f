"""What `check` warns of before a run that is likely to lose to the labels alone."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from tests.models import batch, dense, mlp, tagger

X, Y = batch(64)
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def advice(distiller, x=X, y=Y, **arguments):
    return [each for each in distiller.check(x, y, **arguments).advice]


def compiled(student=None, teacher=None, terms=None, loss=CROSS_ENTROPY, optimizer="adam", **arguments):
    distiller = kd.Distiller(student=student or mlp(1), teacher=teacher or mlp(2), terms=terms)
    distiller.compile(optimizer, loss, run_eagerly=True, **arguments)
    return distiller


def has(found, words):
    return any(words in each for each in found)


@pytest.mark.parametrize(
    ("arguments", "epochs", "warns"),
    [
        ({"temperature": 4.0, "alpha": 0.9}, 50, True),  # 100 steps of the 200
        ({"temperature": 4.0, "alpha": 0.9}, 100, False),
        ({"temperature": 4.0, "alpha": 0.9}, None, False),
        ({"temperature": 4.0, "alpha": 0.9, "optimizer": keras.optimizers.AdamW(1e-2)}, 50, False),
        ({"temperature": 4.0, "alpha": 0.9, "optimizer": "sgd"}, 50, False),
        ({"temperature": 2.0, "alpha": 0.9}, 20, False),
        ({"temperature": 4.0, "alpha": 0.3}, 50, False),
        ({"temperature": 4.0, "alpha": 1.0}, 50, False),  # there is nothing else to learn from
        ({"temperature": 1.0, "alpha": 0.9, "terms": kd.methods.kd(10.0)}, 200, True),
    ],
)
def test_a_run_that_is_too_short_for_its_temperature(arguments, epochs, warns):
    found = advice(compiled(**arguments), epochs=epochs)
    assert has(found, "behind its labels alone") == warns


def mixed():
    share = np.random.default_rng(0).uniform(0.5, 1, (64, 1)).astype("float32")
    one_hot = np.eye(3, dtype="float32")[Y]
    return share * one_hot + (1 - share) * one_hot[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("eager", [True, False])
def test_mixed_labels_and_a_term_that_takes_the_largest(eager):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller = kd.Distiller(student=mlp(1), teacher=mlp(2), terms=kd.methods.dkd())
    distiller.compile("adam", loss, run_eagerly=eager)
    assert has(
        advice(distiller, y=mixed()), "labels are mixed, as by MixUp, and the term 'decoupled_kl' takes the largest"
    )
    assert not has(advice(distiller, y=np.eye(3, dtype="float32")[Y]), "mixed")
    assert not has(advice(distiller, y=0.9 * np.eye(3, dtype="float32")[Y] + 0.1 / 3), "mixed")  # smoothed
    assert not has(advice(compiled(loss=loss), y=mixed()), "mixed")


def test_mixed_labels_and_targets_that_are_joined():
    x = kd.Joined(X, {"logits": np.asarray(mlp(2)(X))})
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller = compiled(teacher=kd.teachers.Cached(head="logits"), loss=loss)
    assert has(advice(distiller, x, mixed()), "mix them with their examples")


def test_examples_without_labels_that_the_teacher_does_not_teach():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    y = np.where(np.arange(64) % 2, Y, -1)
    assert has(advice(compiled(loss=loss), y=y), "ignores 50.0 % of the labels")
    everything = [kd.Term(kd.losses.kl_divergence, sample_weight=None)]
    assert not has(advice(compiled(terms=everything, loss=loss), y=y), "ignores")
    words, tags = np.arange(12).reshape(3, 4) % 6, np.tile([-1, -1, 0, 1], (3, 1))
    distiller = compiled(tagger(1, mask=False), tagger(2, mask=False), loss=loss)
    assert not has(advice(distiller, words, tags), "ignores")  # positions are left out on purpose


def convolutional(seed, mask):
    x = keras.Input((6,), dtype="int32")
    words = layers.Embedding(9, 4, mask_zero=mask, name="words")(x)
    return keras.Model(x, dense(3, seed)(layers.Conv1D(4, 3, padding="same")(words)))


@pytest.mark.filterwarnings("ignore:.*does not support mask")
def test_a_mask_that_is_dropped_on_the_way():
    words, tags = np.array([[1, 2, 3, 0, 0, 0]] * 8), np.zeros((8, 6), "int64")
    assert has(advice(compiled(convolutional(1, True), convolutional(2, False)), words, tags), "'words' makes a mask")
    assert not has(advice(compiled(convolutional(1, False), convolutional(2, False)), words, tags), "mask")
    weighted = compiled(convolutional(1, True), convolutional(2, False))
    assert not has(advice(weighted, words, tags, sample_weight=np.float32(words > 0)), "mask")
    kept = compiled(tagger(1, words=9), tagger(2, words=9))
    assert not has(advice(kept, words, tags), "makes a mask")


def padded(seed):
    x = {name: keras.Input((6,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    return keras.Model(x, dense(3, seed)(layers.Embedding(9, 4)(x["token_ids"])))


def test_a_padding_mask_that_is_no_mask_of_keras():
    words = np.array([[1, 2, 3, 0, 0, 0]] * 8)
    x, y = {"token_ids": words, "padding_mask": np.int32(words > 0)}, np.zeros((8, 6), "int64")
    assert has(advice(compiled(padded(1), padded(2)), x, y), "x has a 'padding_mask'")
    assert not has(
        advice(compiled(padded(1), padded(2)), {**x, "padding_mask": np.ones_like(words)}, y), "padding_mask"
    )


@pytest.mark.parametrize("eager", [True, False])
def test_a_term_without_a_gradient(eager):
    def share_of_agreement(student, teacher):
        return keras.ops.cast(keras.ops.argmax(student, -1) != keras.ops.argmax(teacher, -1), "float32")

    terms = [kd.Term(kd.losses.kl_divergence), kd.Term(share_of_agreement, soften=False)]
    distiller = kd.Distiller(student=mlp(1), teacher=mlp(2), terms=terms)
    distiller.compile("adam", CROSS_ENTROPY, run_eagerly=eager)
    [found] = [each for each in advice(distiller) if "no gradient" in each]
    assert "'share_of_agreement'" in found


def test_a_term_on_a_layer_that_is_not_trained():
    student = mlp(1)
    student.get_layer("hidden").trainable = False
    terms = [kd.Term(kd.losses.squared_error, at=("hidden", "hidden"))]
    assert has(advice(compiled(student, terms=terms)), "no gradient")
    assert not has(advice(compiled(terms=terms)), "no gradient")


def test_a_sound_run_has_none_of_these():
    found = advice(compiled(temperature=2.0), epochs=100)
    assert not any(has(found, words) for words in ("behind its labels", "mixed", "ignores", "mask", "no gradient"))
