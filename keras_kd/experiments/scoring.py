"""How good is a student, and how good its teacher?"""

import types
from typing import Any

import keras

from keras_kd._internal import layer_reader, metric_directions
from keras_kd._internal.ensemble_logits import averaged
from keras_kd._types import Tensor, Tensors
from keras_kd.experiments.data_splits import Part
from keras_kd.stages.pipeline import fresh_arguments
from keras_kd.teachers.base import Teacher


def measured(model: keras.Model, part: Part) -> dict[str, float]:
    """Return how good a compiled model is on a part of the data: its loss on labels, and its metrics.

    The one place where a student or a teacher is judged.
    """
    found = model.evaluate(part.batches(), return_dict=True, verbose=0)
    return {name: float(value) for name, value in found.items() if name not in ("student_loss", "distillation_loss")}


def better(student: keras.Model, compile_arguments: dict[str, Any], metric: str, mode: str) -> str:
    """Return "max" if more of a metric is better, "min" if less is, before anything is trained.

    Args:
        student: one that is not used for anything else.
        compile_arguments: of the students.
        metric: what is compared.
        mode: "max", "min" or "auto".
    """
    student.compile(**fresh_arguments(compile_arguments, distils=False))
    return metric_directions.direction(student, student, metric, mode)


def require(metric: str, found: dict[str, float]) -> None:
    """Refuse a metric that no evaluation knows."""
    if metric not in found:
        raise ValueError(f"Expected `metric` to be one of {sorted(found)}. Received: metric={metric!r}")


def teacher_measured(
    teacher: Teacher, student: keras.Model, compile_arguments: dict[str, Any], parts: list[Part]
) -> dict[str, dict[str, float]]:
    """Return how good a teacher is, by part, with the students' loss and metrics.

    Args:
        teacher: as `as_teacher` returns it.
        student: a student, whose outputs mean what the loss and the metrics expect.
        compile_arguments: of the students.
        parts: the data.

    Returns:
        Nothing for a teacher that has no logits of its own.
    """
    model = teacher_model(teacher, student)
    if model is None:
        return {}
    model.compile(**fresh_arguments(compile_arguments, distils=False))
    return {part.name: measured(model, part) for part in parts}


def teacher_model(teacher: Teacher, student: keras.Model) -> keras.Model | None:
    """Return a teacher as a model whose outputs mean what the student's mean; None where it has no logits."""
    if not teacher.cacheable(("logits",)) or "logits" not in (teacher.specs() or {"logits": None}):
        return None
    return TeacherModel(teacher, layer_reader.Reader(student).kind("logits"))


class TeacherModel(keras.Model):
    """A teacher as a model whose outputs are those that the student would give: logits, or probabilities.

    Args:
        teacher: offers "logits".
        head: what the student's outputs are.
    """

    def __init__(self, teacher: Teacher, head: str) -> None:
        super().__init__(name="teacher")
        # Not tracked: the metrics of a compiled teacher would take the place of ours, which have the same names.
        self._untracked = types.SimpleNamespace(teacher=teacher)
        self._activation = {"softmax": keras.ops.softmax, "sigmoid": keras.ops.sigmoid}.get(head)
        self._per_label = head == "sigmoid"

    def call(self, x: Tensors, training: bool | None = None) -> Tensor:
        """Return the teacher's outputs for x, in inference mode."""
        logits = averaged(self._untracked.teacher(x, {})["logits"], 1.0, self._per_label)
        return logits if self._activation is None else self._activation(logits)
