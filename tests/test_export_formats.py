"""`kd.export` to several formats: each is run by its own runtime and compared; a file that fails is kept apart."""

import functools
import hashlib
import json
import os
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
from keras_kd import data
from keras_kd.exporting import litert_conversion, verification
from keras_kd.exporting.deviation import Deviation, Tolerance
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats import chosen
from keras_kd.exporting.sample_inputs import prepare
from tests.models import Scaled, Subclassed, batch, dense, mlp, tagger

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")

X, Y = batch(40)
ALL = ("saved_model", "keras", "litert", "onnx")
export = functools.partial(kd.export, fresh=False)


class Erfinv(keras.layers.Layer):
    """An operation that neither LiteRT nor ONNX has."""

    def call(self, x):
        return tf.math.erfinv(keras.ops.tanh(x) / 2)


def run_litert(path, *inputs):
    """The outputs of a `.tflite` file for inputs in the order of its signature, int8 converted to and from numbers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    takes, gives = interpreter.get_input_details(), interpreter.get_output_details()
    for detail, x in zip(takes, inputs, strict=True):
        scale, zero = detail["quantization"]
        if detail["dtype"] == np.int8:
            x = np.clip(np.rint(x / scale) + zero, -128, 127).astype("int8")
        interpreter.resize_tensor_input(detail["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    (output,) = [interpreter.get_tensor(detail["index"]) for detail in gives]
    scale, zero = gives[0]["quantization"]
    return scale * (output.astype("float64") - zero) if output.dtype == np.int8 else output


def hand(student, x):
    """The logits of a student with one tanh layer, in float64."""
    first, bias, second, shift = (np.asarray(w, "float64") for w in student.get_weights())
    return np.tanh(x @ first + bias) @ second + shift


def run_onnx(path, **inputs):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)


# One student in all formats, on 1,000 real digits, each runtime in a fresh process.


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A small convolutional student of digits, its inputs and labels, its outputs for them, and its export."""
    images = data.load("digits").train
    x, y = np.asarray(images[0][:1000], "float32"), np.asarray(images[1][:1000])
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input(x.shape[1:], name="image"),
        keras.layers.Conv2D(16, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(96, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10),
    ]
    student = keras.Sequential(layers, name="digits")
    student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    student.fit(x, y, epochs=4, verbose=0)
    report = kd.export(
        student,
        tmp_path_factory.mktemp("models") / "digits" / "1",
        formats=ALL,
        quantize=(None, "float16", "dynamic", "int8"),
        representative=tf.data.Dataset.from_tensor_slices((x, y)),
    )
    return student, x, y, student.predict(x, verbose=0), report


def outputs_of(report, name, x):
    """The outputs of one of the artefacts, run here."""
    path = report[name].path
    if name == "saved_model":
        loaded = tf.saved_model.load(str(path))
        return np.asarray(loaded.signatures["serving_default"](image=tf.constant(x))["output_0"])
    if name == "keras":
        return keras.models.load_model(path).predict(x, verbose=0)
    return run_onnx(path, image=x)[0] if name == "onnx" else run_litert(path, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, tolerance", [("saved_model", 1e-5), ("keras", 1e-5), ("onnx", 1e-5), ("litert float32", 1e-4)]
)
def test_float32_artefacts_output_what_the_student_outputs_on_a_thousand_digits(digits, name, tolerance):
    _, x, _, expected, report = digits
    received = outputs_of(report, name, x)
    np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))
    best = np.sort(expected, axis=-1)
    clear = best[:, -1] - best[:, -2] > 2 * tolerance
    assert clear.mean() > 0.9
    assert np.array_equal(received.argmax(-1)[clear], expected.argmax(-1)[clear])
    np.testing.assert_allclose(outputs_of(report, name, x[:1]), expected[:1], atol=1e-3)  # any batch size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["litert float16", "litert dynamic", "litert int8"])
def test_smaller_numbers_keep_the_accuracy_and_the_report_has_the_difference(digits, name):
    _, x, y, expected, report = digits
    received, artefact = outputs_of(report, name, x), report[name]
    assert np.mean(expected.argmax(-1) == y) > 0.8
    agreement = np.mean(received.argmax(-1) == expected.argmax(-1))
    accuracy = np.mean(received.argmax(-1) == y) - np.mean(expected.argmax(-1) == y)
    assert agreement > 0.97 and abs(accuracy) < 0.02
    assert artefact.agreement == pytest.approx(agreement, abs=1e-9)
    assert artefact.accuracy == pytest.approx(accuracy, abs=1e-9)
    differences = np.abs(received - expected).max(-1)
    assert np.min(np.abs(differences - artefact.difference)) < 1e-4  # of the worst example in proportion
    assert 0.5 * differences.max() < artefact.difference < 1.001 * differences.max()


@pytest.mark.slow
def test_int8_is_int8_throughout_and_a_third_of_the_size(digits):
    from ai_edge_litert.interpreter import Interpreter

    report = digits[-1]
    interpreter = Interpreter(str(report["litert int8"].path), experimental_preserve_all_tensors=True)
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    assert {end["dtype"] for end in ends} == {np.int8}
    types = {tuple(detail["shape"]): detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert types[(16, 3, 3, 1)] == types[(96, 576)] == types[(10, 96)] == np.int8  # the three layers' weights
    assert np.float32 not in types.values()
    assert report["litert int8"].size <= 0.30 * report["litert float32"].size
    assert report["litert dynamic"].size <= 0.30 * report["litert float32"].size
    assert report["litert float16"].size <= 0.55 * report["litert float32"].size


@pytest.mark.slow
def test_the_report_is_printed_and_written_with_the_checksum_of_every_file(digits, capsys):
    report = digits[-1]
    content = json.loads((report.path / "export.json").read_text())
    assert report.passed and report.examples == content["examples"] == 1000
    assert [each["name"] for each in content["artefacts"]] == [each.name for each in report.artefacts]
    sums = {name: value for each in content["artefacts"] for name, value in each["checksums"].items()}
    files = [file for file in report.path.rglob("*") if file.is_file() and file.name != "export.json"]
    assert {name: hashlib.sha256((report.path / name).read_bytes()).hexdigest() for name in sums} == sums
    assert {file.relative_to(report.path).as_posix() for file in files} == set(sums)
    for artefact in report.artefacts:
        p50, p95 = artefact.latency
        assert 0 < p50 <= p95 and artefact.size > 0 and artefact.passed
        assert re.search(rf"^{artefact.name} .* KiB .*%.* ms .* ms$", str(report), re.MULTILINE)


def test_the_report_is_printed_where_keras_prints(tmp_path, capsys):
    report = export(mlp(1), tmp_path / "1", representative=X)
    assert str(report) in capsys.readouterr().out
    keras.config.disable_interactive_logging()
    try:
        export(mlp(1), tmp_path / "2", representative=X)
    finally:
        keras.config.enable_interactive_logging()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_each_weight_is_written_once(digits):
    student, *_, report = digits
    weights = 4 * sum(weight.size for weight in student.get_weights())
    assert weights < sum(file.stat().st_size for file in report.path.glob("variables/*")) < weights + 10_000
    assert report["keras"].size < weights + 40_000  # no state of the optimizer, which is twice the weights


# Kinds of students.


def test_an_input_without_a_name_has_the_same_one_in_every_session(tmp_path):
    for version in ("1", "2"):  # Keras counts on
        export(mlp(1), tmp_path / version)
        signature = tf.saved_model.load(str(tmp_path / version)).signatures["serving_default"]
        assert list(signature.structured_input_signature[1]) == ["input_0"]
        assert list(signature.structured_outputs) == ["output_0"]


@pytest.mark.slow
def test_inputs_in_dicts_in_any_order_reach_their_names_in_all_formats(tmp_path):
    a, b = keras.Input((4,), name="z"), keras.Input((2,), name="b")
    student = keras.Model({"z": a, "b": b}, {"sum": dense(3, 1)(a), "also": 2 * b})
    report = export(student, tmp_path / "1", formats=ALL, representative={"z": X, "b": X[:, :2]})
    assert report.passed
    also, total = run_onnx(report["onnx"].path, z=X, b=X[:, :2])
    np.testing.assert_allclose(total, X @ student.get_weights()[0] + student.get_weights()[1], atol=1e-5)
    np.testing.assert_allclose(also, 2 * X[:, :2], atol=1e-6)


@pytest.mark.slow
def test_sequences_of_several_lengths_are_compared_in_all_formats(tmp_path):
    lengths = [np.random.default_rng(n).integers(0, 6, (5, n)).astype("int32") for n in (3, 7, 4)]
    spec = tf.TensorSpec((None, None), "int32")
    student = tagger(1)
    report = export(
        student,
        tmp_path / "1",
        formats=ALL,
        quantize=(None, "int8"),
        representative=tf.data.Dataset.from_generator(lambda: lengths, output_signature=spec),
    )
    assert report.passed and report.examples == 15
    table, kernel, bias = student.get_weights()
    words = np.array([[5, 0, 2, 3, 1, 4, 4, 2, 1]], "int32")
    np.testing.assert_allclose(
        run_litert(report["litert float32"].path, words), table[words] @ kernel + bias, atol=1e-5
    )


@pytest.mark.slow
def test_a_recurrent_student_takes_one_sequence_of_any_length_in_litert(tmp_path):
    inputs = keras.Input((None, 4), name="steps")
    student = keras.Model(inputs, dense(3, 1)(keras.layers.GRU(5)(inputs)), name="reader")
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")
    formats = ("litert", "onnx")
    quantize = (None, "dynamic", "int8")
    report = export(student, tmp_path / "1", formats=formats, quantize=quantize, representative=x)
    assert report["litert float32"].passed and report["litert dynamic"].passed and report["onnx"].passed
    assert "one example at a time" in report["litert float32"].note
    assert "litert float32: It takes one example" in str(report)
    assert "'reader' to int8 throughout: it has recurrent layers" in report["litert int8"].error
    for length in (3, 9):
        x = np.random.default_rng(length).normal(size=(2, length, 4)).astype("float32")
        expected = student.predict(x, verbose=0)
        np.testing.assert_allclose(run_litert(report["litert float32"].path, x[:1]), expected[:1], atol=1e-4)
        np.testing.assert_allclose(run_onnx(report["onnx"].path, steps=x)[0], expected, atol=1e-5)


@pytest.mark.slow
def test_strings_are_exported_except_to_onnx_which_has_no_tables(tmp_path):
    inputs = keras.Input((), dtype="string", name="word")
    ids = keras.layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="one_hot")(inputs)
    student = keras.Model(inputs, dense(3, 1)(ids), name="speller")
    words = np.array(["a", "c", "zz", "b"])
    report = export(student, tmp_path / "1", formats=ALL, representative=words)
    assert [each.name for each in report.artefacts if not each.passed] == ["onnx"]
    assert "'speller' needs: LookupTableFindV2" in report["onnx"].error
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    kernel, bias = student.get_weights()
    np.testing.assert_allclose(loaded.serve(tf.constant(words)), kernel[[1, 3, 0, 2]] + bias, atol=1e-6)


@pytest.mark.parametrize("policy, tolerance", [("mixed_float16", 2e-3), ("mixed_bfloat16", 2e-2)])
def test_a_student_of_mixed_precision_becomes_float32_where_a_runtime_needs_it(tmp_path, policy, tolerance):
    keras.config.set_dtype_policy(policy)
    try:
        student = mlp(1)
    finally:
        keras.config.set_dtype_policy("float32")
    report = export(student, tmp_path / "1", formats=ALL, representative=X)
    assert report.passed and tolerance < report["onnx"].allowed < 3 * tolerance
    first, bias, second, shift = (np.asarray(w, "float64") for w in student.get_weights())
    expected = np.tanh(X @ first + bias) @ second + shift
    np.testing.assert_allclose(run_litert(report["litert float32"].path, X), expected, atol=1e-5)


def mixed(policy):
    """A student whose every layer computes in 16 bits, whatever the session's policy."""
    keras.config.set_dtype_policy(policy)
    try:
        return keras.Sequential([keras.Input((4,)), dense(16, 1), dense(3, 2)])
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("policy", "kind"),  # each kind once, and each policy twice
    [
        ("mixed_float16", "loaded"),
        ("mixed_bfloat16", "one layer"),
        ("mixed_bfloat16", "nested"),
        ("mixed_float16", "served"),
    ],
)
def test_precision_is_that_of_the_layers(tmp_path, policy, kind):
    student, arguments = mixed(policy), {}
    if kind == "loaded":
        student.save(tmp_path / "mixed.keras")
        student = keras.models.load_model(tmp_path / "mixed.keras")
        assert student.compute_dtype == "float32"
    elif kind == "one layer":
        student = keras.Sequential([keras.Input((4,)), dense(16, 1, dtype=policy), dense(3, 2)])
    elif kind == "nested":
        inputs = keras.Input((4,))
        student = keras.Model(inputs, keras.layers.Identity()(student(inputs)))
    else:
        arguments = {"outputs": "softmax"}
    report = export(student, tmp_path / "1", formats=("saved_model", "litert", "onnx"), representative=X, **arguments)
    assert report.passed, report
    assert report["onnx"].difference > 1e-5  # beyond what float32 may differ


def test_a_float32_student_that_is_made_where_the_policy_is_mixed_has_the_tolerance_of_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        student = keras.Sequential([keras.Input((4,)), dense(3, 1, dtype="float32")])
        source = Source(student, *prepare(student, X), tmp_path, fresh=False)
        assert (student.compute_dtype, source.rounding) == ("bfloat16", 0.0)
    finally:
        keras.config.set_dtype_policy("float32")


class Kept(keras.layers.Layer):
    """Tensors beside the variables: one to add, and one that is a shape, which ONNX wants as a constant."""

    def build(self, shape):
        with tf.init_scope():
            self.offset, self.shape = tf.constant([1.0, 2.0, 3.0, 4.0]), tf.constant([-1, 2, 2])

    def call(self, x):
        return tf.reduce_max(tf.reshape(x + self.offset, self.shape), axis=-1)


@pytest.mark.parametrize("kind", ["adapted", "inverted", "given", "kept", "preprocessing", "nested"])
def test_tensors_of_layers_beside_their_variables_are_constants_in_onnx(tmp_path, kind):
    x = (100 + 50 * np.random.default_rng(0).normal(size=(50, 4))).astype("float32")
    mean, deviation = x.mean(0, dtype="float64"), x.std(0, dtype="float64")
    given = {"mean": mean, "variance": deviation**2} if kind == "given" else {}
    layer = keras.layers.Normalization(**given, invert=kind == "inverted")
    if kind != "given":
        layer.adapt(x)
    inputs, scores = keras.Input((4,), name="numbers"), dense(3, 1)
    hidden = Kept()(inputs) if kind == "kept" else layer(inputs)
    student = keras.Model(inputs, hidden if kind == "kept" else scores(hidden))
    if kind == "nested":
        outer = keras.Input((4,), name="numbers")
        student = keras.Model(outer, student(outer))
    arguments = {"preprocessing": layer} if kind == "preprocessing" else {}
    if kind == "preprocessing":
        student = keras.Sequential([keras.Input((4,), name="numbers"), scores])
    report = export(student, tmp_path / "1", formats=("saved_model", "onnx"), representative=x, **arguments)
    assert report.passed, report
    standardised = x * deviation + mean if kind == "inverted" else (x - mean) / deviation
    expected = (
        (x + [1, 2, 3, 4]).reshape(-1, 2, 2).max(-1)
        if kind == "kept"
        else standardised @ np.asarray(scores.kernel, "float64") + np.asarray(scores.bias, "float64")
    )
    import onnx

    (name,) = [each.name for each in onnx.load(report["onnx"].path).graph.input]
    np.testing.assert_allclose(
        run_onnx(report["onnx"].path, **{name: x})[0], expected, atol=1e-6 * np.abs(expected).max()
    )


@pytest.mark.slow
def test_a_subclassed_student_of_a_module_is_loaded_in_a_fresh_process(tmp_path):
    student = Scaled()
    student(X)
    report = kd.export(student, tmp_path / "1", formats=("keras", "onnx"), representative=X)
    assert report.passed, report
    kernel, bias = student.get_weights()
    np.testing.assert_allclose(run_onnx(report["onnx"].path, input_0=X)[0], (X @ kernel + bias) / 2, atol=1e-5)
    assert not (tmp_path / "1" / "saved_model.pb").exists()


# What fails.


def test_a_student_that_no_format_repeats_is_refused_and_leaves_nothing(tmp_path):
    class Eager(keras.layers.Layer):
        def call(self, x):
            return x + float(tf.executing_eagerly())

    inputs = keras.Input((4,))
    student = keras.Model(inputs, Eager()(inputs), name="eager")
    with pytest.raises(ValueError, match="The saved_model of 'eager' does not agree.*The onnx of.*Nothing was written"):
        export(student, tmp_path / "1", formats=("saved_model", "onnx"), representative=X)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_coarser_than_allowed_is_in_failed_and_the_others_are_good(tmp_path, monkeypatch):
    inputs = keras.Input((2,))
    weights = np.array([[1e4, 0.0], [0.0, 1e-6]], "float32")  # one range for both outputs: the second is lost in int8
    x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    x[-1] *= 1e4  # beyond what int8 was calibrated on, if calibration stops before
    student = keras.Model(inputs, keras.layers.Dense(2, use_bias=False, name="scores")(inputs), name="wide")
    student.set_weights([weights])
    monkeypatch.setattr(litert_conversion, "CALIBRATION", 49)
    formats = ("saved_model", "litert")
    report = export(student, tmp_path / "1", formats=formats, quantize=(None, "int8"), representative=x)
    failed = report["litert int8"]
    assert [each.passed for each in report.artefacts] == [True, True, False] and not report.passed
    assert failed.path == tmp_path / "1" / "failed" / "student.int8.tflite" and failed.path.exists()
    assert not (tmp_path / "1" / "student.int8.tflite").exists()
    assert "litert int8: FAILED. The litert int8 of 'wide' does not agree" in str(report)
    content = json.loads((tmp_path / "1" / "export.json").read_text())
    assert [each["path"] for each in content["artefacts"]] == [".", "student.tflite", "failed/student.int8.tflite"]
    assert report.size == sum(report[name].size for name in ("saved_model", "litert float32"))


def test_operations_that_a_format_lacks_are_named_and_the_others_are_written(tmp_path):
    inputs = keras.Input((4,))
    student = keras.Model(inputs, Erfinv()(inputs), name="inverse")
    report = export(student, tmp_path / "1", formats=ALL)
    assert [each.name for each in report.artefacts if each.passed] == ["saved_model", "keras"]
    assert "ONNX does not have operations that 'inverse' needs: Erfinv" in report["onnx"].error
    assert "LiteRT does not have operations that 'inverse' needs" in report["litert float32"].error
    assert "Erfinv" in report["litert float32"].error and report["litert float32"].path is None
    with pytest.raises(ValueError, match="ONNX does not have operations that 'inverse' needs: Erfinv.*Nothing"):
        export(student, tmp_path / "2", formats=("onnx",))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_file_that_its_runtime_cannot_load_is_reported(tmp_path):
    path = tmp_path / "student.tflite"
    path.write_bytes(b"no such file format")
    found = verification.compare(
        Source(mlp(1), *prepare(mlp(1), X), tmp_path, fresh=True), {path: chosen(("litert",), None)[0]}
    )
    assert isinstance(found[path], str) and "ValueError" in found[path]


FATAL = """
import os, sys, keras
if sys.argv[0].endswith("model_files.py"):
    os._exit(3)
class Fatal(keras.Model):
    def call(self, x):
        return x
"""


@pytest.mark.slow
def test_a_process_that_dies_is_reported_for_the_file_it_was_running_alone(tmp_path, monkeypatch):
    (tmp_path / "fatal.py").write_text(FATAL)
    monkeypatch.syspath_prepend(tmp_path)
    student = __import__("fatal").Fatal()
    student(X)
    path = tmp_path / "models" / "1"
    report = kd.export(student, path, formats=("saved_model", "keras"), representative=X)
    assert report["saved_model"].passed and "process ended with 3" in report["keras"].error
    assert sorted(each.name for each in path.iterdir() if each.is_file()) == [
        "export.json",
        "fingerprint.pb",
        "saved_model.pb",
    ]


def test_a_hostile_keras_file_runs_no_code(tmp_path):
    path, marker = tmp_path / "student.keras", tmp_path / "marker"
    hostile = eval(f"lambda x: (__import__('pathlib').Path({str(marker)!r}).touch(), x)[1]")
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Lambda(hostile)(inputs)).save(path)
    marker.unlink()
    keras.models.load_model(path, safe_mode=False)
    assert marker.exists()  # loading it with trust is enough
    marker.unlink()
    source = Source(mlp(1), *prepare(mlp(1), X), tmp_path, fresh=False)
    found = verification.compare(source, {path: chosen(("keras",), None)[0]})
    assert "safe_mode" in found[path] and not marker.exists()


def test_a_student_with_a_lambda_is_not_written_to_a_keras_file(tmp_path):
    inputs = keras.Input((4,))
    student = keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x, name="double")(inputs))
    report = export(student, tmp_path / "1", formats=("saved_model", "keras"))
    assert report["saved_model"].passed and "safe mode" in report["keras"].error and "double" in report["keras"].error


KILLED = """
import sys, keras, numpy, keras_kd
x = keras.Input((4,))
formats = ("saved_model", "onnx")
keras_kd.export(keras.Model(x, keras.layers.Dense(3)(x)), sys.argv[1], formats=formats)
"""


@pytest.mark.slow
def test_an_export_that_is_killed_while_it_compares_leaves_no_version_and_the_next_succeeds(tmp_path):
    path, root = tmp_path / "1", pathlib.Path(kd.__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], cwd=root, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob(".1-*/work/job.json")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert list(tmp_path.glob(".1-*/student.onnx")) and not path.exists()
    assert export(mlp(1), path, formats=("saved_model", "keras")).passed


# What is refused before any work.


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"formats": ("h5",)}, "some of .*'litert'.*Received: .'h5'"),
        ({"formats": "litert"}, "Received: 'litert'"),
        ({"formats": ()}, "some of"),
        ({"formats": ("litert",), "quantize": "int4"}, "'int8'.*Received: 'int4'"),
        ({"quantize": "float16"}, "Expected 'litert' among `formats`"),
        ({"formats": ("litert",), "quantize": "int8"}, "`representative` examples.*ranges"),
        ({"representative": X[:, :3]}, r"float32\. Received: \(40, 3\)"),
        ({"representative": X[0]}, r"Received: \(4,\)"),
        ({"representative": X[:0]}, "Received none"),
        ({"representative": {"a": X, "b": X}}, r"Received: \(40, 4\) float32, \(40, 4\)"),
        ({"representative": X.astype("str")}, r"Received: \(40, 4\) object"),
        ({"representative": tf.data.Dataset.from_tensor_slices(X).take(0)}, "Received none"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export(mlp(1), tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("formats", "quantize", "message"),
    [
        (("tflite",), None, "some of .*'onnx'.*Received: .'tflite'"),
        ("litert", None, "formats=.'litert',.*Received: 'litert'"),
        ((), None, "some of"),
        (("litert",), (), "or several of them. Received: .."),
        (("litert",), "int4", "'float16', 'dynamic', 'int8x16', 'int8'.*Received: 'int4'"),
        (("onnx",), "float16", "Expected 'litert' among `formats`"),
    ],
)
def test_formats_that_do_not_exist_are_refused(formats, quantize, message):
    with pytest.raises(ValueError, match=message):
        chosen(formats, quantize)


def test_each_format_may_differ_by_so_much_of_the_scale_and_integers_by_two_steps_of_a_probability():
    found = chosen(ALL, (None, "float16", "dynamic", "int8", "int8"))
    assert {each.name: (each.file, each.of_scale, each.resolution) for each in found} == {
        "saved_model": ("saved_model", 1e-5, 0.0),
        "keras": ("student.keras", 1e-5, 0.0),
        "litert float32": ("student.tflite", 1e-4, 0.0),
        "litert float16": ("student.float16.tflite", 1e-2, 0.0),
        "litert dynamic": ("student.dynamic.tflite", 0.25, 0.0),
        "litert int8": ("student.int8.tflite", 0.4, 2 / 256),
        "onnx": ("student.onnx", 1e-5, 0.0),
    }
    assert [each.name for each in chosen(("keras", "keras"), None)] == ["keras"]
    int8 = {each.name: each for each in found}["litert int8"]
    assert int8.tolerance(2e-2, probabilities=True) == Tolerance(0.4, 2e-2, 2 / 256)
    assert int8.tolerance(2e-2, probabilities=False) == Tolerance(0.4, 2e-2, 0.0)


def test_agreement_is_over_all_outputs_and_the_worst_is_nearest_to_what_it_may_differ():
    near, far = Deviation(3.0, 10.0, 30, 1, 4.0), Deviation(0.4, 1.0, 10, 3, 2.0)
    both = verification.Comparison((near, far), None, (1.0, 2.0))
    assert both.worst is far
    assert (both.agreement, both.least_agreement) == (1 - 4 / 40, 1 - 6 / 40)
    assert verification.Comparison((Deviation(1.0, 1.0, 0, 0, 0.0),), None, (1.0, 2.0)).agreement is None
    assert verification.Comparison((Deviation(1.0, 1.0, 2, 0, 9.0),), None, (1.0, 2.0)).least_agreement == 0.0


def test_a_thousand_examples_of_more_are_taken_with_their_labels():
    x, y = batch(1100)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    for given in ((x, y), dataset, dataset.batch(100)):
        _, examples = prepare(mlp(1), given)
        assert examples.count == 1000 and {len(leaves[0]) for leaves in examples.batches} == {100}
        np.testing.assert_array_equal(np.concatenate([leaves[0] for leaves in examples.batches]), x[:1000])
        np.testing.assert_array_equal(np.concatenate(examples.labels), y[:1000])
        np.testing.assert_allclose(
            np.concatenate([leaves[0] for leaves in examples.expected]), hand(mlp(1), x[:1000]), atol=1e-5
        )


def test_nothing_is_run_in_a_process_of_its_own_with_fresh_false(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a process was started"))
    assert export(mlp(1), tmp_path / "1", formats=("saved_model", "keras")).passed


def test_a_name_without_a_version_is_refused_beside_versions(tmp_path):
    export(mlp(1), tmp_path / "student" / "1")
    export(mlp(1), tmp_path / "student" / "7")
    with pytest.raises(ValueError, match=r"integer version.*student/8.*'latest'"):
        export(mlp(1), tmp_path / "student" / "latest")
    with pytest.raises(FileExistsError, match=r"next version number as in .*student/8"):
        export(mlp(1), tmp_path / "student")
    with pytest.raises(FileExistsError, match=r"next version number as in .*student/8"):
        export(mlp(1), tmp_path / "student" / "1")
    export(mlp(1), tmp_path / "student" / "latest", formats=("keras",))  # no matter for serving


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="folder that can be written to.*file"):
        export(mlp(1), tmp_path / "file" / "1")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"keras_kd\[litert\]"):
        export(mlp(1), tmp_path / "1", formats=("litert",))


def test_a_subclassed_student_that_keras_cannot_write_fails_in_that_format_alone(tmp_path):
    student = Subclassed(dense(3, 1))
    student(X)
    report = export(student, tmp_path / "1", formats=("saved_model", "keras"), representative=X)
    assert [each.passed for each in report.artefacts] == [True, False] and "get_config" in report["keras"].error


@pytest.mark.parametrize("form", ["arrays", "dataset", "one-hot"])
def test_accuracy_is_the_artefacts_less_the_students(tmp_path, form):
    student, other, x = mlp(1), mlp(7), batch(200)[0]
    ours, theirs = (np.argmax(hand(model, x), -1) for model in (student, other))
    y = np.where(np.arange(200) % 4, theirs, ours)  # the other model is right more often
    expected = np.mean(theirs == y) - np.mean(ours == y)
    assert expected > 0.1
    labels = np.eye(3)[y] if form == "one-hot" else y
    given = tf.data.Dataset.from_tensor_slices((x, y)) if form == "dataset" else (x, labels)
    source, (kind,) = Source(student, *prepare(student, given), tmp_path, fresh=False), chosen(("keras",), None)
    other.save(tmp_path / "other.keras")
    found = verification.compare(source, {tmp_path / "other.keras": kind})[tmp_path / "other.keras"]
    assert found.accuracy == pytest.approx(expected, abs=1e-9)
    assert found.agreement == pytest.approx(np.mean(ours == theirs), abs=1e-9)
