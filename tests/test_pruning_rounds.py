"""Rounds of pruning in a folder: stopped or killed, they go on, and end where they would have ended."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.pruning import saved_rounds
from tests import pruned as architectures

SHARES = (0.75, 0.5, 0.3)


def teacher(seed=0):
    """Return a model of given weights: it does not seed what the rounds draw."""
    inputs = keras.Input((6,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(24, "relu", name="first")(inputs))
    x = layers.Dropout(0.3, name="dropout")(layers.Dense(16, "relu", name="second")(x))
    return architectures.perturbed(keras.Model(inputs, layers.Dense(3, name="scores")(x)), seed)


def data():
    random = np.random.default_rng(1)
    return random.normal(size=(128, 6)).astype("float32")


def pruned(model, share, importance="magnitude"):
    most = share * teacher().count_params()
    return kd.prune(model, parameters=most, importance=importance, data=data()[:64])


def healed(student, report, callbacks=()):
    """Train under dropout and in a drawn order: what a round draws decides what it ends with."""
    kd.pruning.recalibrate(student, data())
    distiller = kd.Distiller(student=student, teacher=teacher())
    distiller.compile(keras.optimizers.Adam(1e-2), alpha=1.0, jit_compile=False)
    distiller.fit(data(), epochs=2, batch_size=32, verbose=0, callbacks=list(callbacks))


def quick(student, report, callbacks=()):
    """Move the weights by drawn numbers, without the time of a training."""
    for callback in callbacks:
        callback.on_epoch_begin(1)
    student.set_weights([each + 0.01 * np.random.normal(size=each.shape) for each in student.get_weights()])


class Stop(keras.callbacks.Callback):
    """End the process, or raise an error, in the second epoch of a round, once."""

    def __init__(self, end):
        super().__init__()
        self.end = end

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.end()


def run(folder, stopped_in=None, end=None, shares=SHARES, heal=quick, importance="magnitude", **arguments):
    """Run all rounds, and note each one that is healed in a file."""

    def noted(student, report):
        number = json.loads(notes.read_text()) if notes.exists() else []
        notes.write_text(json.dumps([*number, student.count_params()]))
        heal(student, report, [Stop(end)] if len(number) + 1 == stopped_in else [])

    notes = pathlib.Path(f"{folder}.json")
    prune = functools.partial(pruned, importance=importance)
    return kd.pruning.rounds(teacher(), prune, noted, shares, folder=folder, **arguments)


def interrupt():
    raise KeyboardInterrupt


def sizes(folder):
    return json.loads(pathlib.Path(f"{folder}.json").read_text())


def assert_equal(one, other):
    (model, report), (expected, of_expected) = one, other
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert saved_rounds.as_json(report) == saved_rounds.as_json(of_expected)


def test_rounds_that_were_stopped_go_on_and_end_where_they_would_have_ended(tmp_path):
    whole = run(tmp_path / "whole")
    assert whole[1].parameters[0] == teacher().count_params() > 2 * whole[1].parameters[1]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stopped_in=2, end=interrupt)
    keras.utils.set_random_seed(99)  # another process has drawn other numbers by then
    assert_equal(run(tmp_path / "stopped"), whole)
    first, second, third = sizes(tmp_path / "whole")
    assert sizes(tmp_path / "stopped") == [first, second, second, third]
    assert_equal(run(tmp_path / "stopped"), whole)  # read back
    assert len(sizes(tmp_path / "stopped")) == 4
    assert_equal(kd.pruning.rounds(teacher(), pruned, quick, SHARES), whole)


def test_shares_that_are_added_are_further_rounds(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "added", shares=SHARES[:2])
    assert_equal(run(tmp_path / "added"), whole)
    assert len(sizes(tmp_path / "added")) == 3


@pytest.mark.one_in(1)
@pytest.mark.parametrize(
    ("changes", "name"), [({"shares": (0.7, 0.5)}, "shares"), ({"seed": 1}, "seed")], ids=["shares", "seed"]
)
def test_a_folder_of_other_rounds_is_refused(tmp_path, changes, name):
    run(tmp_path / "rounds", shares=SHARES[:1])
    with pytest.raises(ValueError, match=f"has rounds with another `{name}` than is given now. Use another folder"):
        run(tmp_path / "rounds", **{"shares": SHARES, **changes})


def test_a_folder_of_another_model_is_refused(tmp_path):
    run(tmp_path / "rounds", shares=SHARES[:1])
    with pytest.raises(ValueError, match="has rounds with another `model`"):
        kd.pruning.rounds(teacher(1), pruned, quick, SHARES, folder=tmp_path / "rounds")


@pytest.mark.one_in(1)
@pytest.mark.parametrize("name", ["round_1.keras", "round_1.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    run(tmp_path / "rounds", shares=SHARES[:1])
    path = tmp_path / "rounds" / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"Expected '.*{name}' to be as it was written.*Remove '.*rounds'"):
        run(tmp_path / "rounds")


def test_a_report_is_the_same_after_it_was_kept():
    _, report = kd.prune(teacher(), keep=0.5, importance="magnitude", protect=("second",))
    content = json.loads(json.dumps(saved_rounds.as_json(report)))
    again = saved_rounds.report_of(content)
    assert str(again) == str(report) and saved_rounds.as_json(again) == saved_rounds.as_json(report)
    assert again.parameters == report.parameters and again.shared == report.shared
    for name, (before, numbers) in report.channels.items():
        assert again.channels[name][0] == before
        np.testing.assert_array_equal(again.channels[name][1], numbers)


RUN = """
import os, signal, sys
import numpy as np
from tests.test_pruning_rounds import healed, run
stopped = int(sys.argv[2]) if len(sys.argv) > 2 else None
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
model, report = run(sys.argv[1], stopped, kill, heal=healed, importance="taylor")
np.savez(sys.argv[1] + ".npz", *model.get_weights())
print(report)
"""


@pytest.mark.slow
def test_rounds_that_are_killed_go_on_and_end_where_they_would_have_ended(tmp_path):
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def start(*arguments):
        command = [sys.executable, "-c", RUN, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=root, text=True, capture_output=True)

    killed = start(tmp_path / "killed", 2)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "round_2.json").exists()
    went_on, whole = start(tmp_path / "killed"), start(tmp_path / "whole")
    assert went_on.stdout == whole.stdout and "parameters" in whole.stdout
    assert len(sizes(tmp_path / "killed")) == 4 and len(sizes(tmp_path / "whole")) == 3
    with np.load(tmp_path / "killed.npz") as ours, np.load(tmp_path / "whole.npz") as theirs:
        assert len(ours.files) == len(theirs.files) > 0
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name])
