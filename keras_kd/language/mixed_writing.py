"""Texts that are drawn from the student and the teacher together, and what each of their tokens weighs then."""

from typing import Any

import numpy as np

from keras_kd.language.decoding import Sampling
from keras_kd.language.rollout_rows import Rows
from keras_kd.language.text_scores import log_probabilities
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.ensemble import Ensemble


class Mixture:
    """The distribution (1 - share) * q + share * p of each next token, with q the student's and p the teacher's.

    Args:
        student: predicts q.
        teacher: predicts p, or None.
        share: of the teacher, 0 to less than 1.
        sampling: how tokens are drawn.

    Raises:
        ValueError: a share out of range, without a teacher, or of one that reads columns; tokens that are drawn from
            another distribution.
    """

    def __init__(self, student: Teacher, teacher: Teacher | None, share: float, sampling: Sampling) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"Expected `teacher_mix` to be at least 0 and below 1. Received: teacher_mix={share!r}")
        if share:
            _check_teacher(teacher, share)
        if share and (sampling.temperature, sampling.top_p) != (1, 1):
            raise ValueError(
                "Expected temperature=1 and top_p=1 under `teacher_mix`, as tokens weigh what they are less likely "
                f"without it. Received: temperature={sampling.temperature!r}, top_p={sampling.top_p!r}"
            )
        self._student, self._teacher, self._share = student, teacher, share

    def writer(self) -> Any:
        """Return what predicts the next token: the student, or both models as one."""
        if not self._share:
            return self._student
        return Ensemble([self._student, self._teacher], weights=[1.0 - self._share, self._share])

    def weigh(self, rows: Rows, places: np.ndarray, batch_size: int) -> None:
        """Multiply the weights of the tokens in some rows by q / ((1 - share) * q + share * p), if there is a share."""
        if not self._share or self._teacher is None:
            return
        models = (self._student, self._teacher)
        for first in range(0, len(places), batch_size):
            part = places[first : first + batch_size]
            ids, mask, labels = rows.token_ids[part], rows.padding_mask[part], rows.y[part]
            log_q, log_p = (log_probabilities(each, ids, mask, labels) for each in models)
            mixed = np.logaddexp(np.log1p(-self._share) + log_q, np.log(self._share) + log_p)
            rows.sample_weight[part] *= np.where(rows.sample_weight[part] > 0, np.exp(log_q - mixed), 0.0)


def _check_teacher(teacher: Teacher | None, share: float) -> None:
    if teacher is None:
        raise ValueError(f"Expected a `teacher` for its share of {share:g} in each token. Received: none.")
    if teacher.columns():
        raise ValueError(
            f"Expected a `teacher` that reads tokens alone, under `teacher_mix`. {teacher.name!r} reads the columns "
            f"{sorted(teacher.columns())}. Give teacher_mix=0, or one of its teachers."
        )
