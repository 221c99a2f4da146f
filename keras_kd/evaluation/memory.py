"""The most memory that a model takes, measured in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Hashable
from typing import Any, TypeVar

import keras
import numpy as np
from keras import tree

from keras_kd._types import Tensors
from keras_kd.evaluation.runtimes import Runtime, as_input, interpreter_of, ordered

Key = TypeVar("Key", bound=Hashable)

#: What the process runs; it imports nothing of this package, and for LiteRT alone no TensorFlow.
_SCRIPT = pathlib.Path(__file__).with_name("_peak.py")


def peaks(ways: dict[Key, tuple[Runtime, Any]], x: Tensors, seconds: float = 300.0) -> dict[Key, int | None]:
    """Return the most memory that each takes to be loaded and to answer a batch, in bytes.

    Each runs in a process of its own, on the processor: the most that it has held, less what it held before it loaded
    the model. What has no file is run as the SavedModel that is written of it. Some megabytes are noise.

    Args:
        ways: by any key, how a model is run, and the model, which is written where there is no file.
        x: the batch.
        seconds: for all of them, after which they are given up.

    Returns:
        Bytes by key; None for a model that cannot be written or a file that cannot be run, and on Windows.
    """
    found: dict[Key, int | None] = dict.fromkeys(ways)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            key: job
            for number, (key, (runtime, model)) in enumerate(ways.items())
            if (job := _job(runtime, model, x, pathlib.Path(folder) / str(number))) is not None
        }
        said = _run(list(jobs.values()), seconds)
    return {**found, **dict(zip(jobs, said, strict=True))}


def _job(runtime: Runtime, model: Any, x: Tensors, folder: pathlib.Path) -> dict[str, str] | None:
    folder.mkdir()
    path = runtime.path or _written(model, folder / "model")
    if path is None:
        return None
    named: dict[str, Any] = {f"{place:06}": np.asarray(each) for place, each in enumerate(tree.flatten(x))}
    if runtime.name == "LiteRT":
        inputs = interpreter_of(path).get_input_details()
        arrays = ordered(x, [each["name"] for each in inputs])
        named = {f"{place:06}": as_input(*pair) for place, pair in enumerate(zip(arrays, inputs, strict=True))}
    elif isinstance(x, dict):
        named = {name: np.asarray(each) for name, each in x.items()}
    np.savez(folder / "x.npz", **named)
    form = "dict" if isinstance(x, dict) else "list" if tree.is_nested(x) else "one"
    kind = "LiteRT" if runtime.name == "LiteRT" else "SavedModel"
    return {"kind": kind, "path": str(path), "inputs": str(folder / "x.npz"), "form": form}


def _written(model: Any, path: pathlib.Path) -> pathlib.Path | None:
    if not isinstance(model, keras.Model):
        return None
    try:
        model.export(path, format="tf_saved_model", verbose=False)
    except (ValueError, TypeError, AttributeError, NotImplementedError):  # what Keras raises for what it cannot trace
        return None
    return path


def _run(jobs: list[dict[str, str]], seconds: float) -> list[int | None]:
    nothing: list[int | None] = [None] * len(jobs)
    if not jobs or not hasattr(os, "fork"):
        return nothing
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-P", str(_SCRIPT)]
    try:
        done = subprocess.run(
            command, input=json.dumps(jobs), capture_output=True, text=True, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return nothing
    return json.loads(done.stdout) if done.returncode == 0 else nothing
