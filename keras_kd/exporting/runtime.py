"""Run artefacts, each with its own runtime, in a process that has neither the student nor keras_kd.

`python -P runtime.py JOB.json` reads a job (see `check.py`), and writes the outputs of each of its artefacts. It
imports nothing but NumPy and the runtime that the artefact needs, and is run as a file: `-m` would import keras_kd.
"""

import importlib
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_WARM_UPS = 10
_TIMED = 100
_SECONDS = 2.0

#: From inputs to outputs, each in the order of the interface.
Run = Callable[[list[np.ndarray]], list[np.ndarray]]


def main(path: str) -> None:
    """Run all artefacts of a job, and write what became of them to its `results`."""
    job = json.loads(pathlib.Path(path).read_text())
    for folder in job["import_paths"]:
        if folder not in sys.path:
            sys.path.append(folder)
    results: dict[str, dict[str, Any]] = {}
    with np.load(job["batches"]) as arrays:
        width = len(job["inputs"])
        leaves = list(arrays.values())
    batches = [leaves[i : i + width] for i in range(0, len(leaves), width)]
    for artefact in job["artefacts"]:
        try:
            run = _RUNTIMES[artefact["runtime"]](artefact["path"], job)
            outputs = [plain(output) for batch in batches for output in run(batch)]
            np.savez(artefact["outputs"], *outputs)
            results[artefact["path"]] = {"milliseconds": _time(run, [leaf[:1] for leaf in batches[0]])}
        except Exception as error:  # whatever a runtime raises is this artefact's failure, and no other's
            results[artefact["path"]] = {"error": f"{type(error).__name__}: {error}"}
        pathlib.Path(job["results"]).write_text(json.dumps(results))  # not lost where the next one crashes


def _saved_model(path: str, job: dict[str, Any]) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["serving_default"]

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        outputs = signature(**dict(zip(job["inputs"], map(tf.constant, inputs), strict=True)))
        return [outputs[name].numpy() for name in job["outputs"]]

    run.loaded = loaded  # type: ignore[attr-defined]  # its functions die with it
    return run


def _keras(path: str, job: dict[str, Any]) -> Run:
    classes = {name: getattr(importlib.import_module(module), name) for module, name in job["classes"]}

    import keras
    import tensorflow as tf

    model = keras.models.load_model(path, custom_objects=classes, compile=False, safe_mode=True)
    function = tf.function(lambda x: keras.tree.flatten(model(x, training=False)), reduce_retracing=True)

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        x = _pack(job["structure"], [tf.constant(each) for each in inputs])
        return [output.numpy() for output in function(x)]

    return run


def _litert(path: str, job: dict[str, Any]) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(path, num_threads=1).get_signature_runner("serving_default")
    takes, gives = runner.get_input_details(), runner.get_output_details()

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        given = zip(job["inputs"], inputs, strict=True)  # an input that no output needs is not in the file
        outputs = runner(**{name: _quantized(x, takes[name]) for name, x in given if name in takes})
        return [_restored(outputs[name], gives[name]).copy() for name in job["outputs"]]

    def run_singly(inputs: list[np.ndarray]) -> list[np.ndarray]:
        singles = [run([leaf[i : i + 1] for leaf in inputs]) for i in range(len(inputs[0]))]
        return [np.concatenate(leaves) for leaves in zip(*singles, strict=True)]

    fixed = any(detail["shape_signature"][0] == 1 for detail in takes.values())
    return run_singly if fixed else run


def _onnx(path: str, job: dict[str, Any]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    takes = {each.name for each in session.get_inputs()}

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        feeds = {name: x for name, x in zip(job["inputs"], inputs, strict=True) if name in takes}
        return session.run(job["outputs"], feeds)

    return run


_RUNTIMES: dict[str, Callable[[str, dict[str, Any]], Run]] = {
    "saved_model": _saved_model,
    "keras": _keras,
    "litert": _litert,
    "onnx": _onnx,
}


def _pack(structure: Any, leaves: list[Any]) -> Any:
    """Put inputs where the structure has their numbers."""
    if isinstance(structure, int):
        return leaves[structure]
    if isinstance(structure, dict):
        return {key: _pack(value, leaves) for key, value in structure.items()}
    return [_pack(value, leaves) for value in structure]


def _quantized(x: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    if not scale:
        return x
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def _restored(output: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    return (output.astype("float32") - zero) * np.float32(scale) if scale else output


def plain(output: np.ndarray) -> np.ndarray:
    """Return what an .npz file can hold without pickle."""
    if output.dtype.kind in "UO":
        flat = [each if isinstance(each, bytes) else str(each).encode() for each in output.ravel()]
        return np.array(flat, "S").reshape(output.shape)
    return output if output.dtype.kind in "biufS" else output.astype("float32")  # bfloat16


def _time(run: Run, single: list[np.ndarray]) -> list[float]:
    """Return the 50th and the 95th percentile of the milliseconds for one example."""
    for _ in range(_WARM_UPS):
        run(single)
    times: list[float] = []
    while len(times) < _TIMED and (sum(times) < _SECONDS or len(times) < 5):
        start = time.perf_counter()
        run(single)
        times.append(time.perf_counter() - start)
    return [1000 * float(each) for each in np.percentile(times, [50, 95])]


if __name__ == "__main__":
    main(sys.argv[1])
