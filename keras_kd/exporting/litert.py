"""The student as a LiteRT (TensorFlow Lite) file, for phones and small devices."""

import pathlib
import re
import tempfile
import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_kd.exporting.interface import Interface
from keras_kd.exporting.saved_model import save
from keras_kd.exporting.source import Source

#: Single examples that the ranges of activations are measured on.
_CALIBRATION = 300


def write(source: Source, path: pathlib.Path, quantize: str | None = None) -> str | None:
    """Write a `.tflite` file, of float32 or smaller numbers.

    LiteRT has the lists that recurrent layers keep their steps in only for a known batch size: such a student is
    converted for one example at a time.

    Args:
        source: the student.
        path: of the file.
        quantize: None; "float16" weights; "dynamic", int8 weights and float activations; "int8" throughout, with the
            ranges of `source.examples`.

    Returns:
        What the user must know of the file, if anything.

    Raises:
        ValueError: LiteRT does not have an operation of the student, or not in int8.
    """
    note = None
    try:
        content = _convert(source, source.interface, quantize, path.parent)
    except Exception as error:  # the converter's own classes are not public, and some failures are plain ones
        if "TensorList" not in str(error):
            raise ValueError(_reason(source.student.name, str(error))) from error
        if quantize == "int8":  # measuring ranges in such a loop ends the process (TensorFlow 2.21)
            raise ValueError(
                f"LiteRT cannot convert {source.student.name!r} to int8 throughout: it has recurrent layers. "
                "Use quantize='dynamic'."
            ) from error
        note = "It takes one example at a time: LiteRT has recurrent layers for a fixed batch size only."
        content = _convert_one(source, quantize, path.parent)
    if quantize == "int8":
        _check_int8(content, source.student.name)
    path.write_bytes(content)
    return note


def _convert(source: Source, interface: Interface, quantize: str | None, scratch: pathlib.Path) -> bytes:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        save(source.in_float32, interface, pathlib.Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.exclude_conversion_metadata = True  # how the file was made is of no use on a phone
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = lambda: _calibration(source)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        with warnings.catch_warnings():  # TensorFlow, of its own interpreter, which it measures the ranges with
            warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite.Interpreter is deprecated")
            return converter.convert()


def _convert_one(source: Source, quantize: str | None, scratch: pathlib.Path) -> bytes:
    try:
        return _convert(source, source.interface.of_one(), quantize, scratch)
    except Exception as error:  # as in `write`
        raise ValueError(_reason(source.student.name, str(error))) from error


def _calibration(source: Source) -> Iterator[dict[str, np.ndarray]]:
    names = [spec.name for spec in source.interface.specs]
    for single in source.examples.singles(_CALIBRATION):
        yield dict(zip(names, single, strict=True))


def _check_int8(content: bytes, name: str) -> None:
    """Refuse a file whose numbers go in or out as floats; ids stay integers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    floats = [end["name"] for end in ends if np.issubdtype(end["dtype"], np.floating)]
    if floats:
        raise ValueError(f"LiteRT could not convert {name!r} to int8 throughout: {floats} stay floating point.")


def _reason(name: str, message: str) -> str:
    lacking = sorted(set(re.findall(r"tf\.(\w+)(?:\(|' op)", message)))
    if not lacking:
        return f"LiteRT could not convert {name!r}: {message.strip()}"
    return (
        f"LiteRT does not have operations that {name!r} needs: {', '.join(lacking)}. "
        "Use other layers, or leave this format out."
    )
