"""Every precision, XLA or several steps an execution, on one device and two replicas: see tests/combinations.py."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.combinations import KINDS, POLICIES

ROOT = pathlib.Path(__file__).parents[1]

# Weights are kept and moved in float32; what is rounded to 16 bits is on the way through the network. From the input to
# the gradient of the first kernel are 12 roundings: the input; the kernel, the product and the sum of both layers;
# tanh of the first (the teacher and the losses are in float32); the gradient of the logits, two products and the
# derivative of tanh. Each changes a step by at most the unit roundoff u of its size, 2**-11 for float16 and 2**-8 for
# bfloat16; sums in which terms cancel may double it.
ROUNDINGS, CANCELLATION = 12, 2
TOLERANCES = {
    "float32": lambda way: 1e-5,
    "mixed_float16": lambda way: CANCELLATION * ROUNDINGS * 2.0**-11 * way,
    "mixed_bfloat16": lambda way: CANCELLATION * ROUNDINGS * 2.0**-8 * way,
}


@pytest.mark.one_in(2, group="devices")
@pytest.mark.slow
def test_every_combination_gives_the_weights_of_float32_on_one_device(tmp_path):
    command = [sys.executable, "-m", "tests.combinations", str(tmp_path / "found.npz")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr
    found = dict(np.load(tmp_path / "found.npz"))
    names = sorted({key.split("/")[0] for key in found})
    assert len(names) == len(KINDS) * len(POLICIES) * 4
    for name in names:
        kind, policy, *_ = name.split()
        reference = f"{kind} float32 default one"
        way = float(found[f"{reference}/length"])
        assert way > 0.1
        tolerance = TOLERANCES[policy](way)
        assert np.all(np.isfinite(found[f"{name}/losses"]))
        for number in range(4):
            expected = found[f"{reference}/{number}"]
            np.testing.assert_allclose(found[f"{name}/{number}"], expected, rtol=0, atol=tolerance, err_msg=name)
        if policy != "float32":  # or nothing was in 16 bits
            assert np.any(found[f"{name}/0"] != found[f"{reference}/0"])
