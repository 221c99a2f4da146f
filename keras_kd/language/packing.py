"""Several short examples in one row, for models that keep them apart."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_kd.language.completion_examples import Examples

#: Rows that an example may still be put into: what is left of others is hardly worth a look.
_OPEN = 64


def packed(examples: Examples, *, models: Iterable[Any], length: int | None = None, pad: int = 0) -> Examples:
    """Put several examples into one row, each with positions of its own.

    An example stays whole, and none predicts the first token of the next. It is on the model to keep them apart: one
    that reads "token_ids" alone lets a token attend to the examples before its own, and learns something else. So
    `models` need an input named "segments", and attend where `segments[:, :, None] == segments[:, None, :]` and the
    other token is not later; and, with absolute or learned positions, one named "positions". The tasks of KerasHub
    have neither. A subclassed model has no names of inputs, and is taken at its word.

    Args:
        examples: x, y and sample_weight, as `completions`, `conversations` and `generated` return them.
        models: which will read them, student and teacher.
        length: positions of a row; None for those of the examples.
        pad: see `completions`.

    Returns:
        x, a dict of "token_ids", "padding_mask", "positions", from 0 in each example, and "segments", from 1 in each
        row and 0 where there is padding, all (rows, length); y and sample_weight, (rows, length).

    Raises:
        ValueError: a model without an input named "segments"; an example that is longer than `length`.

    Example:
        >>> from keras_kd.language import completions
        >>> examples = completions(None, [[5, 6, 7], [8, 9]], length=4, end=2)
        >>> x, y, weights = packed(examples, models=[], length=6)
        >>> np.concatenate([x["token_ids"], x["segments"]])
        [[5 6 7 8 9 0] [1 1 1 2 2 0]]
    """
    for model in models:
        _check_separates(model)
    rows = [_without_padding(*each) for each in zip(examples[0]["token_ids"], *_present(examples), strict=True)]
    width = examples[1].shape[1] if length is None else length
    longest = max(len(row[0]) for row in rows)
    if longest > width:
        raise ValueError(f"Expected a `length` of at least that of the longest example, {longest}. Received: {width}")
    return _filled(rows, _places([len(row[0]) for row in rows], width), width, pad)


def _present(examples: Examples) -> tuple[np.ndarray, ...]:
    x, y, weights = examples
    return x["padding_mask"], y, weights


def _without_padding(
    ids: np.ndarray, present: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return tokens, labels and weights of an example, to the last one that is learned."""
    stop = np.flatnonzero(weights)[-1] + 1
    kept = np.flatnonzero(present[:stop])
    return ids[kept], y[kept], weights[kept]


def _places(lengths: list[int], width: int) -> list[list[int]]:
    """Return which examples each row holds: the first of the last few rows that has room for it."""
    rows: list[list[int]] = []
    free: list[int] = []
    for number, length in enumerate(lengths):
        fitting = (row for row in range(max(0, len(rows) - _OPEN), len(rows)) if free[row] >= length)
        row = next(fitting, len(rows))
        if row == len(rows):
            rows.append([])
            free.append(width)
        rows[row].append(number)
        free[row] -= length
    return rows


def _filled(examples: list[tuple[np.ndarray, ...]], places: list[list[int]], width: int, pad: int) -> Examples:
    """Return rows of the examples at each place, filled up on the right."""
    ids, y = np.full((2, len(places), width), pad, "int32")
    positions, segments = np.zeros((2, len(places), width), "int32")
    weights = np.zeros(ids.shape, "float32")
    for row, numbers in enumerate(places):
        start = 0
        for segment, number in enumerate(numbers, 1):
            tokens, labels, counts = examples[number]
            place = slice(start, start + len(tokens))
            ids[row, place], y[row, place], weights[row, place] = tokens, labels, counts
            positions[row, place], segments[row, place] = np.arange(len(tokens)), segment
            start = place.stop
    x = {"token_ids": ids, "padding_mask": segments > 0, "positions": positions, "segments": segments}
    return x, y, weights


def _check_separates(model: Any) -> None:
    """Refuse a model with named inputs, none of which is for segments."""
    inputs = getattr(model, "inputs", None)  # a subclassed model has none
    names = sorted(each.name for each in inputs) if inputs else []
    if names and "segments" not in names:
        raise ValueError(
            f"Expected models that keep the examples of a row apart, with an input named 'segments'. {model.name!r} "
            f"has the inputs {names}, and would attend across. Train on examples that are not packed."
        )
