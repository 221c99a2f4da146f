"""Write, run, compare; and only then give the folder its name."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_kd import _say
from keras_kd.distiller import Distiller
from keras_kd.exporting import report as reports
from keras_kd.exporting.check import Comparison, compare
from keras_kd.exporting.examples import prepare
from keras_kd.exporting.formats import Format, chosen
from keras_kd.exporting.report import Artefact, ExportReport
from keras_kd.exporting.scratch import scratch
from keras_kd.exporting.served import serve
from keras_kd.exporting.source import Source

#: Least tolerance for students that compute in 16 bits, which round more coarsely.
_TOLERANCE = {"bfloat16": 2e-2, "float16": 2e-3}


def export(
    student: keras.Model,
    path: str | pathlib.Path,
    *,
    formats: Sequence[str] = ("saved_model",),
    representative: Any = None,
    quantize: str | None | Sequence[str | None] = None,
    outputs: str | None = None,
    preprocessing: Callable[[Any], Any] | None = None,
    class_names: Sequence[str] | None = None,
    fresh: bool = True,
) -> ExportReport:
    """Write the student alone, reload it in a fresh process and compare its outputs, in one or several formats.

    No teacher, bridge, optimizer or `keras_kd` is needed to load what is written. The folder holds, by format:

    - "saved_model": for `tf.saved_model.load(path)`, then `.serve(x)` or the signature `serving_default`, with any
      batch size. TensorFlow Serving wants the last part of the path to be an integer version, as in "models/student/1".
    - "litert": `student.tflite`, or `student.int8.tflite` and so on; run by ai-edge-litert.
    - "onnx": `student.onnx`; run by onnxruntime.
    - "keras": `student.keras`, for `keras.models.load_model`.

    and `export.json`, the report with a checksum of each file. What fails its comparison, or cannot be written, is
    reported as failed; its files are in the folder `failed`. The report is printed as a table, too.

    Args:
        student: a built Keras model, as in `distiller.student`.
        path: a folder that does not exist yet. It appears when all is written and compared, or not at all.
        formats: one or several of the above.
        representative: real inputs to compare on, of the structure that the student takes, or a `tf.data.Dataset` of
            batches or examples of them (batches, where the student does not say what it takes); with or without
            labels, (x, y). At most 1,000 examples are taken. "int8" measures its ranges on the first 300. None:
            random numbers of the student's input shapes.
        quantize: how LiteRT keeps numbers: None (float32), "float16" or "dynamic" (int8) for weights alone, "int8" for
            inputs, weights, activations and outputs; or several of these, for one file each.
        outputs: what the artefacts give: "logits", or the probabilities "softmax" (of one class among several) or
            "sigmoid" (of each label by itself), whatever the student ends in, where that is recognised; what is not
            is taken for logits. None: as the student has it.
        preprocessing: a Keras layer, a model or a function from raw inputs to what the student takes, to be part of
            what is written: `keras.layers.Rescaling(1 / 255)` for images of uint8. `representative` are raw inputs
            then; they say which shapes and types are taken, unless it is a model with inputs of its own.
        class_names: one for each class, in their order. The outputs are then `scores` and, the name of the largest,
            `classes`, as TensorFlow Serving calls them.
        fresh: run the artefacts in processes of their own, which takes seconds, for TensorFlow to start. False: in this
            one; it does not show that they need nothing of it.

    Returns:
        An `ExportReport`: its `path`, the number of `examples` compared, and `artefacts`, one `Artefact` for each
        format, as report["litert int8"]. Of each, its `name` and `path`, whether it `passed` or by which `error` it
        failed, its `size` in bytes, the largest `difference` from the student beside what is `allowed`, `agreement`
        with its top class, `accuracy` less the student's, `latency` in milliseconds, a `note` and `checksums`.

    Raises:
        TypeError: `student` is not a Keras model, or it is a Distiller; `preprocessing` is no function.
        ValueError: the student is not built, an argument does not fit, or no artefact says what the student says.
        FileExistsError: `path` exists; nothing is overwritten.
        ImportError: a format needs a package that is not there.
        OSError: nothing can be written at `path`.

    Example:
        >>> export(distiller.student, "models/student/1")
        >>> export(distiller.student, "models/student/2", formats=("saved_model", "litert"), quantize="int8",
        ...        representative=x_validation)
        >>> export(distiller.student, "models/student/3", outputs="softmax", class_names=("cat", "dog"),
        ...        preprocessing=keras.layers.Rescaling(1 / 255), representative=raw_images)
    """
    path = pathlib.Path(path)
    _check_student(student)
    kinds = chosen(formats, quantize)
    if representative is None and any(kind.name == "litert int8" for kind in kinds):
        raise ValueError(
            "Expected `representative` examples: quantize='int8' measures the ranges of all activations on them. "
            "Pass some hundred real inputs, as in representative=x_train[:300]."
        )
    _check_path(path, kinds)
    model = serve(student, outputs, preprocessing, class_names)
    if model is not student and "keras" in formats:
        raise ValueError(
            "Expected `formats` without 'keras' beside `outputs`, `preprocessing` or `class_names`: those are for "
            "services and devices, and a .keras file needs keras_kd for them. Export the student as it is to 'keras' "
            f"in another call. Received: formats={tuple(formats)!r}"
        )
    source = Source(model, *prepare(model, representative))
    with scratch(path) as folder:
        report = _fill(source, kinds, folder, path, fresh)
        os.rename(folder / "version", path)
    _say.say(str(report))
    return report


def _check_student(student: Any) -> None:
    if not isinstance(student, keras.Model) or isinstance(student, Distiller):
        raise TypeError(
            "Expected the student, a keras.Model, as in keras_kd.export(distiller.student, path). "
            f"Received: {student!r} of type {type(student).__name__}"
        )
    if not student.built:
        raise ValueError(
            f"Expected a built student. {student.name!r} has not been called or trained: it has no weights."
        )


def _check_path(path: pathlib.Path, kinds: list[Format]) -> None:
    """Refuse what exists, and a name without a version beside versions, which TensorFlow Serving would not see."""
    base = path if _versions(path) else path.parent
    versions = _versions(base)
    following = base / str(max(versions, default=0) + 1)
    if path.exists():
        hint = f" as in {following}" if versions else ""
        raise FileExistsError(
            f"Expected a new folder: {path} exists, and is not overwritten. Use the next version number{hint}."
        )
    if versions and not path.name.isdecimal() and any(kind.name == "saved_model" for kind in kinds):
        raise ValueError(
            f"Expected an integer version as the last part of the path, as in {following}: {base} holds versions "
            f"for TensorFlow Serving, which would not find {path.name!r}. Received: {path}"
        )


def _versions(folder: pathlib.Path) -> list[int]:
    return [int(each.parent.name) for each in folder.glob("*/saved_model.pb") if each.parent.name.isdecimal()]


def _fill(source: Source, kinds: list[Format], scratch: pathlib.Path, path: pathlib.Path, fresh: bool) -> ExportReport:
    """Write all formats, compare them and put them in `scratch / "version"`, to become `path`."""
    written: dict[pathlib.Path, str] = {}
    results: dict[pathlib.Path, Comparison | str] = {}
    notes: dict[Format, str] = {}
    for kind in kinds:
        file = scratch / kind.file
        try:
            notes[kind] = kind.write(source, file) or ""
            written[file] = kind.runtime
        except Exception as error:  # converters raise anything; the other formats are not lost by it
            message = " ".join(str(error).split())[:600]
            results[file] = message if isinstance(error, ValueError) else f"{type(error).__name__}: {message}"
    work = scratch / "work"
    work.mkdir()
    results.update(compare(source, written, work, fresh))
    judged = {
        kind: dataclasses.replace(_judge(kind, results[scratch / kind.file], source.student), note=notes.get(kind, ""))
        for kind in kinds
    }
    errors = [artefact.error for artefact in judged.values() if not artefact.passed]
    if len(errors) == len(kinds):
        raise ValueError(f"{' '.join(errors)} Nothing was written.")
    version = scratch / "version"
    version.mkdir()
    artefacts = [_place(artefact, scratch / kind.file, version, path) for kind, artefact in judged.items()]
    report = ExportReport(path, source.examples.count, tuple(artefacts))
    report.write(version)
    return report


def _judge(kind: Format, result: Comparison | str, student: keras.Model) -> Artefact:
    if isinstance(result, str):
        return Artefact(kind.name, None, error=result)
    allowed = max(kind.tolerance, _TOLERANCE.get(student.compute_dtype, 0.0)) * result.scale
    error = ""
    if not result.difference <= allowed:
        error = (
            f"The {kind.name} of {student.name!r} does not say what the student says: largest difference "
            f"{result.difference:.3g}, allowed {allowed:.3g}. Does the student "
            "draw random numbers in inference, or depend on Python state?"
        )
    return Artefact(
        name=kind.name,
        path=None,
        error=error,
        difference=result.difference,
        allowed=allowed,
        agreement=result.agreement,
        accuracy=result.accuracy,
        latency=result.latency,
    )


def _place(artefact: Artefact, written: pathlib.Path, version: pathlib.Path, path: pathlib.Path) -> Artefact:
    """Move files into `version`, or what failed into its `failed`. A SavedModel's files have no folder of their own."""
    if not written.exists():
        return artefact
    sums = reports.checksums(written, written.parent)
    size = sum(file.stat().st_size for file in [written, *written.rglob("*")] if file.is_file())
    if artefact.passed and written.is_dir():
        sums = {name.partition("/")[2]: value for name, value in sums.items()}
        for each in list(written.iterdir()):
            each.rename(version / each.name)
        return dataclasses.replace(artefact, path=path, size=size, checksums=sums)
    folder = version if artefact.passed else version / "failed"
    folder.mkdir(exist_ok=True)
    written.rename(folder / written.name)
    sums = {(folder / name).relative_to(version).as_posix(): value for name, value in sums.items()}
    place = path / (folder / written.name).relative_to(version)
    return dataclasses.replace(artefact, path=place, size=size, checksums=sums)
