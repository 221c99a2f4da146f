"""`metrics`: against scikit-learn and the definition, in any model, split in any way."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies
from scipy import special
from sklearn.metrics import accuracy_score

from keras_kd import Distiller, Term, losses
from keras_kd._internal.loss_tracker import LossTracker
from keras_kd.evaluation.accumulators import Calibration
from keras_kd.metrics import Agreement, ExpectedCalibrationError, same_prediction
from tests.models import batch, linear, tagger

RANDOM = np.random.default_rng(3)
COUNT, CLASSES = 61, 5
LOGITS = (2 * RANDOM.normal(size=(COUNT, CLASSES))).astype("float32")
LOGITS[:, 4] -= 30  # never predicted
TEACHER = (LOGITS + RANDOM.normal(size=LOGITS.shape)).astype("float32")
LABELS = np.where(RANDOM.random(COUNT) < 0.3, RANDOM.integers(0, 4, COUNT), np.argmax(LOGITS, -1))
WEIGHTS = RANDOM.uniform(0.0, 2.0, COUNT)
PROBABILITIES = special.softmax(LOGITS.astype("float64"), axis=-1)


def streamed(metric, y, outputs, weights=None, size=16):
    for start in range(0, len(y), size):
        part = slice(start, start + size)
        metric.update_state(y[part], outputs[part], None if weights is None else weights[part])
    return float(metric.result())


def error(confidence, correct, weights, bins=15):
    """The expected calibration error, bin by bin: sum of share |accuracy - confidence|."""
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            w = weights[inside]
            gap = abs(np.average(correct[inside], weights=w) - np.average(confidence[inside], weights=w))
            total += gap * w.sum() / weights.sum()
    return total


@pytest.mark.parametrize(
    ("size", "weights", "bins"),
    [(1, WEIGHTS, 15), (16, None, 15), (16, WEIGHTS, 4), (COUNT, None, 4), (COUNT, WEIGHTS, 15)],
    ids=["one by one", "even", "weighted", "at once", "at once and weighted"],
)
def test_the_calibration_error_is_that_of_the_definition(size, weights, bins):
    w = np.ones(COUNT) if weights is None else weights
    expected = error(PROBABILITIES.max(-1), PROBABILITIES.argmax(-1) == LABELS, w, bins)
    received = streamed(ExpectedCalibrationError(bins, from_logits=True), LABELS, LOGITS, weights, size)
    assert received == pytest.approx(expected, abs=1e-6)
    received = streamed(ExpectedCalibrationError(bins), LABELS, PROBABILITIES.astype("float32"), weights, size)
    assert received == pytest.approx(expected, abs=1e-6)


def test_the_calibration_error_takes_one_hot_labels_and_columns_of_ids():
    expected = streamed(ExpectedCalibrationError(from_logits=True), LABELS, LOGITS)
    for labels in (np.eye(CLASSES)[LABELS], LABELS[:, None], LABELS.astype("float32")):
        assert streamed(ExpectedCalibrationError(from_logits=True), labels, LOGITS) == pytest.approx(expected, abs=1e-7)


def test_the_calibration_error_of_one_output_is_that_of_yes_and_no():
    yes, truth = special.expit(LOGITS[:, :1].astype("float64"))[:, 0], LABELS % 2
    expected = error(np.maximum(yes, 1 - yes), (yes > 0.5) == truth, np.ones(COUNT))
    for labels in (truth, truth[:, None]):
        received = streamed(ExpectedCalibrationError(from_logits=True), labels, LOGITS[:, :1])
        assert received == pytest.approx(expected, abs=1e-6)


def test_a_confidence_on_the_edge_belongs_to_the_bin_below():
    # 3 / 15 and a little more: accuracies 1 and 0. In one bin they would cancel to |0.5 - 0.2|.
    probabilities = np.float32([[0.2, 0.2, 0.2, 0.2, 0.2], [0.21, 0.2, 0.2, 0.2, 0.19]])
    metric = ExpectedCalibrationError()
    metric.update_state([0, 1], probabilities)
    assert float(metric.result()) == pytest.approx((0.8 + 0.21) / 2, abs=1e-6)
    calibration = Calibration()
    calibration.add(np.array([0.2, 0.21, 1.0]), np.array([1, 0, 1]), np.ones(3))
    np.testing.assert_array_equal(np.flatnonzero(calibration.weight), [2, 3, 14])


@pytest.mark.parametrize("size", [1, 16, COUNT])
def test_agreement_is_the_accuracy_with_the_teacher_for_truth(size):
    for weights in (None, WEIGHTS):
        expected = accuracy_score(TEACHER.argmax(-1), LOGITS.argmax(-1), sample_weight=weights)
        for teacher in (TEACHER, special.softmax(TEACHER, axis=-1), TEACHER.argmax(-1)):
            received = streamed(Agreement(), teacher, LOGITS, weights, size)
            assert received == pytest.approx(expected, abs=1e-6)


def test_agreement_by_threshold_counts_labels_one_by_one():
    expected = np.mean((TEACHER > 0) == (LOGITS > 0))
    assert streamed(Agreement(threshold=0.0), TEACHER, LOGITS) == pytest.approx(expected, abs=1e-6)
    received = streamed(Agreement(threshold=0.5), special.expit(TEACHER), special.expit(LOGITS))
    assert received == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_any_model_trains_and_evaluates_with_both():
    x, y = batch(21)
    teacher, student = linear(1), linear(2)
    probabilities = tf.nn.softmax(teacher(x)).numpy()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    student.compile("sgd", loss, metrics=[Agreement(), ExpectedCalibrationError(from_logits=True)])
    student.fit(x, probabilities, batch_size=8, verbose=0)
    logs = student.evaluate(x, probabilities, batch_size=8, verbose=0, return_dict=True)
    p = special.softmax(student.predict(x, verbose=0).astype("float64"), axis=-1)
    correct = p.argmax(-1) == probabilities.argmax(-1)
    assert logs["agreement"] == pytest.approx(np.mean(correct), abs=1e-6)
    assert logs["expected_calibration_error"] == pytest.approx(error(p.max(-1), correct, np.ones(21)), abs=1e-6)


def distilled(more, eagerly, rate):
    """Train for an epoch of uneven batches; return what was logged, and the student."""
    (x, y), weights = batch(21), np.linspace(0.0, 2.0, 21)
    student = linear(2)
    terms = [Term(losses.kl_divergence), *more]
    distiller = Distiller(student=student, teacher=linear(1), terms=terms)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(rate), loss, temperature=4.0, run_eagerly=eagerly)
    history = distiller.fit(x, y, batch_size=8, sample_weight=weights, shuffle=False, verbose=0).history
    return history, student.get_weights()


@pytest.mark.slow
@pytest.mark.parametrize("eagerly", [True, False], ids=["eager", "graph"])
def test_a_term_of_weight_0_logs_agreement_while_a_student_trains_and_changes_nothing(eagerly):
    (x, _), weights = batch(21), np.linspace(0.0, 2.0, 21)
    term = Term(same_prediction, weight=0.0, soften=False, name="agreement")
    same = linear(1).predict(x, verbose=0).argmax(-1) == linear(2).predict(x, verbose=0).argmax(-1)
    assert 0 < same.mean() < 1
    # Keras's mean of a batch is sum(w v) / examples, and the epoch's is over batches by their size.
    assert distilled([term], eagerly, 0.0)[0]["agreement"] == [pytest.approx(np.mean(weights * same), abs=1e-6)]
    with_it, without = distilled([term], eagerly, 0.5), distilled([], eagerly, 0.5)
    for received, expected in zip(with_it[1], without[1], strict=True):
        np.testing.assert_array_equal(received, expected)
    assert with_it[0]["loss"] == without[0]["loss"]


def test_the_term_of_agreement_is_loaded_with_its_function():
    term = Term(same_prediction, weight=0.0, soften=False, threshold=0.5, name="agreement")
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(term))
    assert loaded.loss is same_prediction and loaded.get_config() == term.get_config()


def test_masked_positions_do_not_count():
    model, x = tagger(1), np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    y = x % 3
    outputs = model(x)
    p, kept = special.softmax(outputs.numpy().astype("float64"), axis=-1), x > 0
    correct = p.argmax(-1) == y
    for metric, expected in (
        (Agreement(), np.mean(correct[kept])),
        (ExpectedCalibrationError(from_logits=True), error(p.max(-1)[kept], correct[kept], np.ones(kept.sum()))),
    ):
        metric.update_state(y, outputs)
        assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_a_reset_forgets():
    for metric in (Agreement(), ExpectedCalibrationError(from_logits=True)):
        metric.update_state(np.zeros(COUNT), LOGITS)
        metric.reset_state()
        assert float(metric.result()) == 0.0
        assert streamed(metric, LABELS, LOGITS) == streamed(
            type(metric).from_config(metric.get_config()), LABELS, LOGITS
        )


@pytest.mark.parametrize(
    "metric", [Agreement(0.5, name="a"), Agreement(), ExpectedCalibrationError(7, True, name="b", dtype="float64")]
)
def test_metrics_are_loaded_with_the_model_that_was_compiled_with_them(tmp_path, metric):
    model, data = linear(1), [np.zeros((2, size), "float32") for size in (4, 3)]
    model.compile("sgd", "mse", metrics=[metric], run_eagerly=True)
    model.evaluate(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    logs = loaded.evaluate(*data, verbose=0, return_dict=True)
    assert logs[metric.name] == float(metric.result())
    received = loaded.metrics[-1].metrics[0]
    assert type(received) is type(metric) and received.get_config() == metric.get_config()


@pytest.mark.parametrize("bins", [0, 1.5])
def test_invalid_bins_are_refused(bins):
    with pytest.raises(ValueError, match=f"bins={bins}"):
        ExpectedCalibrationError(bins)


@pytest.mark.slow
@hypothesis.given(
    batches=strategies.lists(
        strategies.tuples(strategies.floats(-1e3, 1e3, width=32), strategies.integers(1, 9)), min_size=1, max_size=5
    )
)
def test_means_weigh_each_batch_and_keep_the_numbers_apart(batches):
    means = LossTracker(["first", "second", "never"])
    for value, weight in batches:
        means.update_state({"first": value, "second": float("nan")}, weight)
    values, weights = np.array(batches, np.float64).T
    received = means.result()
    np.testing.assert_allclose(received["first"], np.average(values, weights=weights), rtol=1e-5, atol=1e-3)
    assert np.isnan(received["second"]) and received["never"] == 0.0
    means.reset_state()
    assert [float(value) for value in means.result().values()] == [0.0, 0.0, 0.0]
