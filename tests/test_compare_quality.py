"""`measure`: every number against scikit-learn, SciPy or the definition in float64, however the data are split."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats
from sklearn import metrics
from sklearn.ensemble import RandomForestClassifier

import keras_kd as kd
from keras_kd._internal import batches
from keras_kd.evaluation import measure, ranking
from tests.models import Subclassed, batch, dense, headed, linear

CLASSES, COUNT = 6, 53
RANDOM = np.random.default_rng(7)
TEACHER = (3 * RANDOM.normal(size=(COUNT, CLASSES))).astype("float32")
STUDENT = (TEACHER + 2 * RANDOM.normal(size=(COUNT, CLASSES))).astype("float32")
TEACHER[:, 4] -= 50  # class 4 is never predicted by either
STUDENT[:, 4] -= 50
LABELS = np.where(RANDOM.random(COUNT) < 0.4, RANDOM.integers(0, 4, COUNT), np.argmax(TEACHER, -1))
LABELS[LABELS == 5] = 0  # class 5 is predicted but never true, class 4 neither
WEIGHTS = RANDOM.uniform(0.1, 3.0, COUNT)
X = {"student": STUDENT, "teacher": TEACHER}


def parrot(name, outputs=CLASSES, activation=None, positions=()):
    """A model that outputs the values that the data have under its name."""
    x = keras.Input((*positions, outputs), name=name)
    return keras.Model(x, keras.layers.Activation(activation)(x))


def measured(x=X, y=LABELS, *weights, outputs=CLASSES, **arguments):
    return measure(parrot("student", outputs), (x, y, *weights), teacher=parrot("teacher", outputs), **arguments)


def expected_of_classes(student, teacher, labels, weights):
    """Everything at once, by scikit-learn and SciPy; the expected calibration error bin by bin from the paper."""
    p, q = (special.softmax(z.astype("float64"), axis=-1) for z in (student, teacher))
    predicted, teachers, classes = np.argmax(p, -1), np.argmax(q, -1), np.arange(CLASSES)
    wrong = teachers != labels
    top_2 = metrics.top_k_accuracy_score(labels, student, k=2, sample_weight=weights, labels=classes)
    return {
        "accuracy": metrics.accuracy_score(labels, predicted, sample_weight=weights),
        "top_2_accuracy": top_2,
        "nll": metrics.log_loss(labels, p, sample_weight=weights, labels=classes),
        "brier": np.average(np.sum((p - np.eye(CLASSES)[labels]) ** 2, axis=-1), weights=weights),
        "f1_macro": metrics.f1_score(labels, predicted, average="macro", sample_weight=weights, zero_division=0),
        "ece": calibration_error(p.max(-1), predicted == labels, weights),
        "agreement": metrics.accuracy_score(teachers, predicted, sample_weight=weights),
        "kl_teacher_student": np.average(stats.entropy(q, p, axis=-1), weights=weights),
        "kl_student_teacher": np.average(stats.entropy(p, q, axis=-1), weights=weights),
        "agreement_where_teacher_wrong": np.average((predicted == teachers)[wrong], weights=weights[wrong]),
    }


def calibration_error(confidence, correct, weights):
    error = 0.0
    for bin_ in range(15):
        inside = (confidence > bin_ / 15) & (confidence <= (bin_ + 1) / 15)
        if inside.any():
            share = weights[inside].sum() / weights.sum()
            gap = np.average(correct[inside], weights=weights[inside]) - np.average(
                confidence[inside], weights=weights[inside]
            )
            error += share * abs(gap)
    return error


def assert_equal(received, expected, tolerance=1e-6):
    assert list(received) == list(expected)
    for name, value in expected.items():
        assert received[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize("batch_size", [1, 8, 53, 64])
@pytest.mark.parametrize("weighted", [False, True])
def test_measures_of_classes_equal_the_references_however_the_data_are_split(batch_size, weighted):
    weights = WEIGHTS if weighted else np.ones(COUNT)
    received = measured(X, LABELS, *([WEIGHTS] if weighted else []), top_k=2, batch_size=batch_size)
    assert list(received) == list(NAMES)
    assert_equal({name: received[name] for name in sorted(received)}, _sorted(STUDENT, TEACHER, LABELS, weights))


NAMES = (
    *("accuracy", "top_2_accuracy", "nll", "brier", "f1_macro", "ece"),
    *("agreement", "kl_teacher_student", "kl_student_teacher", "agreement_where_teacher_wrong"),
)


def _sorted(*arguments):
    return dict(sorted(expected_of_classes(*arguments).items()))


def test_the_teacher_comes_second():
    forth, back = measured(), measured({"student": TEACHER, "teacher": STUDENT})
    assert forth["kl_teacher_student"] == pytest.approx(back["kl_student_teacher"])
    assert forth["kl_teacher_student"] != pytest.approx(back["kl_teacher_student"], rel=1e-2)
    assert forth["accuracy"] != back["accuracy"]


def test_an_example_without_weight_does_not_count():
    weights = np.where(np.arange(COUNT) % 5 == 0, 0.0, WEIGHTS)
    weights[LABELS == 3] = 0.0  # a class that has no weight does not count for the macro F1
    kept = weights > 0
    x = {name: value.copy() for name, value in X.items()}
    x["student"][0] = np.nan
    received = measured(x, LABELS, weights, top_k=2)
    expected = expected_of_classes(STUDENT[kept], TEACHER[kept], LABELS[kept], weights[kept])
    assert_equal(dict(sorted(received.items())), dict(sorted(expected.items())))


def test_a_dataset_with_a_ragged_last_batch_equals_arrays():
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS, WEIGHTS)).shuffle(COUNT).batch(10)
    received = measure(parrot("student"), dataset, teacher=parrot("teacher"))
    assert_equal(received, measured(X, LABELS, WEIGHTS), 1e-12)


def test_one_hot_labels_and_columns_of_ids_equal_ids():
    expected = measured()
    assert measured(X, np.eye(CLASSES)[LABELS]) == expected
    assert measured(X, LABELS[:, None]) == expected
    assert measured(X, LABELS.astype("float32")) == expected


@pytest.mark.slow
def test_top_k_of_more_than_the_classes_is_1():
    assert measured(top_k=9)["top_9_accuracy"] == 1.0
    assert measured()["top_5_accuracy"] == measured(top_k=5)["top_5_accuracy"]
    assert measured(top_k=1)["top_1_accuracy"] == measured()["accuracy"] < 1.0


def test_extreme_logits_have_exact_measures():
    # Softmax of (200, -200): the log-probabilities are 0 and -400, where probabilities would be clipped at 1e-7 (16.1).
    x = {"student": np.float32([[200, -200], [-200, 200]]), "teacher": np.float32([[-200, 200], [-200, 200]])}
    received = measured(x, np.array([1, 1]), outputs=2)
    assert received["nll"] == 200.0  # 400 for the first, 0 for the second
    assert received["kl_teacher_student"] == received["kl_student_teacher"] == 200.0
    assert received["brier"] == 1.0  # 2 and 0
    assert received["ece"] == 0.5


def test_a_class_that_is_impossible_for_both_adds_nothing():
    x = {"student": np.float32([[1, 0, -np.inf]]), "teacher": np.float32([[0, 1, -np.inf]])}
    # Two classes, logits one apart, swapped: KL = (p1 - p2) * 1 with p1 - p2 = tanh(1 / 2).
    assert measured(x, np.array([0]), outputs=3)["kl_teacher_student"] == pytest.approx(np.tanh(0.5))


def test_the_agreement_where_the_teacher_is_wrong_is_undefined_if_it_never_is():
    received = measured(X, np.argmax(TEACHER, -1))
    assert np.isnan(received["agreement_where_teacher_wrong"])
    assert np.isfinite(received["agreement"])


def test_without_a_teacher_there_is_quality_alone():
    received = measure(parrot("student"), (X, LABELS))
    assert list(received) == ["accuracy", "top_5_accuracy", "nll", "brier", "f1_macro", "ece"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["functional", "activation", "sequential", "nested", "subclassed"])
def test_a_softmax_headed_copy_gives_the_numbers_of_the_logits(kind):
    x, y = batch(16)
    x *= 40  # probabilities far below the smallest float32
    teacher = linear(5)
    received = [measure(headed(1, head, kind), (x, y), teacher=teacher) for head in ("softmax", "logits")]
    assert received[0] == pytest.approx(received[1], abs=1e-6)
    received = [measure(teacher, (x, y), teacher=headed(1, head, kind)) for head in ("softmax", "logits")]
    assert received[0] == pytest.approx(received[1], abs=1e-6)


def test_the_user_may_declare_a_head_that_cannot_be_recognised():
    x, y = batch(16)
    probabilities = Subclassed(dense(3, 1))
    probabilities.call = lambda x: keras.ops.exp(keras.ops.log_softmax(probabilities.layer(x)))
    probabilities(x)
    teacher = kd.teachers.Frozen(probabilities, head="softmax")
    assert measure(teacher, (x, y)) == pytest.approx(measure(headed(1, "logits"), (x, y)), abs=1e-6)


def test_an_ensemble_is_compared_by_its_mean_probabilities():
    x, y = batch(16)
    members = [linear(1), linear(2)]
    mean = np.mean([special.softmax(member(x).numpy().astype("float64"), axis=-1) for member in members], axis=0)
    assert measure(members, (x, y))["nll"] == pytest.approx(metrics.log_loss(y, mean, labels=range(3)), abs=1e-6)


def test_positions_count_and_masked_ones_do_not():
    words = keras.Input((4,), dtype="int32")
    scores = keras.layers.Embedding(5, 3, mask_zero=True, embeddings_initializer="random_normal")(words)
    model = keras.Model(words, scores)
    x = np.array([[1, 2, 3, 4], [4, 3, 0, 0], [1, 0, 0, 0]])
    y = np.where(x == 0, -1, x % 3)
    kept = x > 0
    logits = model.get_weights()[0][x[kept]].astype("float64")
    received = measure(model, (x, y), batch_size=2)
    assert received["accuracy"] == pytest.approx(np.mean(np.argmax(logits, -1) == y[kept]))
    expected = metrics.log_loss(y[kept], special.softmax(logits, axis=-1), labels=range(3))
    assert received["nll"] == pytest.approx(expected, abs=1e-6)


class Lengths(keras.utils.PyDataset):
    """Three batches of sequences of two, three and four positions."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, number):
        positions = number + 2
        return self.x[:, :positions], self.y[:, :positions]


def test_batches_of_any_length_and_datasets_of_keras_are_read():
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    random = np.random.default_rng(0)
    x, y = random.normal(size=(4, 4, 3)).astype("float32"), random.integers(0, 3, (4, 4))
    rows = [x[:, : number + 2].reshape(-1, 3) for number in range(3)]
    labels = np.concatenate([y[:, : number + 2].ravel() for number in range(3)])
    expected = metrics.log_loss(labels, special.softmax(np.concatenate(rows).astype("float64"), -1), labels=range(3))
    assert measure(model, Lengths(x, y))["nll"] == pytest.approx(expected, abs=1e-6)


# Yes or no.

YES = (RANDOM.random((COUNT, CLASSES)) < special.expit(TEACHER)).astype("int64")
YES[:, 4] = 0  # never true, and never predicted


@pytest.mark.parametrize("task", ["classification", "multi-label", "regression"])
def test_batches_without_weight_do_not_count(task):
    y = LABELS if task == "classification" else YES
    weights = np.where(np.arange(COUNT) % 16 < 8, WEIGHTS, 0.0)
    kept = weights > 0
    received = measured(X, y, weights, task=task, batch_size=8)
    expected = measured({name: x[kept] for name, x in X.items()}, y[kept], WEIGHTS[kept], task=task)
    assert received == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(12, 4), (48, 1)])
@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("classification", LABELS),
        ("classification", LABELS[:, None]),
        ("classification", np.eye(CLASSES)[LABELS]),
        ("multi-label", YES),
        ("regression", STUDENT + 0.5),
    ],
)
def test_positions_have_the_measures_of_as_many_examples(task, labels, shape):
    examples, y, weights = {name: x[:48] for name, x in X.items()}, labels[:48], WEIGHTS[:48]
    student, teacher = (parrot(name, positions=shape[1:]) for name in X)
    x = {name: each.reshape(*shape, CLASSES) for name, each in examples.items()}
    expected = measured(examples, y, weights, task=task)
    for given in (weights.reshape(shape), weights.reshape(*shape, 1)):
        received = measure(student, (x, y.reshape(*shape, *y.shape[1:]), given), teacher=teacher)
        assert received == pytest.approx(expected, abs=1e-12)


VARIED = [k for k in range(CLASSES) if 0 < np.mean(YES[:, k]) < 1]  # only these can be ranked
AREAS = (("pr_auc", metrics.average_precision_score), ("roc_auc", metrics.roc_auc_score))


@pytest.mark.parametrize("batch_size", [1, 8, 53])
def test_measures_of_labels_equal_the_references(batch_size):
    p, q = special.expit(STUDENT.astype("float64")), special.expit(TEACHER.astype("float64"))
    found, teachers = p > 0.5, q > 0.5
    w, wrong = WEIGHTS, teachers != (YES > 0)
    each = np.repeat(w, CLASSES).reshape(COUNT, CLASSES)
    present = np.flatnonzero(found.any(0) | YES.any(0))
    assert 4 not in present
    two = [np.stack([1 - each, each], -1) for each in (q, p)]
    kl, reverse = stats.entropy(*two, axis=-1), stats.entropy(*two[::-1], axis=-1)
    expected = {
        "accuracy": np.mean([metrics.accuracy_score(YES[:, k], found[:, k], sample_weight=w) for k in range(CLASSES)]),
        "exact_match": metrics.accuracy_score(YES, found, sample_weight=w),
        "nll": metrics.log_loss(YES.ravel(), p.ravel(), sample_weight=each.ravel()),
        "brier": metrics.brier_score_loss(YES.ravel(), p.ravel(), sample_weight=each.ravel()),
        "f1_macro": metrics.f1_score(YES[:, present], found[:, present], average="macro", sample_weight=w),
        "f1_micro": metrics.f1_score(YES, found, average="micro", sample_weight=w),
        **{name: np.mean([area(YES[:, k], STUDENT[:, k], sample_weight=w) for k in VARIED]) for name, area in AREAS},
        "ece": calibration_error(np.maximum(p, 1 - p).ravel(), (found == (YES > 0)).ravel(), each.ravel()),
        "agreement": np.average(found == teachers, weights=each),
        "kl_teacher_student": np.average(kl, weights=each),
        "kl_student_teacher": np.average(reverse, weights=each),
        "agreement_where_teacher_wrong": np.average((found == teachers)[wrong], weights=each[wrong]),
    }
    # Logits of -50 are beyond what 1 - p can represent in float64: 1e-22 from 1.
    received = measured(X, YES, WEIGHTS, batch_size=batch_size, task="multi-label")
    assert_equal(received, expected)


def test_a_label_that_is_impossible_for_both_adds_nothing():
    x = {"student": np.float32([[1, -np.inf]]), "teacher": np.float32([[1, -np.inf]])}
    received = measured(x, np.array([[1, 0]]), outputs=2, task="multi-label")
    assert received["kl_teacher_student"] == received["kl_student_teacher"] == 0.0
    assert received["nll"] == pytest.approx(np.log1p(np.exp(-1)) / 2)


def test_a_logit_of_zero_is_no_of_student_and_teacher():
    x = {"student": np.float32([[0, 2]]), "teacher": np.float32([[0, -1]])}  # no and yes, no and no
    received = measured(x, np.array([[1, 1]]), outputs=2, task="multi-label")
    assert (received["accuracy"], received["agreement"]) == (0.5, 0.5)
    assert received["agreement_where_teacher_wrong"] == 0.5  # the teacher is wrong on both


def test_a_sigmoid_headed_copy_gives_the_numbers_of_the_logits():
    student = parrot("student", activation="sigmoid")
    received = measure(student, (X, YES), teacher=parrot("teacher", activation="sigmoid"))
    assert received == pytest.approx(measured(X, YES, task="multi-label"), abs=1e-6)


# Numbers.


@pytest.mark.parametrize("batch_size", [1, 8, 53])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_measures_of_numbers_equal_the_references(batch_size, offset):
    y = STUDENT.astype("float64") + 0.3 * RANDOM.normal(size=STUDENT.shape) + offset
    x = {"student": STUDENT + np.float32(offset), "teacher": TEACHER + np.float32(offset)}
    student, teacher = (x[name].astype("float64") for name in ("student", "teacher"))
    w = WEIGHTS
    expected = {
        "mae": metrics.mean_absolute_error(y, student, sample_weight=w),
        "rmse": np.sqrt(metrics.mean_squared_error(y, student, sample_weight=w)),
        "r2": metrics.r2_score(y, student, sample_weight=w),
        "mae_to_teacher": metrics.mean_absolute_error(teacher, student, sample_weight=w),
        "rmse_to_teacher": np.sqrt(metrics.mean_squared_error(teacher, student, sample_weight=w)),
    }
    assert_equal(measured(x, y, w, batch_size=batch_size), expected)


def test_r2_of_a_constant_is_1_where_it_is_met_and_else_0_as_in_scikit_learn():
    x = np.float32([[1.0, 2.0], [1.0, 3.0]])
    y = np.float32([[1.0, 5.0], [1.0, 5.0]])
    received = measure(parrot("student", 2), (x, y), task="regression")
    assert received["r2"] == metrics.r2_score(y, x) == 0.5


def test_one_output_takes_labels_without_its_axis():
    received = measure(parrot("student", 1), (STUDENT[:, :1], 2.5 * STUDENT[:, 0]))
    assert received["mae"] == pytest.approx(np.mean(np.abs(1.5 * STUDENT[:, 0].astype("float64"))), abs=1e-6)


# Which task.


@pytest.mark.parametrize(
    ("activation", "outputs", "labels", "name"),
    [
        (None, CLASSES, LABELS, "top_5_accuracy"),
        (None, CLASSES, np.eye(CLASSES)[LABELS], "top_5_accuracy"),
        ("softmax", CLASSES, LABELS, "top_5_accuracy"),
        (None, CLASSES, YES, "exact_match"),
        ("sigmoid", CLASSES, np.eye(CLASSES)[LABELS], "exact_match"),
        ("sigmoid", 1, YES[:, 0], "f1"),
        (None, 1, YES[:, :1], "f1"),
        (None, CLASSES, TEACHER, "mae"),
        (None, 1, TEACHER[:, 0], "mae"),
    ],
)
def test_the_task_follows_from_head_and_labels(activation, outputs, labels, name):
    assert name in measure(parrot("student", outputs, activation), (STUDENT[:, :outputs], labels))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("batch_size", [7, 256])
def test_one_output_of_yes_or_no_is_ranked_and_has_a_threshold_from_other_data(ties, batch_size):
    random = np.random.default_rng(3)
    scores = random.normal(size=(240, 1)).astype("float32")
    scores = np.round(2 * scores) / 2 if ties else scores
    y, w = (random.random(240) < special.expit(2 * scores[:, 0] - 2)).astype("int64"), random.uniform(0.1, 2, 240)
    chosen, tested = slice(0, 120), slice(120, None)
    data, validation = ((scores[part], y[part], w[part]) for part in (tested, chosen))
    received = measure(parrot("student", 1, "sigmoid"), data, batch_size=batch_size, validation=validation)
    p = special.expit(scores[:, 0].astype("float64"))
    for name, area in AREAS:
        assert received[name] == pytest.approx(area(y[tested], p[tested], sample_weight=w[tested]), abs=1e-9)
    found = [metrics.f1_score(y[chosen], p[chosen] >= each, sample_weight=w[chosen]) for each in np.unique(p[chosen])]
    threshold = received["threshold"]
    assert metrics.f1_score(y[chosen], p[chosen] > threshold, sample_weight=w[chosen]) == pytest.approx(max(found))
    for name, score in {
        "f1": metrics.f1_score,
        "precision": metrics.precision_score,
        "recall": metrics.recall_score,
    }.items():
        expected = score(y[tested], p[tested] > threshold, sample_weight=w[tested])
        assert received[f"{name}_at_threshold"] == pytest.approx(expected)
    assert received["f1"] == pytest.approx(metrics.f1_score(y[tested], p[tested] > 0.5, sample_weight=w[tested]))
    assert received["brier"] == pytest.approx(metrics.brier_score_loss(y[tested], p[tested], sample_weight=w[tested]))


@pytest.mark.slow
def test_each_of_several_labels_has_a_threshold_of_its_own():
    received = measured(X, YES, WEIGHTS, task="multi-label", validation=({"student": STUDENT}, YES, WEIGHTS))
    best = [
        max(metrics.f1_score(YES[:, k], STUDENT[:, k] >= each, sample_weight=WEIGHTS) for each in STUDENT[:, k])
        for k in range(CLASSES)
        if YES[:, k].any()
    ]
    assert 4 not in VARIED and received["f1_at_threshold"] == pytest.approx(np.mean(best))
    assert "threshold" not in received


@pytest.mark.parametrize(
    "wrap", [lambda forest: forest, kd.teachers.Python, lambda forest: kd.teachers.Ensemble([forest, forest])]
)
@pytest.mark.parametrize("units", [1, 2])
def test_an_estimator_of_two_classes_is_compared_with_one_unit_or_two(units, wrap):
    x, y = batch(64, classes=2)
    forest = RandomForestClassifier(5, random_state=0).fit(x, y)
    activation = "sigmoid" if units == 1 else "softmax"
    student = keras.Sequential([keras.Input((4,)), dense(units, 1, activation=activation)])
    models = {"teacher": wrap(forest), "student": student}
    found = kd.compare(models, (x, y), rounds=0).quality["teacher"]["accuracy"]
    assert found == metrics.accuracy_score(y, forest.predict_proba(x)[:, 1] > 0.5)


@pytest.mark.parametrize("wrap", [lambda forest: forest, kd.teachers.Python])
def test_an_estimator_of_two_classes_alone_has_one_unit_where_the_task_is_binary(wrap):
    x, y = batch(64, classes=2)
    forest = RandomForestClassifier(5, max_depth=2, random_state=0).fit(x, y)
    found = kd.compare({"forest": wrap(forest)}, (x, y), teacher=None, task="binary", rounds=0).quality["forest"]
    assert found["pr_auc"] == pytest.approx(metrics.average_precision_score(y, forest.predict_proba(x)[:, 1]))
    assert "pr_auc" not in kd.compare({"forest": wrap(forest)}, (x, y), teacher=None, rounds=0).quality["forest"]


def test_labels_that_are_all_equal_cannot_be_ranked():
    received = measure(parrot("student", 1, "sigmoid"), (STUDENT[:, :1], np.zeros(COUNT)))
    assert np.isnan(received["pr_auc"]) and np.isnan(received["roc_auc"])


def test_more_scores_than_memory_holds_are_not_ranked(monkeypatch):
    monkeypatch.setattr(ranking, "_MOST", 2 * COUNT - 1)
    received = measure(parrot("student", 1, "sigmoid"), (np.tile(STUDENT[:, :1], (2, 1)), np.tile(YES[:, 0], 2)))
    assert "pr_auc" not in received and "f1" in received


def test_tokens_of_a_vocabulary_have_a_perplexity_under_their_weights():
    random = np.random.default_rng(0)
    logits, y = random.normal(size=(4, 6, 101)).astype("float32"), random.integers(0, 101, (4, 6))
    weights = (random.random((4, 6)) < 0.5).astype("float32")
    received = measure(parrot("student", 101, positions=(6,)), (logits, y, weights))
    p = special.softmax(logits.astype("float64"), axis=-1)
    expected = np.exp(-np.average(np.log(np.take_along_axis(p, y[..., None], -1)[..., 0]), weights=weights))
    assert received["perplexity"] == pytest.approx(expected) and "f1_macro" not in received


@pytest.mark.parametrize("ignored", [-100, 2, 255])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_of_an_ignored_class_do_not_count(ignored, weighted):
    weights = WEIGHTS if weighted else np.ones(COUNT)
    left_out = np.arange(COUNT) % 3 == 0
    y = np.where(left_out, ignored, LABELS)
    kept = y != ignored  # class 2 is left out where it was the label, too
    received = measured(X, y, *([weights] if weighted else []), batch_size=8, ignore_class=ignored)
    expected = measured({name: x[kept] for name, x in X.items()}, LABELS[kept], weights[kept])
    assert received == pytest.approx(expected, abs=1e-12)


def test_an_ignored_class_at_positions_is_left_out_of_every_output():
    inputs = keras.Input((4, 3))
    heads = {"cls": keras.layers.Activation("linear")(inputs), "box": keras.layers.Activation("linear")(inputs)}
    models = {"teacher": keras.Model(inputs, heads), "student": keras.Model(inputs, heads)}
    x, cls = RANDOM.normal(size=(9, 4, 3)).astype("float32"), RANDOM.integers(-1, 3, (9, 4))
    tasks = {"cls": "classification", "box": "regression"}
    found = kd.compare(models, (x, {"cls": cls, "box": x}), task=tasks, rounds=0, ignore_class=-1)
    kept = cls >= 0
    assert found.quality["student"]["cls/accuracy"] == pytest.approx(np.mean(np.argmax(x, -1)[kept] == cls[kept]))
    assert found.quality["student"]["box/mae"] == 0


def test_a_task_of_an_output_that_no_model_has_is_refused():
    inputs = keras.Input((3,))
    models = {
        "teacher": keras.Model(inputs, {name: keras.layers.Activation("linear")(inputs) for name in ("cls", "box")})
    }
    x = RANDOM.normal(size=(9, 3)).astype("float32")
    with pytest.raises(ValueError, match=r"outputs of the models, \['box', 'cls'\]\. Received one for \['labels'\]"):
        kd.compare(models, (x, {"box": x}), task={"labels": "classification", "box": "regression"}, rounds=0)


def test_thresholds_are_for_yes_or_no():
    with pytest.raises(ValueError, match="Expected `validation` for yes-or-no outputs.*classification"):
        measured(validation=(X, LABELS))
    with pytest.raises(ValueError, match="one output for binary"):
        measured(X, YES, task="binary")


def test_values_mean_regression():
    model = kd.teachers.Frozen(parrot("student", 1), head="values")
    assert "mae" in measure(model, (STUDENT[:, :1], YES[:, :1]))


# What is refused.


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("from 0 to 5.*: 8.*ignore_class=8", {"y": LABELS + 6}),
        ("one-hot.*multi-label", {"y": YES, "task": "classification"}),
        ("0 and 1", {"y": TEACHER, "task": "multi-label"}),
        ("0 and 1", {"y": np.where(np.arange(CLASSES) == 2, 0.5, YES), "task": "multi-label"}),
        ("shape.*53, 6", {"y": LABELS, "task": "regression"}),
        ("one of.*multi-label.*'guess'", {"task": "guess"}),
        ("top_k=0", {"top_k": 0}),
        (r"lengths \[52, 53\]", {"y": LABELS[1:]}),
    ],
)
def test_what_does_not_fit_is_refused(words, arguments):
    with pytest.raises(ValueError, match=words):
        measured(**arguments)


def test_weights_that_do_not_fit_are_refused():
    for weights, words in ((np.ones((COUNT, 2)), r"\(53,\).*\(53, 2\)"), (-WEIGHTS, "negative")):
        with pytest.raises(ValueError, match=words):
            measured(X, LABELS, weights)
    with pytest.raises(ValueError, match="at least one example"):
        measured(X, LABELS, np.zeros(COUNT))


def test_data_without_labels_or_end_are_refused():
    with pytest.raises(ValueError, match="labels.*x alone"):
        measure(parrot("student"), tf.data.Dataset.from_tensor_slices(STUDENT).batch(4))
    with pytest.raises(ValueError, match="for ever.*take"):
        measure(parrot("student"), tf.data.Dataset.from_tensors((STUDENT, LABELS)).repeat())
    with pytest.raises(TypeError, match="tuple.*ndarray"):
        measure(parrot("student"), STUDENT)


def test_tuples_of_another_length_are_refused():
    for data in ((STUDENT,), (STUDENT, LABELS, WEIGHTS, WEIGHTS)):
        with pytest.raises(ValueError, match=rf"\(x, y\) or .*a tuple of {len(data)}"):
            measure(parrot("student"), data)


def test_the_number_of_batches_is_printed_where_it_is_known():
    dataset = tf.data.Dataset.from_tensor_slices((STUDENT, LABELS)).batch(10)
    assert batches.count((X, LABELS), 10) == batches.count(dataset, 3) == 6  # 53 examples
    assert batches.count((X, LABELS), 53) == 1
    assert batches.count(Lengths(STUDENT, LABELS), 10) == 3
    assert batches.count(dataset.filter(lambda *_: True), 10) is batches.count(iter([]), 10) is None


def test_models_that_do_not_fit_are_refused():
    x, y = batch(8)
    with pytest.raises(ValueError, match=r"\(8, 3\).*\(8, 7\)"):
        measure(linear(1), (x, y), teacher=linear(2, classes=7))
    with pytest.raises(ValueError, match="one task.*classification.*multi-label"):
        measure(headed(1, "softmax"), (x, y), teacher=headed(1, "sigmoid"))
    with pytest.raises(TypeError, match=r"distiller\.student"):
        measure(kd.Distiller(student=linear(1), teacher=linear(2)), (x, y))
    inputs = keras.Input((4,))
    two = keras.Model(inputs, {"a": dense(3, 1)(inputs), "b": dense(3, 2)(inputs)})
    with pytest.raises(ValueError, match=r"labels for each of the outputs \['a', 'b'\], in a dict"):
        measure(two, (x, y))
    with pytest.raises(ValueError, match=r"names of the outputs, \['a', 'b'\]. Received: dict with \['a', 'c'\]"):
        measure(two, (x, {"a": y, "c": y}))
    with pytest.raises(ValueError, match="same outputs.*'model': .*'teacher': "):
        measure(two, (x, {"a": y}), teacher=linear(1))
