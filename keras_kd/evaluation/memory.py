"""The most memory that a model takes, measured in a process of its own."""

import os
import pathlib
import sys
import tempfile
from collections.abc import Hashable
from typing import Any, TypeVar

import keras
import numpy as np
from keras import tree

from keras_kd._keras import layer_tree
from keras_kd._types import Tensors
from keras_kd.evaluation import model_runners
from keras_kd.evaluation.model_runners import Runner
from keras_kd.runtimes import job_process, model_files

Key = TypeVar("Key", bound=Hashable)

_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}


def peaks(ways: dict[Key, tuple[Runner, Any]], x: Tensors, seconds: float = 300.0) -> dict[Key, int | None]:
    """Return the most memory that each takes to be loaded and to run on a batch, in bytes.

    Each runs in a process of its own, on the processor: the most that it has held, less what it held before it loaded
    the model. What has no file is run as the SavedModel that is written of it. Some megabytes are noise.

    Args:
        ways: by any key, how a model is run, and the model, which is written where there is no file.
        x: the batch.
        seconds: for all of them, after which those that are not measured are given up.

    Returns:
        Bytes by key; None for a model that cannot be written or a file that cannot be run, as a `.keras` file with
        classes of a notebook or script, and on Windows.
    """
    if not hasattr(os, "fork"):
        return dict.fromkeys(ways)
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "measure": "memory",
            "artefacts": [
                artefact
                for number, (runner, model) in enumerate(ways.values())
                if (artefact := _artefact(runner, model, x, pathlib.Path(folder) / str(number))) is not None
            ],
            "import_paths": sys.path,
            "results": f"{folder}/results.json",
        }
        results: dict[str, Any] = {}
        if job["artefacts"]:
            results = job_process.run(model_files, job, pathlib.Path(folder), True, _ENVIRONMENT, seconds)
    return {key: results.get(str(number), {}).get("bytes") for number, key in enumerate(ways)}


def _artefact(runner: Runner, model: Any, x: Tensors, folder: pathlib.Path) -> dict[str, Any] | None:
    folder.mkdir()
    path = runner.path or _written(model, folder / "model")
    if path is None:
        return None
    # Here: what it takes is not the file's.
    x = model_runners.taken(model, x) if runner.path is None else runner.encode(x)
    leaves = [np.asarray(each) for each in tree.flatten(x)]
    np.savez(folder / "x.npz", *leaves)
    own = layer_tree.custom_classes(model) if runner.kind == "keras" and isinstance(model, keras.Model) else []
    return {
        "name": folder.name,
        "file": {
            "kind": runner.kind,
            "path": str(path),
            "classes": [(each.__module__, each.__qualname__) for each in own],
        },
        "arrays": str(folder / "x.npz"),
        "structure": tree.pack_sequence_as(x, list(range(len(leaves)))),
        "width": len(leaves),
    }


def _written(model: Any, path: pathlib.Path) -> pathlib.Path | None:
    if not isinstance(model, keras.Model):
        return None
    try:
        model.export(path, format="tf_saved_model", verbose=False)
    except (ValueError, TypeError, AttributeError, NotImplementedError):  # what Keras raises for what it cannot trace
        return None
    return path
