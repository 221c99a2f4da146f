"""Gradients are clipped as on one device: what tests/clipped.py leaves of one device and of two replicas."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.clipped import CLIPPING
from tests.models import mlp


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a function of (devices, name) that gives the student's weights after two steps."""
    file = tmp_path_factory.mktemp("clipped") / "weights.npz"
    command = [sys.executable, "-m", "tests.clipped", str(file)]
    root = pathlib.Path(__file__).parents[1]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    with np.load(file) as stored:
        found = dict(stored)
    return lambda devices, name: [value for key, value in found.items() if key.startswith(f"{devices} {name} ")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLIPPING, "sparse", "dynamic"])
def test_two_replicas_clip_what_one_device_clips(weights, name):
    expected = weights("one", name)
    assert len(expected) >= 3
    for received, value in zip(weights("two", name), expected, strict=True):
        np.testing.assert_allclose(received, value, rtol=2e-6, atol=1e-6)


@pytest.mark.slow
def test_each_limit_is_in_force(weights):
    # Two steps of a rate of 1 move each weight by 2 * 0.05 at most, by its norm; without a limit they move by more.
    start = mlp(1).get_weights()
    moved = {
        name: max(np.linalg.norm(now - before) for now, before in zip(weights("one", name), start, strict=True))
        for name in CLIPPING
    }
    assert moved.pop("none") > 0.2
    assert all(0.02 < each <= 0.1 + 1e-6 for each in moved.values()), moved
