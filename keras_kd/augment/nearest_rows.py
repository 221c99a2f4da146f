"""Which rows of a table are nearest to each."""

from typing import Any

import numpy as np
from keras import tree

#: Distances in memory at once, at most.
_AT_ONCE = 2**24


class Columns:
    """The columns of a table, and which of them are codes.

    Args:
        x: an array (rows, columns), or a structure of arrays, (rows,) or (rows, columns).
        codes: numbers of columns of one array, or names of entries of a dict; those of integers, booleans and strings
            are codes in any case.

    Attributes:
        parts: each array, and for each of its columns whether it is a code, (columns,).

    Raises:
        ValueError: missing values; fewer than two rows; arrays of other shapes; unknown `codes`.
    """

    def __init__(self, x: Any, codes: tuple[int | str, ...]) -> None:
        leaves = [(path, np.asarray(leaf)) for path, leaf in tree.flatten_with_path(x)]
        _check(leaves, codes)
        self.parts = [(leaf, _codes(path, leaf, codes)) for path, leaf in leaves]

    def quantities(self) -> np.ndarray:
        """Return the quantities, each divided by its standard deviation, float64, (rows, n)."""
        found = [leaf.reshape(len(leaf), -1)[:, ~is_code].astype("float64") for leaf, is_code in self.parts]
        values = np.concatenate([each if each.size else each.reshape(len(each), 0) for each in found], axis=1)
        values = values - values.mean(axis=0)
        deviation = values.std(axis=0)
        return values / np.where(deviation > 0, deviation, 1.0)

    def codes(self) -> list[np.ndarray]:
        """Return the codes, column by column, as whole numbers, (rows,)."""
        columns = [column for leaf, is_code in self.parts for column in leaf.reshape(len(leaf), -1)[:, is_code].T]
        return [np.unique(column, return_inverse=True)[1].reshape(-1) for column in columns]


def nearest(columns: Columns, count: int) -> np.ndarray:
    """Return the `count` other rows that are nearest to each row, in any order, (rows, count)."""
    quantities, codes = columns.quantities(), columns.codes()
    rows = len(quantities)
    squares = np.sum(quantities**2, axis=1)
    found = []
    for start in range(0, rows, max(1, _AT_ONCE // rows)):
        part = slice(start, start + max(1, _AT_ONCE // rows))
        distance = squares - 2.0 * quantities[part] @ quantities.T  # without the square of the row itself
        for code in codes:
            distance += code[part, None] != code[None, :]
        distance[np.arange(len(distance)), np.arange(rows)[part]] = np.inf
        found.append(np.argpartition(distance, count - 1, axis=1)[:, :count])
    return np.concatenate(found)


def _check(leaves: list[tuple[Any, np.ndarray]], codes: tuple[Any, ...]) -> None:
    shapes = [leaf.shape for _, leaf in leaves]
    if not shapes or any(len(shape) not in (1, 2) for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(f"Expected a table, (rows, columns), or arrays of one length. Received: the shapes {shapes}")
    if shapes[0][0] < 2:
        raise ValueError("Expected at least two rows, between which others are drawn. Received: one.")
    for path, leaf in leaves:
        missing = leaf.dtype.kind == "f" and np.isnan(leaf).reshape(len(leaf), -1).any(axis=0)
        if np.any(missing):
            where = f"{path or ''} columns {np.flatnonzero(missing).tolist()}".strip()
            raise ValueError(
                f"Expected a table without missing values. Received: NaN in {where}. Fill them in, or leave out the "
                "rows that have them."
            )
    names = {path[0] for path, _ in leaves if path}
    width = shapes[0][1] if len(leaves) == 1 and not names and len(shapes[0]) == 2 else 0
    unknown = [code for code in codes if code not in names and not (isinstance(code, int) and 0 <= code < width)]
    if unknown:
        raise ValueError(
            f"Expected `codes` to be columns from 0 to {width - 1}, or entries of x. Received: {unknown}"
            if width
            else f"Expected `codes` to be entries of x, {sorted(map(str, names))}. Received: {unknown}"
        )


def _codes(path: Any, leaf: np.ndarray, codes: tuple[Any, ...]) -> np.ndarray:
    width = leaf.shape[1] if leaf.ndim == 2 else 1
    if leaf.dtype.kind != "f" or (path and path[0] in codes):
        return np.ones(width, bool)
    return np.array([not path and number in codes for number in range(width)])
