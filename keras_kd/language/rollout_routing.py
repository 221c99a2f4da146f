"""Which model writes which rows: the student its own, and of several teachers each those of its own prompts."""

from typing import Any, NamedTuple

import numpy as np

from keras_kd.language import prompt_tokens
from keras_kd.language.decoding import Sampling
from keras_kd.language.rollout_rows import STUDENT, TEACHER
from keras_kd.language.rollout_writers import Writer
from keras_kd.language.row_columns import RowColumns
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.routed import Routed


class Author(NamedTuple):
    """A model that writes some of the rows.

    Attributes:
        origin: of these rows, `STUDENT` or `TEACHER`.
        writer: continues their prompts.
        column: by which its prompts are chosen, or None for all.
        numbers: that this column has then.
    """

    origin: int
    writer: Writer
    column: str | None = None
    numbers: tuple[int, ...] = ()

    def writes(self, origins: np.ndarray, sources: np.ndarray, columns: RowColumns) -> np.ndarray:
        """Return whether rows are its own, (rows,).

        Args:
            origins: of the rows, (rows,).
            sources: numbers of their prompts, (rows,).
            columns: of the prompts.
        """
        found = origins == self.origin
        return found if self.column is None else found & np.isin(columns.at(self.column, sources), self.numbers)


def authors(
    student: Teacher,
    mixed: Any,
    teacher: Teacher | None,
    prompts: list[np.ndarray],
    columns: RowColumns,
    sampling: Sampling,
    rows: int | None,
) -> list[Author]:
    """Return who writes.

    Args:
        student: that is trained.
        mixed: predicts the tokens of its rows: the student, or both models as one.
        teacher: writes other rows, or None.
        prompts: token ids of each.
        columns: of the prompts.
        sampling: how tokens are chosen.
        rows: that are generated at a time, or None for as many as memory allows.

    Raises:
        ValueError: prompts that do not fit into a model, or that name no teacher where they choose one.
    """
    longest = max(map(len, prompts)) + sampling.length

    def writer(predicts: Any, model: Teacher) -> Writer:
        prompt_tokens.check_fit(model, prompts, sampling.length)
        return Writer(predicts, sampling, prompt_tokens.width(model, longest), rows)

    found = [Author(STUDENT, writer(mixed, student))]
    if isinstance(teacher, Routed):  # which reads a column that no model's tokens have
        held = columns.at(teacher.column, np.arange(len(prompts)))
        routes = teacher.routes(held)
        return found + [Author(TEACHER, writer(each, each), teacher.column, numbers) for each, numbers in routes]
    return found if teacher is None else [*found, Author(TEACHER, writer(teacher, teacher))]
