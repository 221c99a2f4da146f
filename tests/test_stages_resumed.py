"""A stage that was stopped ends as if it had not been, and its files are complete, or an error names them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import stages
from keras_kd._internal import files
from tests.models import assert_same, batch, linear, mlp

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X, Y = batch(24)


class StopError(Exception):
    """Raised in the middle of a pipeline."""


class StopAt(keras.callbacks.Callback):
    """Stop at the beginning of an epoch of the nth fit."""

    def __init__(self, fit: int, epoch: int):
        super().__init__()
        self.fit, self.epoch, self.fits = fit, epoch, 0

    def on_train_begin(self, logs=None):
        self.fits += 1

    def on_epoch_begin(self, epoch, logs=None):
        if (self.fits, epoch) == (self.fit, self.epoch):
            raise StopError


def known() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(24, seed=1).batch(7)


def filtered() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(24, seed=1).filter(lambda x, y: True).batch(7)


def chain(folder, data, callbacks=(), epochs=3) -> list[np.ndarray]:
    """Train an assistant and a student of it, as a process of its own would; return all weights."""
    keras.utils.set_random_seed(3)
    optimizer = keras.optimizers.SGD(0.5)
    assistant, student = mlp(2), mlp(3)
    assistant.name, student.name = "assistant", "small"
    _, record = stages.teacher_assistants(
        mlp(1),
        [assistant],
        student,
        compile_arguments={"optimizer": optimizer, "loss": LOSS, "run_eagerly": True},
        fit_arguments={"x": data(), "epochs": epochs, "verbose": 0, "callbacks": list(callbacks)},
        folder=folder,
    )
    return [weight for stage in record for weight in stage.model.get_weights()]


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("data", [known, filtered])
def test_a_pipeline_that_was_stopped_takes_the_batches_that_it_would_have_taken(data, tmp_path):
    expected = chain(None, data)
    for stage in (1, 2):  # in the end, the first is finished, and the second is not
        with pytest.raises(StopError):
            chain(tmp_path, data, [StopAt(stage, 1)])
    assert_same(chain(tmp_path, data), expected, 1e-6)


def refined(folder, callbacks=(), monitor="val_loss") -> tuple[keras.Model, stages.Stage]:
    student = mlp(1)
    student.name = "student"
    _, record = stages.refine(
        student,
        monitor=monitor,
        compile_arguments={"optimizer": keras.optimizers.SGD(0.5), "loss": LOSS, "run_eagerly": True},
        fit_arguments={
            "x": X,
            "y": Y,
            "validation_data": (X, Y),
            "epochs": 3,
            "verbose": 0,
            "callbacks": list(callbacks),
        },
        folder=folder,
    )
    return student, record[0]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of a finished stage, and that of one that was stopped after two epochs."""
    folder = tmp_path_factory.mktemp("kept")
    refined(folder / "finished")
    with pytest.raises(StopError):
        refined(folder / "stopped", [StopAt(1, 2)])
    return folder


def changed_state(path: pathlib.Path, **changes) -> None:
    with np.load(path) as file:
        values = {name: file[name] for name in file}
    values.update(changes)
    np.savez(path, **{name: value for name, value in values.items() if value is not None})


def changed_record(path: pathlib.Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


CUT = {"cut": lambda path: path.write_bytes(path.read_bytes()[:-9]), "empty": lambda path: path.write_bytes(b"")}
NOT_JSON = {**CUT, "another": lambda path: path.write_text("[1, 2]"), "binary": lambda path: path.write_bytes(b"\xff")}
DAMAGE = [
    *(("finished", "done.json", name, each) for name, each in NOT_JSON.items()),
    ("finished", "done.json", "no epochs", lambda path: path.write_text('{"seconds": 1.0, "logs": {}}')),
    ("finished", "done.json", "words", lambda path: changed_record(path, epochs="three")),
    ("finished", "done.json", "no logs", lambda path: changed_record(path, logs=None)),
    ("finished", "done.json", "no time", lambda path: changed_record(path, seconds=None)),
    ("finished", "model.keras", "cut", CUT["cut"]),
    ("finished", "model.keras", "removed", pathlib.Path.unlink),
    *(("stopped", "plan.json", name, CUT[name]) for name in CUT),
    *(("stopped", "state.npz", name, CUT[name]) for name in CUT),
    ("stopped", "state.npz", "fewer", lambda path: changed_state(path, variable_1=None)),
    ("stopped", "state.npz", "wider", lambda path: changed_state(path, variable_0=np.ones((9, 9)))),
    ("stopped", "state.npz", "words", lambda path: changed_state(path, variable_0=np.array("a"))),
    ("stopped", "state.npz", "objects", lambda path: changed_state(path, variable_0=np.array([None]))),
    ("stopped", "state.npz", "logs", lambda path: changed_state(path, logs="{")),
    ("stopped", "state.npz", "epochs", lambda path: changed_state(path, epochs=-1)),
    *(("stopped", "best.json", name, each) for name, each in NOT_JSON.items()),
    ("stopped", "best.json", "no best", lambda path: changed_record(path, best=None)),
    ("stopped", "best.json", "elsewhere", lambda path: changed_record(path, weights="../../etc/passwd")),
    ("stopped", "best-1.npz", "removed", pathlib.Path.unlink),
    ("stopped", "best-1.npz", "cut", CUT["cut"]),
    ("stopped", "best-1.npz", "others", lambda path: changed_state(path, arr_0=np.ones((9, 9)))),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("stage, name, how, damage", DAMAGE, ids=[" ".join(each[:3]) for each in DAMAGE])
def test_a_damaged_file_of_a_stage_is_named_with_what_to_do(stage, name, how, damage, kept, tmp_path):
    shutil.copytree(kept / stage, tmp_path / stage)
    path = tmp_path / stage / "1-student" / name
    damage(path)
    with pytest.raises(ValueError, match=r"(?s)Expected '.*1-student.*' to be as it was written.*Remove '.*1-student'"):
        refined(tmp_path / stage)


def test_a_stage_continues_from_complete_files(kept, tmp_path):
    shutil.copytree(kept / "stopped", tmp_path / "stopped")
    received, again = refined(tmp_path / "stopped")
    expected, whole = refined(None)
    assert_same(received.get_weights(), expected.get_weights(), 1e-6)
    np.testing.assert_allclose([again.logs[name] for name in whole.logs], list(whole.logs.values()), rtol=1e-5)


def test_no_file_of_a_stage_is_written_in_place(monkeypatch, tmp_path):
    written = []

    def watch(owner, name):
        original = getattr(owner, name)

        def write(*args, **kwargs):
            written.extend(each for each in args if isinstance(each, pathlib.Path))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, write)

    for owner, name in ((pathlib.Path, "write_text"), (np, "savez"), (keras.Model, "save")):
        watch(owner, name)
    refined(tmp_path)
    names = {path.name for path in written}
    for each in ("plan.json", "state.npz", "best.json", "best-0.npz", "done.json", "model.keras"):
        assert any(name.endswith(f"-{each}") for name in names), each
    assert all(name.startswith("partial-") for name in names)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("partial-")]


def test_a_process_that_is_stopped_while_it_writes_a_file_leaves_the_previous_one(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("whole")

    def half(partial):
        partial.write_text("ha")
        raise StopError

    with pytest.raises(StopError):
        files.replace(path, half)
    assert path.read_text() == "whole" and len(list(tmp_path.iterdir())) == 1
    files.replace(path, lambda partial: partial.write_text("new"))
    assert path.read_text() == "new" and [each.name for each in tmp_path.iterdir()] == ["record.json"]


def test_two_writers_of_a_file_never_share_an_unfinished_one(tmp_path):
    path = tmp_path / "record.json"

    def write(partial):
        partial.write_text("first")
        files.replace(path, lambda other: other.write_text("second"))
        assert partial.read_text() == "first"

    files.replace(path, write)
    assert path.read_text() == "first"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "record.json", []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_size, path.exists())))
    files.replace(path, lambda partial: partial.write_text("new"))
    assert synced == [(3, False)]


@pytest.mark.skipif(os.name != "posix", reason="needs signal 0, which tests whether a process runs")
def test_the_unfinished_file_of_a_killed_process_is_removed_when_it_is_written_again(tmp_path):
    path = tmp_path / "record.json"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone, here = (
        path.with_name(f"{files.partial_prefix()}{pid}-0123abcd-record.json") for pid in (ended.pid, os.getpid())
    )
    elsewhere = path.with_name(f"partial-elsewhere-{ended.pid}-0123abcd-record.json")
    for each in (gone, here, elsewhere):
        each.touch()
    files.replace(path, lambda partial: partial.write_text("new"))
    assert set(tmp_path.iterdir()) == {path, here, elsewhere}


def test_a_long_name_leaves_room_for_that_of_the_unfinished_file(tmp_path):
    path = tmp_path / ("a" * 245 + ".npz")
    files.replace(path, lambda partial: np.savez(partial, x=1))
    assert list(tmp_path.iterdir()) == [path]


def test_the_best_weights_of_a_student_of_16_bits_are_loaded(tmp_path):
    def student():
        return linear(1, dtype="bfloat16")

    common = {
        "compile_arguments": {"optimizer": keras.optimizers.SGD(1e6), "loss": LOSS, "run_eagerly": True},
        "folder": tmp_path,
    }
    fit = {"x": X, "y": Y, "validation_data": (X, Y), "epochs": 3, "verbose": 0}
    expected = student().get_weights()
    model = student()
    model.name = "student"
    with pytest.raises(StopError):
        stages.refine(model, fit_arguments={**fit, "callbacks": [StopAt(1, 1)]}, **common)
    model = student()
    model.name = "student"
    stages.refine(model, fit_arguments=fit, **common)
    assert_same([np.float32(each) for each in model.get_weights()], [np.float32(each) for each in expected])
