"""Schedules that leave their range and teachers that predict NaN stop training before weights change."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import losses, schedules, teachers
from tests.models import batch, linear, mlp

X, Y = batch(24)
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make(terms=None, teacher=None, **arguments):
    distiller = kd.Distiller(student=mlp(1), teacher=teacher or mlp(2), terms=terms)
    distiller.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, **arguments)
    return distiller


def fit(distiller, x=X, steps=6):
    """Take steps of four examples in the given order."""
    distiller.fit(x[: 4 * steps], Y[: 4 * steps], batch_size=4, shuffle=False, verbose=0)


def after(steps, **arguments):
    """Return the weights after some steps of a Distiller without an error."""
    distiller = make(**arguments)
    fit(distiller, steps=steps)
    return distiller.student.get_weights()


def line(slope):
    """Return a schedule that starts at 0.5; its end is not known before training."""
    return lambda step: 0.5 + slope * tf.cast(step, tf.float32)


# Each leaves its range at step 3 (counted from 0): 0.5 + 3 * 0.2 > 1, 0.5 - 3 * 0.2 < 0. The name, the value at step 3.
LEAVING = {
    "alpha above": (lambda: make(alpha=line(0.2)), "alpha to be from 0 to 1", 1.1),
    "alpha below": (lambda: make(alpha=line(-0.2)), "alpha to be from 0 to 1", -0.1),
    "temperature": (  # beside a term that has its own
        lambda: make(
            [kd.Term(losses.kl_divergence), kd.Term(losses.reverse_kl, temperature=2.0)], temperature=line(-0.2)
        ),
        "the temperature to be above 0",
        -0.1,
    ),
    "a term's temperature": (
        lambda: make([kd.Term(losses.kl_divergence, temperature=line(-0.2))]),
        "the temperature of the term 'kl_divergence' to be above 0",
        -0.1,
    ),
    "weight": (
        lambda: make([kd.Term(losses.kl_divergence, weight=line(-0.2))]),
        "the weight of the term 'kl_divergence' to be at least 0",
        -0.1,
    ),
    "ensemble": (
        lambda: make(teacher=teachers.Ensemble([mlp(2), mlp(3)], weights=[1.0, line(-0.2)])),
        "weight 1 of the ensemble to be at least 0",
        -0.1,
    ),
    "member": (
        lambda: make(teacher=[mlp(2), teachers.EMA(lambda step: 0.3 + 0.2 * tf.cast(step, tf.float32))]),
        "the decay of the EMA to be from 0 to 1",
        1.1,  # of the step that is done, the fourth: 0.3 + 4 * 0.2
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("case", LEAVING)
def test_a_schedule_that_leaves_its_range_stops_before_weights_change(case, eager):
    build, name, value = LEAVING[case]
    expected = build()
    fit(expected, steps=3)
    distiller = build()
    distiller.run_eagerly = eager
    with pytest.raises(ValueError, match=rf"Expected {re.escape(name)}.*Received, at step 3 the value {value:.1f}"):
        fit(distiller)
    assert int(distiller.optimizer.iterations) == 3
    for ours, theirs in zip(distiller.student.get_weights(), expected.student.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_ends_of_a_range_belong_to_it():
    nothing = kd.Term(losses.kl_divergence, weight=lambda step: 0.0)
    distiller = make([nothing], alpha=lambda step: tf.where(step % 2 == 0, 0.0, 1.0))
    fit(distiller, steps=2)
    assert int(distiller.optimizer.iterations) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_schedule_that_is_not_finite_stops(value):
    weight = lambda step: tf.where(step < 2, 1.0, value)  # noqa: E731
    with pytest.raises(ValueError, match=r"weight of the term.*at step 2"):
        fit(make([kd.Term(losses.kl_divergence, weight=weight)]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make(alpha=schedules.Ramp(0.5, 2.0, 8)), "`alpha`.* from 0 to 1.*with the values 0.6875, 2"),
        (lambda: make(alpha=schedules.Ramp(0.5, -0.5, 8)), "`alpha`.*with the values 0.375, -0.5"),
        (lambda: make(temperature=schedules.Ramp(4.0, 0.0, 8)), "`temperature` to be above 0.*with the values 3.5, 0"),
        (lambda: kd.Term(losses.kl_divergence, weight=schedules.Ramp(1.0, -1.0, 4)), "`weight` of term"),
        (lambda: kd.Term(losses.kl_divergence, temperature=schedules.Ramp(1.0, -1.0, 4)), "`temperature`"),
        (lambda: teachers.EMA(schedules.Ramp(0.5, 1.5, 4)), "`decay` to be from 0 to 1.*0.75, 1.5"),
        (lambda: teachers.Ensemble([mlp(2), mlp(3)], weights=[1.0, schedules.Ramp(1.0, -1.0, 4)]), "`weights`"),
    ],
)
def test_the_end_of_a_ramp_is_checked_when_it_is_given(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
def test_the_start_of_a_ramp_is_not_a_value_of_it():
    fit(make(temperature=schedules.Ramp(0.0, 4.0, 3), alpha=schedules.Ramp(0.0, 1.0, 3)))


def test_a_number_assigned_later_is_checked_too():
    distiller = make()
    with pytest.raises(ValueError, match="`alpha`"):
        distiller.alpha = schedules.Ramp(0.5, 2.0, 8)
    with pytest.raises(ValueError, match="`temperature`"):
        distiller.temperature = schedules.Ramp(1.0, 0.0, 8)
    distiller.alpha = line(0.2)
    with pytest.raises(ValueError, match=r"alpha.*at step 3"):
        fit(distiller)


def spoiled(value):
    """Return a teacher whose logits are not finite where the first input is above 100."""
    model = mlp(2)
    return lambda x: tf.where(x[:, :1] > 100.0, value, model(x))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_predicts_nan_or_infinity_stops_before_weights_change(value, eager):
    x = X.copy()
    x[13, 0] = 101.0  # in the fourth batch of four
    distiller = make(teacher=spoiled(value), run_eagerly=eager)
    with pytest.raises(ValueError, match=r"finite value of every term.*at step 3 for kl_divergence: -?(nan|inf)"):
        fit(distiller, x)
    assert int(distiller.optimizer.iterations) == 3
    for ours, theirs in zip(distiller.student.get_weights(), after(3), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_term_that_reads_them_is_named():
    teacher = mlp(
        2, extra=keras.layers.Lambda(lambda x: x / tf.cast(x < 2.0, tf.float32))
    )  # the hidden layer is finite
    teacher.get_layer("scores").bias.assign([np.nan, 0.0, 0.0])
    hint = kd.Term(losses.squared_error, at=("hidden", "hidden"), name="hint")
    distiller = make([hint, kd.Term(losses.kl_divergence, name="soft")], teacher)
    with pytest.raises(ValueError, match=r"for hint, soft: \d[\d.]* -?nan"):
        fit(distiller)


def test_features_of_minus_infinity_stop():
    teacher = mlp(2)
    teacher.get_layer("hidden").activation = lambda x: x - float("inf")
    with pytest.raises(ValueError, match="for hint: inf"):
        fit(make([kd.Term(losses.squared_error, at=("hidden", "hidden"), name="hint")], teacher))


def test_a_member_of_an_ensemble_is_checked():
    with pytest.raises(ValueError, match="finite value of every term"):
        fit(make(teacher=[mlp(2), spoiled(float("nan"))]), X + 200.0)


def test_masked_positions_may_hold_anything():
    ids = np.array([[1, 2, 0], [2, 0, 0]])
    inputs = keras.Input((None,), dtype="int32")
    vectors = keras.layers.Embedding(4, 3, mask_zero=True)
    student = keras.Model(inputs, keras.layers.Dense(3)(vectors(inputs)))
    teacher = lambda x: tf.where(x[..., None] == 0, float("nan"), tf.one_hot(x, 3))  # noqa: E731
    distiller = kd.Distiller(student=student, teacher=teacher)
    distiller.compile("sgd", alpha=1.0)
    loss = distiller.fit(ids, verbose=0).history["loss"]
    assert np.all(np.isfinite(loss))


def test_a_student_that_excludes_classes_is_protected_as_well():
    # Its outputs are -inf there; its loss on the labels is finite.
    student = keras.Sequential([linear(1), keras.layers.Lambda(lambda x: x - tf.constant([0.0, 0.0, float("inf")]))])
    distiller = kd.Distiller(student=student, teacher=spoiled(float("nan")))
    distiller.compile("sgd", CROSS_ENTROPY)
    with pytest.raises(ValueError, match="kl_divergence: -?nan"):
        distiller.fit(X + 200.0, np.zeros(len(X), "int32"), verbose=0)


def test_without_labels_the_outputs_of_the_student_decide():
    distiller = kd.Distiller(student=linear(1), teacher=spoiled(float("nan")))
    distiller.compile("sgd", alpha=1.0)
    with pytest.raises(ValueError, match="kl_divergence: -?nan"):
        distiller.fit(X + 200.0, verbose=0)
    distiller.student.layers[-1].bias.assign([np.nan, 0.0, 0.0])
    distiller.fit(X + 200.0, verbose=0)


def test_a_student_that_diverges_is_handled_by_keras():
    # As in plain fit: the loss becomes NaN, and TerminateOnNaN is there for it.
    distiller = make()
    distiller.optimizer.learning_rate = float("inf")
    fit(distiller)
    assert not np.all(np.isfinite(distiller.student.get_weights()[0]))


def test_a_run_continues_after_the_error_when_its_cause_is_removed():
    distiller = make(alpha=line(0.2))
    with pytest.raises(ValueError, match="alpha"):
        fit(distiller)
    distiller.alpha = 0.5
    fit(distiller)
    assert int(distiller.optimizer.iterations) == 9


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "arguments",
    [
        {"teacher": spoiled(float("nan"))},
        {"teacher": spoiled(float("inf"))},
        {"temperature": lambda step: 1.0 - tf.cast(step, tf.float32)},
        {"alpha": line(0.6)},  # 1.1 at the second step, where the loss is finite
    ],
    ids=["nan", "inf", "schedule", "a schedule of finite loss"],
)
def test_under_xla_the_loss_is_nan_and_no_weight_changes(arguments):
    distiller = make(jit_compile=True, **arguments)
    distiller.train_on_batch(X[:4], Y[:4])
    before = distiller.student.get_weights()
    x = X[:4].copy()
    x[0, 0] = 101.0
    assert np.isnan(distiller.train_on_batch(x, Y[:4], return_dict=True)["loss"])
    for ours, theirs in zip(distiller.student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def texts(seed, shared=False):
    """Return a classifier of two lists of ids, each with an embedding of its own or both with one."""
    first, second = keras.Input((5,), dtype="int32"), keras.Input((4,), dtype="int32")
    embed = keras.layers.Embedding(7, 3, embeddings_initializer=keras.initializers.RandomUniform(seed=seed))
    other = embed if shared else keras.layers.Embedding(6, 3)
    means = [keras.layers.GlobalAveragePooling1D()(each) for each in (embed(first), other(second))]
    return keras.Model([first, second], keras.layers.Dense(3)(keras.layers.Concatenate()(means)))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_embeddings_train_under_xla_as_without(shared):
    random = np.random.default_rng(0)
    x = [random.integers(0, 6, (10, 5), dtype="int32"), random.integers(0, 6, (10, 4), dtype="int32")]
    y = random.integers(0, 3, 10)
    student, teacher = texts(1, shared), texts(2)
    start, after = student.get_weights(), {}
    for compiled in (True, False):
        student.set_weights(start)
        distiller = kd.Distiller(student=student, teacher=teacher)
        distiller.compile(keras.optimizers.Adam(0.1), CROSS_ENTROPY, jit_compile=compiled)
        distiller.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)  # the last batch has two
        after[compiled] = student.get_weights()
    assert any(np.any(one != other) for one, other in zip(after[True], start, strict=True))
    for one, other in zip(after[True], after[False], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_stopped_step_leaves_embeddings_unchanged_under_xla():
    x, y = [np.ones((4, 5), "int32"), np.ones((4, 4), "int32")], np.zeros(4, "int32")
    distiller = kd.Distiller(student=texts(1), teacher=texts(2))
    schedule = line(0.6)  # 1.1 at the second step
    distiller.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, alpha=schedule, jit_compile=True)
    distiller.train_on_batch(x, y)
    before = distiller.student.get_weights()
    assert np.isnan(distiller.train_on_batch(x, y, return_dict=True)["loss"])
    for ours, theirs in zip(distiller.student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_evaluation_stops_for_nothing():
    distiller = kd.Distiller(student=linear(1), teacher=spoiled(float("nan")))
    distiller.compile("sgd", alpha=1.0)
    x = X.copy()
    x[0, 0] = 101.0
    assert np.isnan(distiller.evaluate(x, verbose=0, return_dict=True)["distillation_loss"])
