"""Memory stays flat over long training, and is freed. What tests/leaks.py prints, in a process of its own."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, and given back by glibc")
def test_nothing_leaks():
    run = subprocess.run([sys.executable, "-m", "tests.leaks"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    # 160 epochs of 2 steps; the first 40 may warm up. A leak of one batch's tensors would be 160 * 2 * 1 kB = 0.3 MB.
    assert found["epochs"][-1] - found["epochs"][1] < 2, found["epochs"]
    assert found["rollouts"][-1] - found["rollouts"][1] < 2, found["rollouts"]
    assert found["alive"] == 0
    # Each has 24 MB of weights: those of the last ten would be 240.
    assert max(found["distillers"][10:]) - max(found["distillers"][:10]) < 40, found["distillers"]
