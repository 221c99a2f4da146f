"""A memory and a running mean on two replicas: what tests/replicas.py leaves in variables, in its own process."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import references
from tests.goldens import doubled
from tests.replicas import BATCH, MEMORY, X, teacher_model

LOSS = "contrastive_memory"
DENSE = f"{LOSS}/teacher_embedding"
CENTER = "centered_cross_entropy/center"


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """Return a function of (devices, steps, replica) that gives the variables of a replica by their paths."""
    file = tmp_path_factory.mktemp("replicas") / "values.npz"
    command = [sys.executable, "-m", "tests.replicas", str(file)]
    root = pathlib.Path(__file__).parents[1]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    with np.load(file) as stored:
        found = dict(stored)

    def of(devices, steps, replica=0):
        run = f"{devices} {steps} {replica} "
        return {key.removeprefix(run): value for key, value in found.items() if key.startswith(run)}

    return of


def assert_equal(received, expected, tolerance=0.0):
    assert received.keys() == expected.keys() and len(received) > 8
    for path, value in received.items():
        np.testing.assert_allclose(value, expected[path], rtol=0, atol=tolerance, err_msg=path)


@pytest.mark.slow
def test_both_start_from_the_same_numbers(values):
    assert_equal(values("two", 0), values("one", 0))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_both_replicas_hold_the_same_numbers(values, steps):
    assert_equal(values("two", steps, 1), values("two", steps, 0))


def test_the_bank_holds_the_embeddings_of_the_whole_batch_in_its_order(values):
    before, after = values("two", 0), values("two", 1)
    hidden = doubled(np.array(teacher_model().get_layer("hidden")(X[:BATCH])))
    embeddings = references.l2_normalize(hidden @ before[f"{DENSE}/kernel"] + before[f"{DENSE}/bias"])
    assert after[f"{LOSS}/position"] == BATCH < MEMORY
    np.testing.assert_allclose(after[f"{LOSS}/bank"][:BATCH], embeddings, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(after[f"{LOSS}/bank"][BATCH:], before[f"{LOSS}/bank"][BATCH:])


def test_a_step_of_two_replicas_is_the_step_of_one_device_on_the_same_batch(values):
    received, start = values("two", 1), values("two", 0)
    assert_equal(received, values("one", 1), 1e-5)
    moved = {path for path, value in received.items() if np.max(np.abs(value - start[path])) > 1e-3}
    dense = {f"{LOSS}/{side}_embedding/{part}" for side in ("student", "teacher") for part in ("kernel", "bias")}
    assert dense | {"hidden/kernel", "hidden/bias", f"{LOSS}/bank", f"{LOSS}/position"} <= moved


def test_replicas_with_unequal_shares_store_all_examples(values):
    # 13 examples: 4 + 4, then 3 + 2.
    received, expected = values("two", 2), values("one", 2)
    assert received[f"{LOSS}/position"] == len(X)
    np.testing.assert_allclose(received[f"{LOSS}/bank"], expected[f"{LOSS}/bank"], rtol=0, atol=1e-5)


def test_the_running_mean_is_that_of_all_examples_of_all_replicas(values):
    hidden = doubled(np.array(teacher_model().get_layer("hidden")(X)))
    expected = 0.9 * 0.1 * hidden[:BATCH].mean(0) + 0.1 * hidden[BATCH:].mean(0)
    for replica in (0, 1):
        np.testing.assert_allclose(values("two", 2, replica)[CENTER], expected, rtol=0, atol=1e-6)
