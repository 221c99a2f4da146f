"""The budgets that are measured on a model itself: the bytes of its files, and how long they take."""

import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd.evaluation import model_runners
from keras_kd.evaluation.predictors import Predictor
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats import Format, chosen
from keras_kd.exporting.sample_inputs import prepare
from keras_kd.runtimes import timing

#: What a format is called in `file_bytes` and `latency`.
FORMATS: dict[str, tuple[str, str | None]] = {
    "saved_model": ("saved_model", None),
    "litert": ("litert", None),
    "litert_float16": ("litert", "float16"),
    "litert_dynamic": ("litert", "dynamic"),
    "litert_int8x16": ("litert", "int8x16"),
    "litert_int8": ("litert", "int8"),
    "onnx": ("onnx", None),
    "keras": ("keras", None),
}


def check(name: str, budget: Any) -> tuple[str, float]:
    """Return the format and the number of a budget.

    Raises:
        ValueError: it is no dict of one format and a number above 0.
    """
    if not isinstance(budget, dict) or len(budget) != 1 or next(iter(budget)) not in FORMATS:
        raise ValueError(
            f"Expected `{name}` to be a dict of one of {sorted(FORMATS)} to a number, as in {name}="
            f"{{'litert_int8': 60_000}}. Received: {budget!r}"
        )
    ((kind, most),) = budget.items()
    if not most > 0:
        raise ValueError(f"Expected `{name}` to be above 0. Received: {budget!r}")
    return kind, float(most)


def file_name(kind: str) -> str:
    """Return what the file of a format is called."""
    return _format(kind).file


def written(
    model: keras.Model, kind: str, representative: Any, folder: pathlib.Path, fresh: bool = False
) -> pathlib.Path:
    """Write a model's file into a new folder, and return its path. It is not compared with the model, see `export`.

    Args:
        model: the model.
        kind: a key of `FORMATS`.
        representative: inputs, on which ranges of integers are found.
        folder: that is made.
        fresh: whether LiteRT's converter runs in a process of its own, which takes seconds, and may crash.
    """
    interface, examples = prepare(model, representative)
    with tempfile.TemporaryDirectory() as scratch:
        source = Source(model, interface, examples, pathlib.Path(scratch), fresh)
        folder.mkdir(parents=True)
        path = folder / file_name(kind)
        _format(kind).write(source, path)
    return path


def file_bytes(model: keras.Model, kind: str, representative: Any) -> float:
    """Return the bytes of a model's file, or of all files of its folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(model, kind, representative, pathlib.Path(folder) / "file")
        return float(model_runners.of_export(path, model).size() or 0)


def latency(model: keras.Model, kind: str, representative: Any, rounds: int = 100) -> float:
    """Return the median milliseconds for one example, "keras" being the model itself.

    Args:
        model: the model.
        kind: a key of `FORMATS`.
        representative: inputs, of which the first is run.
        rounds: timed calls.
    """
    one = tree.map_structure(lambda each: np.asarray(each)[:1], representative)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "keras":
            runner = model_runners.in_keras(Predictor("pruned", model))
        else:
            path = written(model, kind, representative, pathlib.Path(folder) / "file")
            runner = model_runners.of_export(path, model)
        return 1e3 * float(np.median(timing.in_turns({"": runner(one)}, rounds)[""]))


def _format(kind: str) -> Format:
    name, quantize = FORMATS[kind]
    (found,) = chosen((name,), quantize)
    return found
