"""Files are run by their runtimes alone, in processes that have a time limit."""

import json
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.runtimes import job_process, model_files
from tests.models import batch, dense, linear

X = batch(8)[0]

#: Runs a job, and prints what it has imported.
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*{"tensorflow", "keras", "keras_kd"} & set(sys.modules))
"""


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("kind", "file", "package"),
    [("litert", "student.tflite", "ai_edge_litert"), ("onnx", "student.onnx", "onnxruntime")],
)
@pytest.mark.parametrize("measure", ["outputs", "memory"])
def test_a_file_for_other_runtimes_is_run_without_tensorflow(tmp_path, kind, file, package, measure):
    pytest.importorskip(package)
    model, path = linear(1), tmp_path / "1" / file
    kd.export(model, tmp_path / "1", formats=(kind,), fresh=False)
    np.savez(tmp_path / "x.npz", X)
    artefact = {
        "name": "file",
        "file": {"kind": kind, "path": str(path), "outputs": ["output_0"], "classes": []},
        "arrays": str(tmp_path / "x.npz"),
        "structure": 0 if measure == "outputs" else {next(iter(model_files.open_file(kind, path).encode(X))): 0},
        "width": 1,
        "outputs": str(tmp_path / "outputs.npz"),
    }
    job = {"measure": measure, "artefacts": [artefact], "import_paths": [], "results": str(tmp_path / "results.json")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-P", "-c", RUN, model_files.__file__, str(tmp_path / "job.json")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    result = json.loads((tmp_path / "results.json").read_text())["file"]
    assert ended.stdout.split() == []
    if measure == "memory":
        assert 0 < result["bytes"] < 100e6
        return
    assert 0 < result["milliseconds"][0] <= result["milliseconds"][1]
    with np.load(tmp_path / "outputs.npz") as outputs:
        np.testing.assert_allclose(outputs["arr_0"], model(X), atol=1e-5)


def test_a_kind_of_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'saved_model', 'keras', 'litert', 'onnx'.*Received: kind='tflite'"):
        model_files.open_file("tflite", tmp_path / "student.tflite")


def test_a_litert_file_without_a_signature_is_run(tmp_path):
    pytest.importorskip("ai_edge_litert")
    model = linear(1)
    function = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 4)))
    path = tmp_path / "foreign.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    assert model_files.interpreter_of(path).get_signature_list() == {}
    np.testing.assert_allclose(model_files.open_file("litert", path)(X)[0], model(X), atol=1e-5)


@pytest.mark.slow
def test_a_litert_file_for_one_example_runs_a_batch_one_by_one(tmp_path):
    pytest.importorskip("ai_edge_litert")
    x = keras.Input((6, 4))
    model = keras.Model(x, dense(3, 1)(keras.layers.GRU(5)(x)))
    kd.export(model, tmp_path / "1", formats=("litert",), fresh=False)
    sequences = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    (received,) = model_files.open_file("litert", tmp_path / "1" / "student.tflite")(sequences)
    np.testing.assert_allclose(received, model(sequences), atol=1e-5)


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_ended_and_its_results_are_kept(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import json, pathlib, sys, time\njob = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "pathlib.Path(job['results']).write_text('{\"first\": 1}')\ntime.sleep(60)"
    )
    module, job = types.SimpleNamespace(__file__=str(tmp_path / "slow.py")), {"results": str(tmp_path / "results.json")}
    received = job_process.run(module, job, tmp_path, fresh=True, seconds=5)
    assert received == {"first": 1, "error": "its process took more than 5 seconds"}
