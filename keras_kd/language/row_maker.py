"""Fill rows: with what models write behind prompts, and with given examples."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_kd._internal import teacher_fingerprints
from keras_kd.language import prompt_tokens, text_scores
from keras_kd.language.completion_examples import Examples
from keras_kd.language.decoding import Sampling
from keras_kd.language.mixed_writing import Mixture
from keras_kd.language.rollout_routing import Author, authors
from keras_kd.language.rollout_rows import DATA, STUDENT, Rows, in_order, of_examples, widened
from keras_kd.language.row_columns import RowColumns
from keras_kd.language.text_scores import Score
from keras_kd.teachers import as_teacher
from keras_kd.teachers.base import Teacher


class RowMaker(NamedTuple):
    """Makes rows of prompts and given examples; what is drawn depends on the seed, the epoch and the place alone.

    Attributes:
        prompts: token ids of each.
        data: given examples, or None.
        columns: of both.
        authors: write behind the prompts.
        mixture: which the student's tokens are drawn from.
        score: what a text weighs, or None.
        length: tokens of a completion, at most.
        width: tokens of a row.
        batch_size: rows that are read at a time.
        pad: token that fills rows up.
        seed: of all that is drawn.
    """

    prompts: list[np.ndarray]
    data: Rows | None
    columns: RowColumns
    authors: list[Author]
    mixture: Mixture
    score: Score | None
    length: int
    width: int
    batch_size: int
    pad: int
    seed: int

    @property
    def digest(self) -> str:
        """Identifies the prompts and the columns."""
        return teacher_fingerprints.of_arrays([*self.prompts, np.array(self.columns.digest)])

    def fill(self, rows: Rows, slots: np.ndarray, origins: np.ndarray, epoch: int, drawn: int) -> None:
        """Fill rows in some places.

        Args:
            rows: of which they are.
            slots: their places.
            origins: of each.
            epoch: number of the epoch before which this is.
            drawn: how many were filled before.
        """
        sources = in_order([self.seed, 1], drawn, len(slots), len(self.prompts))
        for author in self.authors:
            own = author.writes(origins, sources, self.columns)
            if own.any():
                self._write(author, rows, slots[own], sources[own], epoch)
        self.mixture.weigh(rows, slots[origins == STUDENT], self.batch_size)
        text_scores.weigh(rows, slots[origins != DATA], self.score)
        given = origins == DATA
        if self.data is not None and given.any():
            numbers = in_order([self.seed, 2], drawn, len(slots), len(self.data.y))[given]
            for whole, part in zip(rows, self.data, strict=True):
                whole[slots[given]] = part[numbers]
        rows.origin[slots] = origins

    def _write(self, author: Author, rows: Rows, places: np.ndarray, sources: np.ndarray, epoch: int) -> None:
        """Let a model write rows behind prompts with some numbers."""
        prompts = [self.prompts[source] for source in sources]
        drawn = [np.random.default_rng([self.seed, 3, epoch, place]) for place in places]
        uniforms = np.stack([each.random(self.length, "float32") for each in drawn])
        for place, prompt, tokens in zip(places, prompts, author.writer.write(prompts, uniforms), strict=True):
            rows.put(place, prompt, tokens, self.pad)
        rows.source[places] = sources


def row_maker(
    prompts: Sequence[Any],
    data: Examples | None,
    columns: Mapping[str, Any] | None,
    *,
    student: keras.Model,
    teacher: Teacher | None,
    teacher_mix: float,
    sampling: Sampling,
    score: Score | None,
    batch_size: int,
    generation_batch_size: int | None,
    pad: int,
    seed: int,
) -> RowMaker:
    """Return what makes the rows of `Rollouts`, see there for the arguments."""
    writer = as_teacher(student)
    ids = prompt_tokens.of(writer, prompts)
    width = prompt_tokens.width(writer, max(map(len, ids)) + sampling.length - 1)
    rows = None if data is None else of_examples(data, pad, len(ids))
    if rows is not None:
        width = prompt_tokens.width(writer, max(width, rows.y.shape[1]))
        rows = widened(rows, width, pad, student.name)
    numbers = RowColumns(columns, len(ids), data)
    mixture = Mixture(writer, teacher, teacher_mix, sampling)
    at_once = _rows_at_once(batch_size) if generation_batch_size is None else generation_batch_size
    writers = authors(writer, mixture.writer(), teacher, ids, numbers, sampling, at_once)
    return RowMaker(ids, rows, numbers, writers, mixture, score, sampling.length, width, batch_size, pad, seed)


def _rows_at_once(batch_size: int) -> int | None:
    """Return how many rows are generated at a time: on an accelerator all; more are no faster on processors."""
    return None if len(tf.config.list_logical_devices()) > len(tf.config.list_logical_devices("CPU")) else batch_size
