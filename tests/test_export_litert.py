"""What `kd.export` does where LiteRT's converter crashes, or makes files that are wrong."""

import os
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.exporting import litert_conversion
from keras_kd.exporting.formats import litert
from keras_kd.runtimes import job_process
from tests.models import batch, dense, mlp

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

X, _ = batch(40)


def scorer(seed=1):
    """A student of four classes with two hidden layers."""
    layers = [keras.layers.Dense(32, "relu", kernel_initializer=keras.initializers.HeNormal(seed + i)) for i in (0, 1)]
    return keras.Sequential([keras.Input((8,)), *layers, dense(4, seed)], name="scorer")


@pytest.mark.slow
def test_integers_that_an_outlier_made_coarse_fail_and_those_without_it_pass(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 8)).astype("float32")
    formats, quantize = ("saved_model", "litert"), ("dynamic", "int8")
    arguments = {"formats": formats, "quantize": quantize, "fresh": False}
    assert kd.export(scorer(), tmp_path / "1", representative=x, **arguments).passed
    x[7] = 300.0
    report = kd.export(scorer(), tmp_path / "2", representative=x, **arguments)
    failed = report["litert int8"]
    assert [each.name for each in report.artefacts if not each.passed] == ["litert int8"]
    assert failed.agreement < failed.least_agreement < report["litert dynamic"].agreement
    assert "one range for all examples" in failed.error and "quantize='dynamic'" in failed.error


def test_another_class_than_margins_let_expect_fails_though_no_difference_is_too_large(tmp_path, monkeypatch):
    student, path = mlp(1), tmp_path / "1"
    monkeypatch.setattr(
        "keras_kd.exporting.verification.Comparison.worst", types.SimpleNamespace(difference=0.0, allowed=1.0)
    )
    other = mlp(1)
    other.set_weights([-weight for weight in student.get_weights()])
    monkeypatch.setattr("keras_kd.exporting.formats.saved_model.save", _saving(other))
    with pytest.raises(
        ValueError, match=r"another class for \d+ of 40 examples, where .* margins let expect 0.0 at most"
    ):
        kd.export(student, path, representative=X, fresh=False)


def _saving(other):
    from keras_kd.exporting.formats.saved_model import save

    return lambda student, interface, path: save(other, interface, path)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e39])
@pytest.mark.parametrize("form", ["array", "dataset", "dict"])
def test_examples_that_are_not_finite_are_refused(tmp_path, value, form):
    x = X.astype("float64")
    x[3, 2] = x[30, 1] = value
    inputs = keras.Input((4,), name="numbers")
    student = mlp(1) if form != "dict" else keras.Model({"numbers": inputs}, dense(3, 1)(inputs))
    given = {"array": x, "dataset": tf.data.Dataset.from_tensor_slices(x).batch(7), "dict": {"numbers": x}}[form]
    with pytest.raises(
        ValueError, match="finite. Received: .* inf or nan in 2 of 40 examples, the first at 3 .as float32"
    ):
        kd.export(student, tmp_path / "1", representative=given, fresh=False)
    assert list(tmp_path.iterdir()) == []


CRASHING = """
import json, os, pathlib, signal, sys
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
results = {}
for artefact in job["artefacts"]:
    if artefact["quantize"] == "float16":
        os.kill(os.getpid(), signal.SIGSEGV)
    pathlib.Path(artefact["path"]).write_text(f"{os.getpid()} {artefact['quantize']}")
    results[artefact["path"]] = {}
    pathlib.Path(job["results"]).write_text(json.dumps(results))
"""


def test_a_converter_that_crashes_is_the_error_of_one_file_and_others_are_converted(tmp_path, monkeypatch):
    (tmp_path / "crashing.py").write_text(CRASHING)
    monkeypatch.setattr(litert, "litert_conversion", types.SimpleNamespace(__file__=str(tmp_path / "crashing.py")))
    monkeypatch.setattr(litert, "save", lambda *arguments: None)
    monkeypatch.setattr(litert, "_floating", lambda path: "")
    interface = types.SimpleNamespace(specs=[])
    source = types.SimpleNamespace(
        folder=tmp_path,
        fresh=True,
        student=mlp(1),
        in_float32=None,
        interface=interface,
        batches="",
        float_layers=(),
    )
    files = litert.Files((None, "float16", "dynamic", "int8"))
    assert files.write(source, tmp_path / "float32") is None
    with pytest.raises(ValueError, match="LiteRT could not convert 'functional.*: its process ended with SIGSEGV"):
        files.write(source, tmp_path / "float16", "float16")
    for kind in ("dynamic", "int8"):
        files.write(source, tmp_path / kind, kind)
    processes = {name: (tmp_path / name).read_text().split() for name in ("float32", "dynamic", "int8")}
    assert [kind for _, kind in processes.values()] == ["None", "dynamic", "int8"]
    assert processes["dynamic"][0] == processes["int8"][0] != processes["float32"][0] != str(os.getpid())


def test_a_process_that_ends_while_it_writes_its_results_has_none(tmp_path, monkeypatch):
    (tmp_path / "half.py").write_text("import pathlib, sys; pathlib.Path('results.json').write_text('{'); sys.exit(5)")
    module, job = types.SimpleNamespace(__file__=str(tmp_path / "half.py")), {"results": str(tmp_path / "results.json")}
    monkeypatch.chdir(tmp_path)
    assert job_process.run(module, job, tmp_path, fresh=True) == {"error": "its process ended with 5: "}


@pytest.mark.parametrize(("end", "name"), [("sys.exit(7)", "7"), ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL")])
def test_a_process_that_fails_has_its_results_and_the_last_that_it_wrote_in_any_encoding(tmp_path, end, name):
    lines = [
        "import json, os, pathlib, signal, sys",
        "job = json.loads(pathlib.Path(sys.argv[1]).read_text())",
        "pathlib.Path(job['results']).write_text(json.dumps({'seen': job['value'], 'variable': os.environ['KIND']}))",
        "sys.stderr.buffer.write(bytes(700) + b'\\xff was the last\\n')",
        "sys.stderr.flush()",
        end,
    ]
    (tmp_path / "failing.py").write_text("\n".join(lines))
    module, job = types.SimpleNamespace(__file__=tmp_path / "failing.py"), {"results": f"{tmp_path}/r.json", "value": 3}
    found = job_process.run(module, job, tmp_path, fresh=True, environment={"KIND": "one"})
    assert (found["seen"], found["variable"]) == (3, "one")
    assert found["error"].startswith(f"its process ended with {name}: ")
    assert found["error"].endswith("\ufffd was the last") and len(found["error"]) < 650


class Logarithm(keras.layers.Layer):
    """Minus infinity for 0, in the middle of a student."""

    def call(self, x):
        return keras.ops.relu(keras.ops.log(x))


@pytest.mark.slow
def test_ranges_that_are_infinite_end_no_process_but_that_of_the_converter(tmp_path):
    inputs = keras.Input((4,))
    student = keras.Model(inputs, dense(3, 1)(Logarithm()(inputs)), name="logarithm")
    x = np.abs(X)
    x[5, 0] = 0.0
    report = kd.export(student, tmp_path / "1", formats=("litert",), quantize=(None, "int8"), representative=x)
    assert report["litert float32"].passed
    assert "'logarithm' to int8 throughout: its process ended with SIG" in report["litert int8"].error


@pytest.mark.slow
def test_a_process_of_its_own_converts_to_the_same_files(tmp_path):
    student = mlp(1)
    for fresh, version in ((True, "1"), (False, "2")):
        arguments = {"formats": ("litert",), "quantize": (None, "int8"), "representative": X, "fresh": fresh}
        kd.export(student, tmp_path / version, **arguments)
    for name in ("student.tflite", "student.int8.tflite"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_ranges_are_measured_on_the_first_examples_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(litert_conversion, "CALIBRATION", 7)
    a, b = np.arange(10.0), np.arange(10.0) + 100
    np.savez(tmp_path / "batches.npz", a[:4], b[:4], a[4:], b[4:])
    singles = list(litert_conversion._singles({"inputs": ["a", "b"], "batches": str(tmp_path / "batches.npz")}))
    assert [(each["a"].tolist(), each["b"].tolist()) for each in singles] == [([i], [i + 100]) for i in range(7)]
