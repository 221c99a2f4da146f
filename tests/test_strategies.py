"""One device, two replicas, two workers: the same numbers. What tests/strategies.py leaves, in processes of its own."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.strategies import CASES

ROOT = pathlib.Path(__file__).parents[1]
KINDS = ("mirrored", "worker 0", "worker 1")


def run_all(module, folder, suffix):
    """Return where each kind of run has written, by its name; all run at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = {"worker": [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]}
    running, files = {}, {kind: folder / f"{kind}.{suffix}" for kind in ("one", *KINDS)}
    for kind, file in files.items():
        name, *index = kind.split()
        task = {"cluster": cluster, "task": {"type": "worker", "index": int(index[0])}} if index else None
        environment = os.environ | ({"TF_CONFIG": json.dumps(task)} if task else {})
        command = [sys.executable, "-m", module, str(file), name]
        running[kind] = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    for process in running.values():
        errors = process.communicate(timeout=900)[1]
        assert process.returncode == 0, (process.args, errors)
    return files


@pytest.mark.slow
def test_weights_and_logs_are_those_of_one_device(tmp_path):
    # One test, as the runs take long and every process of pytest would repeat them.
    found = {kind: dict(np.load(file)) for kind, file in run_all("tests.strategies", tmp_path, "npz").items()}
    assert [int(found[kind]["replicas"]) for kind in ("one", *KINDS)] == [1, 2, 2, 2]
    for name in (case.__name__ for case in CASES):
        expected = {key: value for key, value in found["one"].items() if key.startswith(name)}
        assert {key.split()[1] for key in expected} == {"log", "evaluated", "weight"}
        assert expected[f"{name} log loss"][-1] < 0.999 * expected[f"{name} log loss"][0]  # it learns
        for kind in KINDS:
            assert {key for key in found[kind] if key.startswith(name)} == expected.keys()
            for key, value in expected.items():
                np.testing.assert_allclose(found[kind][key], value, rtol=0, atol=1e-5, err_msg=f"{kind}: {key}")
    shared = {path.name for path in (tmp_path / "cache-worker").glob("timing-*")}
    assert shared == {f"timing-job-0000{index}-of-00002.json" for index in range(2)}  # by TF_CONFIG
    refused = ("steps_per_execution", "jit_compile", *["gradient_accumulation_steps"] * 2)
    for name, message in zip(refused, found["mirrored"]["refused"], strict=True):
        assert f"`{name}` to be left out under MirroredStrategy with 2 replicas" in message


@pytest.mark.one_in(2, group="devices")
@pytest.mark.slow
def test_curves_with_batch_normalization_and_adam_are_those_of_one_device(tmp_path):
    # Statistics of a replica's share of the batch are others than the batch's. On average over the seeds, the curves
    # may differ by no more than a seed changes them.
    try:
        files = run_all("tests.curves", tmp_path, "npy")
    except AssertionError as error:
        if "-11 ==" not in str(error):
            raise
        files = run_all("tests.curves", tmp_path, "npy")  # TensorFlow has crashed here, once in six runs
    curves = {kind: np.load(file) for kind, file in files.items()}
    expected = curves.pop("one")
    spread = np.std(expected, axis=0, ddof=1)
    assert np.all(expected[:, -1] < 0.7 * expected[:, 0])  # they learn
    for kind, found in curves.items():
        assert np.all(np.abs(np.mean(found - expected, axis=0)) < spread), kind
    np.testing.assert_allclose(curves["worker 0"], curves["worker 1"], rtol=1e-5)
