"""The list of formats. One more is one more module with a `write`, one line here, and one in `runtime.open_file`."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Sequence
from functools import partial

from keras_kd.exporting.deviation import Tolerance
from keras_kd.exporting.formats import keras_file, litert, onnx, saved_model
from keras_kd.exporting.source import Source


@dataclasses.dataclass(frozen=True)
class Format:
    """How a format is written, run and judged.

    Attributes:
        name: in the report.
        file: name of the file or folder.
        write: writes it, and returns what the user must know of it, if anything.
        runtime: the kind of file, see `runtimes.runtime.open_file`.
        of_scale: largest difference accepted between student and artefact, as a part of an output's scale.
        extra: of keras_kd, that brings `packages`.
        packages: that it needs beside TensorFlow.
        resolution: least difference accepted of probabilities.
    """

    name: str
    file: str
    write: Callable[[Source, pathlib.Path], str | None]
    runtime: str
    of_scale: float
    extra: str = ""
    packages: tuple[str, ...] = ()
    resolution: float = 0.0

    def tolerance(self, rounding: float, probabilities: bool) -> Tolerance:
        """Return what may differ in an output of a student that rounds its own numbers so far."""
        return Tolerance(self.of_scale, rounding, self.resolution if probabilities else 0.0)


#: How LiteRT keeps numbers, and the difference that this may make. Float formats run the same operations in another
#: order; float16 weights have 11 bits; in int8 the worst of a thousand examples, beyond the ranges that were measured,
#: may be some tenths of the scale off, and agreement is the better judge: the tolerance finds what is broken.
_LITERT = {None: 1e-4, "float16": 1e-2, "dynamic": 0.25, "int8": 0.4}

#: Two steps of the 256 that LiteRT has for probabilities, whatever their range.
_STEPS = 2 / 256

_NAMES = ("saved_model", "litert", "onnx", "keras")


def chosen(formats: Sequence[str], quantize: str | None | Sequence[str | None]) -> list[Format]:
    """Return the formats by name; there are as many LiteRT files as `quantize` has entries.

    Raises:
        ValueError: a name that is none.
        ImportError: a package is missing.
    """
    kinds = (quantize,) if quantize is None or isinstance(quantize, str) else tuple(quantize)
    if isinstance(formats, str) or not formats or not set(formats) <= set(_NAMES):
        raise ValueError(f"Expected `formats` to be some of {_NAMES}, as in formats=('litert',). Received: {formats!r}")
    if not kinds or not set(kinds) <= set(_LITERT):
        raise ValueError(f"Expected `quantize` to be of {tuple(_LITERT)}, or several of them. Received: {quantize!r}")
    if any(kinds) and "litert" not in formats:
        raise ValueError(f"Expected 'litert' among `formats`: quantize={quantize!r} is for that. Received: {formats!r}")
    found = [each for name in dict.fromkeys(formats) for each in _variants(name, kinds)]
    for each in found:
        missing = [name for name in each.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f'The format {each.name!r} needs {missing}: pip install "keras_kd[{each.extra}]"')
    return found


def _variants(name: str, kinds: tuple[str | None, ...]) -> list[Format]:
    if name == "saved_model":
        return [Format(name, "saved_model", saved_model.write, "saved_model", 1e-5)]
    if name == "keras":
        return [Format(name, "student.keras", keras_file.write, "keras", 1e-5)]
    if name == "onnx":
        return [Format(name, "student.onnx", onnx.write, "onnx", 1e-5, "onnx", ("onnx", "tf2onnx", "onnxruntime"))]
    files = litert.Files(tuple(dict.fromkeys(kinds)))
    return [
        Format(
            f"litert {kind or 'float32'}",
            f"student.{kind}.tflite" if kind else "student.tflite",
            partial(files.write, quantize=kind),
            "litert",
            _LITERT[kind],
            "litert",
            ("ai_edge_litert",),
            _STEPS if kind == "int8" else 0.0,
        )
        for kind in files.kinds
    ]
