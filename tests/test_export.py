"""`kd.export` to a SavedModel: the student alone, loaded without Keras, compared before it appears."""

import dataclasses
import functools
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.exporting import Artefact, ExportReport, interface
from keras_kd.exporting.interface import Spec
from keras_kd.exporting.scratch_folder import scratch
from tests.models import Subclassed, batch, dense, linear, mlp, numbers, softmax, statistical, tagger

X, Y = batch(8)

#: Without the seconds in which a process of its own starts: test_export_formats has it, and the first test here.
export = functools.partial(kd.export, fresh=False)


def distilled(student, teacher, terms=None):
    """A student after a step of training."""
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    distiller.compile("adam", alpha=1.0)
    distiller.fit(X, verbose=0)
    return distiller


def served(path, x):
    """The outputs of a SavedModel; the loaded object is kept while it is used."""
    artefact = tf.saved_model.load(str(path))
    return tf.nest.map_structure(np.asarray, artefact.serve(tf.nest.map_structure(tf.constant, x)))


def by_hand(student, x=X):
    """The logits of a student with one tanh layer."""
    first, bias, second, shift = (np.asarray(w, "float64") for w in student.get_weights())
    return np.tanh(x @ first + bias) @ second + shift


FRESH = """
import sys, numpy, tensorflow
x = numpy.load(sys.argv[2])
model = tensorflow.saved_model.load(sys.argv[1])
serve = model.signatures["serving_default"]
(name,) = serve.structured_input_signature[1]
outputs = [model.serve(x), model.serve(x[:1]), *serve(**{name: tensorflow.constant(x)}).values()]
numpy.savez(sys.argv[3], *[numpy.array(output) for output in outputs])
assert "keras_kd" not in sys.modules
"""


@pytest.mark.slow
def test_the_saved_model_is_the_student_in_a_process_that_imports_tensorflow_alone(tmp_path):
    student = mlp(1)
    distilled(student, mlp(2))
    export(student, tmp_path / "student" / "1")
    np.save(tmp_path / "x.npy", X)
    files = [tmp_path / "student" / "1", tmp_path / "x.npy", tmp_path / "y.npz"]
    subprocess.run([sys.executable, "-c", FRESH, *files], cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path / "y.npz") as outputs:
        served, one, signature = outputs.values()
    np.testing.assert_allclose(served, by_hand(student), atol=1e-5)
    np.testing.assert_allclose(one, by_hand(student)[:1], atol=1e-5)
    assert np.array_equal(signature, served)


def test_the_variables_are_the_students_alone(tmp_path):
    student, teacher = mlp(1), mlp(2, units=9)
    hint = kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), bridge=dense(9, 3))
    distilled(student, teacher, [kd.Term(kd.losses.kl_divergence), hint])
    export(student, tmp_path / "1")
    loaded, shapes = tf.saved_model.load(str(tmp_path / "1")), {tuple(v.shape) for v in student.variables}
    assert sorted(tuple(v.shape) for v in loaded.variables) == sorted(shapes)
    written = dict(tf.train.list_variables(str(tmp_path / "1" / "variables" / "variables")))
    assert {tuple(shape) for name, shape in written.items() if "OBJECT_GRAPH" not in name} == shapes
    for path in (path for path in (tmp_path / "1").rglob("*") if path.is_file()):
        assert numbers(teacher)[0].tobytes() not in path.read_bytes(), path


def test_the_report_has_what_was_written_and_its_difference(tmp_path):
    report = export(mlp(1), tmp_path / "1", representative=X[:5])
    assert (report.path, report.examples) == (tmp_path / "1", 5)
    files = [file for file in report.path.rglob("*") if file.is_file() and file.name != "export.json"]
    assert report.size == sum(file.stat().st_size for file in files)
    assert 0.0 <= report.difference < 1e-5
    assert str(tmp_path / "1") in str(report) and "KiB" in str(report) and "5 examples" in str(report)


def test_a_report_counts_and_shows_what_passed_and_names_what_failed(tmp_path):
    known = {"agreement": 0.995, "accuracy": -0.012, "latency": (0.5, 1.25), "note": "Of one."}
    good = Artefact("saved_model", tmp_path, size=3000, difference=2e-6, **known)
    other = Artefact("onnx", tmp_path / "student.onnx", size=2_048_000, difference=3e-6, latency=(10.0, 20.0))
    bad = Artefact("litert int8", tmp_path / "failed" / "s.tflite", error="Too far.", size=10, difference=float("nan"))
    report = ExportReport(tmp_path, 40, (good, bad, other), "Weak.")
    assert (report.size, report.difference, report.passed) == (2_051_000, 3e-6, False)
    first, *table = str(report).splitlines()[:4]
    assert first == f"{tmp_path}, compared with the student on 40 examples:"
    assert [re.split("  +", line) for line in table] == [
        ["format", "size", "difference", "top class", "accuracy", "p50", "p95"],
        ["saved_model", "3 KiB", "2.0e-06", "99.5 %", "-1.2 %", "0.5 ms", "1.25 ms"],
        ["onnx", "2,000 KiB", "3.0e-06", "10 ms", "20 ms"],
    ]
    assert len({len(line) for line in table}) == 1  # aligned to the right
    assert str(report).splitlines()[4:] == ["Weak.", "saved_model: Of one.", "litert int8: FAILED. Too far."]
    assert report["onnx"] is other
    with pytest.raises(KeyError, match="'litert int8', 'onnx', 'saved_model'.*Received: 'keras'"):
        report["keras"]
    report.write(tmp_path)
    written = json.loads((tmp_path / "export.json").read_text())
    assert (written["examples"], written["note"], written["keras"]) == (40, "Weak.", keras.__version__)
    assert [each["path"] for each in written["artefacts"]] == [".", "failed/s.tflite", "student.onnx"]
    assert [each["passed"] for each in written["artefacts"]] == [True, False, True]
    assert [each["difference"] for each in written["artefacts"]] == [2e-6, "nan", 3e-6]  # JSON has no NaN


def test_sizes_that_differ_between_batches_are_free_and_numbers_of_64_bits_have_32():
    batches = [
        {"b": np.zeros((3, 4, 2)), "a": np.full((3, 1), "x")},
        {"b": np.zeros((2, 5, 2)), "a": np.full((2, 1), "y")},
    ]
    specs = interface.inputs_of(batches)
    assert (specs["b"], specs["a"]) == (Spec("b", (None, None, 2), "float32"), Spec("a", (None, 1), "string"))
    assert interface.inputs_of(batches[:1])["b"].shape == (None, 4, 2)
    assert interface.inputs_of([np.zeros((3, 2), "int64")]) == Spec("input_0", (None, 2), "int64")
    with pytest.raises(ValueError, match="one rank"):
        interface.inputs_of([np.zeros((3, 2)), np.zeros((3, 2, 1))])


def test_inputs_and_outputs_are_named_by_their_keys_or_else_by_number():
    one = np.zeros((2, 3), "float32")
    assert [spec.name for spec in interface.inputs_of([[one, one]])] == ["input_0", "input_1"]
    same = interface.inputs_of([{"a-b": one, "a b": one}])
    assert {key: spec.name for key, spec in same.items()} == {"a b": "a_b_0", "a-b": "a_b_1"}
    assert interface.output_names({"b c": one, "a": one}) == ("a", "b_c")
    assert interface.output_names(one) == ("output_0",)
    assert interface.output_names([one, one]) == interface.output_names({"a": [one, one]}) == ("output_0", "output_1")


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_an_existing_path_is_not_overwritten(tmp_path, kind):
    path = tmp_path / "1"
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
    if kind == "folder":
        (path / "saved_model.pb").write_text("mine")
    before = {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(FileExistsError, match="not overwritten.*next version"):
        export(mlp(1), path)
    assert {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_student_that_does_not_repeat_itself_is_refused_and_leaves_nothing(tmp_path):
    class Noise(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)

    x = keras.Input((4,))
    noisy = keras.Model(x, Noise()(dense(3, 1)(x)), name="noisy")
    with pytest.raises(ValueError, match="'noisy' does not agree with the student.*Nothing was written"):
        export(noisy, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_a_student_that_outputs_nan_is_refused_and_leaves_nothing(tmp_path):
    student = linear(1)
    student.set_weights([np.full_like(w, np.nan) for w in student.get_weights()])
    with pytest.raises(ValueError, match="nan"):
        export(student, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_breaks_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="99"):
        export(mlp(1), tmp_path / "1", representative=np.zeros((2, 99), "float32"))
    assert list(tmp_path.iterdir()) == []


def test_columns_of_one_value_a_row_are_taken_as_by_fit(tmp_path):
    inputs = {"amount": keras.Input((1,), name="amount"), "country": keras.Input((1,), dtype="string", name="country")}
    known = keras.layers.StringLookup(vocabulary=["de", "fr"], output_mode="one_hot")
    both = keras.layers.Concatenate()([inputs["amount"], known(inputs["country"])])
    student = keras.Model(inputs, dense(1, 1)(both))
    columns = {"amount": X[:2, 0], "country": np.array(["fr", "us"], object)}
    assert export(student, tmp_path / "1", representative=columns).passed
    x = {name: tf.constant(each[:, None]) for name, each in columns.items()}
    np.testing.assert_allclose(served(tmp_path / "1", x), student(x), rtol=0, atol=1e-6)


KILLED = """
import sys, keras, keras_kd
x = y = keras.Input((8, 8, 3))
for _ in range(20):  # takes a second to write
    y = keras.layers.Conv2D(8, 3, padding="same")(y)
keras_kd.export(keras.Model(x, y), sys.argv[1], fresh=False)
"""


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_under_the_final_name_and_the_next_removes_the_rest_and_nothing_else(tmp_path):
    path, root = tmp_path / "1", pathlib.Path(kd.__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], cwd=root, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob(".1-*/keras_kd-export.lock")):
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    (tmp_path / ".mine-12345678").mkdir()
    with scratch(tmp_path / "3") as other:
        export(mlp(1), tmp_path / "2")  # beside two that go on, one of them in another process
        assert other.exists() and list(tmp_path.glob(".1-*"))
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert list(tmp_path.glob(".1-*")) and not path.exists()
        export(mlp(1), tmp_path / "4")
        assert {each.name for each in tmp_path.iterdir()} == {".mine-12345678", "2", "4", other.name}
    assert not other.exists()


# Kinds of students.


@pytest.mark.parametrize("trained", [False, True], ids=["built", "distilled"])
def test_a_sequential_student_is_exported(tmp_path, trained):
    student = keras.Sequential([keras.Input((4,)), dense(3, 1)])
    if trained:
        distilled(student, mlp(2))
    export(student, tmp_path / "1")
    kernel, bias = student.get_weights()
    np.testing.assert_allclose(served(tmp_path / "1", X), X @ kernel + bias, atol=1e-5)


def test_batch_normalisation_and_dropout_are_exported_as_in_inference(tmp_path):
    student = statistical(1)
    distilled(student, mlp(2))
    export(student, tmp_path / "1")
    kernel, bias, scale, offset, mean, variance, second, shift = (
        np.asarray(w, "float64") for w in student.get_weights()
    )
    hidden = (X @ kernel + bias - mean) / np.sqrt(variance + 1e-3) * scale + offset
    np.testing.assert_allclose(served(tmp_path / "1", X), np.maximum(hidden, 0) @ second + shift, atol=1e-5)


def test_a_subclassed_student_is_exported_on_representative_inputs(tmp_path):
    student = Subclassed(dense(3, 1))
    distilled(student, mlp(2))
    with pytest.raises(ValueError, match="representative.*subclassed"):
        export(student, tmp_path / "1")
    export(student, tmp_path / "1", representative=X[:4])
    kernel, bias = student.get_weights()
    np.testing.assert_allclose(served(tmp_path / "1", X), X @ kernel + bias, atol=1e-5)


@pytest.mark.parametrize("form", ["dict", "list"])
def test_inputs_and_outputs_in_dicts_or_lists_keep_their_form(tmp_path, form):
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    inputs, outputs = {"a": a, "b": b}, {"sum": keras.layers.Dense(3)(a), "twice": 2 * b}
    if form == "list":
        inputs, outputs = list(inputs.values()), list(outputs.values())
    student = keras.Model(inputs, outputs)
    export(student, tmp_path / "1")
    x = {"a": X, "b": X[:, :2]} if form == "dict" else [X, X[:, :2]]
    received = served(tmp_path / "1", x)
    kernel, bias = student.get_weights()
    first, second = (received["sum"], received["twice"]) if form == "dict" else received
    np.testing.assert_allclose(first, X @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(second, 2 * X[:, :2], atol=1e-6)


def test_strings_for_a_student_of_numbers_are_refused_with_what_makes_numbers_of_them(tmp_path):
    with pytest.raises(ValueError, match=r"Strings become those by `preprocessing`, as in preprocessing="):
        export(linear(1), tmp_path / "1", representative=np.array(["a", "b"]))


@pytest.mark.parametrize("representative", [None, np.array([[1, 2, 0], [3, 1, 2]], "int32")], ids=["drawn", "given"])
def test_integer_inputs_of_any_length(tmp_path, representative):
    student = tagger(1, words=6)
    export(student, tmp_path / "1", representative=representative)
    words = np.array([[5, 0, 2, 3, 1]], "int32")
    table, kernel, bias = student.get_weights()
    np.testing.assert_allclose(served(tmp_path / "1", words), table[words] @ kernel + bias, atol=1e-5)


def test_a_softmax_head_is_exported_unchanged(tmp_path):
    student = linear(1, activation="softmax")
    distilled(student, linear(2))
    export(student, tmp_path / "1")
    kernel, bias = student.get_weights()
    np.testing.assert_allclose(served(tmp_path / "1", X), softmax(X @ kernel + bias), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_student_in_half_precision_is_exported(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    try:
        student = mlp(1)
    finally:
        keras.config.set_dtype_policy("float32")
    export(student, tmp_path / "1")
    np.testing.assert_allclose(served(tmp_path / "1", X).astype("float32"), by_hand(student), rtol=0.05, atol=0.05)


# What cannot be exported.


def test_the_error_of_a_distiller_names_its_student(tmp_path):
    distiller = kd.Distiller(student=linear(1), teacher=linear(2))
    with pytest.raises(TypeError, match=r"distiller\.student"):
        export(distiller, tmp_path / "1")
    with pytest.raises(TypeError, match="student, a keras.Model.*'x.keras'.*str"):
        export("x.keras", tmp_path / "1")


def test_a_student_that_happens_to_have_a_part_named_student_is_exported(tmp_path):
    class Pupil(Subclassed):
        def __init__(self, layer):
            super().__init__(layer)
            self.student = layer

    student = Pupil(dense(3, 1))
    student(X)
    export(student, tmp_path / "1", representative=X)


def test_a_student_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="built"):
        export(keras.Sequential([dense(3, 1)]), tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_the_docstring_names_all_that_a_report_and_its_artefacts_hold():
    returns = kd.export.__doc__.partition("Returns:")[2].partition("Raises:")[0]
    names = [field.name for kind in (ExportReport, Artefact) for field in dataclasses.fields(kind)]
    assert [name for name in names if f"`{name}`" not in returns] == []
