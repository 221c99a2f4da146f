"""`kd.compress`: targets, which candidate is chosen, what is refused, and whole searches that are stopped and go on."""

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
from keras import layers

import keras_kd as kd
from keras_kd.compression import Point
from keras_kd.compression.compressing import chosen
from keras_kd.compression.limits import limits_of

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def point(name, nbytes, score, milliseconds=1.0, parameters=10):
    return Point(name, parameters, 1.0, nbytes, milliseconds, score, 0.0)


POINTS = [point("large", 100, 0.95), point("middle", 60, 0.93), point("small", 30, 0.90), point("tiny", 10, 0.50)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"litert_bytes": 100}, "large"),  # the best that is small enough
        ({"litert_bytes": 99}, "middle"),
        ({"litert_bytes": 9}, "tiny"),  # none is: the smallest
        ({"accuracy_drop": 0.04}, "middle"),  # the smallest that is good enough
        ({"accuracy_drop": 0.07}, "small"),
        ({"accuracy_drop": 0.001}, "large"),  # none is: the best
        ({"litert_bytes": 60, "accuracy_drop": 0.2}, "small"),
        ({"litert_bytes": 60, "accuracy_drop": 0.001}, "middle"),
        ({"litert_bytes": 20, "accuracy_drop": 0.02}, "tiny"),
    ],
    ids=str,
)
def test_what_meets_a_target_or_comes_nearest_is_chosen(target, expected):
    assert chosen(POINTS, limits_of(target, "accuracy"), of_teacher=0.96).name == expected


def test_less_of_an_error_is_better():
    points = [point("large", 100, 1.0), point("middle", 60, 1.2), point("small", 30, 2.0)]
    assert chosen(points, limits_of({"litert_bytes": 200}, "rmse"), 0.9).name == "large"
    assert chosen(points, limits_of({"rmse_drop": 0.35}, "accuracy"), 0.9).name == "middle"


def test_a_target_is_read_by_its_names():
    limits = limits_of(
        {"litert_int8_bytes": 60_000, "litert_int8_milliseconds": 2.5, "f1_macro_drop": 0.01}, "accuracy"
    )
    assert limits.kind == "litert_int8" and limits.measure == "f1_macro" and limits.drop == 0.01
    assert limits.budgets() == [{"file_bytes": {"litert_int8": 60_000}}, {"latency": {"litert_int8": 2.5}}]
    limits = limits_of({"parameters": 1_000}, "rmse")
    assert limits.kind == "keras" and limits.measure == "rmse" and limits.budgets() == [{"parameters": 1_000}]


@pytest.mark.parametrize(
    ("target", "error", "match"),
    [
        ({}, ValueError, r"limits for files of one format. Received: {}"),
        ({"litert_bytes": 1, "onnx_bytes": 1}, ValueError, "files of one format"),
        ({"gif_bytes": 1}, ValueError, "Formats are .*Received: 'gif_bytes'"),
        ({"agreement_where_teacher_wrong_drop": 1}, ValueError, "Received: 'agreement_where_teacher_wrong_drop'"),
        ({"speed_drop": 1}, ValueError, "as in 'accuracy_drop'.*Received: 'speed_drop'"),
        ({"parameters": 0}, ValueError, r"Received: target\['parameters'\] = 0"),
        ({"parameters": True}, ValueError, "limits above 0"),
        ({"accuracy_drop": float("nan")}, ValueError, "limits above 0"),
        ("60 kB", TypeError, "Expected `target` to be a dict. Received: '60 kB'"),
    ],
    ids=str,
)
def test_a_target_that_cannot_be_read_is_refused(target, error, match):
    with pytest.raises(error, match=match):
        limits_of(target, "accuracy")


def data(rows, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 8)).astype("float32")
    return x, (x[:, 0] * x[:, 1] > 0).astype("int32") + 2 * (x[:, 2] > 0)


def mlp(outputs=4):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = layers.Dense(32, activation="relu", name="first")(inputs)
    x = layers.Add(name="sum")([x, layers.Dense(32, activation="relu", name="second")(x)])
    return keras.Model(inputs, layers.Dense(outputs, name="scores")(x), name="teacher")


def trained():
    model = mlp()
    model.compile(keras.optimizers.Adam(1e-2), LOSS)
    model.fit(*data(2_000, 0), epochs=8, verbose=0)
    return model


def run(folder, teacher=None, **changes):
    arguments = {
        "target": {"parameters": 700, "accuracy_drop": 0.1},
        "compile_arguments": {"loss": LOSS},
        "widths": (0.5, 0.1),
        "epochs": 2,
        "learning_rate": 1e-2,
        "verbose": 0,
        **changes,
    }
    return kd.compress(teacher or trained(), data(2_000, 0), data(500, 1), folder=folder, **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"compile_arguments": {"loss": LOSS, "optimizer": "adam"}}, ValueError, "without an optimizer"),
        ({"compile_arguments": {}}, ValueError, "with a loss"),
        ({"teacher": "a model"}, TypeError, "Received: 'a model' of str"),
        ({"teacher": keras.Sequential([layers.Dense(2)])}, ValueError, "Expected a built Functional or Sequential"),
        ({"test": [1, 2]}, TypeError, r"Expected data as arrays \(x, y\). Received: list"),
        ({"target": {"parameters": 700, "speed_drop": 1}}, ValueError, "speed_drop"),
        ({"target": {"roc_auc_drop": 0.1}}, ValueError, "Expected a measure of this task.*Received: 'roc_auc'"),
    ],
    ids=["optimizer", "loss", "type", "unbuilt", "test", "target", "measure"],
)
def test_what_cannot_be_compressed_is_refused_before_anything_is_trained(tmp_path, changes, error, match):
    with pytest.raises(error, match=match):
        run(tmp_path / "small", **{"teacher": mlp(), **changes})
    assert not list(tmp_path.rglob("point.json"))


@pytest.mark.slow
def test_a_smaller_model_is_found_read_back_and_continued(tmp_path):
    small, record = run(tmp_path / "small", test=data(500, 2))
    assert record.is_met and small.count_params() == record.chosen.parameters <= 700
    x, y = data(500, 1)
    accuracy = float(np.mean(np.argmax(small.predict(x, verbose=0), -1) == y))
    assert record.chosen.score == pytest.approx(accuracy)
    assert [each.parameters for each in record.points] == sorted((p.parameters for p in record.points), reverse=True)
    alone, distilled = record.controls
    assert (alone.parameters, distilled.multiplications) == (small.count_params(), record.chosen.multiplications)
    assert set(record.test) == {"teacher", record.chosen.name, alone.name, distilled.name}
    loaded = keras.saving.load_model(tmp_path / "small" / "export" / "student.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), small.predict(x, verbose=0))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("point.json")}
    again, same = run(tmp_path / "small", test=data(500, 2))
    assert same == record and times == {path: path.stat().st_mtime_ns for path in times}
    np.testing.assert_array_equal(again.predict(x, verbose=0), small.predict(x, verbose=0))
    with pytest.raises(ValueError, match="another `target`"):
        run(tmp_path / "small", target={"parameters": 600})
    assert f"* {record.chosen.name}" in str(record) and "The target is met." in str(record)
    assert len(record.plot(tmp_path / "front.png").axes) == 2 and (tmp_path / "front.png").stat().st_size > 1_000


@pytest.mark.slow
def test_integers_are_trained_with_their_rounding_and_measured_in_their_file(tmp_path):
    target = {"litert_int8_bytes": 3_600, "accuracy_drop": 0.2}
    small, record = run(tmp_path / "small", target=target, widths=(), controls=False)
    assert record.is_met and record.chosen.bytes <= 3_600 < record.whole[1].bytes < record.whole[0].bytes
    assert any(isinstance(layer, kd.quantization.FakeQuantize) for layer in small.layers)
    file = kd.teachers.LiteRT(tmp_path / "small" / "export" / "student.int8.tflite")
    measured = kd.evaluation.measure(file, data(500, 1))["accuracy"]
    assert record.chosen.score == pytest.approx(measured, abs=1e-9)
    assert record.controls == () and record.test == {}


@pytest.mark.slow
def test_widths_terms_and_importance_are_those_that_are_given(tmp_path):
    made = []

    def terms():
        made.append(kd.methods.kd(temperature=None))
        return made[-1]

    how = {"round_to": 8, "importance": "magnitude", "terms": terms, "alpha": 1.0, "temperature": 3.0}
    run(tmp_path / "small", widths=(), controls=False, epochs=1, **how)
    pruned = keras.saving.load_model(tmp_path / "small" / "pruned" / "all parameters.keras")
    assert pruned.get_layer("first").units in (8, 16, 24)
    assert len(made) == 2  # for all parameters, and for a block less


@pytest.mark.slow
def test_what_was_found_is_returned_although_its_file_cannot_be_exported(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise ValueError("No artefact agrees with the student.")

    monkeypatch.setattr("keras_kd.compression.compressing.export", refuse)
    small, record = run(tmp_path / "small", widths=(), controls=False, epochs=1)
    assert record.problem == "No artefact agrees with the student." and record.problem in str(record)
    assert small.count_params() == record.chosen.parameters


RUN = """
import sys
from tests.test_compress import run
print(run(sys.argv[1], controls=False)[1])
"""


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_ends_where_it_would_have_ended(tmp_path):
    def start(folder):
        root = pathlib.Path(__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        return subprocess.Popen([sys.executable, "-c", RUN, str(folder)], env=environment, cwd=root, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip

    killed = start(tmp_path / "killed")
    until = time.monotonic() + 240
    while len(list(tmp_path.rglob("point.json"))) < 3 and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(list(tmp_path.rglob("point.json"))) >= 3 and not (tmp_path / "killed" / "export").exists()
    went_on, whole = start(tmp_path / "killed").communicate()[0], start(tmp_path / "whole").communicate()[0]

    def without_times(table):
        return re.sub(r"\d[\d.e+-]* +(?=\d[\d.]* %)", "", table).split()

    assert without_times(went_on) == without_times(whole) and "Chosen" in whole
    records = [json.loads(path.read_text())["score"] for path in sorted(tmp_path.rglob("point.json"))]
    assert records[: len(records) // 2] == records[len(records) // 2 :]
