"""Mistakes that raise no error are reported before they have cost anything."""

import re
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize
from sklearn import metrics

import keras_kd as kd
from keras_kd.preflight.batch_outputs import Rows, View
from keras_kd.preflight.check_report import Report
from keras_kd.preflight.teacher_quality import guesses, judge
from tests.models import Subclassed, assert_same, batch, dense, mlp, numbers, softmax, statistical, tagger

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def digits():
    return kd.data.load("digits")


@pytest.fixture(scope="module")
def trained(digits):
    """A teacher that has learned from pixels between 0 and 1."""
    keras.utils.set_random_seed(0)
    teacher = net(64)
    teacher.compile(keras.optimizers.Adam(3e-3), LOSS)
    teacher.fit(*digits.train, epochs=8, verbose=0)
    return teacher


def net(units: int, **last) -> keras.Model:
    layers = [keras.layers.Flatten(), keras.layers.Dense(units, "relu"), keras.layers.Dense(10, **last)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def compiled(teacher, temperature: float = 4.0, student=None, **more) -> kd.Distiller:
    distiller = kd.Distiller(student=net(8) if student is None else student, teacher=teacher, **more)
    distiller.compile("adam", LOSS, temperature=temperature)
    return distiller


@pytest.mark.slow
def test_a_good_teacher_is_measured_without_a_warning(digits, trained):
    x, y = digits.train
    report = compiled(trained).check(x, y, batch_size=100, batches=1000)
    logits = trained.predict(x, verbose=0).astype("float64")
    p = softmax(logits)
    assert report.examples == len(x) and report.classes == 10
    np.testing.assert_allclose(report.teacher_accuracy, np.mean(np.argmax(logits, axis=-1) == y), rtol=1e-9)
    np.testing.assert_allclose(report.guessing, np.bincount(y).max() / len(y), rtol=1e-9)
    np.testing.assert_allclose(report.confidence, p.max(axis=-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(report.teacher_scale, logits.std(axis=-1).mean(), rtol=1e-5)
    q = softmax(logits / 4.0)
    np.testing.assert_allclose(report.entropy, np.mean(-np.sum(q * np.log(q), axis=-1)) / np.log(10), rtol=1e-5)
    assert report.advice == []
    assert "Nothing looks wrong" in str(report) and "teacher's accuracy" in str(report)


@pytest.mark.slow
def test_a_wrong_normalisation_of_the_teachers_input_is_caught(digits, trained):
    x, y = digits.train
    for wrong in (1.0 - x, x / 255.0, 10.0 * (x - 1.0)):
        advice = " ".join(compiled(trained).check(wrong, y).advice)
        assert "it is not shown what it was trained on" in advice and "preprocess" in advice
    brighter = compiled(trained).check(255.0 * x, y)  # which this teacher still reads, but no longer doubts
    assert "another range than the teacher was trained on" in " ".join(brighter.advice)
    cured = kd.teachers.Frozen(trained, preprocess=lambda x: 1.0 - x)
    assert compiled(cured).check(1.0 - x, y).advice == []


@pytest.mark.slow
def test_a_shuffled_order_of_labels_is_caught(digits, trained):
    x, y = digits.train
    order = np.random.default_rng(1).permutation(10)
    report = compiled(trained).check(x, order[y])
    assert "another order than the labels" in report.advice[0]
    assert report.renamed_accuracy > 0.9 > 0.5 > report.teacher_accuracy


@pytest.mark.slow
def test_chance_is_not_reported_as_an_order_of_labels(digits):
    x, y = digits.train
    keras.utils.set_random_seed(3)
    advice = compiled(net(64)).check(x, np.random.default_rng(0).integers(0, 10, len(y))).advice
    assert "not shown what it was trained on" in advice[0]


def test_few_examples_of_many_classes_are_not_reported_as_another_order():
    report = compiled(mlp(2, classes=200), student=mlp(1, classes=200)).check(*batch(128, classes=200), batches=4)
    assert report.renamed_accuracy < 0.1
    assert not any("order" in each for each in report.advice)


def test_labels_that_are_counted_from_one_are_caught(digits, trained):
    x, y = digits.train
    assert any("labels go from 1 to 10" in each for each in compiled(trained).check(x, y + 1).advice)


def test_one_hot_labels_and_datasets_give_the_same_report(digits, trained):
    x, y = (each[:96] for each in digits.train)
    distiller = compiled(trained)
    expected = distiller.check(x, y, batches=3)
    distiller.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), temperature=4.0)
    hot = tf.data.Dataset.from_tensor_slices((x, np.eye(10, dtype="float32")[y])).batch(32)
    found = distiller.check(hot)
    assert found.teacher_accuracy == expected.teacher_accuracy and found.confidence == pytest.approx(
        expected.confidence
    )


def test_a_temperature_at_which_targets_are_uniform_is_reported_with_a_better_one(digits, trained):
    x, y = digits.train
    for temperature, what in ((0.05, "hardly more than a label"), (500.0, "hardly anything")):
        (advice,) = compiled(trained, temperature).check(x, y).advice
        assert what in advice
        better = float(advice.split("temperature=")[1].split()[0])
        assert compiled(trained, better).check(x, y).entropy == pytest.approx(0.3, abs=0.03)


def test_no_temperature_is_recommended_where_something_else_is_wrong(digits, trained):
    x, y = digits.train
    for teacher, inputs, doubt in ((trained, 1000 * x, "another range"), (net(64), x / 100, "is the teacher trained")):
        advice = " ".join(compiled(teacher).check(inputs, y).advice)
        assert doubt in advice and "temperature=" not in advice, advice


def test_probabilities_that_are_read_as_logits_are_caught(digits, trained):
    x, y = digits.train
    found = compiled(lambda x: tf.nn.softmax(trained(x))).check(x, y).advice
    assert 'head="softmax"' in found[0]
    named = kd.teachers.Frozen(lambda x: tf.nn.softmax(trained(x)), head="softmax")
    assert compiled(named).check(x, y).advice == []


def probable():
    model = mlp(3)
    return lambda x: tf.nn.softmax(model(x))


def of_another_origin(x):
    return kd.Joined(x, {"logits": np.asarray(probable()(x))})


def one_column():
    model = mlp(3, classes=1)
    return lambda x: tf.nn.sigmoid(model(x))


def without_a_graph(activation):
    model = Subclassed(dense(3, 3, activation=activation))
    model.build((None, 4))
    return model


def scaled():
    model = mlp(3, activation="softmax")
    return keras.Model(model.input, keras.layers.Rescaling(0.5)(model.output))


def reshaped(model):
    return keras.Model(model.input, keras.layers.Reshape((3,))(keras.layers.Reshape((1, 3))(model.output)))


UNDECLARED = {
    "a function": probable,
    "a model that changes a softmax": scaled,
    "a model of another activation": lambda: mlp(3, activation=tf.nn.softmax),
    "a model without a graph": lambda: without_a_graph(tf.nn.softmax),
    "in an ensemble": lambda: [mlp(2), probable()],
    "remembered": lambda: kd.teachers.InMemory([mlp(2), probable()]),
    "joined by hand": kd.teachers.Cached,
}
DECLARED = {
    "a model": lambda: mlp(2),
    "a model that moves a softmax": lambda: reshaped(mlp(3, activation="softmax")),
    "a model without a graph": lambda: without_a_graph("softmax"),  # Keras's own leaves its logits
    "with its head": lambda: [mlp(2), kd.teachers.Frozen(probable(), head="softmax")],
    "as logits": lambda: kd.teachers.Frozen(probable(), head="logits"),
    "of logits": lambda: [mlp(2), mlp(3).call],
    "joined with its head": lambda: kd.teachers.Cached(head="softmax"),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("teacher", UNDECLARED.values(), ids=UNDECLARED)
def test_probabilities_of_any_member_are_warned_of_before_fit_and_by_the_check(teacher):
    x, y = batch(32)
    given = of_another_origin(x) if teacher is kd.teachers.Cached else x
    distiller = compiled(teacher(), student=mlp(1))
    with pytest.warns(UserWarning, match="look like probabilities.*taken for logits.*head=") as caught:
        distiller.fit(given, y, epochs=0, verbose=0)
    (warning,) = [each for each in caught if "probabilities" in str(each.message)]
    assert warning.filename == __file__
    (advice,) = [each for each in distiller.check(given, y).advice if "probabilities" in each]
    assert advice == str(warning.message)


@pytest.mark.one_in(2)
@pytest.mark.filterwarnings("error:The outputs of")
@pytest.mark.parametrize("teacher", DECLARED.values(), ids=DECLARED)
def test_logits_and_outputs_whose_head_is_known_are_not_warned_of(teacher):
    x, y = batch(32)
    made = teacher()
    given = of_another_origin(x) if isinstance(made, kd.teachers.Cached) else x
    distiller = compiled(made, student=mlp(1))
    distiller.fit(given, y, epochs=0, verbose=0)
    assert not any("probabilities" in each for each in distiller.check(given, y).advice)


def warned_of(caught):
    return [str(each.message) for each in caught if "probabilities" in str(each.message)]


@pytest.mark.parametrize("per_label", [False, True])
def test_one_column_of_probabilities_is_warned_of_with_the_head_that_it_has(per_label):
    terms = kd.methods.multi_label() if per_label else [kd.Term(kd.losses.squared_error)]
    distiller = kd.Distiller(student=mlp(1, classes=1), teacher=one_column(), terms=terms)
    distiller.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    with pytest.warns(UserWarning, match='probabilities.*head="sigmoid"'):
        distiller.fit(batch(32)[0], np.zeros((32, 1)), epochs=0, verbose=0)


def test_a_build_and_soft_labels_and_a_comparison_warn_too(tmp_path):
    x, y = batch(32)
    with pytest.warns(UserWarning, match='probabilities.*head="sigmoid"'):
        kd.TeacherCache(tmp_path, teacher=one_column()).build(x, verbose=0)
    with pytest.warns(UserWarning, match='probabilities.*head="softmax"'):
        kd.stages.soft_labels(probable(), x)
    with pytest.warns(UserWarning, match='probabilities.*head="softmax"'):
        kd.compare({"teacher": probable(), "student": mlp(1)}, (x, y), rounds=0)


@pytest.mark.parametrize("activation", [tf.nn.softmax, "hard_sigmoid"])
def test_a_student_whose_head_is_ambiguous_is_warned_of_too(activation):
    x, y = batch(32)
    head = "softmax" if activation is tf.nn.softmax else "sigmoid"
    student = mlp(1, activation=activation)
    distiller = compiled(mlp(2), student=student)
    with pytest.warns(UserWarning, match=f'outputs of the student.*probabilities.*student_head="{head}"'):
        distiller.fit(x, y, epochs=0, verbose=0)
    assert any("student_head" in each for each in distiller.check(x, y).advice)
    for known in (head, "logits"):
        with warnings.catch_warnings(record=True) as caught:
            compiled(mlp(2), student=student, student_head=known).fit(x, y, epochs=0, verbose=0)
        assert not warned_of(caught)


class Batches(keras.utils.PyDataset):
    """Some batches."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def specs(batches):
    return tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in batches[0])


def once(batches):
    """Return a dataset that can be read a single time."""
    left = iter(batches)
    return tf.data.Dataset.from_generator(lambda: left, output_signature=specs(batches))


SOURCES = {
    "a dataset": lambda batches: tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=specs(batches)),
    "a dataset of one pass": once,
    "a generator": lambda batches: (each for each in batches),
    "a PyDataset": Batches,
}


def trained_on(*data, compiled_with=None, **arguments):
    """Return the weights of a student after an epoch, and what it was warned of."""
    student = mlp(1)
    distiller = kd.Distiller(student=student, teacher=probable())
    distiller.compile(keras.optimizers.SGD(0.5), LOSS, **(compiled_with or {}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        distiller.fit(*data, shuffle=False, verbose=0, **arguments)
    return numbers(student), warned_of(caught)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("source", "compiled_with"),
    [
        *((each, {}) for each in SOURCES),
        ("a dataset", {"run_eagerly": True}),
        ("a dataset", {"steps_per_execution": 2}),
    ],
)
def test_the_first_batch_is_checked_and_trained_on(source, compiled_with):
    x, y = batch(20)
    expected, _ = trained_on(x, y, batch_size=8)
    batches = [(x[start : start + 8], y[start : start + 8]) for start in (0, 8, 16)]
    received, (message,) = trained_on(SOURCES[source](batches), compiled_with=compiled_with)
    assert 'head="softmax"' in message
    assert_same(received, expected, 1e-6)


@pytest.mark.filterwarnings("error:The outputs of")
def test_a_dataset_is_not_checked_where_the_head_is_known():
    x, y = batch(20)
    distiller = compiled(kd.teachers.Frozen(probable(), head="softmax"), student=mlp(1))
    distiller.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), verbose=0)


def test_values_that_add_up_to_one_are_accepted_where_nothing_is_softened(recwarn):
    terms = [kd.Term(kd.losses.squared_error, soften=False)]
    compiled(probable(), student=mlp(1), terms=terms).fit(*batch(32), epochs=0, verbose=0)
    assert not [each for each in recwarn if "probabilities" in str(each.message)]


def test_the_report_on_a_student_with_small_logits_names_standardisation(digits, trained):
    x, y = digits.train
    copy = keras.models.clone_model(trained)
    copy.set_weights(trained.get_weights())
    small = keras.Sequential([keras.Input((8, 8, 1)), copy, keras.layers.Rescaling(0.1)])
    assert "standardized" in compiled(trained, student=small).check(x, y).advice[0]


@pytest.mark.slow
def test_a_student_that_is_better_than_its_teacher_is_reported(digits, trained):
    x, y = digits.train
    keras.utils.set_random_seed(0)
    weak = net(4)
    weak.compile(keras.optimizers.Adam(1e-2), LOSS)
    weak.fit(x, y, epochs=2, verbose=0)
    copy = keras.models.clone_model(trained)
    copy.set_weights(trained.get_weights())
    assert "better than its teacher" in " ".join(compiled(weak, student=copy).check(x, y).advice)


def test_the_report_on_a_slow_teacher_names_the_cache_and_that_on_one_in_memory_does_not():
    def slow(x):
        def wait(values):
            time.sleep(0.05)
            return values

        return given(tf.ensure_shape(tf.numpy_function(wait, [x], tf.float32), x.shape))

    given = mlp(2)
    x, y = batch(2000)
    report = compiled(slow, student=mlp(1)).check(x, y, batch_size=32, batches=3)
    assert "TeacherCache" in report.advice[-1]
    assert report.epoch_seconds >= report.teacher_seconds > 0.05 * 2000 / 32
    remembered = compiled(kd.teachers.InMemory(slow), student=mlp(1)).check(x, y, batch_size=32, batches=3)
    assert not any("TeacherCache" in each for each in remembered.advice)


def test_memory_counts_weights_gradients_optimizer_and_outputs():
    student, teacher = mlp(1), mlp(2, units=7)
    report = compiled(teacher, student=student).check(*batch(64), batch_size=16, batches=1)
    # Weights of both, gradients and Adam's two slots of the student; its outputs twice; the teacher's largest twice.
    weights = 4 * (student.count_params() * 4 + teacher.count_params())
    outputs = 4 * 16 * (2 * (4 + 5 + 3) + 2 * 7)
    assert report.memory == weights + outputs


def test_of_several_teachers_the_largest_output_counts():
    sizes = {units: mlp(2, units=units) for units in (7, 9, 6)}
    memory = {
        key: compiled(teacher, student=mlp(1)).check(*batch(64), batch_size=16, batches=1).memory
        for key, teacher in (("all", list(sizes.values())), (9, sizes[9]))
    }
    assert memory["all"] - memory[9] == 4 * (sizes[7].count_params() + sizes[6].count_params())


@pytest.mark.slow
def test_a_check_changes_nothing(digits):
    x, y = batch(24)
    student, teacher = statistical(1), statistical(2)
    distiller = compiled(teacher, student=student)
    before = [*numbers(student), *numbers(teacher)]
    distiller.check(x, y, batch_size=8)
    assert_same([*numbers(student), *numbers(teacher)], before)
    twin = statistical(1)
    other = compiled(teacher, student=twin)
    for each in (distiller, other):
        keras.utils.set_random_seed(0)
        each.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    assert_same(numbers(student), numbers(twin))


@pytest.mark.slow
def test_ensembles_masks_several_labels_and_cached_targets_are_read(tmp_path):
    x, y = batch(32)
    both = kd.teachers.Ensemble([mlp(2), mlp(3)])
    average = (softmax(mlp(2).predict(x, verbose=0)) + softmax(mlp(3).predict(x, verbose=0))) / 2
    report = compiled(both, student=mlp(1)).check(x, y)
    assert report.teacher_accuracy == np.mean(np.argmax(average, axis=-1) == y)
    cache = kd.TeacherCache(tmp_path, teacher=mlp(2), dtype="float32")
    data = tf.data.Dataset.from_tensor_slices((x, y))
    cache.build(data, verbose=0)
    cached = compiled(kd.teachers.Cached(cache), student=mlp(1)).check(cache.join(data).batch(8))
    assert cached.teacher_accuracy == np.mean(np.argmax(mlp(2).predict(x, verbose=0), axis=-1) == y)
    words = np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
    labels = np.argmax(tagger(2).predict(words, verbose=0), axis=-1)
    labels[words == 0] = (labels[words == 0] + 1) % 3
    assert compiled(tagger(2), student=tagger(1)).check(words, labels).teacher_accuracy == 1.0
    many = kd.Distiller(student=mlp(1), teacher=mlp(2), terms=kd.methods.multi_label())
    many.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    yes = (mlp(2).predict(x, verbose=0) > 0).astype("float32")
    assert many.check(x, yes).teacher_accuracy == 1.0


def expected_of(teacher, student, x, y, weights):
    """Return accuracies, guessing, confidence and entropy at T = 4 by the formula, in float64, counting by weights."""
    z, s = (each.predict(x, verbose=0).astype("float64").reshape(-1, 3) for each in (teacher, student))
    y, w = y.ravel(), weights.ravel()
    q = softmax(z / 4.0)
    return {
        "teacher_accuracy": np.average(z.argmax(-1) == y, weights=w),
        "student_accuracy": np.average(s.argmax(-1) == y, weights=w),
        "guessing": max(np.average(y == k, weights=w) for k in range(3)),
        "confidence": np.average(softmax(z).max(-1), weights=w),
        "entropy": np.average(-np.sum(q * np.log(q), axis=-1), weights=w) / np.log(3),
        "teacher_scale": np.average(z.std(-1), weights=w),
        "rows": np.sum(w > 0),
    }


def assert_reported(report, expected):
    assert {name: getattr(report, name) for name in expected} == pytest.approx(expected, rel=1e-5)


def judged(teacher, labels, student=None, weights=None, per_label=False, temperature=1.0):
    """Return the report on logits and labels that are given."""
    student = np.zeros_like(teacher) if student is None else student
    weights = np.ones(len(teacher)) if weights is None else np.asarray(weights, "float64")
    ids = None if labels is None or labels.ndim > 1 else (labels.min(), labels.max())
    report = Report(examples=len(teacher))
    judge(report, Rows(student, teacher, teacher / temperature, labels, weights, ids), temperature, per_label)
    return report


def test_yes_and_no_are_judged_by_label_and_by_the_weights_of_the_rows():
    random = np.random.default_rng(0)
    teacher, student = random.normal(size=(2, 50, 3))
    labels, weights = (random.random((50, 3)) < 0.4).astype(int), random.uniform(0.5, 3, 50)
    p, q = 1 / (1 + np.exp(-teacher)), 1 / (1 + np.exp(-teacher / 2))
    entropies = -(q * np.log(q) + (1 - q) * np.log(1 - q)).mean(-1) / np.log(2)
    expected = {
        "teacher_accuracy": np.average(((p > 0.5) == labels).mean(-1), weights=weights),
        "student_accuracy": np.average(((student > 0) == labels).mean(-1), weights=weights),
        "guessing": 1 - np.average(labels.mean(-1), weights=weights),  # no is the more frequent
        "confidence": np.average(np.maximum(p, 1 - p).mean(-1), weights=weights),
        "entropy": np.average(entropies, weights=weights),
    }
    assert_reported(judged(teacher, labels, student, weights, True, 2.0), expected)
    swapped = judged(-teacher, 1 - labels, -student, weights, True, 2.0)
    assert_reported(swapped, expected)


@pytest.mark.parametrize("informed", [False, True])
def test_of_rare_positives_the_ranking_counts(informed):
    random = np.random.default_rng(0)
    labels = (random.random((800, 1)) < 0.04).astype(int)
    teacher = np.round(random.normal(-4, 1, (800, 1)) + 2.5 * informed * labels, 1)  # with ties
    report = judged(teacher, labels, per_label=True)
    assert report.teacher_accuracy > 0.9 and report.yes == labels.sum() and report.teacher_scale is None
    assert report.teacher_roc_auc == pytest.approx(metrics.roc_auc_score(labels, teacher), abs=1e-12)
    assert any("ranks a yes above a no" in each for each in report.advice) != informed
    assert f"with {labels.sum()} yes among 800" in str(report)


def test_labels_that_are_all_equal_rank_nothing():
    assert judged(np.ones((9, 1)), np.zeros((9, 1)), per_label=True).teacher_roc_auc is None


def test_a_class_is_renamed_by_its_most_frequent_label_in_the_other_half():
    predicted = np.array([0, 0, 0, 0, 1, 1])
    labels, weights = np.array([1, 2, 2, 1, 0, 1]), np.array([1, 5, 3, 1, 1, 2])
    drawn = np.argsort(np.random.default_rng(0).permutation(6))  # puts the rows of this test into their halves
    # Of the first, third and fifth, 0 is mostly 2, and 1 is 0: right on the second. Of the others, 0 is mostly 2, and
    # 1 is 1: right on the third.
    report = judged(np.eye(3)[predicted[drawn]], labels[drawn], weights=weights[drawn])
    assert report.renamed_accuracy == pytest.approx((5 + 3) / 13)


def test_labels_that_alternate_do_not_hide_another_order_of_the_classes():
    labels = np.tile([0, 1], 50)
    report = judged(5.0 * np.eye(2)[1 - labels], labels)
    assert report.renamed_accuracy == 1.0 and "another order" in report.advice[0]


@pytest.mark.parametrize(
    ("guessing", "least"),
    [
        (0.25, 0.25 + 3 * np.sqrt(0.25 * 0.75 / 100)),
        (0.9, 0.9 - 3 * np.sqrt(0.9 * 0.1 / 100)),  # where one label is so frequent, guessing is good
        (1.0, 1.0 - 3 * np.sqrt(1 / 100 / 100)),
    ],
)
def test_a_teacher_guesses_within_three_standard_deviations_of_guessing(guessing, least):
    for accuracy in (least - 1e-6, least + 1e-6):
        report = Report(examples=100, rows=100, teacher_accuracy=accuracy, guessing=guessing)
        assert guesses(report) == (accuracy < least)
    assert not guesses(Report(examples=100, rows=100))


def test_the_report_on_teacher_logits_four_times_as_large_as_a_trained_students_names_standardisation():
    labels = np.arange(90) % 3
    logits = 3.0 * np.eye(3)[labels]
    for factor, expected in ((3.9, False), (4.1, True)):
        report = judged(factor * logits / 4, labels, logits / 4, temperature=factor)
        assert any("standardized" in each for each in report.advice) == expected
        untrained = judged(factor * logits / 4, labels, -logits / 4, temperature=factor)
        assert not any("standardized" in each for each in untrained.advice)


def test_a_student_is_better_than_its_teacher_beyond_chance_alone():
    labels = np.arange(100) % 2
    teacher = 0.5 * np.eye(2)[np.where(np.arange(100) < 80, labels, 1 - labels)]  # right on 80
    for right, expected in ((94, False), (96, True)):  # three standard deviations are 3 * sqrt(0.5 * 0.5 / 100) = 0.15
        student = np.eye(2)[np.where(np.arange(100) < right, labels, 1 - labels)]
        report = judged(teacher, labels, student)
        assert report.student_accuracy == pytest.approx(right / 100)
        assert any("better than its teacher" in each for each in report.advice) == expected


def sure(confidence, classes, predicted):
    """Return logits that give the predicted class so much probability, and the others as much as one another."""
    return np.log((classes - 1) * confidence / (1 - confidence)) * np.eye(classes)[predicted]


def test_the_confidence_of_a_teacher_may_exceed_its_accuracy_by_a_quarter():
    labels = np.arange(400) // 2 % 4
    predicted = np.where(np.arange(400) < 240, labels, np.arange(400) // 8 % 4)  # right on 240, and on 40 by chance
    for confidence, expected in ((0.94, False), (0.96, True)):
        report = judged(sure(confidence, 4, predicted), labels)
        assert (report.teacher_accuracy, report.confidence) == (pytest.approx(0.7), pytest.approx(confidence))
        assert any("it is not shown" in each for each in report.advice) == expected


def test_classes_are_in_another_order_where_renaming_makes_the_accuracy_of_a_teacher_equal_its_confidence():
    labels = np.arange(400) // 2 % 4
    predicted = (np.where(np.arange(400) < 240, labels, np.arange(400) // 8 % 4) + 1) % 4
    for confidence, expected in ((0.94, "another order"), (0.96, "it is not shown")):
        report = judged(sure(confidence, 4, predicted), labels)
        assert (report.teacher_accuracy, report.renamed_accuracy) == (pytest.approx(0.1), pytest.approx(0.7))
        assert expected in report.advice[0]


@pytest.mark.parametrize(("better", "expected"), [(0.2, False), (0.3, True), (1.0, True), (45.0, True), (60.0, False)])
def test_a_temperature_is_recommended_at_which_targets_have_three_tenths_of_the_largest_entropy(better, expected):
    labels = np.arange(60) // 2 % 5

    def entropy(distance):  # of one logit that is so far above four others, as a share of log 5
        p = softmax(np.array([distance, 0, 0, 0, 0]))
        return -np.sum(p * np.log(p)) / np.log(5)

    distance = optimize.brentq(lambda each: entropy(each) - 0.3, 1.0, 8.0)
    for now in (1e-2 * better, 1e3 * better):
        report = judged(better * distance * np.eye(5)[labels], labels, temperature=now)
        (advice,) = [each for each in report.advice if "the teacher's targets contain" in each]
        assert (f"Around temperature={better:.2g} they would be more informative" in advice) == expected
        assert ("hardly more than a label" in advice) == (now < better)


def test_a_report_prints_what_is_known_and_its_advice():
    known = {"teacher_accuracy": 0.9312, "student_accuracy": 0.1, "guessing": 0.2, "confidence": 0.8, "entropy": 0.25}
    scales = {"teacher_scale": 3.2109, "student_scale": 0.5, "temperature": 4.0}
    report = Report(
        96, memory=2_500_000, epoch_seconds=90.0, teacher_seconds=30.25, advice=["Look."], **known, **scales
    )
    assert [line.split("  ") for line in re.sub("   *", "  ", str(report)).splitlines()] == [
        ["teacher's accuracy", "93.1 %", "on 96 examples"],
        ["student's accuracy", "10.0 %", "as it is now"],
        ["guessing", "20.0 %", "the most frequent label"],
        ["teacher's confidence", "80.0 %", "mean of the largest probability"],
        ["teacher's logits", "3.21", "standard deviation over the classes"],
        ["student's logits", "0.5"],
        ["entropy of targets", "25.0 %", "of the largest, at T = 4"],
        ["memory", "2.5 MB", "about"],
        ["epoch", "90.0 s", "about"],
        ["teacher in it", "30.2 s"],
        [""],
        ["- Look."],
    ]
    assert str(Report(3)) == "\n- Nothing looks wrong."


def test_examples_count_by_their_weights():
    x, y = batch(64)
    weights = np.random.default_rng(0).choice([0.0, 0.5, 3.0], 64).astype("float32")
    teacher, student = mlp(2), mlp(1)
    expected = expected_of(teacher, student, x, y, weights)
    y = np.where(weights == 0, (y + 1) % 3, y)
    distiller = compiled(teacher, student=student)
    assert_reported(distiller.check(x, y, sample_weight=weights), expected)
    assert_reported(distiller.check(tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(16)), expected)
    assert_reported(distiller.check(x, y, sample_weight=weights[:, None]), expected)


def test_positions_count_by_weights_and_by_the_masks_of_both_sides():
    words = np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 1, 2, 4]])
    weights = np.array([[1, 0, 2, 1], [1, 1, 1, 1], [0, 1, 1, 3]], "float32")
    y = np.array([[0, 1, 2, 0], [1, 0, 0, 0], [2, 2, 1, 0]])
    for masked_student in (True, False):
        student, teacher = tagger(1, mask=masked_student), tagger(2, mask=not masked_student)
        view = View(compiled([teacher, teacher], student=student))
        report = Report(examples=3)
        judge(report, view.read([(words, y, weights)]), view.temperature, view.per_label)
        assert_reported(report, expected_of(teacher, student, words, y, weights * (words != 0)))


def test_a_label_that_no_class_has_is_named_though_its_weight_is_0():
    x, y = batch(8)
    y = np.where(np.arange(8) == 3, 99, y)
    report = compiled(mlp(2), student=mlp(1)).check(x, y, sample_weight=(np.arange(8) != 3).astype("float32"))
    assert any("labels go from 0 to 99" in each for each in report.advice)


@pytest.mark.slow
def test_positions_of_the_class_that_the_loss_ignores_do_not_count():
    words, y = np.array([[1, 2, 3, 5], [4, 5, 2, 1]]), np.array([[0, 1, -1, 2], [-1, 1, 0, -1]])
    student, teacher = tagger(1, mask=False), tagger(2, mask=False)
    distiller = kd.Distiller(student=student, teacher=teacher)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    distiller.compile("adam", loss, temperature=4.0)
    assert_reported(distiller.check(words, y), expected_of(teacher, student, words, y, 1.0 * (y >= 0)))


def test_a_good_teacher_of_mostly_padded_positions_is_not_suspected():
    random = np.random.default_rng(0)
    words = random.integers(1, 6, (64, 20))
    teacher = tagger(2, mask=False)
    y = teacher.predict(words, verbose=0).argmax(-1)
    weights = (np.arange(20) < 2) * np.ones((64, 1), "float32")
    y = np.where(weights > 0, y, 0)
    distiller = compiled(teacher, student=tagger(1, mask=False))
    report = distiller.check(words, y, sample_weight=weights)
    assert report.teacher_accuracy == 1.0 and report.rows == 128
    assert not any("it is not shown" in each for each in report.advice)
    distiller.compile("adam", LOSS, weighted_metrics=[])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The teacher is right")
        distiller.fit(words, y, sample_weight=weights, batch_size=1, epochs=20, steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("form", ["a column", "one-hot"])
def test_labels_of_two_classes_may_be_a_column_or_one_hot(form):
    x, y = batch(32, classes=2)
    student, teacher = statistical(1, classes=2), mlp(2, classes=2)
    distiller = kd.Distiller(student=student, teacher=teacher)
    loss = keras.losses.CategoricalCrossentropy if form == "one-hot" else keras.losses.SparseCategoricalCrossentropy
    distiller.compile("adam", loss(from_logits=True))
    report = distiller.check(x, np.eye(2)[y] if form == "one-hot" else y[:, None])
    right = [float(np.mean(each.predict(x, verbose=0).argmax(-1) == y)) for each in (teacher, student)]
    assert [report.teacher_accuracy, report.student_accuracy] == pytest.approx(right)
    assert report.guessing == pytest.approx(max(np.mean(y), 1 - np.mean(y)))


def test_labels_that_are_integers_in_one_batch_alone_are_no_classes():
    x, y = batch(8)
    view = View(compiled(mlp(2), student=mlp(1)))
    assert view.read([(x, y + 0.0, None)]).labels is not None
    assert view.read([(x, y + 0.0, None), (x, y + 0.5, None)]).labels is None


def test_each_of_several_outputs_has_its_own_labels_and_weights():
    x, y = batch(32)
    weights = np.random.default_rng(1).choice([0.0, 2.0], 32).astype("float32")

    def two(seed):
        inputs = keras.Input((4,))
        return keras.Model(inputs, {"kind": mlp(seed)(inputs), "box": mlp(seed + 5)(inputs)})

    student, teacher = two(1), two(2)
    distiller = kd.Distiller(student=student, teacher=teacher, terms=[kd.Term(kd.losses.kl_divergence, at="kind")])
    distiller.compile("adam", {"kind": LOSS, "box": "mse"}, temperature=4.0)
    labels = {"kind": y, "box": np.zeros((32, 3), "float32")}
    report = distiller.check(x, labels, sample_weight={"kind": weights, "box": np.ones(32, "float32")})
    kinds = [keras.Model(each.input, each.output["kind"]) for each in (teacher, student)]
    assert_reported(report, expected_of(*kinds, x, y, weights))


def test_where_nothing_counts_there_is_a_cost_and_no_accuracy():
    x, y = batch(8)
    report = compiled(mlp(2), student=mlp(1)).check(x, y, sample_weight=np.zeros(8, "float32"))
    assert report.teacher_accuracy is None and report.epoch_seconds > 0 and report.rows == 0


def test_without_labels_the_targets_are_still_checked():
    x, y = batch(32)
    distiller = kd.Distiller(student=mlp(1), teacher=mlp(2))
    distiller.compile("adam", alpha=1.0)
    report = distiller.check(x)
    assert report.teacher_accuracy is None and report.entropy == distiller.check(x, y).entropy


def test_values_that_are_no_classes_have_a_cost_and_no_accuracy():
    x, _ = batch(32)
    distiller = kd.Distiller(student=mlp(1, classes=1), teacher=mlp(2, classes=1), terms=kd.methods.regression())
    distiller.compile("adam", "mse")
    report = distiller.check(x, np.random.default_rng(0).normal(size=(32, 1)))
    assert report.teacher_accuracy is None and report.epoch_seconds > 0


def test_a_term_that_reads_layers_has_a_cost_and_no_accuracy():
    terms = kd.methods.fitnets([("hidden", "hidden")])
    report = compiled(mlp(2), student=mlp(1), terms=terms).check(*batch(32))
    assert report.entropy is None and report.memory > 0


def test_a_good_teacher_of_rare_events_is_not_suspected():
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 4)).astype("float32")
    y = (x[:, 0] > 2.3).astype("float32")[:, None]
    scorer = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    scorer.set_weights([np.array([[20.0], [0.0], [0.0], [0.0]]), np.array([-42.0])])
    distiller = kd.Distiller(student=mlp(1, classes=1), teacher=scorer, terms=kd.methods.multi_label())
    distiller.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    report = distiller.check(x, y, batches=60)
    assert report.teacher_accuracy > report.guessing > 0.98
    assert not [advice for advice in report.advice if "it is not shown" in advice]


@pytest.mark.parametrize("wrap", [lambda teacher: teacher, kd.teachers.InMemory])
def test_a_long_fit_begins_with_a_warning_of_a_teacher_that_guesses(digits, trained, wrap):
    x, y = digits.train
    order = np.roll(np.arange(10), 3)
    with pytest.warns(UserWarning, match=r"The teacher is right on .* guessing would be .*distiller.check"):
        compiled(wrap(trained)).fit(x, order[y], batch_size=1, steps_per_epoch=2, verbose=0)


@pytest.mark.filterwarnings("error:The teacher is right")
def test_a_check_gives_a_teacher_the_numbers_that_fit_gives_it(digits, trained):
    x, y = digits.train
    kernel = tf.constant(np.random.default_rng(0).normal(size=(64, 10)), "float32")
    exact = compiled(lambda x: trained(x) + 0.0 * tf.matmul(tf.reshape(x, (-1, 64)), kernel))  # float32 and no other
    exact.fit(x.astype("float64"), y, batch_size=1, steps_per_epoch=2, verbose=0)
    assert exact.check(x.astype("float64"), y).teacher_accuracy > 0.9


@pytest.mark.slow
@pytest.mark.filterwarnings("error:The teacher is right")
def test_a_good_teacher_a_short_fit_and_a_student_that_has_begun_are_not_warned_of(digits, trained):
    x, y = digits.train
    wrong = np.roll(np.arange(10), 3)[y]
    distiller = compiled(trained)
    distiller.fit(x, y, batch_size=1, steps_per_epoch=2, verbose=0)
    distiller.fit(x, wrong, batch_size=1, steps_per_epoch=2, verbose=0)
    compiled(trained).fit(x, wrong, steps_per_epoch=2, verbose=0)
    compiled(kd.teachers.EMA(0.9)).fit(x, wrong, batch_size=1, steps_per_epoch=2, verbose=0)


def test_data_that_cannot_be_checked_are_refused():
    x, y = batch(8)
    with pytest.raises(ValueError, match="Expected a compiled Distiller"):
        kd.Distiller(student=mlp(1), teacher=mlp(2)).check(x, y)
    with pytest.raises(TypeError, match=r"check\(x, y\)"):
        compiled(mlp(2), student=mlp(1)).check((x, y))
    with pytest.raises(TypeError, match="Expected arrays"):
        compiled(mlp(2), student=mlp(1)).check(iter([x]))
    with pytest.raises(ValueError, match="Received none"):
        compiled(mlp(2), student=mlp(1)).check(tf.data.Dataset.from_tensor_slices((x, y)).batch(2).take(0))
