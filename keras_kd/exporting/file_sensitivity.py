"""Which layers cost most in a LiteRT file of 8-bit integers: what its outputs gain when one of them stays in float."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_kd._internal import layer_reader, number_formats, tables
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats import litert
from keras_kd.exporting.sample_inputs import prepare
from keras_kd.runtimes import model_files

#: Batches of a hundred examples: as many examples as ranges are measured on.
_BATCHES = 3

#: Outputs that never differ would otherwise divide by a variance of 0.
_SMALLEST = 1e-30


class FloatLayer(NamedTuple):
    """A file of integers in which one layer stays in float.

    Attributes:
        layer: its name, for `export(float_layers=...)`.
        noise: squared difference of the file's outputs from the student's, relative to the variance of these; of
            several outputs the largest.
        nbytes: of the file.
    """

    layer: str
    noise: float
    nbytes: int


@dataclasses.dataclass(frozen=True)
class FileSensitivity:
    """What `file_sensitivity` returns, which `print` shows as a table.

    Attributes:
        noise: of the file in which all layers are integers, as of a `FloatLayer`.
        nbytes: of this file.
        layers: a `FloatLayer` for each layer that has operations of its own in the file, in the student's order.
    """

    noise: float
    nbytes: int
    layers: tuple[FloatLayer, ...]

    def worst(self, count: int) -> list[str]:
        """Return the names of the layers that cost most, the first one most; none that the file is no better without.

        What several layers cost together need not add up: compare the files of `export`.

        Args:
            count: how many at most.
        """
        better = sorted((each for each in self.layers if each.noise < self.noise), key=lambda each: each.noise)
        return [each.layer for each in better[:count]]

    def __str__(self) -> str:
        rows = [["in float", "noise", "bytes"], ["no layer", f"{self.noise:.2g}", number_formats.size(self.nbytes)]]
        for each in sorted(self.layers, key=lambda each: each.noise):
            rows.append([each.layer, f"{each.noise:.2g}", number_formats.size(each.nbytes)])
        return "\n".join(tables.aligned(rows, "<>", rule=True))


def file_sensitivity(
    student: keras.Model, representative: Any, layers: Sequence[str] | None = None, fresh: bool = True
) -> FileSensitivity:
    """Measure what each layer costs in a LiteRT file of 8-bit integers.

    The student is converted once for each layer, with that layer in float and all others in integers, and each file is
    run beside the student. By how much the file of a layer is nearer to the student than that of integers throughout is
    what the layer's integers cost. Of layers whose files are the same, as LiteRT makes one operation of them, the first
    one is listed. What is coarse is often a tensor between two layers: then neither of them is enough alone.

    `quantization.sensitivity` is about Keras's own `quantize`, and about kernels; this is about files, in which
    activations are integers, too.

    Args:
        student: a built Keras model.
        representative: some hundred real inputs, as for `export`; the first 300 count.
        layers: names of the layers to try, as "layer" or "model/layer"; None for all of a student that has a graph.
        fresh: convert in a process of its own, see `export`.

    Returns:
        A `FileSensitivity`.

    Raises:
        TypeError: `student` is no Keras model.
        ValueError: the student cannot be written in integers, or has no graph, and no layers are named; a name is that
            of no layer in the file; inputs do not fit.
        ImportError: LiteRT is not installed.

    Example:
        >>> found = kd.exporting.file_sensitivity(student, x_train[:300])
        >>> kd.export(student, "student/1", formats=("litert",), quantize="int8", representative=x_train[:300],
        ...           float_layers=found.worst(2))
    """
    if not isinstance(student, keras.Model):
        raise TypeError(f"Expected a keras.Model. Received: {student!r} of type {type(student).__name__}")
    names = layer_names(student) if layers is None else list(layers)
    if not names:
        raise ValueError(
            f"Expected the names of `layers` of {student.name!r}, which has no graph to read them from. Received: none"
        )
    interface, examples = prepare(student, representative)
    examples = dataclasses.replace(examples, batches=examples.batches[:_BATCHES], expected=examples.expected[:_BATCHES])
    with tempfile.TemporaryDirectory() as folder:
        source = Source(student, interface, examples, pathlib.Path(folder), fresh)
        whole, files = _files(source, names, must=layers is not None)
        measured = [FloatLayer(name, _noise(source, file), file.stat().st_size) for name, file in files.items()]
        return FileSensitivity(_noise(source, whole), whole.stat().st_size, tuple(measured))


def _files(source: Source, names: list[str], must: bool) -> tuple[pathlib.Path, dict[str, pathlib.Path]]:
    """Write the file of integers, and one for each layer in float, as far as these differ.

    Args:
        source: the student.
        names: of layers.
        must: whether each has to be in the file.
    """
    paths = [source.folder / f"{number}.tflite" for number in range(1 + len(names))]
    floats = [[], *([name] for name in names)]
    files = [("int8", path, layers) for path, layers in zip(paths, floats, strict=True)]
    results = litert.converted(source, source.interface, files)
    lost = [path for path in paths if str(path) not in results]
    errors = [results[str(path)].get("error") for path in paths if path not in lost]
    problem = results["error"] if lost else errors[0] or next((each for each in errors if each and must), None)
    if problem:
        raise ValueError(f"LiteRT could not convert {source.student.name!r} to int8: {problem}")
    return paths[0], {name: path for name, path in zip(names, paths[1:], strict=True) if not results[str(path)]}


def _noise(source: Source, path: pathlib.Path) -> float:
    """Return how far a file's outputs are from the student's, squared, relative to the variance of these."""
    opened = model_files.open_file("litert", path, source.interface.outputs)
    specs, examples = source.interface.specs, source.examples
    inputs = [{spec.name: leaf for spec, leaf in zip(specs, batch, strict=True)} for batch in examples.batches]
    received = [np.concatenate(parts) for parts in zip(*[opened(x) for x in inputs], strict=True)]
    expected = [np.concatenate(parts) for parts in zip(*examples.expected, strict=True)]
    return max(map(_relative, expected, received))


def _relative(expected: np.ndarray, received: np.ndarray) -> float:
    exact = expected.astype("float64")
    return float(np.mean((received - exact) ** 2)) / max(float(np.var(exact)), _SMALLEST)


def layer_names(model: keras.Model) -> list[str]:
    """Return the names of the layers of a model that has a graph, as "layer", and of models in it, as "model/layer"."""
    graph = layer_reader.functional(model)
    if graph is None:
        return []
    found: list[str] = []
    for layer in graph.layers:
        inner = [f"{layer.name}/{name}" for name in layer_names(layer)] if isinstance(layer, keras.Model) else []
        found += inner or ([] if isinstance(layer, keras.layers.InputLayer) else [layer.name])
    return found
