"""`export`: write the files of a student, run them, compare them with it, and only then name the folder."""

import dataclasses
import errno
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd._internal import log
from keras_kd.distiller import Distiller
from keras_kd.exporting import export_report as reports
from keras_kd.exporting.export_report import Artefact, ExportReport
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats import Format, chosen
from keras_kd.exporting.sample_inputs import prepare
from keras_kd.exporting.scratch_folder import is_full, scratch
from keras_kd.exporting.serving import THRESHOLD, Served, check_head, serve
from keras_kd.exporting.verification import Comparison, compare


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
    threshold: float = THRESHOLD,
    fresh: bool = True,
    float_layers: Sequence[str] = (),
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
            batches or examples of them (batches, where the student does not declare its inputs); with or without
            labels, (x, y). At most 1,000 examples are taken. "int8" and "int8x16" measure their ranges on the first
            300. None: random ones of the student's input shapes: ids of its embeddings, words of its vocabularies,
            normal numbers. The report and a warning name where the values of an input cannot be known, and the
            comparison is weak.
        quantize: how LiteRT keeps numbers: None (float32), "float16" or "dynamic" (int8) for weights alone, "int8" for
            inputs, weights, activations and outputs, "int8x16" for weights, with int16 for all others; or several of
            these, for one file each. "int8x16" is more exact, and slower where a processor has no such operations.
        outputs: what the artefacts give: "logits", or the probabilities "softmax" (of one class among several) or
            "sigmoid" (of each label by itself), whatever the student ends in, where that is recognised; what is not
            is taken for logits. None: as the student has it.
        preprocessing: a Keras layer, a model or a function from raw inputs to what the student takes, to be part of
            what is written: `keras.layers.Rescaling(1 / 255)` for images of uint8; the `preprocessor` of a task of
            KerasHub for strings, whose operations TensorFlow Serving has, and Python after `import tensorflow_text`.
            `representative` are raw inputs then; they determine which shapes and types are taken, unless it is a model
            with inputs of its own.
        class_names: one for each class, in their order. The outputs are then `scores` and, the name of the largest,
            `classes`, as TensorFlow Serving calls them. For a student with one output an example two names: that
            below the threshold and that from it, as in ("legitimate", "fraud").
        threshold: the probability from which the one output of a student has its second name. Scores of "logits" are
            compared with its logit.
        fresh: convert to LiteRT and run the artefacts in processes of their own, each of which takes seconds, for
            TensorFlow to start. False: in this one; it does not show that they need nothing of it, and where LiteRT's
            converter crashes, it ends.
        float_layers: names of layers that stay in float in the file of "int8", as "layer" or "model/layer", where
            their integers cost too much, see `exporting.file_sensitivity`. Of a layer that is called several times,
            this is its first call; of a model with several outputs, the layers of all outputs stay in float where that
            of one does.

    Returns:
        An `ExportReport`: its `path`, the number of `examples` compared, and `artefacts`, one `Artefact` for each
        format, as report["litert int8"]. Of each, its `name` and `path`, whether it `passed` or by which `error` it
        failed, its `size` in bytes, the largest `difference` from the student beside what is `allowed`, `agreement`
        with its top class beside the `least_agreement` that the student's own margins let expect, `accuracy` less the
        student's, `latency` in milliseconds, a `note` and `checksums`. A `note` of the report names where the
        comparison is weak.

        What is allowed is a part of the scale of an output, which is that of 95 % of the examples (see
        `keras_kd.exporting.deviation.measure`): from 1e-5 for float32 to 0.4 for int8.

    Raises:
        TypeError: `student` is not a Keras model, or it is a Distiller; `preprocessing` is no function.
        ValueError: the student is not built, an argument does not fit, examples are not finite, the student cannot be
            called on them, or no artefact agrees with the student.
        FileExistsError: `path` exists, and nothing is overwritten, or another export to it is going on.
        ImportError: a format needs a package that is not there.
        OSError: nothing can be written at `path`, or there is no room.

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
    _check_float_layers(float_layers, quantize)
    calibrated = [kind.name for kind in kinds if kind.name in ("litert int8", "litert int8x16")]
    if representative is None and calibrated:
        raise ValueError(
            f"Expected `representative` examples: {calibrated[0]!r} measures the ranges of all activations on them. "
            "Pass some hundred real inputs, as in representative=x_train[:300]."
        )
    _check_path(path, kinds)
    model = serve(student, outputs, preprocessing, class_names, threshold)
    if model is not student and "keras" in formats:
        raise ValueError(
            "Expected `formats` without 'keras' beside `outputs`, `preprocessing` or `class_names`: those are for "
            "services and devices, and a .keras file needs keras_kd for them. Export the student as it is to 'keras' "
            f"in another call. Received: formats={tuple(formats)!r}"
        )
    interface, examples = prepare(model, representative)
    if isinstance(model, Served):
        check_head(model, interface.pack(list(map(tf.constant, examples.batches[0]))))
    if examples.weakness:
        warnings.warn(examples.weakness, stacklevel=2)
    with scratch(path, _least_size(student, kinds)) as folder:
        (folder / "work").mkdir()
        source = Source(model, interface, examples, folder / "work", fresh, tuple(float_layers))
        report = _fill(source, kinds, folder, path)
        _check_path(path, kinds)  # again: it took a while
        os.rename(folder / "version", path)
    log.info(str(report))
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


def _check_float_layers(float_layers: Sequence[str], quantize: str | None | Sequence[str | None]) -> None:
    if isinstance(float_layers, str):
        raise ValueError(f"Expected names of layers, as in float_layers=['gate']. Received: {float_layers!r}")
    if float_layers and "int8" not in ([quantize] if isinstance(quantize, str) else quantize or ()):
        raise ValueError(
            f"Expected quantize='int8' beside `float_layers`, which stay in float in its file. Received: {quantize!r}"
        )


def _check_path(path: pathlib.Path, kinds: list[Format]) -> None:
    """Raise an error where the path exists, or has no version beside versions: TensorFlow Serving would not see it."""
    for each in (path, *path.parents):
        if each.is_symlink() and not each.exists():
            raise FileExistsError(
                f"Expected a path to a new folder: {each} is a link to {os.readlink(each)}, which does not exist. "
                "Remove the link, or make that folder."
            )
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


def _least_size(student: keras.Model, kinds: list[Format]) -> int:
    """Return the bytes of the student's weights in all formats: a quarter of them in the smallest, of 8 bits."""
    weights = sum(variable.value.dtype.size * math.prod(variable.shape) for variable in student.variables)
    return sum(weights // 4 if kind.runtime == "litert" else weights for kind in kinds)


def _fill(source: Source, kinds: list[Format], scratch: pathlib.Path, path: pathlib.Path) -> ExportReport:
    """Write all formats, compare them and put them in `scratch / "version"`, to become `path`."""
    written: dict[pathlib.Path, Format] = {}
    results: dict[pathlib.Path, Comparison | str] = {}
    notes: dict[Format, str] = {}
    for kind in kinds:
        file = scratch / kind.file
        try:
            notes[kind] = kind.write(source, file) or ""
            written[file] = kind
        except Exception as error:  # converters raise anything; the other formats are not lost by it
            message = reports.brief(error)
            results[file] = message if isinstance(error, ValueError) else f"{type(error).__name__}: {message}"
    results.update(compare(source, written))
    for result in results.values():
        if isinstance(result, str) and is_full(result):
            raise OSError(errno.ENOSPC, result)
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
    report = ExportReport(path, source.examples.count, tuple(artefacts), source.examples.weakness)
    report.write(version)
    return report


def _judge(kind: Format, result: Comparison | str, student: keras.Model) -> Artefact:
    if isinstance(result, str):
        return Artefact(kind.name, None, error=result)
    return Artefact(
        name=kind.name,
        path=None,
        error=_error(kind.name, result, student.name),
        difference=result.worst.difference,
        allowed=result.worst.allowed,
        agreement=result.agreement,
        least_agreement=result.least_agreement,
        accuracy=result.accuracy,
        latency=result.latency,
    )


def _error(kind: str, result: Comparison, student: str) -> str:
    """Return why an artefact is not good, or nothing."""
    worst, error = result.worst, ""
    if not worst.difference <= worst.allowed:
        error = f"largest difference {worst.difference:.3g}, allowed {worst.allowed:.3g}"
    for output in result.outputs:
        if not error and output.disagreements > output.tolerated:
            error = (
                f"another class for {output.disagreements} of {output.positions} examples, where the student's own "
                f"margins let expect {output.tolerated:.1f} at most"
            )
    return error and f"The {kind} of {student!r} does not agree with the student: {error}. {_hint(kind)}"


def _hint(kind: str) -> str:
    if kind == "litert int8":
        return (
            "Its integers have one range for all examples: are some `representative` inputs far larger than the "
            "others, or beyond the first 300? quantize='dynamic' or 'int8x16', `float_layers` and "
            "keras_kd.quantization_aware are more exact."
        )
    if kind == "litert int8x16":
        return (
            "All values of a tensor have one scale: are columns of an input, or channels, of very different sizes? "
            "Bring them to one before what is exported, or leave this format out."
        )
    return "Does the student draw random numbers in inference, or depend on Python state?"


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
