"""The rows of an epoch of rollouts: tokens, those that follow, which of these are learned, and their origin."""

from typing import Any, NamedTuple

import numpy as np

from keras_kd._internal import soft_targets
from keras_kd._types import Tensors

#: Where a row comes from.
STUDENT, TEACHER, DATA = range(3)

#: The column that has it.
ORIGIN = "origin"


class Rows(NamedTuple):
    """Rows in arrays whose first axis is theirs.

    Attributes:
        token_ids: that are read, (rows, width), int32.
        padding_mask: where these are a text's, (rows, width), bool.
        y: the tokens that follow, (rows, width), int32.
        sample_weight: above 0 where they are learned, (rows, width), float32.
        origin: `STUDENT`, `TEACHER` or `DATA`, (rows,), int8.
        step: of the optimizer, when they were written, (rows,), int64.
        source: number of the prompt that was continued; of given examples, counted behind all prompts, (rows,), int64.
    """

    token_ids: np.ndarray
    padding_mask: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray
    origin: np.ndarray
    step: np.ndarray
    source: np.ndarray

    def read_by(self, model: Any) -> Tensors:
        """Return what a model reads of rows, by the names that it has inputs of, or as one array."""
        return (
            {"token_ids": self.token_ids, "padding_mask": self.padding_mask} if _takes_dict(model) else self.token_ids
        )

    def described(self, step: int) -> dict[str, float]:
        """Return the shares of the student and the teacher, and how many steps ago their rows were written."""
        written = self.origin != DATA
        return {
            "student": float(np.mean(self.origin == STUDENT)),
            "teacher": float(np.mean(self.origin == TEACHER)),
            "age": float(np.mean(step - self.step[written])) if np.any(written) else 0.0,
        }

    def blank(self, place: int, pad: int) -> None:
        """Fill a row up, so that nothing of what was there is left."""
        for whole, value in zip(self[:4], (pad, False, pad, 0.0), strict=True):
            whole[place] = value

    def put(self, place: int, prompt: np.ndarray, tokens: np.ndarray, pad: int) -> None:
        """Put a prompt and what was written behind it, which is learned, in the place of a row."""
        self.blank(place, pad)
        ids = np.concatenate([prompt, tokens])
        read = slice(len(ids) - 1)
        self.token_ids[place, read], self.padding_mask[place, read], self.y[place, read] = ids[:-1], True, ids[1:]
        self.sample_weight[place, len(prompt) - 1 : len(ids) - 1] = 1.0


def _takes_dict(model: Any) -> bool:
    """Return whether a model reads tokens by the names that rows have, rather than as one array."""
    if not getattr(model, "inputs", None):  # of a subclassed model
        return False
    read = getattr(model, "input", None)  # of a `Sequential` that was not called there is none
    return "token_ids" in (read if isinstance(read, dict) else {each.name for each in model.inputs})


def empty(count: int, width: int, pad: int) -> Rows:
    """Return rows in which nothing is written."""
    shape = (count, width)
    return Rows(
        np.full(shape, pad, "int32"),
        np.zeros(shape, bool),
        np.full(shape, pad, "int32"),
        np.zeros(shape, "float32"),
        np.zeros(count, "int8"),
        np.zeros(count, "int64"),
        np.zeros(count, "int64"),
    )


def of_examples(data: Any, pad: int, first: int) -> Rows:
    """Return given examples as rows.

    Args:
        data: x, y and sample_weight, x with or without its mask.
        pad: token that fills rows up.
        first: number of the first one as a source.

    Raises:
        ValueError: shapes that do not belong together.
    """
    x, y, weights = data[:3]
    x = soft_targets.without_targets(x)
    ids = np.asarray(x["token_ids"] if isinstance(x, dict) else x)
    mask = np.asarray(x["padding_mask"]) if isinstance(x, dict) else np.ones(ids.shape, bool)
    shapes = [np.shape(each) for each in (ids, mask, y, weights)]
    if len(set(shapes)) != 1 or ids.ndim != 2:
        raise ValueError(
            "Expected `data` of token ids, their mask, the tokens that follow and their weights, (examples, tokens) "
            f"each. Received the shapes {shapes}."
        )
    rows = empty(len(ids), ids.shape[1], pad)
    for whole, part in zip(rows, (ids, mask, y, weights), strict=False):
        whole[:] = part
    rows.origin[:], rows.source[:] = DATA, first + np.arange(len(ids))
    return rows


def widened(rows: Rows, width: int, pad: int, student: str) -> Rows:
    """Return rows that are filled up to a width, or raise an error if they are longer than the student reads."""
    if rows.y.shape[1] > width:
        raise ValueError(
            f"Expected `data` of at most {width} tokens, which {student!r} reads. Received: {rows.y.shape[1]}"
        )
    made = empty(len(rows.y), width, pad)
    for whole, part in zip(made[:4], rows, strict=False):
        whole[:, : part.shape[1]] = part
    for whole, part in zip(made[4:], rows[4:], strict=True):
        whole[:] = part
    return made


def in_order(seed: list[int], first: int, count: int, size: int) -> np.ndarray:
    """Return numbers below a size for the draws from a first one on: each pass over all has another order.

    Args:
        seed: of the orders.
        first: draws before these.
        count: of the draws, at least 1.
        size: how many numbers there are.
    """
    passes = range(first // size, (first + count - 1) // size + 1)
    order = [np.random.default_rng([*seed, each]).permutation(size) for each in passes]
    begin = first - passes[0] * size
    return np.concatenate(order)[begin : begin + count]
