"""Batches whose gradients are accumulated step as the one batch that they make, whatever counts in each of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import losses
from tests.models import assert_same, dense, mlp, tagger
from tests.test_fused_head import language_model

WORDS, CLASSES, LENGTH = 6, 3, 8
RANDOM = np.random.default_rng(0)
X = RANDOM.integers(1, WORDS, (6, LENGTH))
Y = RANDOM.integers(0, CLASSES, (6, LENGTH))
#: 12 tokens count in the first two rows, 2 in the others, then 5 and none.
WEIGHTS = np.zeros((6, LENGTH), "float32")
for row, count in enumerate((8, 4, 1, 1, 5, 0)):
    WEIGHTS[row, :count] = 1.0


def cross_entropy(reduction="mean_with_sample_weight", **arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, **arguments)


def distiller(optimizer, student=None, teacher=None, terms=None, loss=None, **arguments):
    made = kd.Distiller(student=student or tagger(1, mask=False), teacher=teacher or tagger(2, mask=False), terms=terms)
    made.compile(optimizer, loss or cross_entropy(), **{"jit_compile": False, **arguments})
    return made


def after(steps, batch_size, make=distiller, optimizer=None, x=X, y=Y, weights=WEIGHTS, **arguments):
    """Return the weights of a student after one epoch in order."""
    rate = {"learning_rate": 0.5, **(optimizer or {})}
    made = make(keras.optimizers.SGD(**rate, gradient_accumulation_steps=steps if steps > 1 else None), **arguments)
    made.fit(x, y, sample_weight=weights, batch_size=batch_size, shuffle=False, verbose=0)
    return made.student.get_weights()


def moves(weights, student=None):
    """Return the largest change of a weight."""
    student = student or tagger(1, mask=False)
    return max(np.abs(a - b).max() for a, b in zip(weights, student.get_weights(), strict=True))


def test_batches_of_12_and_2_tokens_step_as_one_of_14():
    together, apart = (
        after(1, 4, x=X[:4], y=Y[:4], weights=WEIGHTS[:4]),
        after(2, 2, x=X[:4], y=Y[:4], weights=WEIGHTS[:4]),
    )
    assert_same(apart, together, 1e-6)
    # Keras's mean of the two means is another step.
    student = tagger(1, mask=False)
    plain = [after(1, 2, x=X[i : i + 2], y=Y[i : i + 2], weights=WEIGHTS[i : i + 2]) for i in (0, 2)]
    of_means = [(a + b) / 2 for a, b in zip(*plain, strict=True)]
    assert max(np.abs(a - b).max() for a, b in zip(of_means, together, strict=True)) > 1e-3 < moves(together, student)


def regularised(seed):
    student = tagger(seed, mask=False)
    student.layers[-1].kernel.regularizer = keras.regularizers.L2(0.1)
    return student


def without_rows(seed):
    """Return a student whose gradients are no rows of an embedding, which Keras clips one by one, and cannot scale."""
    student = tagger(seed, mask=False)
    student.get_layer("words").trainable = False
    return student


DENSE = {"student": lambda: without_rows(1)}
WAYS = {
    "three batches, one without a token": {},
    "masks of the model": {"student": lambda: tagger(1, mask=True), "loss": cross_entropy("sum_over_batch_size")},
    "ignored labels": {"loss": cross_entropy("sum_over_batch_size", ignore_class=-1)},
    "a regulariser": {"student": lambda: regularised(1)},
    "a feature": {
        "terms": lambda: [kd.Term(losses.kl_divergence), kd.Term(losses.squared_error, at=("words", "words"))]
    },
    "labels of the teacher alone": {"alpha": 1.0},
    "clipped norms": {**DENSE, "optimizer": {"global_clipnorm": 0.02}},
    "clipped values": {**DENSE, "optimizer": {"clipvalue": 0.01}},
    "a moving average": {"optimizer": {"momentum": 0.9, "weight_decay": 0.1}},
    "a scaled loss": {**DENSE, "optimizer": {"loss_scale_factor": 512.0}},
    "eagerly": {"run_eagerly": True},
    "compiled": {"jit_compile": True},
    "several steps per execution": {"steps_per_execution": 3},
}


def called(arguments):
    """Return arguments with new models and terms."""
    return {name: each() if name in ("student", "terms") else each for name, each in arguments.items()}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_counts(way):
    x, y, weights = X, Y, WEIGHTS
    if "masks" in way:
        x, weights = np.where(WEIGHTS > 0, X, 0), None
        x[4] = 1
    if "ignored" in way:
        y, weights = np.where(WEIGHTS > 0, Y, -1), None
    found = [
        after(steps, 6 // steps, x=x, y=y, weights=weights, **{**called(WAYS[way]), **one})
        for steps, one in ((1, {"steps_per_execution": 1}), (3, {}))
    ]
    assert_same(found[1], found[0], 2e-6)
    assert moves(found[0]) > 1e-4


def test_sums_are_averaged_as_keras_does():
    loss = cross_entropy("sum")
    found = [
        after(steps, size, loss=loss, optimizer={"learning_rate": rate})
        for steps, size, rate in ((1, 6, 0.01), (3, 2, 0.03))
    ]
    assert_same(found[1], found[0], 2e-6)


def test_lengths_that_differ_from_batch_to_batch_count():
    # Without weights or masks, rows of 8 positions and of 2.
    parts = [(X[:2], Y[:2]), (X[2:4, :2], Y[2:4, :2])]
    loss = cross_entropy("sum_over_batch_size")
    made = distiller(keras.optimizers.SGD(0.5, gradient_accumulation_steps=2), loss=loss)
    data = tf.data.Dataset.from_generator(
        lambda: iter(parts), output_signature=tuple(tf.TensorSpec((None, None), "int64") for _ in range(2))
    )
    made.fit(data, verbose=0)
    weights = np.zeros((4, LENGTH), "float32")
    weights[:2], weights[2:, :2] = 1.0, 1.0
    assert_same(made.student.get_weights(), after(1, 4, x=X[:4], y=Y[:4], weights=weights), 1e-6)


def test_nothing_to_learn_in_all_batches_leaves_the_regulariser():
    nothing = np.zeros_like(WEIGHTS)
    found = [after(steps, 6 // steps, weights=nothing, student=regularised(1)) for steps in (1, 3)]
    assert_same(found[1], found[0], 1e-6)
    assert moves(found[0]) > 1e-4


def in_16_bits(seed):
    """Return a student whose gradients overflow where the loss is scaled by much."""
    ids = keras.Input((None,), dtype="int32")
    words = tagger(seed, mask=False).get_layer("words")
    words.trainable = False
    return keras.Model(ids, dense(CLASSES, seed, dtype="mixed_float16")(words(ids)))


def steps_of(batches, scale, growth):
    """Take a step on each batch; return the weights, and which batches were not left out."""
    inner = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=scale, dynamic_growth_steps=growth)
    made, kept = distiller(optimizer, in_16_bits(1), auto_scale_loss=False), []
    for number, rows in enumerate(batches):
        before = int(inner.variables[0]) if inner.built else 0
        made.train_on_batch(X[rows], Y[rows], WEIGHTS[rows])
        kept += [number] if int(inner.variables[0]) > before else []
    return made.student.get_weights(), kept


def test_a_batch_whose_gradients_overflow_does_not_count():
    # A LossScaleOptimizer leaves it out and halves its scale, which is doubled after each other one.
    batches = [slice(i, i + 2) for i in (0, 2, 4, 0, 2, 4, 2, 0, 4, 4, 0, 2)]
    found, kept = steps_of(batches, 2.0**18, 1)
    assert 4 <= len(kept) < len(batches) and len(kept) % 2 == 0
    assert any(b - a > 1 for a, b in zip(kept[::2], kept[1::2], strict=True))  # between the two of a step
    expected, all_of_them = steps_of([batches[number] for number in kept], 2.0**8, 10_000)
    assert len(all_of_them) == len(kept)
    assert_same(found, expected, 2e-3)
    assert moves(found, in_16_bits(1)) > 0.05


def test_an_epoch_may_end_between_two_steps(tmp_path):
    def optimizer():
        return keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)

    through, before = distiller(optimizer()), distiller(optimizer())
    through.fit(X, Y, sample_weight=WEIGHTS, batch_size=2, shuffle=False, verbose=0, epochs=2)
    before.fit(X, Y, sample_weight=WEIGHTS, batch_size=2, shuffle=False, verbose=0)
    before.save(tmp_path / "between.keras")
    loaded = keras.models.load_model(tmp_path / "between.keras")
    loaded.teacher = tagger(2, mask=False)
    for each in (before, loaded):
        each.fit(X, Y, sample_weight=WEIGHTS, batch_size=2, shuffle=False, verbose=0)
        assert_same(each.student.get_weights(), through.student.get_weights(), 1e-6)


def test_parts_that_count_otherwise_are_refused():
    terms = [kd.Term(losses.kl_divergence), kd.Term(losses.squared_error, at=("words", "words"), sample_weight=None)]
    with pytest.raises(ValueError, match="'squared_error_words' and 'student_loss' .* one ratio in all 3 .* of 16 2"):
        after(3, 2, terms=terms)
    after(3, 2, terms=terms, weights=np.ones_like(WEIGHTS))


def test_examples_without_positions_count_one_each():
    x, y = RANDOM.normal(size=(6, 4)).astype("float32"), RANDOM.integers(0, 3, 6)
    found = [
        after(steps, 6 // steps, x=x, y=y, weights=None, student=mlp(1), teacher=mlp(2), loss=cross_entropy())
        for steps in (1, 2)
    ]
    assert_same(found[1], found[0], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("terms", [None, lambda: [kd.Term(losses.squared_error, at=("body", "body"), bridge="auto")]])
def test_fused_heads_accumulate_as_all_logits_do(terms):
    found = []
    for steps, fused_head in ((1, True), (3, True), (3, False)):
        keras.utils.set_random_seed(0)  # of the bridge
        more = [kd.Term(losses.kl_divergence), *(terms() if terms else [])]
        models = {"student": language_model(1, 4), "teacher": language_model(5, 6)}
        found.append(after(steps, 6 // steps, terms=more, fused_head=fused_head, **models))
    assert_same(found[1], found[0], 2e-6)
    assert_same(found[2], found[0], 2e-6)
