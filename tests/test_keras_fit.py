"""`compile` and `fit` take what those of a plain Keras model take. Linear models; expected values in NumPy."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from tests.models import assert_same, batch, linear, mlp, numbers, softmax, statistical
from tests.references import kl_divergence

X, Y = batch(8)
W = np.random.default_rng(1).uniform(0.1, 2.0, size=8).astype("float32")
RATE, ALPHA, T = 0.5, 0.4, 2.0
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def distil(optimizer, student=None, loss=CROSS_ENTROPY, **arguments):
    distiller = kd.Distiller(student=student or linear(1), teacher=linear(2))
    distiller.compile(optimizer, loss, alpha=arguments.pop("alpha", ALPHA), temperature=T, **arguments)
    return distiller


def logits(weights, x=X):
    kernel, bias = (np.asarray(w, "float64") for w in weights)
    return x @ kernel + bias


def step(weights, x, y, rate=RATE, alpha=ALPHA):
    """One step of gradient descent on alpha * T**2 * KL + (1 - alpha) * cross-entropy, by hand."""
    s, t = logits(weights, x), logits(numbers(linear(2)), x)
    slope = alpha * T * (softmax(s / T) - softmax(t / T)) + (1 - alpha) * (softmax(s) - np.eye(3)[y])
    return [weights[0] - rate * x.T @ slope / len(x), weights[1] - rate * slope.mean(0)]


def cross_entropy(s, y=Y):
    return -np.log(softmax(s))[np.arange(len(s)), y]


def test_optimizer_loss_and_metrics_may_be_strings():
    student = linear(1, activation="softmax")
    expected = step(numbers(student), X, Y, rate=0.01)  # Keras's "sgd" has a learning rate of 0.01
    scores = logits(numbers(student))
    distiller = distil("sgd", student, "sparse_categorical_crossentropy", metrics=["accuracy"])
    logs = distiller.fit(X, Y, batch_size=8, verbose=0).history
    assert_same(student.get_weights(), expected, 1e-6)
    assert logs["accuracy"] == [np.mean(scores.argmax(-1) == Y)]
    np.testing.assert_allclose(logs["student_loss"], cross_entropy(scores).mean(), rtol=1e-5)


def test_every_metric_sees_the_outputs_of_the_student_unchanged():
    student = linear(1, activation="softmax")
    probabilities = softmax(logits(numbers(student)))
    metrics = [keras.metrics.MeanSquaredError(name="brier"), "categorical_accuracy"]
    distiller = distil(keras.optimizers.SGD(0.0), student, "categorical_crossentropy", metrics=metrics)
    logs = distiller.fit(X, np.eye(3)[Y], verbose=0).history
    np.testing.assert_allclose(logs["brier"], np.mean((probabilities - np.eye(3)[Y]) ** 2), rtol=1e-5)
    assert logs["categorical_accuracy"] == [np.mean(probabilities.argmax(-1) == Y)]


def test_weighted_metrics_are_weighted_and_metrics_are_not():
    correct = logits(numbers(linear(1))).argmax(-1) == Y
    assert 0 < correct.mean() < 1
    distiller = distil(
        keras.optimizers.SGD(0.0),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="plain")],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
    )
    logs = distiller.fit(X, Y, sample_weight=W, validation_data=(X, Y, W), verbose=0).history
    for prefix in ("", "val_"):
        np.testing.assert_allclose(logs[f"{prefix}plain"], correct.mean(), rtol=1e-6)
        np.testing.assert_allclose(logs[f"{prefix}weighted"], np.average(correct, weights=W), rtol=1e-6)


def test_loss_weights_weigh_the_labels_of_each_output():
    def two_heads(seed):
        x = keras.Input((4,))
        return keras.Model(x, {"a": linear(seed)(x), "b": linear(seed + 1)(x)})

    student = two_heads(1)
    distiller = kd.Distiller(student=student, teacher=two_heads(3), terms=[kd.Term(kd.losses.kl_divergence, at="a")])
    distiller.compile(
        keras.optimizers.SGD(0.0),
        {"a": CROSS_ENTROPY, "b": CROSS_ENTROPY},
        loss_weights={"a": 2.0, "b": 0.5},
        alpha=ALPHA,
        temperature=T,
    )
    logs = distiller.fit(X, {"a": Y, "b": Y}, verbose=0).history
    weights = numbers(student)
    a, b = logits(weights[:2]), logits(weights[2:])
    hard = 2.0 * cross_entropy(a).mean() + 0.5 * cross_entropy(b).mean()
    soft = T**2 * kl_divergence(a / T, logits(numbers(linear(3))) / T).mean()
    np.testing.assert_allclose(logs["student_loss"], hard, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], ALPHA * soft + (1 - ALPHA) * hard, rtol=1e-5)


@pytest.mark.parametrize("steps", [2, 3])
def test_several_steps_per_execution_are_the_same_steps(steps):
    distiller = distil(keras.optimizers.SGD(RATE), steps_per_execution=steps)
    expected, losses = numbers(distiller.student), []
    for i in (0, 3, 6):  # three batches, the last one ragged, do not divide by two
        s, t = logits(expected, X[i : i + 3]), logits(numbers(linear(2)), X[i : i + 3])
        soft = T**2 * kl_divergence(s / T, t / T)
        losses.extend(ALPHA * soft + (1 - ALPHA) * cross_entropy(s, Y[i : i + 3]))
        expected = step(expected, X[i : i + 3], Y[i : i + 3])
    logs = distiller.fit(X, Y, batch_size=3, shuffle=False, verbose=0).history
    assert_same(distiller.student.get_weights(), expected, 2e-6)
    np.testing.assert_allclose(logs["loss"], np.mean(losses), rtol=1e-5)
    assert int(distiller.optimizer.iterations) == 3


def test_accumulated_gradients_of_two_batches_are_one_step_on_both():
    distiller = distil(keras.optimizers.SGD(RATE, gradient_accumulation_steps=2))
    expected = step(numbers(distiller.student), X, Y)
    distiller.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert_same(distiller.student.get_weights(), expected, 2e-6)


def test_the_student_ends_with_the_moving_average_of_its_weights():
    distiller = distil(keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.7))
    first = step(numbers(distiller.student), X[:4], Y[:4])
    second = step(first, X[4:], Y[4:])
    distiller.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    expected = [0.7 * a + 0.3 * b for a, b in zip(first, second, strict=True)]  # Keras starts at the first step
    assert_same(distiller.student.get_weights(), expected, 2e-6)


def test_a_learning_rate_schedule_counts_the_steps():
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.1])  # step 0, then the rest
    distiller = distil(keras.optimizers.SGD(rates))
    expected = step(step(numbers(distiller.student), X[:4], Y[:4], 0.5), X[4:], Y[4:], 0.1)
    distiller.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert_same(distiller.student.get_weights(), expected, 2e-6)


def test_frozen_layers_of_the_student_stay_and_the_others_learn():
    student = mlp(1)
    student.get_layer("hidden").trainable = False
    before = numbers(student)
    distil(keras.optimizers.SGD(RATE), student).fit(X, Y, verbose=0)
    assert_same(numbers(student)[:2], before[:2])
    assert not np.array_equal(numbers(student)[2], before[2])


METRICS = {"metrics": ["accuracy"], "weighted_metrics": ["sparse_top_k_categorical_accuracy"]}


@pytest.mark.parametrize("weights", [None, W], ids=["unweighted", "weighted"])
def test_evaluate_equals_the_students_own(weights):
    student = statistical(1)
    student.get_layer("scores").kernel.regularizer = keras.regularizers.L2(0.1)
    distiller = distil("adam", student, **METRICS)
    distiller.fit(X, Y, sample_weight=weights, batch_size=3, verbose=0)  # the statistics of BatchNormalization move
    result = distiller.evaluate(X, Y, sample_weight=weights, batch_size=3, verbose=0, return_dict=True)
    student.compile(loss=CROSS_ENTROPY, **METRICS)
    expected = student.evaluate(X, Y, sample_weight=weights, batch_size=3, verbose=0, return_dict=True)
    penalty = 0.1 * np.square(student.get_layer("scores").kernel.numpy()).sum()
    np.testing.assert_allclose(result.pop("student_loss"), expected["loss"] - penalty, rtol=1e-5)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-6, err_msg=name)


def test_the_first_numbers_of_evaluate_are_the_students_own():
    distiller = distil("adam", metrics=["accuracy"])
    loss, accuracy, *_ = distiller.evaluate(X, Y, verbose=0)
    scores = logits(numbers(distiller.student))
    np.testing.assert_allclose(loss, cross_entropy(scores).mean(), rtol=1e-5)
    np.testing.assert_allclose(accuracy, (scores.argmax(-1) == np.ravel(Y)).mean(), rtol=1e-5)


def test_predict_and_call_are_the_students_own():
    student = statistical(1)
    distiller = distil("adam", student)
    distiller.fit(X, Y, verbose=0)
    expected = student.predict(X, verbose=0)
    assert np.array_equal(distiller.predict(X, verbose=0), expected)
    np.testing.assert_allclose(distiller(X, training=False), expected, rtol=1e-6)


def test_on_batch_methods_return_what_keras_returns():
    distiller = distil(keras.optimizers.SGD(RATE), metrics=["accuracy"])
    s, t = logits(numbers(distiller.student)), logits(numbers(linear(2)))
    expected = step(numbers(distiller.student), X, Y)
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    assert_same(distiller.student.get_weights(), expected, 1e-6)
    soft = T**2 * kl_divergence(s / T, t / T).mean()
    np.testing.assert_allclose(logs["distillation_loss"], soft, rtol=1e-5)
    distiller.reset_metrics()
    after = distiller.test_on_batch(X, Y, return_dict=True)
    np.testing.assert_allclose(after["loss"], cross_entropy(logits(expected)).mean(), rtol=1e-5)


def test_history_has_an_entry_for_everything_and_val_for_what_the_student_is_judged_by():
    logs = distil("adam", metrics=["accuracy"]).fit(X, Y, validation_split=0.25, epochs=2, verbose=0).history
    trained = {"loss", "student_loss", "distillation_loss", "accuracy"}
    assert set(logs) == trained | {"val_loss", "val_student_loss", "val_accuracy"}
    assert all(len(values) == 2 and np.isfinite(values).all() for values in logs.values())


def test_one_call_of_compile_forgets_the_one_before():
    distiller = distil("adam", metrics=["accuracy"])
    distiller.fit(X, Y, verbose=0)
    distiller.compile(keras.optimizers.SGD(0.1), alpha=1.0)
    logs = distiller.fit(X, Y, verbose=0).history
    assert set(logs) == {"loss", "distillation_loss"}


def test_the_student_is_a_plain_model_after_fit():
    student = linear(1)
    distil("adam", student).fit(X, Y, verbose=0)
    weights = numbers(student)
    student.compile(keras.optimizers.SGD(RATE), CROSS_ENTROPY)
    student.fit(X, Y, batch_size=8, verbose=0)
    assert_same(student.get_weights(), step(weights, X, Y, alpha=0.0), 1e-6)


def test_nothing_is_printed_with_verbose_0(capfd):
    distiller = distil("adam", metrics=["accuracy"])
    distiller.fit(X, Y, validation_data=(X, Y), verbose=0)
    distiller.evaluate(X, Y, verbose=0)
    assert capfd.readouterr().out == ""
