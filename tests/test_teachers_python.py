"""Teachers that are no networks: functions of NumPy arrays, and estimators of scikit-learn."""

import concurrent.futures
import pickle
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn import ensemble, linear_model, multiclass, neural_network, pipeline, preprocessing, svm

import keras_kd as kd
from keras_kd._internal import teacher_fingerprints
from keras_kd.teachers import Python
from tests import references
from tests.models import assert_same, batch, dense, linear, numbers
from tests.test_objective import distill, fit

X, Y = batch(24)
BINARY = (X[:, 0] > 0).astype("int64")
LABELS = (X[:, :3] > 0).astype("int64")
VALUES = X @ np.arange(8.0).reshape(4, 2)
TINY = np.finfo("float32").tiny


def forest(y=Y, seed=0):
    return ensemble.RandomForestClassifier(5, random_state=seed).fit(X, y)


def soft(student, logits, temperature=4.0):
    """Return the mean of T**2 KL from logits, in float64."""
    s, t = (np.asarray(each, "float64") / temperature for each in (student, logits))
    return temperature**2 * np.mean(references.kl_divergence(s, t))


def softly(student, teacher, x=X, **arguments):
    """Return the logged loss of the teacher alone, at T = 4."""
    distiller = distill(student, teacher, loss=None, alpha=1.0, temperature=4.0, **arguments)
    return fit(distiller, x, None)["loss"]


def log(probabilities):
    return np.log(np.maximum(np.asarray(probabilities, "float64"), TINY))


def as_they_are(forest):
    return {
        "estimator": forest,
        "method": forest.predict_proba,
        "function": Python(lambda x: forest.predict_proba(x), head="softmax"),
        "with outputs": Python(lambda x: forest.predict_proba(x), outputs=3, head="softmax"),
        "in memory": kd.teachers.InMemory(forest),
        "ensemble": [forest, forest],
        "pipeline": pipeline.make_pipeline(preprocessing.FunctionTransformer(), forest),
    }


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("kind", as_they_are(forest()))
def test_a_forest_teaches_its_probabilities(kind, eager):
    student, trees = linear(1), forest()
    received = softly(student, as_they_are(trees)[kind], run_eagerly=eager)
    assert received == pytest.approx([soft(student(X), log(trees.predict_proba(X)))], rel=1e-5)


def test_a_forest_teaches_beside_a_network():
    student, trees, network = linear(1), forest(), linear(2)
    t = [log(trees.predict_proba(X)), np.asarray(network(X), "float64")]
    mixture = np.mean([np.exp(each / 4 - np.logaddexp.reduce(each / 4, -1, keepdims=True)) for each in t], axis=0)
    assert softly(student, [trees, network]) == pytest.approx([soft(student(X), 4 * np.log(mixture))], rel=1e-5)


def test_targets_of_a_forest_are_cached_and_another_forest_is_noticed(tmp_path):
    student, trees = linear(1), forest()
    cache = kd.TeacherCache(tmp_path, teacher=trees, dtype="float32")
    cache.build(X, verbose=0)
    received = softly(student, kd.teachers.Cached(cache), cache.join(X))
    assert received == pytest.approx([soft(student(X), log(trees.predict_proba(X)))], rel=1e-5)
    again = pickle.loads(pickle.dumps(trees))
    assert kd.TeacherCache(tmp_path, teacher=again, dtype="float32").build(X, verbose=0) is None
    with pytest.raises(ValueError, match="another teacher|teacher_code|differ"):
        kd.TeacherCache(tmp_path, teacher=forest(seed=1), dtype="float32").build(X, verbose=0)


def test_a_copy_of_a_forest_has_the_same_fingerprint():
    first, again, other = (kd.teachers.as_teacher(each) for each in (forest(), forest(), forest(seed=1)))
    fingerprint = teacher_fingerprints.with_code
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_the_second_class_teaches_one_unit():
    trees, student = forest(BINARY), linear(1, classes=1)
    distiller = kd.Distiller(student=student, teacher=trees, terms=[kd.Term(kd.losses.binary_kl)])
    assert distiller.teacher.kind("logits") == "sigmoid"
    distiller.compile(keras.optimizers.SGD(0.0), keras.losses.BinaryCrossentropy(from_logits=True), alpha=1.0)
    p = np.clip(trees.predict_proba(X)[:, 1:].astype("float32"), TINY, 1 - 2.0**-24).astype("float64")
    z = np.asarray(student(X), "float64")
    t = np.log(p) - np.log1p(-p)
    temperature = 4.0
    distiller.temperature = temperature
    expected = temperature**2 * np.mean(references.binary_kl(z / temperature, t / temperature))
    assert fit(distiller, X, BINARY)["distillation_loss"] == pytest.approx([expected], rel=1e-4)


def test_two_classes_teach_two_units():
    trees, student = forest(BINARY), linear(1, classes=2)
    assert softly(student, trees) == pytest.approx([soft(student(X), log(trees.predict_proba(X)))], rel=1e-5)


def test_several_outputs_of_a_classifier_teach_one_unit_each():
    trees = forest(LABELS)
    teacher = kd.teachers.as_teacher(trees)
    teacher.bind(linear(1), ("logits",))
    expected = np.stack([each[:, 1] for each in trees.predict_proba(X)], -1)
    np.testing.assert_allclose(tf.sigmoid(teacher(tf.constant(X), {})["logits"]), expected, atol=1e-6)
    assert teacher.kind("logits") == "sigmoid"


@pytest.mark.parametrize("y", [VALUES, VALUES[:, 0]], ids=["two", "one"])
def test_a_regressor_teaches_values(y):
    model = ensemble.RandomForestRegressor(5, random_state=0).fit(X, y)
    student = linear(1, classes=1 if y.ndim == 1 else 2)
    expected = np.mean((np.asarray(student(X), "float64") - model.predict(X).reshape(len(X), -1)) ** 2)
    terms = kd.methods.regression()
    distiller = distill(student, model, terms, loss=None, alpha=1.0)
    assert fit(distiller, X, None)["loss"] == pytest.approx([expected], rel=1e-5)


def test_steps_with_xla_go_without(recwarn):
    student, trees = linear(1), forest()
    received = softly(student, trees, run_eagerly=False, jit_compile="auto")
    assert received == pytest.approx([soft(student(X), log(trees.predict_proba(X)))], rel=1e-5)
    assert not distill(student, trees, run_eagerly=False, jit_compile="auto").jit_compile


def test_two_replicas_have_the_numbers_of_one_device():
    trees, results = forest(), []
    for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0"])):
        with strategy.scope():
            student = linear(1)
            distiller = distill(student, trees, None, keras.optimizers.SGD(0.5), run_eagerly=False)
        fit(distiller, batch_size=8)
        results.append(numbers(student))
    assert_same(*results)


def test_text_comes_as_str_and_dicts_go_both_ways():
    words = np.array(["a", "bb", "ccc", "dddd"])
    seen = []

    def lengths(x):
        seen.extend(map(type, x["text"].ravel()))
        count = np.array([[len(each) for each in x["text"].ravel()]]).T
        return {"second": x["number"] + count, "first": count * np.ones((1, 2))}

    teacher = Python(lengths, head="values")
    teacher.bind(linear(1), ("first", "second"))
    x = {"text": tf.constant(words), "number": tf.ones((4, 1))}
    found = tf.function(lambda x: teacher(x, {}))(x)
    np.testing.assert_array_equal(found["first"], np.tile([[1], [2], [3], [4]], 2))
    np.testing.assert_array_equal(found["second"], [[2], [3], [4], [5]])
    assert set(seen) == {str} and found["first"].shape == (4, 2)


def test_what_a_function_reads_is_prepared_by_preprocess():
    teacher = Python(lambda x: x[:, :3], preprocess=lambda x: 2.0 * x)
    teacher.bind(linear(1), ("logits",))
    np.testing.assert_array_equal(teacher(tf.constant(X), {})["logits"], 2 * X[:, :3])


def test_positions_of_unknown_number_need_outputs():
    def ragged(x):
        return x[..., :3]

    spec = tf.TensorSpec((None, None, 4))
    for outputs in (None, (None, 3)):
        teacher = Python(ragged, outputs=outputs, head="logits")
        teacher.bind(linear(1), ("logits",))
        step = tf.function(lambda x, teacher=teacher: teacher(x, {})["logits"], input_signature=[spec])
        if outputs is None:
            with pytest.raises(ValueError, match="Expected `outputs`.*unknown shapes"):
                step(X[None])
        else:
            np.testing.assert_array_equal(step(X[None]), X[None, :, :3])


# Errors


def test_an_error_of_a_function_stops_the_step_and_is_shown():
    student, count = linear(1), []

    def breaks(x):
        count.append(len(x))
        if len(count) > 1:
            raise ValueError("The file of trees has gone.")
        return np.zeros((len(x), 3))

    distiller = distill(student, Python(breaks, head="logits"), optimizer=keras.optimizers.SGD(0.5), run_eagerly=False)
    before = numbers(student)
    with pytest.raises(ValueError, match=r"^The file of trees has gone\.$"):
        fit(distiller)
    assert_same(numbers(student), before)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda x: np.zeros((len(x) + 1, 3)),
            r"to return an array of the shape \(8, 3\), a row for each example.*\(9, 3\)",
        ),
        (lambda x: np.zeros((len(x), 4)), r"to return an array of the shape \(8, 3\).*\(8, 4\)"),
        (lambda x: {"a": np.zeros((len(x), 3))}, r"to return an array\. Received: \['a'\]"),
        (lambda x: np.zeros(len(x)), r"to return an array of the shape \(8, 3\).*\(8, 1\)"),
    ],
)
def test_outputs_of_another_shape_are_refused(function, words):
    teacher = Python(function, outputs=3, head="logits")
    with pytest.raises(ValueError, match=f"^Expected the teacher's function {words}"):
        fit(distill(linear(1), teacher, run_eagerly=False))


def test_a_function_that_cannot_take_zeros_needs_outputs():
    def strict(x):
        if not x.any():
            raise RuntimeError("no zeros, please")
        return x[:, :3]

    with pytest.raises(ValueError, match=r"It raised RuntimeError: no zeros, please\nIf .* outputs=1"):
        fit(distill(linear(1), Python(strict, head="logits")))
    assert np.isfinite(fit(distill(linear(1), Python(strict, outputs=3, head="logits")))["loss"]).all()


REFUSED = {
    "not fitted": (lambda: ensemble.RandomForestClassifier(), "Expected a fitted estimator. Received: RandomForestC"),
    "no fitted regressor": (lambda: linear_model.Ridge(), "Expected a fitted estimator. Received: Ridge that is not"),
    "no fitted pipeline": (
        lambda: pipeline.make_pipeline(linear_model.Ridge()),
        "fitted estimator. Received: Pipeline",
    ),
    "not fitted, of no known kind": (
        lambda: types.SimpleNamespace(predict=1, get_params=1, predict_proba=1),
        "Expected a fitted classifier. Received: SimpleNamespace without `classes_`",
    ),
    "classes alone": (lambda: svm.LinearSVC().fit(X, Y), "Expected a classifier with `predict_proba`.*LinearSVC"),
    "classes from 1": (lambda: forest(Y + 1), r"to be 0 to 2.*\[1, 2, 3\]"),
    "a class that it has not seen": (lambda: forest(np.where(Y == 1, 2, Y)), r"to be 0 to 1.*\[0, 2\]"),
    "several outputs of three classes": (lambda: forest(np.stack([Y, Y], 1)), r"two classes for each.*\[3, 3\]"),
}


def test_classes_that_the_student_does_not_have_are_refused_before_any_work():
    with pytest.raises(ValueError, match=r"\(None, 5\).*\(None, 3\)"):
        kd.Distiller(student=linear(1, classes=5), teacher=forest())


@pytest.mark.parametrize("name", REFUSED)
def test_an_estimator_that_cannot_teach_is_refused(name):
    make, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        kd.Distiller(student=linear(1), teacher=make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: multiclass.OneVsRestClassifier(linear_model.LogisticRegression()).fit(X, LABELS),
        lambda: neural_network.MLPClassifier((3,), max_iter=2, random_state=0).fit(X, LABELS),
    ],
    ids=["one against the rest", "a perceptron"],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_labels_that_look_like_classes_are_refused_with_what_to_do(make):
    model = make()
    with pytest.raises(ValueError, match=r"add up to 1.*Python\(estimator\.predict_proba, head=.sigmoid.\)"):
        fit(distill(linear(1), model, run_eagerly=False), X, Y)
    teacher = Python(model.predict_proba, head="sigmoid")
    teacher.bind(linear(1), ("logits",))
    np.testing.assert_allclose(tf.sigmoid(teacher(tf.constant(X), {})["logits"]), model.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("given", [3, "forest.pkl", ensemble.RandomForestClassifier, None])
def test_what_is_neither_function_nor_estimator_is_refused(given):
    words = {"forest.pkl": r"joblib\.load\('forest\.pkl'\)", ensemble.RandomForestClassifier: "Give an instance"}
    with pytest.raises(TypeError, match=f"Expected a function from NumPy arrays.*{words.get(given, 'type .*[^ ]$')}"):
        Python(given)


def test_one_number_a_row_is_a_column():
    booster, student = forest(BINARY), linear(1, classes=1)
    function = Python(lambda x: booster.predict_proba(x)[:, 1], head="sigmoid")
    terms = [kd.Term(kd.losses.binary_kl)]
    arguments = {"loss": None, "alpha": 1.0, "temperature": 4.0}
    received = fit(distill(student, function, terms, **arguments), X, None)["loss"]
    assert received == pytest.approx(fit(distill(student, booster, terms, **arguments), X, None)["loss"], rel=1e-6)


def test_the_head_of_an_estimator_is_known():
    with pytest.raises(ValueError, match=r'Expected head="auto" for an estimator.*Python\(estimator\.predict_proba'):
        Python(forest(), head="logits")


def test_probabilities_of_a_function_are_warned_of():
    distiller = distill(linear(1), Python(forest().predict_proba))
    with pytest.warns(UserWarning, match="look like probabilities"):
        fit(distiller)


def test_one_memory_serves_students_of_one_unit_and_of_two():
    memory, trees = kd.teachers.InMemory(forest(BINARY)), forest(BINARY)
    for units in (2, 1, 2):
        terms = [kd.Term(kd.losses.binary_kl)] if units == 1 else None
        student = linear(1, classes=units)
        received = fit(distill(student, memory, terms, loss=None, alpha=1.0, temperature=4.0), X, None)["loss"]
        live = fit(distill(student, trees, terms, loss=None, alpha=1.0, temperature=4.0), X, None)["loss"]
        assert received == pytest.approx(live, rel=1e-6)


def test_a_function_that_is_called_predict_proba_is_a_function():
    def predict_proba(x):
        return tf.nn.softmax(x[:, :3])

    assert isinstance(kd.teachers.as_teacher(predict_proba), kd.teachers.Frozen)


@pytest.mark.slow
def test_a_function_is_called_by_one_thread_at_a_time():
    inside, most = [], []

    def slow(x):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return x[:, :3]

    teacher = Python(slow, outputs=3, head="logits")
    teacher.bind(linear(1), ("logits",))
    step = tf.function(lambda x: teacher(x, {})["logits"])
    step(tf.constant(X))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: step(tf.constant(X)), range(8)))
    assert max(most) == 1 < len(most)


def test_what_has_the_protocol_of_an_estimator_is_one():
    boosted = types.SimpleNamespace(
        predict=lambda x: x, get_params=dict, classes_=np.arange(3), predict_proba=forest().predict_proba
    )
    student = linear(1)
    expected = soft(student(X), log(forest().predict_proba(X)))
    assert softly(student, boosted) == pytest.approx([expected], rel=1e-5)


def test_a_model_that_is_both_is_taken_for_a_model():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(3, 2)(inputs))
    assert isinstance(kd.teachers.as_teacher(model), kd.teachers.Frozen)
