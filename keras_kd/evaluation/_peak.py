"""Load models, answer one batch with each, and say the memory that it took.

Run as a script by `memory.peaks`, with jobs as JSON on the standard input: {"kind", "path", "inputs", "form"}.
TensorFlow is imported once, as that takes most of the time; each job then runs in a fork of its own.
"""

import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def main() -> None:
    """Write a list of bytes to the standard output, None for a job that failed."""
    jobs = json.load(sys.stdin)
    if any(job["kind"] == "SavedModel" for job in jobs):
        import tensorflow  # noqa: F401  starts no threads yet, so that it may be forked
    json.dump([_in_a_fork(job) for job in jobs], sys.stdout)


def _in_a_fork(job: dict[str, str]) -> int | None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(_bytes(**job)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return int(said) if said else None


def _bytes(kind: str, path: str, inputs: str, form: str) -> int:
    with np.load(inputs) as file:
        arrays = {name: file[name] for name in file.files}
    answer = _litert() if kind == "LiteRT" else _saved_model()
    before = _peak()
    answer(path, arrays, form)
    return _peak() - before


def _peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent has held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held


def _saved_model() -> Callable[..., Any]:
    import tensorflow as tf

    tf.function(lambda x: tf.matmul(x, x))(tf.ones((8, 8)))  # starts the threads of TensorFlow

    def answer(path: str, arrays: dict[str, np.ndarray], form: str) -> None:
        loaded = tf.saved_model.load(path)
        tensors = {name: tf.constant(array) for name, array in sorted(arrays.items())}
        if hasattr(loaded, "serve"):  # what Keras exports
            first, *others = tensors.values()
            loaded.serve(tensors if form == "dict" else [first, *others] if form == "list" else first)
            return
        signature = loaded.signatures["serving_default"]
        names = sorted(signature.structured_input_signature[1])
        signature(**(tensors if form == "dict" else dict(zip(names, tensors.values(), strict=True))))

    return answer


def _litert() -> Callable[..., Any]:
    from ai_edge_litert.interpreter import Interpreter

    def answer(path: str, arrays: dict[str, np.ndarray], form: str) -> None:
        interpreter = Interpreter(model_path=path)
        indices = [each["index"] for each in interpreter.get_input_details()]
        for index, (_, array) in zip(indices, sorted(arrays.items()), strict=True):
            interpreter.resize_tensor_input(index, array.shape)
        interpreter.allocate_tensors()
        for index, (_, array) in zip(indices, sorted(arrays.items()), strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()

    return answer


if __name__ == "__main__":
    main()
