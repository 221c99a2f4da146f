"""Open a model's file, each kind with its own runtime: a function from inputs to outputs.

`python -P model_files.py JOB.json` runs files in a process that has neither the model nor keras_kd. It imports nothing
but NumPy and the runtime that a file needs, and is run as a script: `-m` would import keras_kd.
"""

import functools
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

_WARM_UPS = 10
_TIMED = 100
_SECONDS = 2.0

#: What each kind of file is run by.
_MODULES = {
    "saved_model": ["tensorflow"],
    "keras": ["tensorflow", "keras"],
    "litert": ["ai_edge_litert.interpreter"],
    "onnx": ["onnxruntime"],
}

Call = Callable[[], Any]

#: Of onnxruntime: names, or pairs of a name and options.
Providers = Sequence[str | tuple[str, dict[str, Any]]]


class Opened(NamedTuple):
    """A file that is ready to run. It is called with inputs and returns its outputs, as a list of arrays.

    Inputs are an array, or arrays in a list or dict. For LiteRT and ONNX a dict has the names of the file's inputs, or
    the ends of these, as its keys; other keys are left out.

    Attributes:
        prepare: from inputs as `encode` returns them to a function that runs the file on them, for inputs of that size.
        encode: from inputs to what the file takes: its types, its order, quantised where it is.
        decode: from what the file returns to numbers.
        names: of the outputs, of LiteRT and ONNX.
        takes_text: whether an input of a SavedModel is a string.
    """

    prepare: Callable[[Any], Call]
    encode: Callable[[Any], Any] = lambda x: x
    decode: Callable[[Any], list[np.ndarray]] = lambda outputs: outputs
    names: tuple[str, ...] = ()
    takes_text: bool = False

    def __call__(self, x: Any) -> list[np.ndarray]:
        """Run the file."""
        return self.decode(self.prepare(self.encode(x))())


def open_file(
    kind: str,
    path: str | pathlib.Path,
    outputs: Sequence[str] = (),
    classes: Iterable[tuple[str, str]] = (),
    traced: bool = False,
    providers: Providers | None = ("CPUExecutionProvider",),
) -> Opened:
    """Open a file.

    Args:
        kind: "saved_model", "keras", "litert" or "onnx".
        path: of the file or folder.
        outputs: names of the outputs to return; a SavedModel then runs its signature `serving_default`. Without names
            it runs its endpoint `serve`, where it has one, and all outputs are returned in the order of the file.
        classes: module and name of what a `.keras` file needs beside Keras's own classes.
        traced: whether TensorFlow traces it again in `prepare`, for the one size of the inputs.
        providers: what onnxruntime runs an ONNX file on, in the order of preference; None for its own choice.

    Raises:
        ImportError: the runtime is not installed; the message names the extra.
        ValueError: an unknown kind; or the file has no such signature.
    """
    if kind not in _MODULES:
        raise ValueError(f"Expected `kind` to be one of {tuple(_MODULES)}. Received: kind={kind!r}")
    if kind == "litert":
        return _litert(str(path), outputs)
    if kind == "onnx":
        return _onnx(str(path), outputs, providers)
    if kind == "saved_model":
        function, takes_text = _saved_model(str(path), outputs)
        return Opened(in_tensorflow(function, traced), takes_text=takes_text)
    return Opened(in_tensorflow(_keras(str(path), classes), traced))


def in_tensorflow(function: Callable[[Any], Any], traced: bool) -> Callable[[Any], Call]:
    """Return `Opened.prepare` of a function of tensors."""
    import tensorflow as tf

    def prepare(x: Any) -> Call:
        x = tf.nest.map_structure(tf.convert_to_tensor, x)
        call = function
        if traced:
            call = tf.function(function).get_concrete_function(tf.nest.map_structure(tf.TensorSpec.from_tensor, x))
        # To NumPy: a device may return before it has finished.
        return lambda: [np.asarray(output) for output in tf.nest.flatten(call(x))]

    return prepare


def _saved_model(path: str, outputs: Sequence[str]) -> tuple[Callable[[Any], Any], bool]:
    """Return a function of what a SavedModel takes, and whether that is text."""
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(path)  # its functions need it
    except RuntimeError as error:
        if "Op type not registered" not in str(error) or importlib.util.find_spec("tensorflow_text") is None:
            raise
        importlib.import_module("tensorflow_text")  # which registers the operations of tokenizers
        loaded = tf.saved_model.load(path)
    signatures = loaded.signatures.values()
    takes_text = any(
        each.dtype == "string" for one in signatures for each in one.structured_input_signature[1].values()
    )
    if not outputs and hasattr(loaded, "serve"):
        return lambda x: loaded.serve(x), takes_text
    if "serving_default" not in loaded.signatures:
        raise ValueError(
            f"Expected the SavedModel at {path!r} to have the signature 'serving_default' or the endpoint 'serve'. It "
            f"has: {sorted(loaded.signatures)}."
        )
    signature = loaded.signatures["serving_default"]
    names = sorted(signature.structured_input_signature[1])

    def run(x: Any) -> list[Any]:
        inputs = x if isinstance(x, dict) else dict(zip(names, tf.nest.flatten(x), strict=True))
        found = signature(**inputs)
        return [found[name] for name in outputs or sorted(found)]

    run.loaded = loaded  # type: ignore[attr-defined]
    return run, takes_text


def _keras(path: str, classes: Iterable[tuple[str, str]]) -> Callable[[Any], Any]:
    own = {name: getattr(importlib.import_module(module), name) for module, name in classes}

    import keras
    import tensorflow as tf

    model = keras.models.load_model(path, custom_objects=own, compile=False, safe_mode=True)
    return tf.function(lambda x: keras.tree.flatten(model(x, training=False)), reduce_retracing=True)


def interpreter_of(path: str | pathlib.Path) -> Any:
    """Return LiteRT's interpreter of a file, on one thread: its default depends on the device."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError('To run .tflite files, LiteRT is needed: pip install "keras_kd[litert]"') from error
    return Interpreter(model_path=str(path), num_threads=1)


def _litert(path: str, outputs: Sequence[str]) -> Opened:
    interpreter = interpreter_of(path)
    sizes: list[tuple[int, ...]] = []
    if len(interpreter.get_signature_list()) == 1:
        signature = interpreter.get_signature_runner()
        takes, gives = signature.get_input_details(), signature.get_output_details()
    else:
        ends = interpreter.get_input_details(), interpreter.get_output_details()
        takes, gives = ({detail["name"]: detail for detail in end} for end in ends)
    inputs, results = list(takes.values()), [gives[name] for name in outputs or gives]

    def encode(x: Any) -> dict[str, np.ndarray]:
        return {name: as_input(leaf, takes[name]) for name, leaf in _named(list(takes), x).items()}

    def prepare(x: dict[str, np.ndarray]) -> Call:
        nonlocal interpreter, sizes
        leaves = list(x.values())
        if sizes != [leaf.shape for leaf in leaves]:
            interpreter = interpreter_of(path) if sizes else interpreter  # what was prepared for other sizes still runs
            sizes = [leaf.shape for leaf in leaves]
            for detail, leaf in zip(inputs, leaves, strict=True):
                interpreter.resize_tensor_input(detail["index"], leaf.shape)
            interpreter.allocate_tensors()
        return functools.partial(_invoke, interpreter, inputs, leaves, results)

    def decode(found: list[np.ndarray]) -> list[np.ndarray]:
        return [_restored(output, detail) for output, detail in zip(found, results, strict=True)]

    fixed = any(list(detail["shape_signature"][:1]) == [1] for detail in inputs)
    return Opened(_in_parts(prepare, 1) if fixed else prepare, encode, decode, tuple(outputs or gives))


def _invoke(
    interpreter: Any, inputs: list[dict[str, Any]], leaves: list[np.ndarray], results: list[dict[str, Any]]
) -> list[np.ndarray]:
    for detail, leaf in zip(inputs, leaves, strict=True):
        interpreter.set_tensor(detail["index"], leaf)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in results]


def _in_parts(prepare: Callable[[Any], Call], size: int) -> Callable[[Any], Call]:
    """Return `Opened.prepare` of a file that takes `size` examples at a time; a last part is filled up."""

    def prepare_all(x: dict[str, np.ndarray]) -> Call:
        count = len(next(iter(x.values())))
        parts = [np.minimum(np.arange(start, start + size), count - 1) for start in range(0, count, size)]
        calls = [prepare({name: leaf[part] for name, leaf in x.items()}) for part in parts]
        return lambda: [np.concatenate(leaves)[:count] for leaves in zip(*[call() for call in calls], strict=True)]

    return prepare_all


def _onnx(path: str, outputs: Sequence[str], providers: Providers | None) -> Opened:
    session = onnxruntime_module().InferenceSession(path, providers=providers)
    takes = {each.name: each.type for each in session.get_inputs()}  # as "tensor(int64)"
    sizes = {each.shape[0] for each in session.get_inputs() if each.shape and isinstance(each.shape[0], int)}
    types = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(string)": "object"}

    def encode(x: Any) -> dict[str, np.ndarray]:
        kinds = {name: types.get(kind, kind[len("tensor(") : -1]) for name, kind in takes.items()}
        return {name: leaf.astype(kinds[name], copy=False) for name, leaf in _named(list(takes), x).items()}

    names = tuple(outputs) or tuple(each.name for each in session.get_outputs())

    def prepare(x: dict[str, np.ndarray]) -> Call:
        return functools.partial(session.run, list(names), x)

    return Opened(_in_parts(prepare, sizes.pop()) if len(sizes) == 1 else prepare, encode, names=names)


def onnxruntime_module() -> Any:
    """Return onnxruntime, or raise an error that names the extra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('To run .onnx files, onnxruntime is needed: pip install "keras_kd[onnx]"') from error
    return onnxruntime


def _named(names: list[str], x: Any) -> dict[str, np.ndarray]:
    """Return inputs in the order of a file, by its names."""
    given = x if isinstance(x, dict) else dict(enumerate(x if isinstance(x, (list, tuple)) else [x]))
    if len(given) == len(names) == 1:
        return {names[0]: np.asarray(next(iter(given.values())))}
    found = {}
    for name in names:
        ends = [key for key in given if name.split(":")[0].endswith(f"_{key}")]
        keys = [name] if name in given else ends
        if len(keys) != 1 or not isinstance(x, dict):
            raise ValueError(
                f"Expected inputs as a dict with keys in the names of the file's inputs, {names}. Received "
                f"{sorted(x) if isinstance(x, dict) else len(given)}."
            )
        found[name] = np.asarray(given[keys[0]])
    return found


def as_input(x: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Return an array in the type of an input, quantised where the file has it so."""
    wanted, (scale, zero) = detail["dtype"], detail["quantization"]
    if scale and np.issubdtype(wanted, np.integer):
        limits = np.iinfo(wanted)
        x = np.clip(np.round(x / scale) + zero, limits.min, limits.max)
    return x.astype(wanted, copy=False)


def _restored(output: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    return (output.astype("float32") - zero) * np.float32(scale) if scale else output


def main(path: str) -> None:
    """Run all files of a job, and write what became of them to its `results`.

    For each, a job has its "name" in the results, and as "file" the arguments of `open_file`. Its inputs are "arrays",
    an .npz file of "width" arrays for each batch, and "structure", the numbers of these where the model has inputs. The
    job measures "memory", or "outputs", which are written to the .npz file "outputs", and one example is timed.
    """
    job = json.loads(pathlib.Path(path).read_text())
    sys.path += [folder for folder in job["import_paths"] if folder not in sys.path]
    results: dict[str, dict[str, Any]] = {}
    in_forks = job["measure"] == "memory"
    if in_forks and any("tensorflow" in _MODULES[each["file"]["kind"]] for each in job["artefacts"]):
        import tensorflow  # noqa: F401  takes seconds, and starts no threads yet, so that it may be forked
    for artefact in job["artefacts"]:
        try:
            results[artefact["name"]] = _in_a_fork(artefact) if in_forks else _run(artefact)
        except Exception as error:  # whatever a runtime raises is this artefact's failure, and no other's
            results[artefact["name"]] = {"error": f"{type(error).__name__}: {error}"}
        pathlib.Path(job["results"]).write_text(json.dumps(results))  # not lost where the next one crashes


def _run(artefact: dict[str, Any]) -> dict[str, Any]:
    opened = open_file(**artefact["file"])
    np.savez(artefact["outputs"], *[plain(output) for x in _batches(artefact) for output in opened(x)])
    single = _batches(artefact, rows=1)[0]
    return {"milliseconds": _time(lambda: opened(single))}


def _batches(artefact: dict[str, Any], rows: int | None = None) -> list[Any]:
    width = artefact["width"]
    with np.load(artefact["arrays"]) as arrays:
        leaves = [leaf[:rows] for leaf in arrays.values()]
    return [_pack(artefact["structure"], leaves[i : i + width]) for i in range(0, len(leaves), width)]


def _pack(structure: Any, leaves: list[Any]) -> Any:
    """Put inputs where the structure has their numbers."""
    if isinstance(structure, int):
        return leaves[structure]
    if isinstance(structure, dict):
        return {key: _pack(value, leaves) for key, value in structure.items()}
    return [_pack(value, leaves) for value in structure]


def plain(output: np.ndarray) -> np.ndarray:
    """Return what an .npz file can hold without pickle."""
    if output.dtype.kind in "UO":
        flat = [each if isinstance(each, bytes) else str(each).encode() for each in output.ravel()]
        return np.array(flat, "S").reshape(output.shape)
    return output if output.dtype.kind in "biufS" else output.astype("float32")  # bfloat16


def _time(call: Call) -> list[float]:
    """Return the 50th and the 95th percentile of the milliseconds of a call."""
    for _ in range(_WARM_UPS):
        call()
    times: list[float] = []
    while len(times) < _TIMED and (sum(times) < _SECONDS or len(times) < 5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return [1000 * float(each) for each in np.percentile(times, [50, 95])]


def _in_a_fork(artefact: dict[str, Any]) -> dict[str, Any]:
    """Measure the memory of a file in a fork of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(_memory(artefact)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        received = pipe.read()
    os.waitpid(child, 0)
    return {"bytes": int(received) if received else None}


def _memory(artefact: dict[str, Any]) -> int:
    """Return the bytes that it takes to open a file and to run it on a batch, without those of its runtime."""
    file, x = artefact["file"], _batches(artefact)[0]
    for module in [*_MODULES[file["kind"]], *(module for module, _ in file["classes"])]:
        importlib.import_module(module)
    if "tensorflow" in _MODULES[file["kind"]]:
        import tensorflow as tf

        tf.function(lambda x: tf.matmul(x, x))(tf.ones((8, 8)))  # starts its threads
    before = _peak()
    open_file(**file).prepare(x)()
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


if __name__ == "__main__":
    main(sys.argv[1])
