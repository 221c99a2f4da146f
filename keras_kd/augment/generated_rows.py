"""Rows for a table that has too few: drawn once, between each row and those that are nearest to it.

They have no labels; `with_unlabelled` puts them beside those that do. As they do not change, their targets can be kept.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from keras import tree

from keras_kd._internal import batches, soft_targets
from keras_kd._types import Tensors
from keras_kd.augment import changes
from keras_kd.augment.nearest_rows import Columns, nearest

#: Makes of a column's values, those of the neighbours, and which are codes, new values.
_Make = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def smote(x: Any, rows: int, neighbours: int = 5, *, codes: Iterable[int | str] = (), seed: int = 0) -> Tensors:
    """Draw rows between each row of a table and one of its nearest neighbours.

    x = a + m (b - a), with m drawn evenly from 0 to 1 and b one of the nearest rows to a. Codes are taken from a, with
    the probability 1 - m, or from b, all of one row. Nearness is Euclidean, of quantities divided by their standard
    deviation; a code that differs counts 1. All pairs of rows are compared: 20,000 rows take some seconds.

    Args:
        x: a table of at least two rows, (rows, columns), a DataFrame, or a dict of arrays, (rows,) or (rows, columns).
        rows: how many to draw.
        neighbours: how many are the nearest, from 1 on.
        codes: columns that are no quantities, see `MixUp`; those of integers, booleans and strings always are.
        seed: of all that is drawn.

    Returns:
        As many rows as `rows`, in the structure and types of x.

    Raises:
        ValueError: missing values; a single row; numbers out of range.

    Example:
        >>> more = kd.augment.smote(x, rows=10_000, codes=[3])
        >>> train = kd.augment.with_unlabelled((x, y), more)

    Reference: Chawla et al., SMOTE: Synthetic Minority Over-sampling Technique, 2002, arXiv 1106.1813.
    """
    random = np.random.default_rng(seed)
    share = random.random(_whole("rows", rows))
    own = random.random(rows) >= share

    def make(first: np.ndarray, second: np.ndarray, is_code: np.ndarray) -> np.ndarray:
        taken = np.where(own[:, None], first, second)
        if is_code.all():
            return taken
        between = np.clip(
            first + share[:, None] * (second - first), np.minimum(first, second), np.maximum(first, second)
        )
        return np.where(is_code, taken, between)

    return _generated(x, rows, _whole("neighbours", neighbours), codes, random, make)


def munge(
    x: Any,
    rows: int,
    probability: float = 0.5,
    spread: float = 1.0,
    *,
    codes: Iterable[int | str] = (),
    seed: int = 0,
) -> Tensors:
    """Draw rows from the joint density of a table, each near one of its rows.

    With the probability p, each value a of a row is replaced: a quantity by a draw from N(b, abs(a - b) / s), a code by
    b, where b is the value of the nearest row. Quantities may leave the range that they have in the table. The paper
    changes both rows of a pair in place, one pair after the other; here, all rows are drawn from the table as it was
    given. For nearness, see `smote`.

    Args:
        x: see `smote`.
        rows: how many to draw.
        probability: p, 0 to 1.
        spread: s, above 0; the larger, the nearer to the neighbour.
        codes: see `smote`.
        seed: of all that is drawn.

    Returns:
        As many rows as `rows`, in the structure and types of x.

    Raises:
        ValueError: as for `smote`.

    Example:
        >>> train = kd.augment.with_unlabelled((x, y), kd.augment.munge(x, rows=10_000))

    Reference: Bucila, Caruana and Niculescu-Mizil, Model Compression, KDD 2006.
    """
    random = np.random.default_rng(seed)
    probability, spread = changes.probability("probability", probability), changes.positive("spread", spread)

    def make(first: np.ndarray, second: np.ndarray, is_code: np.ndarray) -> np.ndarray:
        replaced = random.random(first.shape) < probability
        if is_code.all():
            return np.where(replaced, second, first)
        drawn = second + random.standard_normal(first.shape) * np.abs(first - second) / spread
        return np.where(replaced, np.where(is_code, second, drawn), first)

    return _generated(x, _whole("rows", rows), 1, codes, random, make)


def _generated(
    x: Any, rows: int, neighbours: int, codes: Iterable[int | str], random: np.random.Generator, make: _Make
) -> Tensors:
    x = batches.as_arrays(x)
    columns = Columns(x, tuple(codes))
    count = soft_targets.count(x)
    first = np.concatenate([random.permutation(count) for _ in range(-(-rows // count))])[:rows]
    found = nearest(columns, min(neighbours, count - 1))
    second = found[first, random.integers(found.shape[1], size=rows)]
    made = [
        _in_form(make(_wide(leaf[first]), _wide(leaf[second]), is_code), leaf, rows) for leaf, is_code in columns.parts
    ]
    return tree.pack_sequence_as(x, made)


def _wide(values: np.ndarray) -> np.ndarray:
    values = values.reshape(len(values), -1)
    return values.astype("float64") if values.dtype.kind == "f" else values


def _in_form(values: np.ndarray, leaf: np.ndarray, rows: int) -> np.ndarray:
    return values.astype(leaf.dtype).reshape(rows, *leaf.shape[1:])


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"Expected `{name}` to be a whole number from 1 on. Received: {name}={value!r}")
    return int(value)
