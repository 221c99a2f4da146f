"""What `kd.export` writes, loaded in a virtual environment in which nothing is installed but TensorFlow."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import venv

import keras
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import keras_kd as kd
from tests.models import dense, softmax


def required(name, found=None):
    """A distribution and all that it requires on this machine, extras apart, by canonical name."""
    found = {} if found is None else found
    if canonicalize_name(name) not in found:
        distribution = found[canonicalize_name(name)] = importlib.metadata.distribution(name)
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                required(requirement.name, found)
    return found


def environment_of(distributions, folder):
    """The Python of a new virtual environment that holds these, each file a link to the installed one."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in distributions:
        for file in distribution.files:
            if file.parts[0] != "..":  # commands
                link = packages / file
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(distribution.locate_file(file))
    return folder / "bin" / "python"


INSIDE = """
import importlib.metadata, importlib.util, json, sys
import numpy, tensorflow
path, inputs, outputs = sys.argv[1:]
model = tensorflow.saved_model.load(path)
found = model.signatures["serving_default"](input_0=tensorflow.constant(numpy.load(inputs)))
numpy.savez(outputs, found["scores"].numpy(), found["classes"].numpy().astype("S"))
print(json.dumps({
    "installed": sorted(each.metadata["Name"] for each in importlib.metadata.distributions()),
    "found": [name for name in ("keras_kd", "sklearn", "tf2onnx", "ai_edge_litert") if importlib.util.find_spec(name)],
    "file": tensorflow.__file__,
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_student_predicts_where_only_tensorflow_is_installed(tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (1000, 4, 4, 1)).astype("uint8")
    layers = [keras.layers.Flatten(), dense(8, 1, activation="tanh"), keras.layers.BatchNormalization(), dense(3, 2)]
    student = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    names = ("left", "middle", "right")
    kd.export(
        student,
        tmp_path / "student" / "1",
        outputs="softmax",
        preprocessing=keras.layers.Rescaling(1 / 255),
        class_names=names,
        representative=raw,
        fresh=False,
    )
    np.save(tmp_path / "raw.npy", raw)
    needed = required("tensorflow")
    python = environment_of(needed.values(), tmp_path / "environment")
    files = [tmp_path / "student" / "1", tmp_path / "raw.npy", tmp_path / "outputs.npz"]
    # -I: neither this folder nor PYTHONPATH; what can be imported is what is installed there.
    ended = subprocess.run([python, "-I", "-c", INSIDE, *files], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout)
    assert {canonicalize_name(name) for name in printed["installed"]} == set(needed)
    assert printed["found"] == [] and pathlib.Path(printed["file"]).is_relative_to(tmp_path)
    with np.load(tmp_path / "outputs.npz") as outputs:
        scores, classes = outputs.values()
    expected = softmax(student.predict(raw / 255.0, verbose=0).astype("float64"))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
    clear = np.ptp(np.sort(expected, -1)[:, 1:], axis=-1) > 1e-5
    assert clear.mean() > 0.99
    assert np.array_equal(classes[clear].astype("U"), np.array(names)[expected.argmax(-1)][clear])


def test_what_only_the_development_environment_has_is_not_required_by_tensorflow():
    needed = required("tensorflow")
    assert {"tensorflow", "keras", "numpy", "protobuf"} <= set(needed)
    assert not {"keras-kd", "scikit-learn", "pytest", "onnxruntime"} & set(needed)
