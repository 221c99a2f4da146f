"""Killed in the middle of an epoch and started again with BackupAndRestore: the result of never having been killed."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def start(folder, *arguments, index=None, ports=(), module="tests.resumed"):
    """Start one process of a module."""
    folder.mkdir(exist_ok=True)
    environment = dict(os.environ)
    if index is not None:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
    command = [sys.executable, "-m", module, str(folder), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def workers(folder, *of_the_second):
    """Start both workers, the second with arguments of its own."""
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in free]
    for each in free:
        each.close()
    arguments = ((), of_the_second)
    return [start(folder, "worker", *arguments[index], index=index, ports=ports) for index in range(2)]


def end_well(*processes):
    for process in processes:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors


def assert_same(folder, expected, names):
    for name in names:
        received, never_killed = (dict(np.load(each / f"{name}.npz")) for each in (folder, expected))
        assert received.keys() == never_killed.keys()
        for key, value in never_killed.items():
            np.testing.assert_allclose(received[key], value, rtol=0, atol=1e-6, err_msg=f"{name}: {key}")


@pytest.mark.one_in(2, group="kills")
@pytest.mark.slow
def test_a_killed_run_continues_as_if_never_killed_on_two_replicas_and_among_two_workers(tmp_path):
    # One test: what takes the time are the starts of eight processes, two or three of them at once.
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    mirrored = start(cut, "mirrored", "kill")
    end_well(*workers(whole), start(whole, "mirrored"))
    mirrored.communicate(timeout=300)
    assert mirrored.returncode == -signal.SIGKILL
    first, second = workers(cut, "kill")
    second.communicate(timeout=300)
    assert second.returncode == -signal.SIGKILL
    first.kill()  # as a scheduler does: it waits for the other, or has failed
    first.communicate(timeout=300)
    assert not list(cut.glob("*.npz")) and len(list(cut.glob("backup-*"))) == 3
    end_well(*workers(cut), start(cut, "mirrored"))
    assert_same(cut, whole, ["mirrored", "worker-0", "worker-1"])


@pytest.mark.one_in(2, group="kills")
@pytest.mark.slow
def test_a_language_model_continues_from_packed_targets_between_two_accumulated_steps(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    killed = start(cut, "kill", module="tests.resumed_language")
    end_well(start(whole, module="tests.resumed_language"))
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL and not (cut / "student.npz").exists()
    end_well(start(cut, module="tests.resumed_language"))
    assert_same(cut, whole, ["student"])
