"""Which share of the rows the student writes, the teacher, and neither: numbers that may change with the step."""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_kd import schedules
from keras_kd._types import Schedule
from keras_kd.language.rollout_rows import STUDENT, TEACHER

#: Shares that sum to 1 in decimals may not do so in float32.
_ROUNDING = 1e-6


class Shares(NamedTuple):
    """Probabilities that a row is the student's or the teacher's; else it is one of the data.

    Attributes:
        student: from 0 to 1.
        teacher: from 0 to 1.
        has_teacher: whether there is one.
        has_data: whether there are any.
    """

    student: Schedule
    teacher: Schedule
    has_teacher: bool
    has_data: bool

    def check(self) -> None:
        """Refuse shares that cannot be, as far as they are known."""
        known = schedules.is_known(self.student) and schedules.is_known(self.teacher)
        for step in (0, np.iinfo("int32").max) if known else (0,):
            self.at(step)

    def at(self, step: int) -> tuple[float, float]:
        """Return the shares of student and teacher at a step.

        Raises:
            ValueError: they cannot be.
        """
        number = ops.convert_to_tensor(step, "int64")
        values = [schedules.at(each, number) for each in (self.student, self.teacher)]
        student, teacher = (float(ops.convert_to_numpy(each)) for each in values)
        rest = 1.0 - student - teacher
        if not (student >= 0 and teacher >= 0 and rest >= -_ROUNDING):
            raise ValueError(
                "Expected `student_share` and `teacher_share` to be at least 0, and at most 1 together. Received: "
                f"{student:g} and {teacher:g} at step {step}."
            )
        if teacher and not self.has_teacher:
            raise ValueError(f"Expected a `teacher` to write its share of {teacher:g} at step {step}. Received: none.")
        if rest > _ROUNDING and not self.has_data:
            raise ValueError(
                f"Expected `data` for the rows that neither model writes, a share of {rest:g} at step {step}. "
                "Received: none. Give examples, or shares that sum to 1."
            )
        return student, teacher

    def origins(self, step: int, uniform: np.ndarray) -> np.ndarray:
        """Return where rows that are written at a step come from.

        Args:
            step: of the optimizer.
            uniform: from 0 to 1, one for each row.
        """
        student, teacher = self.at(step)
        found = np.searchsorted([student, student + teacher], uniform, side="right")
        if student + teacher > 1.0 - _ROUNDING:
            found = np.minimum(found, TEACHER if teacher else STUDENT)
        return found
