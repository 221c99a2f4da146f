"""Teachers that are files: ONNX, written by hand, and LiteRT, written by TensorFlow's converter."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.teachers import ONNX, LiteRT
from tests import files, references
from tests.models import assert_same, batch, linear, mlp, numbers
from tests.test_objective import distill, fit

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

X, Y = batch(24)


def softly(student, teacher, x=X, **arguments):
    """Return the logged loss of the teacher alone, at T = 4."""
    return fit(distill(student, teacher, loss=None, alpha=1.0, temperature=4.0, **arguments), x, None)["loss"]


def soft(student, logits):
    """Return the mean of T**2 KL from logits at T = 4, in float64."""
    s, t = (np.asarray(each, "float64") / 4.0 for each in (student, logits))
    return [pytest.approx(16.0 * np.mean(references.kl_divergence(s, t)), rel=1e-5)]


@pytest.mark.parametrize("eager", [True, False])
def test_an_onnx_file_teaches_its_outputs(tmp_path, eager):
    student = linear(1)
    received = softly(student, ONNX(files.onnx(tmp_path)), run_eagerly=eager)
    assert received == soft(student(X), X @ files.WEIGHTS)


@pytest.mark.parametrize("eager", [True, False])
def test_a_litert_file_teaches_as_the_model_that_it_was_made_of(tmp_path, eager):
    student, model = linear(1), mlp(2)
    received = softly(student, LiteRT(files.litert(model, tmp_path)), run_eagerly=eager)
    assert received == soft(student(X), model(X))


def test_a_file_runs_in_memory_in_ensembles_and_in_a_cache(tmp_path):
    student, teacher = linear(1), ONNX(files.onnx(tmp_path))
    expected = soft(student(X), X @ files.WEIGHTS)
    assert softly(student, kd.teachers.InMemory(teacher)) == expected
    assert softly(student, [teacher, teacher]) == expected
    cache = kd.TeacherCache(tmp_path / "cache", teacher=teacher, dtype="float32")
    cache.build(X, verbose=0)
    assert softly(student, kd.teachers.Cached(cache), cache.join(X)) == expected


@pytest.mark.parametrize("rows", [1, 8, 16, 100])
def test_a_file_of_a_fixed_number_of_examples_is_given_so_many_at_a_time(tmp_path, rows):
    student, teacher = linear(1), ONNX(files.onnx(tmp_path, batch=rows))
    assert softly(student, teacher) == soft(student(X), X @ files.WEIGHTS)  # 24 of them
    assert softly(student, teacher, X[:3]) == soft(student(X[:3]), X[:3] @ files.WEIGHTS)


@pytest.mark.parametrize("providers", [None, ["CPUExecutionProvider"], [("CPUExecutionProvider", {})]])
def test_onnxruntime_runs_a_file_on_the_providers_that_are_given(tmp_path, providers, monkeypatch):
    given, session = [], onnxruntime.InferenceSession

    def noted(path, providers):
        given.append(providers)
        return session(path, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    student, teacher = linear(1), ONNX(files.onnx(tmp_path), providers=providers)
    assert softly(student, teacher) == soft(student(X), X @ files.WEIGHTS)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(teacher))
    assert again.get_config() == teacher.get_config() and given == [providers, providers]


@pytest.mark.parametrize("wrong", ["WrongExecutionProvider", ("WrongExecutionProvider", {"device_id": 1})])
def test_a_provider_that_onnxruntime_does_not_have_is_refused_with_those_that_it_has(tmp_path, wrong):
    words = r"^Expected `providers`.*'CPUExecutionProvider'.*Received: \['WrongExecutionProvider', 'CPUExecution"
    with pytest.raises(ValueError, match=words):
        ONNX(files.onnx(tmp_path), providers=[wrong, "CPUExecutionProvider"])


def test_a_file_that_has_changed_is_another_teacher(tmp_path):
    kd.TeacherCache(tmp_path / "cache", teacher=ONNX(files.onnx(tmp_path))).build(X, verbose=0)
    kd.TeacherCache(tmp_path / "cache", teacher=ONNX(files.onnx(tmp_path))).build(X, verbose=0)
    other = ONNX(files.onnx(tmp_path, outputs=("scores", "twice")), outputs=["twice"])
    with pytest.raises(ValueError, match="teacher"):
        kd.TeacherCache(tmp_path / "cache", teacher=other).build(X, verbose=0)


def test_several_outputs_are_read_by_their_names(tmp_path):
    path = files.onnx(tmp_path, outputs=("scores", "twice", "four_times"))
    teacher = ONNX(path, head={"scores": "logits", "twice": "values", "four_times": "values"})
    teacher.bind(linear(1), ("scores", "four_times"))
    found = teacher(tf.constant(X), {})
    np.testing.assert_allclose(found["scores"], X @ files.WEIGHTS, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["four_times"], 4 * (X @ files.WEIGHTS), rtol=1e-5, atol=1e-6)
    one = ONNX(path, outputs=["twice"])
    one.bind(linear(1), ("logits",))
    np.testing.assert_allclose(one(tf.constant(X), {})["logits"], 2 * (X @ files.WEIGHTS), rtol=1e-5, atol=1e-6)


def test_inputs_are_prepared_and_found_by_their_names(tmp_path):
    path = files.onnx(tmp_path, inputs=("rows", "unused"))
    teacher = ONNX(path, preprocess=lambda x: {"rows": 2.0 * x, "unused": x})
    teacher.bind(linear(1), ("logits",))
    np.testing.assert_allclose(teacher(tf.constant(X), {})["logits"], 2 * (X @ files.WEIGHTS), rtol=1e-5, atol=1e-6)


def test_other_inputs_than_a_file_has_are_refused_before_any_step(tmp_path):
    student = linear(1)
    before = numbers(student)
    with pytest.raises(ValueError, match=r"names of the file's inputs, \['rows', 'unused'\]"):
        fit(distill(student, ONNX(files.onnx(tmp_path, inputs=("rows", "unused")), head="logits"), run_eagerly=False))
    assert_same(numbers(student), before)


@pytest.mark.parametrize("kind", [ONNX, LiteRT])
def test_what_is_no_such_file_is_refused(kind, tmp_path):
    with pytest.raises(ValueError, match="Expected `path` to be a file.*gone"):
        kind(tmp_path / "gone")
    (tmp_path / "text").write_text("a pickled model, perhaps")
    with pytest.raises(ValueError, match=r"^Expected a file for the runtime of (onnx|litert)\. Received: .*text"):
        kind(tmp_path / "text")


def test_an_output_that_a_file_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['scores'\]\. Received: \['logits'\]"):
        ONNX(files.onnx(tmp_path), outputs=["logits"])


def test_the_name_of_one_output_without_a_list_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"as in outputs=\['scores'\]\. Received: 'scores'"):
        ONNX(files.onnx(tmp_path), outputs="scores")


def test_probabilities_of_a_file_are_warned_of(tmp_path):
    teacher = LiteRT(files.litert(linear(2, activation="softmax"), tmp_path))
    with pytest.warns(UserWarning, match="look like probabilities"):
        fit(distill(linear(1), teacher))
    student, model = linear(1), linear(2, activation="softmax")
    received = softly(student, LiteRT(tmp_path / "teacher.tflite", head="softmax"))
    assert received == soft(student(X), np.log(np.asarray(model(X), "float64")))
