"""Convert a SavedModel to LiteRT files in a process without the student and keras_kd: the converter may crash.

`python -P litert_conversion.py JOB.json` reads a job (see `litert.py`) and writes each of its files. It is run as a
file: `-m` would import keras_kd.
"""

import json
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

#: Single examples that the ranges of activations are measured on.
CALIBRATION = 300


def main(path: str) -> None:
    """Write all files of a job, and what became of each to its `results`."""
    job = json.loads(pathlib.Path(path).read_text())
    results: dict[str, dict[str, Any]] = {}
    for artefact in job["artefacts"]:
        try:
            pathlib.Path(artefact["path"]).write_bytes(_convert(job, artefact["quantize"]))
            results[artefact["path"]] = {}
        except Exception as error:  # the converter's own classes are not public, and some failures are plain ones
            results[artefact["path"]] = {"error": str(error)}
        pathlib.Path(job["results"]).write_text(json.dumps(results))


def _convert(job: dict[str, Any], quantize: str | None) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(job["saved_model"], signature_keys=["serving_default"])
    converter.exclude_conversion_metadata = True  # how the file was made is of no use on a phone
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = lambda: _singles(job)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():  # TensorFlow, of its own interpreter, which it measures the ranges with
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite.Interpreter is deprecated")
        return converter.convert()


def _singles(job: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the first examples in batches of one."""
    width, count = len(job["inputs"]), 0
    with np.load(job["batches"]) as arrays:
        leaves = list(arrays.values())
    for start in range(0, len(leaves), width):
        batch = leaves[start : start + width]
        for i in range(min(len(batch[0]), CALIBRATION - count)):
            yield {name: leaf[i : i + 1] for name, leaf in zip(job["inputs"], batch, strict=True)}
            count += 1


if __name__ == "__main__":
    main(sys.argv[1])
