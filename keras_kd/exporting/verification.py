"""Have artefacts run in fresh processes, and compare their outputs with the student's."""

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np

from keras_kd._keras import layer_tree
from keras_kd.exporting import deviation, output_heads
from keras_kd.exporting.deviation import Deviation
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats import Format
from keras_kd.exporting.sample_inputs import Examples
from keras_kd.runtimes import job_process, model_files


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How an artefact does beside the student.

    Attributes:
        outputs: the deviation of each output.
        accuracy: the artefact's accuracy less the student's; None without labels.
        latency: 50th and 95th percentile of the milliseconds for one example.
    """

    outputs: tuple[Deviation, ...]
    accuracy: float | None
    latency: tuple[float, float]

    @property
    def worst(self) -> Deviation:
        """The output with the largest deviation in relation to its tolerance."""
        return self.outputs[int(np.argmax([each.ratio for each in self.outputs]))]  # the first NaN where there is one

    @property
    def agreement(self) -> float | None:
        """Part of the examples (and positions) of the student's class; None without classes."""
        return self._agreement(sum(each.disagreements for each in self.outputs))

    @property
    def least_agreement(self) -> float | None:
        """What `agreement` has to be."""
        return self._agreement(sum(each.tolerated for each in self.outputs))

    def _agreement(self, disagreements: float) -> float | None:
        positions = sum(each.positions for each in self.outputs)
        return max(0.0, 1 - disagreements / positions) if positions else None


def compare(source: Source, written: dict[pathlib.Path, Format]) -> dict[pathlib.Path, Comparison | str]:
    """Run artefacts on the examples.

    Args:
        source: the student and its examples.
        written: format by the path of each artefact.

    Returns:
        By path a `Comparison`, or the message of what went wrong.
    """
    found: dict[pathlib.Path, Comparison | str] = {}
    for (name, fresh), paths in _processes(source, written).items():
        job = _job(source, {path: written[path].runtime for path in paths}, source.folder / f"{name}.json")
        results = job_process.run(model_files, job, source.folder, fresh)
        for path in paths:
            result = results.get(str(path), {"error": results.get("error")})
            if "error" in result:
                found[path] = " ".join(str(result["error"]).split())[:600]
            else:
                outputs = source.folder / f"{path.name}.npz"
                found[path] = _compare(source, outputs, written[path], result["milliseconds"])
    return found


def _processes(source: Source, written: dict[pathlib.Path, Format]) -> dict[tuple[str, bool], list[pathlib.Path]]:
    """Return which artefacts run together: TensorFlow takes seconds to start, and a runtime may crash."""
    found: dict[tuple[str, bool], list[pathlib.Path]] = {}
    names = {path: kind.runtime for path, kind in written.items()}
    for path, name in sorted(names.items(), key=lambda item: item[1] == "keras"):  # its imports come last
        together = "tensorflow" if name in ("saved_model", "keras") else name
        fresh = source.fresh and (name != "keras" or _importable(source))
        found.setdefault((together, fresh), []).append(path)
    return found


def _importable(source: Source) -> bool:
    """Return whether a fresh process can have the student's own classes; those of a script or notebook it cannot."""
    needed = layer_tree.custom_classes(source.student)
    return all(each.__module__ != "__main__" and "<locals>" not in each.__qualname__ for each in needed)


def _job(source: Source, written: dict[pathlib.Path, str], results: pathlib.Path) -> dict[str, Any]:
    """Return a job, see `model_files.main`. A signature takes inputs by name, a model its own structure."""
    interface, specs, custom = source.interface, source.interface.specs, "keras" in written.values()
    named = {spec.name: number for number, spec in enumerate(specs)}
    own = layer_tree.custom_classes(source.student) if custom else []
    classes = [(each.__module__, each.__qualname__) for each in own]
    return {
        "measure": "outputs",
        "artefacts": [
            {
                "name": str(path),
                "file": {"kind": kind, "path": str(path), "outputs": interface.outputs, "classes": classes},
                "arrays": str(source.batches),
                "structure": interface.pack(list(named.values())) if kind == "keras" else named,
                "width": len(specs),
                "outputs": str(results.parent / f"{path.name}.npz"),
            }
            for path, kind in written.items()
        ],
        "results": str(results),
        "import_paths": sys.path if custom else [],
    }


def _compare(source: Source, outputs: pathlib.Path, kind: Format, milliseconds: list[float]) -> Comparison | str:
    examples = source.examples
    with np.load(outputs) as arrays:
        leaves = list(arrays.values())
    expected = [leaf for batch in examples.expected for leaf in batch]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in expected]:
        return f"its outputs have the shapes {[leaf.shape for leaf in leaves]}, the student's are others"
    try:
        expected, leaves = (output_heads.scores_of(source.student, each) for each in (expected, leaves))
    except ValueError as error:
        return str(error)
    ours, theirs = [_number(each) for each in expected], [_number(each) for each in leaves]
    width = len(ours) // len(examples.batches)
    heads = output_heads.heads_of(source.student, [each.shape[-1] if each.ndim > 1 else 1 for each in ours[:width]])
    return Comparison(
        tuple(
            deviation.measure(
                ours[i::width],
                theirs[i::width],
                kind.tolerance(source.rounding, head.probabilities),
                head.cut,
            )
            for i, head in zip(range(width), heads, strict=True)
        ),
        accuracy=_accuracy_difference(examples, ours, theirs, heads[0].cut),
        latency=(milliseconds[0], milliseconds[1]),
    )


def _accuracy_difference(
    examples: Examples, expected: list[np.ndarray], received: list[np.ndarray], cut: float | None
) -> float | None:
    """Return the artefact's accuracy less the student's, for one output of classes with labels."""
    if examples.labels is None or len(expected) != len(examples.labels):
        return None
    gains = []
    for label, ours, theirs in zip(examples.labels, expected, received, strict=True):
        before, after = deviation.classes(ours, cut), deviation.classes(theirs, cut)
        if before is None or after is None:
            return None
        ids = np.argmax(label, -1) if cut is None and label.shape == ours.shape else label
        if ids.size != before.size:
            return None
        ids = ids.reshape(before.shape) if cut is None else ids.reshape(before.shape) >= 0.5
        gains.append(((after == ids).astype(int) - (before == ids)).ravel())
    return float(np.mean(np.concatenate(gains)))


def _number(output: np.ndarray) -> np.ndarray:
    """Return numbers; strings become numbers that differ where they do."""
    if output.dtype.kind in "SUO":
        flat = [int.from_bytes(bytes(each), "big") % 2**52 for each in output.astype("S").ravel()]
        return np.reshape(np.array(flat, "float64"), output.shape)
    return output.astype("float64")
