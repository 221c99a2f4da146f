"""Have artefacts run in fresh processes, and compare what they say with what the student says."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from keras_kd.exporting import keras_file, runtime
from keras_kd.exporting.examples import Examples
from keras_kd.exporting.served import scores_of
from keras_kd.exporting.source import Source


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How an artefact does beside the student; the attributes are those of `report.Artefact`."""

    difference: float
    scale: float
    agreement: float | None
    accuracy: float | None
    latency: tuple[float, float]


def compare(
    source: Source, written: dict[pathlib.Path, str], folder: pathlib.Path, fresh: bool
) -> dict[pathlib.Path, Comparison | str]:
    """Run artefacts on the examples.

    Args:
        source: the student and its examples.
        written: runtime by the path of each artefact.
        folder: for files of no further use.
        fresh: run each runtime in a process of its own.

    Returns:
        By path a `Comparison`, or the message of what went wrong.
    """
    found: dict[pathlib.Path, Comparison | str] = {}
    np.savez(folder / "batches.npz", *[leaf for batch in source.examples.batches for leaf in batch])
    for (process, own), paths in _processes(source, written, fresh).items():
        job = _job(source, {path: written[path] for path in paths}, folder / f"{process}.json")
        results = _run(job, folder, own)
        for path in paths:
            result = results.get(str(path), {"error": results.get("error")})
            if "error" in result:
                found[path] = " ".join(str(result["error"]).split())[:600]
            else:
                found[path] = _compare(source, folder / f"{path.name}.npz", result["milliseconds"])
    return found


def _processes(
    source: Source, written: dict[pathlib.Path, str], fresh: bool
) -> dict[tuple[str, bool], list[pathlib.Path]]:
    """Return which artefacts run together: TensorFlow takes seconds to start, and a runtime may crash."""
    found: dict[tuple[str, bool], list[pathlib.Path]] = {}
    for path, name in sorted(written.items(), key=lambda item: item[1] == "keras"):  # its imports come last
        process = "tensorflow" if name in ("saved_model", "keras") else name
        found.setdefault((process, fresh and (name != "keras" or _importable(source))), []).append(path)
    return found


def _importable(source: Source) -> bool:
    """Return whether a fresh process can have the student's own classes; those of a script or notebook it cannot."""
    needed = keras_file.classes(source.student)
    return all(module != "__main__" and "<locals>" not in qualified for module, qualified in needed)


def _job(source: Source, written: dict[pathlib.Path, str], results: pathlib.Path) -> dict[str, Any]:
    interface, folder = source.interface, results.parent
    custom = "keras" in written.values()
    return {
        "inputs": [spec.name for spec in interface.specs],
        "outputs": list(interface.outputs),
        "structure": interface.pack(list(range(len(interface.specs)))),
        "batches": str(folder / "batches.npz"),
        "artefacts": [
            {"runtime": name, "path": str(path), "outputs": str(folder / f"{path.name}.npz")}
            for path, name in written.items()
        ],
        "results": str(results),
        "classes": keras_file.classes(source.student) if custom else [],
        "import_paths": sys.path if custom else [],
    }


def _run(job: dict[str, Any], folder: pathlib.Path, fresh: bool) -> dict[str, Any]:
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    if not fresh:
        runtime.main(str(path))
    else:
        command = [sys.executable, "-P", runtime.__file__, str(path)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if ended.returncode:
            return {"error": f"its process ended with {ended.returncode}: {ended.stderr.strip()[-600:]}"}
    return json.loads(pathlib.Path(job["results"]).read_text())


def _compare(source: Source, outputs: pathlib.Path, milliseconds: list[float]) -> Comparison | str:
    examples = source.examples
    with np.load(outputs) as arrays:
        leaves = list(arrays.values())
    expected = [leaf for batch in examples.expected for leaf in batch]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in expected]:
        return f"its outputs have the shapes {[leaf.shape for leaf in leaves]}, the student's are others"
    try:
        expected, leaves = (scores_of(source.student, each) for each in (expected, leaves))
    except ValueError as error:
        return str(error)
    pairs = [(_number(a), _number(b)) for a, b in zip(expected, leaves, strict=True)]
    largest = [np.max(np.abs(a - b), initial=0.0) for a, b in pairs]
    classes = [np.argmax(a, -1) == np.argmax(b, -1) for a, b in pairs if a.ndim > 1 and a.shape[-1] > 1]
    return Comparison(
        difference=float(np.max(largest)),  # NaN stays NaN
        scale=max(1.0, *(float(np.max(np.abs(a), initial=0.0)) for a, _ in pairs)),
        agreement=float(np.mean(np.concatenate([each.ravel() for each in classes]))) if classes else None,
        accuracy=_accuracy_difference(examples, pairs),
        latency=(milliseconds[0], milliseconds[1]),
    )


def _accuracy_difference(examples: Examples, pairs: list[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Return the artefact's accuracy less the student's, for one output of classes with labels."""
    if examples.labels is None or len(pairs) != len(examples.labels):
        return None
    gains = []
    for label, (expected, received) in zip(examples.labels, pairs, strict=True):
        ids = np.argmax(label, -1) if label.shape == expected.shape else label.reshape(label.shape[: expected.ndim - 1])
        if expected.ndim < 2 or expected.shape[-1] < 2 or ids.shape != expected.shape[:-1]:
            return None
        gains.append(((np.argmax(received, -1) == ids).astype(int) - (np.argmax(expected, -1) == ids)).ravel())
    return float(np.mean(np.concatenate(gains)))


def _number(output: np.ndarray) -> np.ndarray:
    """Return numbers; strings become numbers that differ where they do."""
    if output.dtype.kind in "SUO":
        flat = [int.from_bytes(bytes(each), "big") % 2**52 for each in output.astype("S").ravel()]
        return np.reshape(np.array(flat, "float64"), output.shape)
    return output.astype("float64")
