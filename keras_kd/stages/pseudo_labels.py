"""Pseudo-labels and soft labels of a teacher, and a last stage of refinement on hard labels."""

import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_kd._internal import batches, ensemble_logits
from keras_kd._types import Tensor, Tensors
from keras_kd.stages.best_epoch import KeepBest
from keras_kd.stages.pipeline import Pipeline, Record, validation_data
from keras_kd.teachers import as_teacher
from keras_kd.teachers.base import AnyTeacher, Teacher, taken_for_logits
from keras_kd.temperature import check_temperature

#: Examples that are enough to distinguish probabilities from logits.
_FEW = 32

#: By how much a probability may have become smaller on its way through logarithms.
_ROUNDING = 1e-6


def refine(
    student: keras.Model,
    *,
    compile_arguments: dict[str, Any],
    fit_arguments: dict[str, Any],
    monitor: str = "val_loss",
    mode: str = "auto",
    folder: Any = None,
    seed: int = 0,
) -> tuple[keras.Model, Record]:
    """Train a distilled student on labels at the end, and keep the best by validation: it can only help there.

    The student as it comes is one of those compared: if no epoch is better, it is what is returned.

    Args:
        student: a trained model.
        compile_arguments: see the module; a small learning rate. Temperature and alpha are ignored.
        fit_arguments: see the module; with `validation_data`.
        monitor: what is compared, a name in the logs of validation.
        mode: "min" or "max": whether less or more of it is better; "auto": as the metric declares, "min" for losses.
        folder: see the module.
        seed: see the module.

    Returns:
        The student with the best weights, and the record of one stage; its logs have "before" and "best".

    Raises:
        ValueError: no validation data; a `monitor` that is not in the logs, or that needs a `mode`.

    Example:
        >>> student, record = refine(student, compile_arguments=..., fit_arguments=..., monitor="val_accuracy")
    """
    pipeline = Pipeline(compile_arguments, fit_arguments, folder, seed)
    validation = validation_data(pipeline.fit_arguments)
    if validation is None:
        raise ValueError("Expected `fit_arguments` with 'validation_data', by which the best epoch is chosen.")
    best = KeepBest(
        student, validation, monitor, mode, pipeline.folder and pipeline.folder / pipeline.next_name(student)
    )
    pipeline.run(student, "labels", callbacks=(best,), finish=best.finish)
    return student, pipeline.record


class PseudoLabels(NamedTuple):
    """Examples to train on: those with labels first, then those that the teacher is sure of.

    Attributes:
        x: inputs, (n, ...), or a dict or tuple of them.
        y: probabilities, (n, classes), float32.
        kept: for each unlabelled example, whether it is among them.
    """

    x: Tensors
    y: np.ndarray
    kept: np.ndarray


def pseudo_label(
    teacher: AnyTeacher,
    unlabeled: Tensors,
    threshold: float,
    student: keras.Model,
    *,
    labeled: tuple[Tensors, Any] | None = None,
    compile_arguments: dict[str, Any],
    fit_arguments: dict[str, Any],
    folder: Any = None,
    seed: int = 0,
) -> tuple[keras.Model, Record]:
    """Train a student on what a teacher predicts for unlabelled examples, and on labelled ones where there are some.

    Args:
        teacher: as for `soft_labels`.
        unlabeled: as for `soft_labels`.
        threshold: as for `soft_labels`.
        student: the model that is trained.
        labeled: as for `soft_labels`.
        compile_arguments: see the module; the loss takes probabilities, as
            `keras.losses.CategoricalCrossentropy(from_logits=True)`. Temperature and alpha are ignored.
        fit_arguments: see the module; without x and y.
        folder: see the module.
        seed: see the module.

    Returns:
        The trained student, and the record of one stage.

    Raises:
        ValueError: as for `soft_labels`; x or y among `fit_arguments`.

    Example:
        >>> student, record = pseudo_label(teacher, unlabeled, 0.9, student, compile_arguments=..., fit_arguments=...)

    Reference: see `soft_labels`.
    """
    given = sorted({"x", "y"} & set(fit_arguments))
    if given:
        raise ValueError(f"Expected `fit_arguments` without {given}: the data are `unlabeled` and `labeled`.")
    teacher = as_teacher(teacher)
    x, y, _ = soft_labels(teacher, unlabeled, threshold, labeled=labeled)
    pipeline = Pipeline(compile_arguments, {**fit_arguments, "x": x, "y": y}, folder, seed)
    pipeline.run(student, teacher.name)
    return student, pipeline.record


def soft_labels(
    teacher: AnyTeacher,
    unlabeled: Tensors,
    threshold: float = 0.0,
    *,
    labeled: tuple[Tensors, Any] | None = None,
    temperature: float = 1.0,
    batch_size: int = 256,
) -> PseudoLabels:
    """Let a teacher label unlabelled examples, softly, and join them with labelled ones.

    Train on the result with `keras.losses.CategoricalCrossentropy(from_logits=True)`, alone or under a teacher.

    Args:
        teacher: a trained model, function or teacher; several are averaged.
        unlabeled: inputs, arrays (n, ...).
        threshold: the least probability, at T = 1, of the teacher's first choice; 0 keeps all.
        labeled: (x, y) with class ids, (m,) or (m, 1), or one-hot labels, (m, classes).
        temperature: T of the soft targets, above 0.
        batch_size: examples that the teacher sees at a time.

    Returns:
        What to train on.

    Raises:
        ValueError: `threshold` outside 0 to 1; the teacher is sure of no example.

    Warns:
        UserWarning: the outputs of a teacher look like probabilities, and are taken for logits.

    Example:
        >>> x, y, kept = soft_labels(teacher, unlabeled, threshold=0.9, labeled=(few_x, few_y))
        >>> student.fit(x, y)

    Reference: Lee, Pseudo-Label, ICML workshop 2013; with soft targets: Xie et al., 2019, arXiv 1911.04252.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"Expected `threshold` to be from 0 to 1. Received: threshold={threshold!r}")
    check_temperature(temperature)
    teacher = as_teacher(teacher)
    few = tree.map_structure(lambda each: ops.convert_to_tensor(each[:_FEW]), unlabeled)
    for warning in taken_for_logits(teacher, few, ("logits",)):
        warnings.warn(warning, stacklevel=2)
    logits = _predict(teacher, unlabeled, batch_size, (1.0, temperature))
    sure = np.max(_softmax(logits[0]), axis=-1)
    kept = sure >= threshold - _ROUNDING  # probabilities that trees share out are often the very number
    if not kept.any():
        raise ValueError(
            f"The teacher is sure of no example: at most {sure.max():.3f}, threshold={threshold}. Lower it."
        )
    y = _softmax(logits[1] / temperature)[kept]
    x = tree.map_structure(lambda each: np.asarray(each)[kept], unlabeled)
    if labeled is not None:
        hard = np.asarray(labeled[1])
        if hard.ndim == 1 or hard.shape[-1] == 1:
            hard = keras.utils.to_categorical(hard, y.shape[-1])
        y = np.concatenate([hard.astype("float32"), y])
        x = tree.map_structure(lambda a, b: np.concatenate([np.asarray(a), b]), labeled[0], x)
    return PseudoLabels(x, y, kept)


def _predict(teacher: Teacher, x: Tensors, batch_size: int, temperatures: tuple[float, float]) -> list[np.ndarray]:
    """Return the teacher's logits at each of the temperatures, which differ where it is an ensemble."""
    parts: list[list[np.ndarray]] = [[] for _ in temperatures]
    for batch in batches.cut(x, batch_size):
        predicted = teacher(tree.map_structure(ops.convert_to_tensor, batch), {})["logits"]
        for part, temperature in zip(parts, temperatures, strict=True):
            part.append(ops.convert_to_numpy(ensemble_logits.averaged(predicted, temperature, per_label=False)))
    return [np.concatenate(part) for part in parts]


def _softmax(logits: Tensor) -> np.ndarray:
    return ops.convert_to_numpy(ops.softmax(ops.cast(logits, "float32"), axis=-1))
