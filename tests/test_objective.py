"""The Distiller's numbers: alpha * sum(weight_i * term_i) + (1 - alpha) * student_loss + regularisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_kd import Distiller, Term, losses, schedules
from tests import models, references
from tests.models import Counter, Penalty, Scaled, batch, linear, mlp, softmax, tagger

X, Y = batch()
FEATURES = Term(losses.squared_error, at=("hidden", "hidden"), weight=0.5)


def labels_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def distill(student, teacher, terms=None, optimizer=None, *, loss="labels", **arguments):
    """Return a compiled Distiller; SGD(0) by default, so that a step changes nothing and logs can be predicted.

    Eager by default: a step of a tiny model is over before it would be traced, and the modes agree (see below).
    """
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    loss = labels_loss() if loss == "labels" else loss
    arguments = {"jit_compile": False, "run_eagerly": True, **arguments}
    distiller.compile(optimizer or keras.optimizers.SGD(0.0), loss, **arguments)
    return distiller


def fit(distiller, x=X, y=Y, **arguments):
    """Fit in order, quietly, one batch an epoch by default; return the logs of each epoch."""
    arguments = {"batch_size": len(x), "shuffle": False, "verbose": 0, **arguments}
    return distiller.fit(x, y, **arguments).history


def soft_loss(student, teacher, temperature, x=X):
    """Return T**2 * KL for each example, in float64, from the models' outputs."""
    s, t = (model(x, training=False).numpy().astype("float64") / temperature for model in (student, teacher))
    return temperature**2 * references.kl_divergence(s, t)


def hard_loss(student, x=X, y=Y):
    """Return the cross-entropy of each example, in float64, from the student's outputs."""
    return -np.log(np.take_along_axis(softmax(student(x, training=False)), y[..., None], axis=-1))[..., 0]


# The step


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_step_of_gradient_descent_equals_one_written_in_numpy(alpha, temperature):
    # z = x W + b. T**2 * KL(z / T) has the gradient T * (q - p), so that
    # B * d loss / d z = alpha * T * (softmax(z / T) - softmax(t / T)) + (1 - alpha) * (softmax(z) - onehot),
    # and an L2 of c adds 2 c W to d loss / d W.
    student, teacher = linear(1, kernel_regularizer=keras.regularizers.L2(0.01)), linear(0)
    kernel, bias = (w.astype("float64") for w in student.get_weights())
    t = X @ teacher.get_weights()[0].astype("float64") + teacher.get_weights()[1]
    z = X @ kernel + bias
    soft = temperature * (softmax(z / temperature) - softmax(t / temperature))
    gradient = (alpha * soft + (1 - alpha) * (softmax(z) - np.eye(3)[Y])) / len(X)
    expected = [kernel - 0.5 * (X.T @ gradient + 2 * 0.01 * kernel), bias - 0.5 * gradient.sum(0)]

    optimizer = keras.optimizers.SGD(0.5)
    fit(distill(student, teacher, None, optimizer, temperature=temperature, alpha=alpha, run_eagerly=False))
    models.assert_same(student.get_weights(), expected, 1e-6)


def test_steps_with_statistics_features_and_a_bridge_equal_steps_written_with_a_tape():
    # Adam, BatchNormalization in training mode, a bridge that is trained: three steps.
    def make():
        inputs = keras.Input((4,))
        hidden = models.dense(6, 1, activation="tanh", name="hidden")(inputs)
        normed = keras.layers.BatchNormalization(name="norm")(hidden)
        return keras.Model(inputs, models.dense(3, 2, name="scores")(normed)), models.dense(5, 3)

    teacher = mlp(0)
    student, bridge = make()
    terms = [
        Term(losses.kl_divergence),
        Term(losses.squared_error, ("norm", "hidden"), weight=0.5, bridge=bridge),
    ]
    fit(distill(student, teacher, terms, keras.optimizers.Adam(0.1), temperature=3.0, alpha=0.7), epochs=3)

    copy, projection = make()
    projection.build((None, 6))
    optimizer, x = keras.optimizers.Adam(0.1), tf.constant(X)
    teacher_hidden = teacher.get_layer("hidden")(x)
    p = tf.nn.softmax(teacher(x) / 3.0)
    for _ in range(3):
        with tf.GradientTape() as tape:
            normed = copy.get_layer("norm")(copy.get_layer("hidden")(x), training=True)
            z = copy.get_layer("scores")(normed)
            kl = tf.reduce_mean(tf.reduce_sum(p * (tf.math.log(p) - tf.nn.log_softmax(z / 3.0)), axis=-1))
            hint = tf.reduce_mean((projection(normed) - teacher_hidden) ** 2)
            labels = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(Y, z))
            loss = 0.7 * (9.0 * kl + 0.5 * hint) + 0.3 * labels
        variables = copy.trainable_variables + projection.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    models.assert_same(models.numbers(student), models.numbers(copy), 1e-6)
    models.assert_same(models.numbers(bridge), models.numbers(projection), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terms", "eager"),
    [(None, False), ([Term(losses.kl_divergence), FEATURES], True)],
    ids=["logits", "features"],
)
def test_alpha_0_equals_fitting_the_student_weight_for_weight(terms, eager):
    # Dropout, BatchNormalization, shuffling and a ragged last batch: all that a seed decides must stay the same.
    x, y = batch(21)
    plain, student = models.statistical(1), models.statistical(1)
    plain.compile(keras.optimizers.Adam(0.05), labels_loss(), jit_compile=False, run_eagerly=eager)
    keras.utils.set_random_seed(7)
    history = plain.fit(x, y, batch_size=8, epochs=2, verbose=0).history
    optimizer = keras.optimizers.Adam(0.05)
    distiller = distill(student, mlp(0, units=6), terms, optimizer, alpha=0.0, run_eagerly=eager)
    keras.utils.set_random_seed(7)
    logs = fit(distiller, x, y, batch_size=8, epochs=2, shuffle=True)
    models.assert_same(models.numbers(student), models.numbers(plain), 1e-7)
    np.testing.assert_allclose(logs["loss"], history["loss"], rtol=1e-6)


def test_a_student_that_equals_its_teacher_moves_by_exactly_its_regularisers_gradient():
    # T * (q - p) = 0, so w <- w - 0.5 * 2 * 0.1 * w = 0.9 w where there is an L2 of 0.1, and w elsewhere.
    student, teacher = (mlp(0, kernel_regularizer=keras.regularizers.L2(0.1)) for _ in range(2))
    hidden, hidden_bias, scores, scores_bias = student.get_weights()
    fit(distill(student, teacher, None, keras.optimizers.SGD(0.5), alpha=1.0, loss=None))
    models.assert_same(student.get_weights(), [hidden, hidden_bias, 0.9 * scores, scores_bias], 2e-7)


# The logs


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_parts_in_an_epochs_logs_add_up_to_the_loss_with_a_ragged_last_batch(alpha):
    x, y = batch(11)
    student = mlp(1, kernel_regularizer=keras.regularizers.L2(0.1))
    kernel = student.get_layer("scores").kernel
    seen = []
    measure = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(0.1 * np.sum(kernel.numpy().astype("float64") ** 2))
    )
    distiller = distill(student, mlp(0), [Term(losses.kl_divergence), FEATURES], keras.optimizers.SGD(0.3), alpha=alpha)
    logs = {name: values[0] for name, values in fit(distiller, x, y, batch_size=4, callbacks=[measure]).items()}
    penalty = np.average(seen, weights=[4, 4, 3])
    assert logs["distillation_loss"] == pytest.approx(
        logs["kl_divergence"] + 0.5 * logs["squared_error_hidden"], rel=1e-5
    )
    expected = alpha * logs["distillation_loss"] + (1 - alpha) * logs["student_loss"] + penalty
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_logs_of_an_epoch_are_means_over_its_examples():
    x, y = batch(11)
    student, teacher = mlp(1), mlp(0)
    logs = fit(distill(student, teacher, temperature=3.0, alpha=0.3), x, y, batch_size=4)
    soft, hard = soft_loss(student, teacher, 3.0, x).mean(), hard_loss(student, x, y).mean()
    assert logs["distillation_loss"] == pytest.approx([soft], rel=1e-5)
    assert logs["student_loss"] == pytest.approx([hard], rel=1e-5)
    assert logs["loss"] == pytest.approx([0.3 * soft + 0.7 * hard], rel=1e-5)


def test_each_term_logs_its_unweighted_value_and_counts_by_its_weight():
    student, teacher = mlp(1), mlp(0)
    terms = [
        Term(losses.kl_divergence, weight=3.0, temperature=5.0),
        Term(losses.squared_error, weight=schedules.Ramp(0.0, 2.0, steps=4), name="values"),
    ]
    logs = fit(distill(student, teacher, terms, temperature=2.0, alpha=1.0), epochs=2)
    kl = soft_loss(student, teacher, 5.0).mean()
    error = np.mean((student(X) - teacher(X)).numpy() ** 2)
    assert logs["kl_divergence"] == pytest.approx([kl, kl], rel=1e-5)
    assert logs["values"] == pytest.approx([error, error], rel=1e-5)
    # The ramp weighs 0.5 at step 0 and 1 at step 1.
    assert logs["distillation_loss"] == pytest.approx([3 * kl + 0.5 * error, 3 * kl + error], rel=1e-5)


@pytest.mark.parametrize("terms", [None, [Term(losses.kl_divergence), FEATURES]], ids=["logits", "features"])
def test_evaluate_and_predict_equal_the_students_own(terms):
    x, y = batch(11)
    student = mlp(1, extra=keras.layers.BatchNormalization(), kernel_regularizer=keras.regularizers.L2(0.1))
    distiller = distill(student, mlp(0), terms, metrics=["accuracy"], alpha=0.9)
    distiller.fit(x, y, verbose=0)
    received = distiller.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    student.compile(loss=labels_loss(), metrics=["accuracy"], run_eagerly=True)  # as the Distiller
    expected = student.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    np.testing.assert_array_equal(distiller.predict(x, verbose=0), student.predict(x, verbose=0))
    for name, value in expected.items():
        assert float(received[name]) == pytest.approx(float(value), rel=1e-6)  # tensors, in Keras 3.12
    assert float(received["student_loss"]) == pytest.approx(hard_loss(student, x, y).mean(), rel=1e-5)
    assert set(received) == {"loss", "accuracy", "student_loss"}


def test_without_labels_evaluate_uses_the_teacher_that_was_assigned_last():
    student, first, second = linear(1), linear(0), linear(2)
    distiller = distill(student, first, loss=None, alpha=1.0, temperature=4.0, run_eagerly=False)
    for teacher in (first, second):
        distiller.teacher = teacher
        received = distiller.evaluate(X, verbose=0, return_dict=True)["distillation_loss"]
        assert float(received) == pytest.approx(soft_loss(student, teacher, 4.0).mean(), rel=1e-5)


def test_without_labels_evaluate_returns_the_distance_from_the_teacher():
    student, teacher = mlp(1), mlp(0)
    distiller = distill(student, teacher, loss=None, alpha=1.0, temperature=3.0)
    received = distiller.evaluate(X, verbose=0, return_dict=True)
    logged = float(received["distillation_loss"])  # a tensor, in Keras 3.12
    assert logged == pytest.approx(soft_loss(student, teacher, 3.0).mean(), rel=1e-5)


# Weights and masks


def test_a_row_of_weight_0_contributes_nothing_to_loss_or_gradient():
    weight = np.array([1, 1, 1, 0, 0, 1, 1, 0], "float32")
    other = np.where(weight[:, None] == 1, X, 5 - 9 * X), np.where(weight == 1, Y, (Y + 1) % 3)
    students, logs = [mlp(1), mlp(1)], []
    for student, (x, y) in zip(students, [(X, Y), other], strict=True):
        distiller = distill(student, mlp(0), [Term(losses.kl_divergence), FEATURES], keras.optimizers.SGD(0.5))
        logs.append(fit(distiller, x, y, sample_weight=weight))
    assert logs[0] == logs[1]
    models.assert_same(students[0].get_weights(), students[1].get_weights(), 1e-7)
    assert np.max(np.abs(students[0].get_weights()[0] - mlp(1).get_weights()[0])) > 1e-3


def test_weights_multiply_both_parts_and_the_batch_divides_them():
    weight = np.array([1, 2, 0.5, 0, 0, 1, 3, 0], "float32")
    student, teacher = mlp(1), mlp(0)
    logs = fit(distill(student, teacher, temperature=3.0, alpha=0.3), sample_weight=weight)
    soft = np.sum(weight * soft_loss(student, teacher, 3.0)) / 8
    hard = np.sum(weight * hard_loss(student)) / 8
    assert logs["distillation_loss"] == pytest.approx([soft], rel=1e-5)
    assert logs["student_loss"] == pytest.approx([hard], rel=1e-5)
    assert logs["loss"] == pytest.approx([0.3 * soft + 0.7 * hard], rel=1e-5)


def test_class_weight_is_the_equivalent_sample_weight_in_both_parts():
    weights = {0: 1.0, 1: 3.0, 2: 0.25}
    each = np.array([weights[label] for label in Y])
    student, teacher = mlp(1), mlp(0)
    logs = fit(distill(student, teacher, temperature=3.0), class_weight=weights)
    assert logs["distillation_loss"] == pytest.approx([np.mean(each * soft_loss(student, teacher, 3.0))], rel=1e-5)
    assert logs["student_loss"] == pytest.approx([np.mean(each * hard_loss(student))], rel=1e-5)


WORDS = np.array([[1, 2, 3, 4], [5, 1, 0, 0], [0, 0, 0, 0]])
TAGS = np.array([[0, 1, 2, 0], [1, 1, 2, 2], [0, 1, 2, 1]])


def test_weights_of_positions_reach_both_parts():
    weight = np.random.default_rng(3).uniform(size=(3, 4)).astype("float32")
    student, teacher = tagger(1, mask=False), tagger(0, mask=False)
    logs = fit(distill(student, teacher, temperature=3.0), WORDS, TAGS, sample_weight=weight)
    assert logs["distillation_loss"] == pytest.approx(
        [np.mean(weight * soft_loss(student, teacher, 3.0, WORDS))], rel=1e-5
    )
    assert logs["student_loss"] == pytest.approx([np.mean(weight * hard_loss(student, WORDS, TAGS))], rel=1e-5)


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("weighted", [False, True])
def test_keras_masks_reach_both_parts_and_an_all_masked_row_counts_nothing(weighted, activation):
    student, teacher = tagger(1), tagger(0)
    weight = np.random.default_rng(3).uniform(size=(3, 4)).astype("float32") if weighted else np.ones((3, 4))
    valid = WORDS != 0
    soft = np.sum((weight * soft_loss(student, teacher, 3.0, WORDS))[valid]) / 6  # 6 valid positions
    hard = np.sum((weight * hard_loss(student, WORDS, TAGS))[valid]) / 6
    student.get_layer("scores").activation = teacher.get_layer("scores").activation = keras.activations.get(activation)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
    distiller = distill(student, teacher, loss=loss, temperature=3.0, run_eagerly=False)
    logs = fit(distiller, WORDS, TAGS, sample_weight=weight if weighted else None)
    assert logs["distillation_loss"] == pytest.approx([soft], rel=1e-5)
    assert logs["student_loss"] == pytest.approx([hard], rel=1e-5)


def test_keras_masks_reach_terms_on_layers():
    student, teacher = tagger(1), tagger(0)
    terms = [Term(losses.squared_error, at=("words", "words"), name="words_error")]
    logs = fit(distill(student, teacher, terms, alpha=1.0, run_eagerly=False), WORDS, TAGS)
    ours, theirs = (model.get_layer("words").get_weights()[0][WORDS] for model in (student, teacher))
    expected = references.squared_error(ours, theirs)[WORDS != 0].mean()
    assert logs["distillation_loss"] == pytest.approx([expected], rel=1e-5)


class Valid(keras.layers.Layer):
    """Take the last feature off, and mask the positions where it is 0."""

    def call(self, x):
        return x[..., :-1]

    def compute_mask(self, x, previous_mask=None):
        return x[..., -1] > 0


class Spoil(keras.layers.Layer):
    """Output NaN where masked."""

    supports_masking = True

    def call(self, x, mask=None):
        return ops.where(mask[..., None], x, np.nan)


VALID = np.array([[True, True, False], [True, False, False], [False, False, False]])


def masked_input(filling):
    """Return (batch, time, 4 + 1): features, `filling` where masked, and whether they are valid."""
    x = np.random.default_rng(5).normal(size=(3, 3, 4))
    return np.concatenate([np.where(VALID[..., None], x, filling), VALID[..., None]], axis=-1).astype("float32")


def masked_model(seed, *more):
    return keras.Sequential([keras.Input((None, 5)), Valid(), models.dense(3, seed), *more])


def test_garbage_in_masked_positions_leaves_loss_and_weights_bit_identical():
    results = []
    for filling in (0.0, 1e4):
        student = masked_model(1)
        distiller = distill(student, masked_model(0), None, keras.optimizers.SGD(0.5), run_eagerly=False)
        logs = fit(distiller, masked_input(filling), np.where(VALID, TAGS[:, :3], int(filling > 0)))
        results.append((logs, student.get_weights()))
    assert results[0][0] == results[1][0] and 0 < results[0][0]["loss"][0] < np.inf
    models.assert_same(results[0][1], results[1][1])
    assert np.any(results[0][1][0] != masked_model(1).get_weights()[0])


def test_a_teacher_that_predicts_nan_in_masked_positions_does_no_harm():
    students, logs = [masked_model(1), masked_model(1)], []
    for student, teacher in zip(students, [masked_model(0), masked_model(0, Spoil())], strict=True):
        assert np.any(np.isnan(teacher(masked_input(0.0)))) == (len(teacher.layers) == 3)
        distiller = distill(student, teacher, None, keras.optimizers.SGD(0.5), loss=None, alpha=1.0)
        logs.append(fit(distiller, masked_input(0.0), None))
    assert logs[0] == logs[1]
    models.assert_same(students[1].get_weights(), students[0].get_weights())


def test_a_batch_that_is_all_masked_gives_0_and_moves_nothing():
    student = tagger(1)
    before = student.get_weights()
    logs = fit(distill(student, tagger(0), None, keras.optimizers.SGD(0.5)), np.zeros_like(WORDS), TAGS)
    assert logs["loss"] == logs["distillation_loss"] == logs["student_loss"] == [0.0]
    models.assert_same(student.get_weights(), before)


# Regularisation


@pytest.mark.one_in(3)
@pytest.mark.parametrize("terms", [None, [FEATURES]], ids=["logits", "features"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_students_penalties_count_once_whatever_alpha_is_and_the_teachers_never(alpha, terms):
    student = mlp(1, extra=Penalty(0.3), kernel_regularizer=keras.regularizers.L2(0.1))
    teacher = mlp(0, extra=Penalty(100.0), kernel_regularizer=keras.regularizers.L2(100.0))
    kernel, bias = (w.astype("float64") for w in student.get_layer("hidden").get_weights())
    penalty = 0.3 * np.mean(np.tanh(X @ kernel + bias) ** 2) + 0.1 * np.sum(
        student.get_layer("scores").kernel.numpy().astype("float64") ** 2
    )
    distiller = distill(student, teacher, terms, alpha=alpha)
    for logs in (fit(distiller), fit(distiller)):
        rest = alpha * logs["distillation_loss"][0] + (1 - alpha) * logs["student_loss"][0]
        assert logs["loss"][0] - rest == pytest.approx(penalty, rel=1e-4)


def test_the_penalty_of_a_bridge_counts():
    bridge = keras.layers.Dense(5, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(0.1))
    terms = [Term(losses.squared_error, at=("hidden", "hidden"), bridge=bridge)]
    logs = fit(distill(mlp(1), mlp(0), terms, alpha=1.0))
    # A kernel of 5 * 5 ones: 0.1 * 25.
    assert logs["loss"][0] - logs["distillation_loss"][0] == pytest.approx(2.5, rel=1e-5)


# What a step runs and what it leaves alone


@pytest.mark.one_in(3)
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("terms", [None, [FEATURES], [Term(losses.kl_divergence), FEATURES]])
def test_a_step_is_one_forward_of_the_student_and_one_of_the_teacher(terms, eager):
    student, teacher = Counter(), Counter()
    distiller = distill(mlp(1, extra=student), mlp(0, extra=teacher), terms, run_eagerly=eager)
    before = student.runs, teacher.runs
    fit(distiller, batch_size=2, epochs=3)
    assert (student.runs - before[0], teacher.runs - before[1]) == (12, 12)


def test_evaluate_with_labels_and_predict_do_not_run_the_teacher():
    student, teacher = Counter(), Counter()
    distiller = distill(mlp(1, extra=student), mlp(0, extra=teacher), [Term(losses.kl_divergence), FEATURES])
    before = student.runs, teacher.runs
    distiller.evaluate(X, Y, batch_size=4, verbose=0)
    distiller.predict(X, batch_size=4, verbose=0)
    assert (student.runs - before[0], teacher.runs - before[1]) == (4, 0)


def flags(model):
    return [layer.trainable for layer in model._flatten_layers()], [v.trainable for v in model.variables]


@pytest.mark.parametrize("terms", [None, [FEATURES]], ids=["logits", "features"])
def test_the_teacher_is_unchanged(terms):
    inputs = keras.Input((4,))
    hidden = models.dense(5, 0, name="hidden")(inputs)
    dropped = keras.layers.Dropout(0.5, seed=1)(keras.layers.BatchNormalization()(hidden))
    teacher = keras.Model(inputs, models.dense(3, 0)(dropped))
    teacher.layers[2].trainable = False
    before, numbers = flags(teacher), models.numbers(teacher)
    distiller = distill(mlp(1), teacher, terms, keras.optimizers.SGD(0.5))
    fit(distiller, epochs=2)
    distiller.evaluate(X, Y, verbose=0)
    distiller.predict(X, verbose=0)
    assert flags(teacher) == before
    models.assert_same(models.numbers(teacher), numbers)  # weights, statistics and the state of the dropout's seed
    assert not {id(v) for v in teacher.variables} & {id(v) for v in distiller.variables}


def test_the_students_flags_are_as_before_and_its_frozen_layers_stay():
    student = models.statistical(1)
    student.get_layer("hidden").trainable = False
    before, frozen = flags(student), student.get_layer("hidden").get_weights()
    distiller = distill(student, mlp(0), None, keras.optimizers.SGD(0.5))
    fit(distiller, epochs=2)
    distiller.evaluate(X, Y, verbose=0)
    distiller.predict(X, verbose=0)
    assert flags(student) == before
    models.assert_same(student.get_layer("hidden").get_weights(), frozen)
    assert np.any(
        student.get_layer("scores").get_weights()[0] != models.statistical(1).get_layer("scores").get_weights()[0]
    )


def test_the_student_learns_statistics_in_fit_and_evaluate_changes_nothing_in_it():
    student = models.statistical(1)
    distiller = distill(student, mlp(0))
    mean = student.get_layer("norm").moving_mean
    fit(distiller)
    assert np.any(mean.numpy() != 0)
    before = models.numbers(student)
    distiller.evaluate(X, Y, verbose=0)
    distiller.predict(X, verbose=0)
    models.assert_same(models.numbers(student), before)


def test_the_student_is_a_plain_model_afterwards():
    student = mlp(1)
    layers, config = student.layers, student.to_json()
    fit(distill(student, mlp(0), [FEATURES]))
    assert type(student) is type(mlp(1)) and student.layers == layers and student.to_json() == config
    student.compile("sgd", labels_loss(), jit_compile=False)
    assert student.fit(X, Y, verbose=0).history["loss"]


# Heads


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", ["functional", "activation", "sequential", "nested", "subclassed"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_copies_with_any_head_have_the_same_distillation_loss(side, kind):
    expected = soft_loss(linear(1), linear(0), 4.0).mean()
    for head in ("logits", "softmax", "sigmoid"):
        student = models.headed(1, head, kind) if side == "student" else linear(1)
        teacher = models.headed(0, head, kind) if side == "teacher" else linear(0)
        distiller = distill(student, teacher, loss=None, alpha=1.0, temperature=4.0, run_eagerly=True)
        assert fit(distiller, X, None)["distillation_loss"] == pytest.approx([expected], rel=1e-5)


def test_a_student_with_a_softmax_head_takes_the_step_of_its_copy_with_logits():
    students = [linear(1), linear(1, activation="softmax")]
    for student, from_logits in zip(students, [True, False], strict=True):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        fit(distill(student, linear(0), None, keras.optimizers.SGD(0.5), loss=loss, temperature=4.0))
    models.assert_same(students[1].get_weights(), students[0].get_weights(), 1e-6)


@pytest.mark.parametrize("others", [[], [Term(losses.kl_divergence)]], ids=["alone", "beside one on distributions"])
def test_a_loss_that_compares_numbers_reads_the_logarithms_of_a_softmax(others):
    # What the softmax was computed of has a constant for each example besides, which not every teacher has kept.
    student, teacher = (linear(seed, activation="softmax") for seed in (1, 2))
    s, t = (np.log(softmax(linear(seed)(X).numpy())) for seed in (1, 2))
    terms = [*others, Term(losses.squared_error, soften=False, name="numbers")]
    received = distill(student, teacher, terms, alpha=1.0).objective(X)
    assert float(received["numbers"]) == pytest.approx(np.mean((s - t) ** 2), rel=1e-5)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_sigmoid_head_has_the_binary_divergence_of_its_logits(side):
    student = linear(1, activation="sigmoid" if side == "student" else None)
    teacher = linear(0, activation="sigmoid" if side == "teacher" else None)
    z, t = (X.astype("float64") @ m.get_weights()[0] + m.get_weights()[1] for m in (student, teacher))
    distiller = distill(student, teacher, [Term(losses.binary_kl)], loss=None, alpha=1.0, temperature=4.0)
    expected = 16 * references.binary_kl(z / 4, t / 4).mean()
    assert fit(distiller, X, None)["distillation_loss"] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_model_of_one_logit_is_refused_under_a_softmax_divergence(activation):
    terms = [Term(losses.kl_divergence)] if activation else None  # a logit may be anything, a value too
    with pytest.raises(ValueError, match="keras_kd.losses.binary_kl"):
        Distiller(
            student=linear(1, classes=1, activation=activation),
            teacher=linear(0, classes=1, activation=activation),
            terms=terms,
        )


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [
        ("sigmoid", "sigmoid", {}),
        ("sigmoid", None, {}),
        (None, "sigmoid", {}),  # a student of logits, under BinaryCrossentropy(from_logits=True)
        (tf.nn.sigmoid, None, {"student_head": "sigmoid"}),
    ],
)
def test_one_sigmoid_unit_is_distilled_per_label_by_default(ours, theirs, arguments):
    student, teacher = linear(1, classes=1, activation=ours), linear(0, classes=1, activation=theirs)
    z, t = (X.astype("float64") @ m.get_weights()[0] + m.get_weights()[1] for m in (student, teacher))
    for given in (teacher, [teacher]) if theirs else (teacher, lambda x: teacher(x)):
        distiller = Distiller(student=student, teacher=given, **arguments)
        distiller.compile(keras.optimizers.SGD(0.0), temperature=4.0, alpha=1.0, jit_compile=False)
        expected = 16 * references.binary_kl(z / 4, t / 4).mean()
        assert distiller.fit(X, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)


def test_several_sigmoid_units_keep_the_default_of_classes():
    assert Distiller(student=linear(1, activation="sigmoid"), teacher=linear(0)).terms[0].loss is losses.kl_divergence


def test_a_subclassed_model_of_one_logit_is_refused_before_its_first_step():
    student, teacher = (models.Subclassed(models.dense(1, seed)) for seed in (1, 0))
    teacher.build((None, 4)), student.build((None, 4))
    distiller = distill(student, teacher, None, keras.optimizers.SGD(0.5), loss=None, alpha=1.0)
    before = student.get_weights()
    with pytest.raises(ValueError, match="keras_kd.losses.binary_kl"):
        fit(distiller, X, None)
    models.assert_same(student.get_weights(), before)


# Alpha and temperature


def losses_by_step(**arguments):
    """Return the loss of 4 steps of a student that does not move, and the parts it is made of at T = 3."""
    student, teacher = mlp(1), mlp(0)
    distiller = distill(student, teacher, **{"temperature": 3.0, "run_eagerly": False, **arguments})
    return fit(distiller, epochs=4)["loss"], student, teacher


SCHEDULES = {  # alpha at steps 0 to 3
    "number": (0.25, [0.25] * 4),
    "ramp": (schedules.Ramp(0.0, 1.0, steps=4), [0.25, 0.5, 0.75, 1.0]),
    "keras": (keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.125]), [0.5, 0.5, 0.125, 0.125]),
    "callable": (lambda step: 1.0 - 0.25 * ops.cast(step, "float32"), [1.0, 0.75, 0.5, 0.25]),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_alpha_is_a_number_a_schedule_or_a_callable_of_the_step(kind):
    schedule, values = SCHEDULES[kind]
    received, student, teacher = losses_by_step(alpha=schedule)
    soft, hard = soft_loss(student, teacher, 3.0).mean(), hard_loss(student).mean()
    assert received == pytest.approx([a * soft + (1 - a) * hard for a in values], rel=1e-5)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_temperature_is_a_number_a_schedule_or_a_callable_of_the_step(kind):
    schedule, values = SCHEDULES[kind]
    received, student, teacher = losses_by_step(alpha=1.0, temperature=schedule)
    assert received == pytest.approx([soft_loss(student, teacher, t).mean() for t in values], rel=1e-4)


def test_a_term_has_its_own_temperature_schedule():
    student, teacher = mlp(1), mlp(0)
    terms = [Term(losses.kl_divergence, temperature=schedules.Ramp(1.0, 5.0, steps=2))]
    received = fit(distill(student, teacher, terms, temperature=9.0, alpha=1.0), epochs=2)["loss"]
    assert received == pytest.approx([soft_loss(student, teacher, t).mean() for t in (3.0, 5.0)], rel=1e-5)


def test_a_distiller_is_built_with_a_student_that_the_first_batch_builds():
    distiller = distill(Scaled(), linear(2))
    assert not distiller.built
    fit(distiller, X, Y)
    assert distiller.built and distiller.count_params() == 4 * 3 + 3  # as a plain model after its fit


def test_a_step_is_traced_once():
    # TensorFlow traces a function twice that makes variables, as those of an optimizer and of metrics.
    counter = Counter()
    distiller = distill(mlp(1, extra=counter), mlp(0), None, "adam", metrics=["accuracy"], run_eagerly=False)
    before = len(counter.traces)
    distiller.evaluate(X, Y, verbose=0)
    assert len(counter.traces) == before + 1
    assert not distiller.optimizer.built  # what is trained can still be changed
    fit(distiller, epochs=2)
    assert len(counter.traces) == before + 2


def test_layers_that_are_unfrozen_after_an_evaluation_are_trained():
    student = mlp(1)
    student.layers[1].trainable = False
    distiller = distill(student, mlp(0), None, "adam", metrics=["accuracy"], run_eagerly=False)
    distiller.evaluate(X, Y, verbose=0)
    student.layers[1].trainable = True
    before = student.get_weights()
    fit(distiller)
    assert all(np.any(now != then) for now, then in zip(student.get_weights(), before, strict=True))


def test_numbers_assigned_between_epochs_take_effect_without_a_retrace():
    counter = Counter()
    student, teacher = mlp(1, extra=counter), mlp(0)
    distiller = distill(student, teacher, temperature=3.0, alpha=0.25, run_eagerly=False)
    fit(distiller)
    traces = len(counter.traces)
    distiller.alpha, distiller.temperature = 0.75, 5.0
    received = fit(distiller)["loss"]
    assert len(counter.traces) == traces
    expected = 0.75 * soft_loss(student, teacher, 5.0).mean() + 0.25 * hard_loss(student).mean()
    assert received == pytest.approx([expected], rel=1e-5)
    assert (distiller.alpha, distiller.temperature) == (0.75, 5.0)


def test_numbers_assigned_by_a_callback_take_effect_without_a_retrace():
    counter = Counter()
    student, teacher = mlp(1, extra=counter), mlp(0)
    soft, hard = soft_loss(student, teacher, 3.0).mean(), hard_loss(student).mean()
    distiller = distill(student, teacher, temperature=3.0, alpha=0.0, run_eagerly=False)
    fit(distiller)
    traces = len(counter.traces)

    def assign(epoch, logs):
        distiller.alpha = 0.25 * epoch

    received = fit(distiller, epochs=4, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=assign)])["loss"]
    assert received == pytest.approx([a * soft + (1 - a) * hard for a in (0.0, 0.25, 0.5, 0.75)], rel=1e-5)
    assert len(counter.traces) == traces


def test_a_number_can_become_a_schedule_and_a_number_again():
    student, teacher = mlp(1), mlp(0)
    distiller = distill(student, teacher, temperature=3.0, alpha=0.25, run_eagerly=False)
    soft, hard = soft_loss(student, teacher, 3.0).mean(), hard_loss(student).mean()
    received = [fit(distiller)["loss"][0]]
    for alpha in (lambda step: 0.5, 0.75):
        distiller.alpha = alpha
        received.append(fit(distiller)["loss"][0])
    assert received == pytest.approx([a * soft + (1 - a) * hard for a in (0.25, 0.5, 0.75)], rel=1e-5)


def test_a_schedule_assigned_by_a_callback_takes_effect_in_the_next_epoch():
    student, teacher = mlp(1), mlp(0)
    distiller = distill(student, teacher, temperature=3.0, alpha=0.25, run_eagerly=False)
    soft, hard = soft_loss(student, teacher, 3.0).mean(), hard_loss(student).mean()

    def assign(epoch, logs):
        if epoch == 1:
            distiller.alpha = lambda step: 0.75

    received = fit(distiller, epochs=2, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=assign)])["loss"]
    assert received == pytest.approx([a * soft + (1 - a) * hard for a in (0.25, 0.75)], rel=1e-5)


# Seeds and modes


def test_one_seed_gives_equal_weights():
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(5, activation="relu", name="hidden")(inputs)
        student = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dropout(0.3)(hidden)))
        distiller = distill(student, mlp(0), [Term(losses.kl_divergence), FEATURES], "adam")
        results.append((fit(distiller, batch_size=3, epochs=2, shuffle=True), student.get_weights()))
    assert results[0][0] == results[1][0]
    models.assert_same(results[0][1], results[1][1])


@pytest.mark.slow
def test_compiled_eager_and_default_execution_agree():
    results = []
    for mode in ({"jit_compile": True}, {"run_eagerly": True}, {"jit_compile": "auto"}):
        student = mlp(1, extra=keras.layers.BatchNormalization())
        terms = [Term(losses.kl_divergence), FEATURES]
        arguments = {"metrics": ["accuracy"], "run_eagerly": False, **mode}
        distiller = distill(student, mlp(0), terms, keras.optimizers.SGD(0.1), **arguments)
        results.append((fit(distiller, batch_size=4, epochs=2), models.numbers(student)))
    for logs, numbers in results[1:]:
        assert logs.keys() == results[0][0].keys()
        for name, values in logs.items():
            assert values == pytest.approx(results[0][0][name], abs=1e-5)
        models.assert_same(numbers, results[0][1], 1e-5)
