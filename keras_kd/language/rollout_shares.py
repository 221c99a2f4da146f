"""Which share of the rows the student writes, the teacher, and neither: numbers that may change with the step."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_kd import schedules
from keras_kd._types import Schedule
from keras_kd.language.adaptive_share import AdaptiveShare
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

    def checked(self) -> "Shares":
        """Return the same, or refuse shares that cannot be, as far as they are known."""
        known = schedules.is_known(self.student) and schedules.is_known(self.teacher)
        for step in (0, np.iinfo("int32").max) if known else (0,):
            self.at(step)
        if self.adaptive:
            student, teacher = (
                each.end if isinstance(each, AdaptiveShare) else value
                for each, value in zip((self.student, self.teacher), self.at(0), strict=True)
            )
            self._check(student, teacher, "once they are at their `end`")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What a file has to be of to go on with it."""
        return {"adaptive_shares": len(self.adaptive)}

    @property
    def adaptive(self) -> list[AdaptiveShare]:
        """Those that follow what is logged."""
        return [each for each in (self.student, self.teacher) if isinstance(each, AdaptiveShare)]

    def check_led(self, epoch: int) -> None:
        """Refuse a later epoch in which shares that follow logs have had none."""
        if epoch and not all(share.follows for share in self.adaptive):
            raise ValueError(
                "Expected rollouts with an AdaptiveShare in the `fit` of a Distiller, whose logs it follows. Received: "
                "that of another model, under which the share would never rise. Take a schedule there."
            )

    def state(self) -> np.ndarray:
        """Return what a file has to hold of those."""
        return np.array([share.state() for share in self.adaptive])

    def restore(self, state: np.ndarray) -> None:
        """Go on from what `state` has returned."""
        for share, of_share in zip(self.adaptive, state, strict=True):
            share.restore(of_share)

    def at(self, step: int) -> tuple[float, float]:
        """Return the shares of student and teacher at a step.

        Raises:
            ValueError: they cannot be.
        """
        number = ops.convert_to_tensor(step, "int64")
        values = [schedules.at(each, number) for each in (self.student, self.teacher)]
        student, teacher = (float(ops.convert_to_numpy(each)) for each in values)
        self._check(student, teacher, f"at step {step}")
        return student, teacher

    def _check(self, student: float, teacher: float, when: str) -> None:
        rest = 1.0 - student - teacher
        if not (student >= 0 and teacher >= 0 and rest >= -_ROUNDING):
            raise ValueError(
                "Expected `student_share` and `teacher_share` to be at least 0, and at most 1 together. Received: "
                f"{student:g} and {teacher:g} {when}."
            )
        if teacher and not self.has_teacher:
            raise ValueError(f"Expected a `teacher` to write its share of {teacher:g} {when}. Received: none.")
        if rest > _ROUNDING and not self.has_data:
            raise ValueError(
                f"Expected `data` for the rows that neither model writes, a share of {rest:g} {when}. "
                "Received: none. Give examples, or shares that sum to 1."
            )

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
