"""What people give for a teacher that is none: one sentence names what to give instead."""

import pathlib

import keras
import numpy as np
import pytest
from sklearn import ensemble, linear_model

import keras_kd as kd
from tests.models import batch, linear

X, Y = batch(24)
LOGISTIC = linear_model.LogisticRegression().fit(X, Y)


class Foreign:
    """A model of another package, as the module of its class tells."""

    def __call__(self, x):
        return x


def of_package(name):
    return type("Linear", (type("Module", (Foreign,), {"__module__": name}),), {})()


WRONG = {
    "pickle": ("model.pkl", r"Load it, teacher=joblib\.load\('model\.pkl'\), if you trust its origin"),
    "joblib": (pathlib.Path("runs/model.joblib"), r"joblib\.load\('runs/model\.joblib'\)"),
    "onnx": ("teacher.ONNX", r"Give keras_kd\.teachers\.ONNX\('teacher\.ONNX'\)"),
    "tflite": ("teacher.tflite", r"Give keras_kd\.teachers\.LiteRT\('teacher\.tflite'\)"),
    "keras": ("teacher.keras", r"keras\.models\.load_model\('teacher\.keras'\)"),
    "pytorch's file": ("teacher.pt", r"torch\.onnx\.export, and give keras_kd\.teachers\.ONNX\(path\)"),
    "folder": ("teacher/1", r"Give keras_kd\.teachers\.SavedModel\('teacher/1'\) for the folder"),
    "another file": ("teacher.bin", "Load the model first"),
    "class": (ensemble.RandomForestClassifier, r"Give an instance: RandomForestClassifier\(\)\.fit\(x, y\)"),
    "class of a model": (keras.Sequential, r"Give an instance: Sequential\(\.\.\.\), trained"),
    "classes": (LOGISTIC.predict, r"LogisticRegression itself.*`predict` returns.*Python\(estimator\.predict, head="),
    "scores": (LOGISTIC.decision_function, r"Python\(estimator\.decision_function, head=\.\.\.\)"),
    "predict of a model": (linear(1).predict, "Give the model itself"),
    "torch": (of_package("torch.nn.modules.linear"), r'torch\.onnx\.export\(model, .*ONNX\("teacher\.onnx"\)'),
    "session": (of_package("onnxruntime.capi"), r"Give keras_kd\.teachers\.ONNX\(path\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_teacher_is_refused_with_what_to_give(name):
    given, words = WRONG[name]
    for make in (lambda: kd.Distiller(student=linear(1), teacher=given), lambda: kd.teachers.Frozen(given)):
        with pytest.raises(TypeError, match=rf"^Expected the teacher to be .* Received: .*{words}"):
            make()


def test_a_session_of_onnxruntime_is_recognised(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    from tests import files

    session = runtime.InferenceSession(str(files.onnx(tmp_path)), providers=["CPUExecutionProvider"])
    with pytest.raises(TypeError, match=r"Give keras_kd\.teachers\.ONNX\(path\)"):
        kd.Distiller(student=linear(1), teacher=session)


def test_a_method_that_computes_with_tensorflow_is_a_teacher():
    model = linear(2)
    teacher = kd.teachers.as_teacher(model.call)
    np.testing.assert_allclose(teacher(X, {})["logits"], model(X), atol=1e-6)
