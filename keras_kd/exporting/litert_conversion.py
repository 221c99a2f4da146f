"""Convert a SavedModel to LiteRT files in a process without the student and keras_kd: the converter may crash.

`python -P litert_conversion.py JOB.json` reads a job (see `litert.py`) and writes each of its files. It is run as a
file: `-m` would import keras_kd.
"""

import contextlib
import functools
import hashlib
import json
import pathlib
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

#: Single examples that the ranges of activations are measured on.
CALIBRATION = 300
#: What LiteRT calls the operations of integers, and the type of inputs and outputs.
_INTEGERS = {
    "int8": ("TFLITE_BUILTINS_INT8", "int8"),
    "int8x16": ("EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8", "int16"),
}
#: What the converter calls the outputs of a file, whichever layer they are from.
_OUTPUT = "StatefulPartitionedCall"


def main(path: str) -> None:
    """Write all files of a job, and what became of each to its `results`."""
    job = json.loads(pathlib.Path(path).read_text())
    results: dict[str, dict[str, Any]] = {}
    calibrated = functools.cache(lambda: _Calibrated(job))
    for artefact in job["artefacts"]:
        try:
            if artefact["float_layers"]:
                results[artefact["path"]] = calibrated().write(artefact)
            else:
                pathlib.Path(artefact["path"]).write_bytes(_convert(_converter(job, artefact["quantize"])))
                results[artefact["path"]] = {}
        except Exception as error:  # the converter's own classes are not public, and some failures are plain ones
            results[artefact["path"]] = {"error": str(error)}
        pathlib.Path(job["results"]).write_text(json.dumps(results))


def _converter(job: dict[str, Any], quantize: str | None) -> Any:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(job["saved_model"], signature_keys=["serving_default"])
    converter.exclude_conversion_metadata = True  # how the file was made is of no use on a phone
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize in _INTEGERS:
        operations, kind = _INTEGERS[quantize]
        converter.representative_dataset = lambda: _singles(job)
        converter.target_spec.supported_ops = [tf.lite.OpsSet[operations]]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(kind)
    return converter


def _convert(converter: Any) -> bytes:
    with _without_warnings():
        return converter.convert()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out those of TensorFlow about its own interpreter, with which it measures ranges."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite.Interpreter is deprecated")
        yield


class _Calibrated:
    """A model whose ranges are measured, from which files of 8 bits are made that have other layers in float.

    Args:
        job: as of `main`.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import tensorflow as tf

        self._of_outputs = set(job["output_layers"])
        self._options = tf.lite.experimental.QuantizationDebugOptions(fully_quantize=True)
        self._written: dict[str, str] = {}
        with _without_warnings():
            converter = _converter(job, "int8")
            self._debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_options=self._options)
            details = tf.lite.Interpreter(model_content=self._debugger.calibrated_model).get_tensor_details()
        self._names = [detail["name"] for detail in details]

    def write(self, artefact: dict[str, Any]) -> dict[str, Any]:
        """Write the file of an artefact, unless another one is the same, whose path is returned as "same"."""
        self._options.denylisted_nodes = self._kept(artefact["float_layers"])
        with _without_warnings():
            content = self._debugger.get_nondebug_quantized_model()
        first = self._written.setdefault(hashlib.sha256(content).hexdigest(), artefact["path"])
        if first != artefact["path"]:
            return {"same": first}
        pathlib.Path(first).write_bytes(content)
        return {}

    def _kept(self, layers: list[str]) -> list[str]:
        """Return the names of the tensors that stay in float with some layers."""
        found = {layer: tensors_of(layer, self._names) for layer in layers}
        missing = [layer for layer, tensors in found.items() if not tensors]
        if missing:
            raise ValueError(f"the file has no tensors of the layers {missing}; it has {self._names}")
        is_output = bool(self._of_outputs & set(layers))
        outputs = [name for name in self._names if name.startswith(_OUTPUT)] if is_output else []
        return sorted({*outputs, *(name for tensors in found.values() for name in tensors)})


def tensors_of(layer: str, names: Iterable[str]) -> list[str]:
    """Return the names of the tensors that a layer has in a file.

    Keras enters a layer's scope of names twice, so that TensorFlow calls it "layer_1", and "layer_1" then "layer_1_2".
    What LiteRT has made of several operations has all of their names.

    Args:
        layer: as "layer" or "model/layer".
        names: of all tensors.
    """
    paths = {name: [part.split("/") for part in name.split(";")] for name in names}
    scopes = {scope for parts in paths.values() for path in parts for scope in path[:-1]}
    wanted = [_scope(each, scopes) for each in layer.split("/")]
    size = len(wanted)
    return [
        name
        for name, parts in paths.items()
        if any(path[i : i + size] == wanted for path in parts for i in range(len(path) - size))
    ]


def _scope(name: str, scopes: set[str]) -> str:
    """Return the scope that a layer's name has become."""
    numbers = [int(scope[len(name) + 1 :]) for scope in scopes if re.fullmatch(rf"{re.escape(name)}_\d+", scope)]
    return f"{name}_{min(numbers)}" if numbers else name


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
