"""The student as a LiteRT (TensorFlow Lite) file, for phones and small devices."""

import pathlib
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_kd._internal import layer_reader
from keras_kd._keras import tensor_origin
from keras_kd.exporting import litert_conversion
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats.format import Format
from keras_kd.exporting.formats.saved_model import save
from keras_kd.exporting.interface import Interface
from keras_kd.runtimes import job_process, model_files

#: TensorFlow converts on the CPU, and would take the memory of a GPU, of which the student's process has most. Its own
#: log would be in the way of what a crash leaves.
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}

#: How LiteRT keeps numbers, and the difference that this may make. Float formats run the same operations in another
#: order; float16 weights have 11 bits; in int8 the worst of a thousand examples, beyond the ranges that were measured,
#: may be some tenths of the scale off, and agreement is the better judge: the tolerance finds what is broken. With 16
#: bits for activations, what remains is the rounding of weights to 8 bits, as in "dynamic".
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.25, "int8x16": 0.25, "int8": 0.4}
#: Those whose ranges are measured on examples.
CALIBRATED = ("int8x16", "int8")

#: Two steps of the 256 that LiteRT has for probabilities, whatever their range.
_STEPS = 2 / 256


def variants(kinds: tuple[str | None, ...]) -> list[Format]:
    """Return a format for each way to keep numbers; they share one conversion."""
    files = Files(tuple(dict.fromkeys(kinds)))
    return [
        Format(
            f"litert {kind or 'float32'}",
            f"student.{kind}.tflite" if kind else "student.tflite",
            partial(files.write, quantize=kind),
            "litert",
            TOLERANCES[kind],
            "litert",
            ("ai_edge_litert",),
            _STEPS if kind == "int8" else 0.0,
        )
        for kind in files.kinds
    ]


class Files:
    """The LiteRT files of one export, of float32 or smaller numbers.

    All are converted when the first is written, by one process, which takes seconds to start. The first one without
    results is what it ended on, where it crashes; another process converts those after that.

    Args:
        kinds: of the files: None; "float16" weights; "dynamic", int8 weights and float activations; "int8x16", int8
            weights and int16 activations, and "int8" throughout, both with the ranges of the examples.
    """

    def __init__(self, kinds: Sequence[str | None]) -> None:
        self.kinds = kinds
        self._errors: dict[str | None, str] = {}
        self._singly: dict[str | None, str] = {}

    def write(self, source: Source, path: pathlib.Path, quantize: str | None = None) -> str | None:
        """Write a `.tflite` file.

        LiteRT has the lists that recurrent layers keep their steps in only for a known batch size: such a student is
        converted for one example at a time.

        Returns:
            What the user must know of the file, if anything.

        Raises:
            ValueError: LiteRT does not have an operation of the student, or not in int8; or its converter crashes.
        """
        name, files = source.student.name, {kind: path.parent / f".{kind}.tflite" for kind in self.kinds}
        if quantize not in self._errors:
            rest = {kind: file for kind, file in files.items() if kind not in self._errors}
            self._errors |= _convert(source, source.interface, rest)
        error, note = self._errors[quantize], None
        if "TensorList" in error:
            if quantize in CALIBRATED:  # measuring ranges in such a loop ends the process (TensorFlow 2.21)
                raise ValueError(
                    f"LiteRT cannot convert {name!r} to {quantize} throughout: it has recurrent layers. "
                    "Use quantize='dynamic'."
                )
            note = "It takes one example at a time: LiteRT has recurrent layers for a fixed batch size only."
            if quantize not in self._singly:
                lists = [kind for kind, message in self._errors.items() if "TensorList" in message]
                rest = {kind: files[kind] for kind in lists if kind not in (*self._singly, *CALIBRATED)}
                self._singly |= _convert(source, source.interface.of_one(), rest)
            error = self._singly[quantize]
        if not error and quantize in CALIBRATED:
            error = _floating(files[quantize])
        if error:
            raise ValueError(_reason(name, error, quantize))
        files[quantize].rename(path)
        if quantize == "int8" and source.float_layers:
            note = f"In float: {', '.join(source.float_layers)}."
        return note


def _convert(source: Source, interface: Interface, files: dict[str | None, pathlib.Path]) -> dict[str | None, str]:
    """Convert to files until the converter crashes, and return the errors, "" for a file that is written."""
    floats = {"int8": list(source.float_layers)}
    results = converted(source, interface, [(kind, file, floats.get(str(kind), [])) for kind, file in files.items()])
    errors: dict[str | None, str] = {}
    for kind, file in files.items():
        if str(file) not in results:
            return {**errors, kind: results["error"]}
        errors[kind] = results[str(file)].get("error", "")
    return errors


def converted(
    source: Source, interface: Interface, files: Sequence[tuple[str | None, pathlib.Path, list[str]]]
) -> dict[str, Any]:
    """Convert to files until the converter crashes.

    Args:
        source: the student.
        interface: of it.
        files: how each keeps numbers, its path, and the names of the layers that stay in float in it.

    Returns:
        By path what became of it: nothing else, its "error", or as "same" the path of another file that is the same;
        and as "error" how the converter has crashed.
    """
    with tempfile.TemporaryDirectory(dir=source.folder) as folder:
        save(source.in_float32, interface, pathlib.Path(folder) / "saved_model")
        job = {
            "saved_model": f"{folder}/saved_model",
            "batches": str(source.batches),
            "inputs": [spec.name for spec in interface.specs],
            "output_layers": output_layers(source.student),
            "artefacts": [
                {"quantize": kind, "path": str(file), "float_layers": floats} for kind, file, floats in files
            ],
            "results": f"{folder}/results.json",
        }
        return job_process.run(litert_conversion, job, pathlib.Path(folder), source.fresh, _ENVIRONMENT)


def output_layers(model: keras.Model) -> list[str]:
    """Return the names of the layers whose outputs a model returns, as "layer" and "model/layer", if it has a graph."""
    whole = layer_reader.functional(model)
    found = [tensor_origin.producer(tensor)[0] for tensor in whole.outputs] if whole is not None else []
    inner = [f"{each.name}/{name}" for each in found if isinstance(each, keras.Model) for name in output_layers(each)]
    return [each.name for each in found] + inner


def _floating(path: pathlib.Path) -> str:
    """Return the inputs and outputs of a file that are floats, as an error, or nothing; ids stay integers."""
    interpreter = model_files.interpreter_of(path)
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    floats = [end["name"] for end in ends if np.issubdtype(end["dtype"], np.floating)]
    return f"{floats} stay floating point." if floats else ""


def _reason(name: str, message: str, quantize: str | None) -> str:
    lacking = sorted(set(re.findall(r"tf\.(\w+)(?:\(|' op)", message)))
    if not lacking:
        throughout = f" to {quantize} throughout" if quantize in CALIBRATED else ""
        return f"LiteRT could not convert {name!r}{throughout}: {message.strip()}"
    return (
        f"LiteRT does not have operations that {name!r} needs: {', '.join(lacking)}. "
        "Use other layers, or leave this format out."
    )
