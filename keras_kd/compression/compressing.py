"""`compress`: the smallest student of a model that is good enough, or the best one that is small enough."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import tree

from keras_kd._internal import batches, cloning, layer_reader, teacher_fingerprints
from keras_kd._internal.log import quiet
from keras_kd.compression.compression_record import CompressionRecord
from keras_kd.compression.limits import Limits, limits_of
from keras_kd.compression.shapes import Pruned, pruned, shapes_of
from keras_kd.compression.trained_points import Point, Runs, Training
from keras_kd.experiments import run_settings, search_folders
from keras_kd.exporting.export import export
from keras_kd.pruning import multiplications
from keras_kd.pruning.pruned_sizes import FORMATS
from keras_kd.pruning.pruner import Importance
from keras_kd.term import Term

WIDTHS = (0.7, 0.5, 0.35, 0.25, 0.15)


def compress(
    teacher: keras.Model,
    train: tuple[Any, ...],
    validation: tuple[Any, ...],
    *,
    target: Mapping[str, float],
    folder: Any,
    compile_arguments: dict[str, Any],
    test: tuple[Any, ...] | None = None,
    widths: Sequence[float] = WIDTHS,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    temperature: float = 2.0,
    alpha: float = 0.9,
    terms: Callable[[], list[Term]] | None = None,
    importance: Importance = "taylor",
    round_to: int = 1,
    controls: bool = True,
    seed: int = 0,
    verbose: int = 1,
) -> tuple[keras.Model, CompressionRecord]:
    """Prune a model, let it learn again from itself, write it in fewer bits, and choose by what its files are.

    Candidates are as large as each limit of size allows, with all residual blocks and with one less, and parts of the
    teacher that are smaller, by their multiplications. Each is pruned from the teacher (see `prune`), learns from the
    teacher for `epochs` under a cosine schedule and, where its file has 8-bit integers and its layers are covered by
    `quantization_aware`, for a quarter of these with their rounding. What is compared are the files: their size, their
    time and their quality on validation data.

    Chosen is, with a limit on what may be lost, the smallest file within it, else the best one. If a control is better
    than that, the same shape from random weights, the record contains it; see `CompressionRecord.controls`.

    Each model is kept in `folder` as it is made. Stopped or killed at any moment, the same call goes on. The file that
    is chosen is exported to `folder/export`, and compared with its model in a fresh process.

    Args:
        teacher: a built Functional or Sequential model of one output. It stays as it is.
        train: arrays (x, y) or (x, y, sample_weight).
        validation: the same, of other rows, on which candidates are compared.
        target: limits by name: a format and "_bytes" or "_milliseconds" of one example, as "litert_int8_bytes", of one
            of the formats of `prune`; "parameters"; "multiplications"; and a measure of `evaluation.measure` and
            "_drop", as "accuracy_drop": how much worse than the teacher's it may be.
        folder: where to keep all.
        compile_arguments: "loss", of the labels, and whatever else of `compile` but the optimizer.
        test: the same as `validation`, read once, for the report.
        widths: parts of the teacher's multiplications.
        epochs: of each training.
        batch_size: of its steps.
        learning_rate: of Adam at the beginning.
        temperature: see `Distiller.compile`.
        alpha: see `Distiller.compile`.
        terms: a function that returns the terms; None for plain knowledge distillation.
        importance: see `prune`.
        round_to: see `prune`.
        controls: whether to train the chosen shape from random weights, too: alone and distilled.
        seed: of weights, and of the order of the data.
        verbose: 1 for a line for each candidate, 0 for silence.

    Returns:
        The chosen model, and the record, which prints as a table and has a `plot`.

    Raises:
        TypeError: `teacher` is no Keras model; `target` is no dict; data that are no arrays.
        ValueError: a teacher of several outputs; a limit that is not known; a size that no shape has; a folder of
            another search; `compile_arguments` without a loss or with an optimizer.

    Example:
        >>> small, record = kd.compress(
        ...     teacher, (x, y), (x_val, y_val), target={"litert_int8_bytes": 60_000, "accuracy_drop": 0.01},
        ...     folder="runs/small", compile_arguments={"loss": loss},
        ... )
        >>> print(record)
    """
    folder = pathlib.Path(folder)
    _check(teacher, (train, validation, *([] if test is None else [test])), compile_arguments)
    keras.utils.set_random_seed(seed)
    usual = "rmse" if layer_reader.Reader(teacher).kind("logits") == "values" else "accuracy"
    limits = limits_of(target, usual)
    training = Training(
        train, validation, compile_arguments, epochs, batch_size, learning_rate, temperature, alpha, terms, seed
    )
    runs = Runs(teacher, limits, training, folder)
    how = {"importance": importance, "round_to": round_to, "data": training.representative}
    with quiet(not verbose):
        search_folders.claim(folder, _described(teacher, training, target, widths, how))
        score, count = runs.of_teacher(validation), multiplications(teacher)
        models = pruned(teacher, shapes_of(teacher, limits, widths), folder / "pruned", how)
        whole = [runs.whole(kind, count) for kind in dict.fromkeys((_plain(limits.kind), limits.kind))]
        points = [runs.point(each) for each in models]
        best = chosen(points, limits, score)
        shape = models[points.index(best)]
        others = _controls(runs, shape, seed) if controls else ()
        tested = {} if test is None else _tested(runs, best, others, test)
        student, path = runs.student(best.name), folder / "export"
        problem = _exported(student, limits.kind, training.representative, path)
    return student, CompressionRecord(best, tuple(points), others, score, tuple(whole), limits, tested, path, problem)


def chosen(points: Sequence[Point], limits: Limits, of_teacher: float) -> Point:
    """Return the point that meets a target, or comes nearest to it.

    Args:
        points: what was tried, at least one.
        limits: the target.
        of_teacher: the teacher's score.
    """
    small = [each for each in points if limits.is_small(each.sizes)] or [min(points, key=lambda each: each.bytes)]
    good = [each for each in small if limits.is_good(each.score, of_teacher)]
    if limits.drop is not None and good:
        return min(good, key=lambda each: each.bytes)
    return min(good or small, key=lambda each: limits.lost(each.score, of_teacher))


def _check(teacher: Any, parts: Sequence[Any], compile_arguments: dict[str, Any]) -> None:
    if not isinstance(teacher, keras.Model):
        raise TypeError(f"Expected the teacher to be a keras.Model. Received: {teacher!r} of {type(teacher).__name__}")
    if layer_reader.functional(teacher) is None or len(teacher.outputs) != 1:
        raise ValueError(
            f"Expected a built Functional or Sequential teacher of one output. Received: {teacher.name!r}. For several "
            "outputs, use `prune` and a Distiller with a term for each."
        )
    for part in parts:
        if not isinstance(part, tuple) or len(part) not in (2, 3) or not all(map(batches.is_array, tree.flatten(part))):
            raise TypeError(f"Expected data as arrays (x, y). Received: {type(part).__name__}")
    if compile_arguments.get("loss") is None or "optimizer" in compile_arguments:
        raise ValueError(
            "Expected `compile_arguments` with a loss and without an optimizer, which is Adam under a cosine schedule. "
            f"Received: {sorted(compile_arguments)}"
        )


def _described(
    teacher: keras.Model, training: Training, target: Mapping[str, float], widths: Sequence[float], how: dict[str, Any]
) -> dict[str, Any]:
    """Return what decides a search, as JSON."""
    kept = {name: value for name, value in vars(training).items() if name not in ("train", "validation")}
    settings = {**kept, "target": dict(target), "widths": list(widths), **{**how, "data": None}}
    data = {"train": training.train, "validation": training.validation}
    return {
        **{name: teacher_fingerprints.of_arrays(tree.flatten(part)) for name, part in data.items()},
        "teacher": teacher_fingerprints.of_arrays(teacher.get_weights()),
        **run_settings.describe(settings),
    }


def _plain(kind: str) -> str:
    """Return the format without fewer bits."""
    return FORMATS[kind][0]


def _controls(runs: Runs, shape: Pruned, seed: int) -> tuple[Point, ...]:
    found = []
    for name, taught in (("from random weights, alone", False), ("from random weights, distilled", True)):
        keras.utils.set_random_seed(seed)
        found.append(runs.point(shape._replace(model=cloning.fresh_model(shape.model)), name, taught))
    return tuple(found)


def _tested(runs: Runs, best: Point, others: Sequence[Point], test: Any) -> dict[str, float]:
    scores = {each.name: runs.score(each.name, test) for each in (best, *others)}
    return {"teacher": runs.of_teacher(test), **scores}


def _exported(student: keras.Model, kind: str, representative: Any, path: pathlib.Path) -> str:
    """Export a student unless that was done before; return why its file was refused, or nothing."""
    name, quantize = FORMATS[kind]
    try:
        if not path.exists():
            export(student, path, formats=(name,), quantize=quantize, representative=representative)
    except ValueError as error:  # after hours of training, no reason to lose the rest
        return str(error)
    return ""
