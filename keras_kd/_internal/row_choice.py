"""Which examples of a batch a term counts, by the columns that travel with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_kd._keras import masks
from keras_kd._types import Tensor

#: What a column may be for an example to be counted, by the column's name.
Rows = Mapping[str, int | Sequence[int]]


def checked(rows: Any, term: str) -> dict[str, tuple[int, ...]] | None:
    """Return what columns may be, as tuples, or raise an error.

    Raises:
        ValueError: no column, no value, or a value that is no whole number.
    """
    if rows is None:
        return None
    found = {str(name): _values(given) for name, given in rows.items()} if isinstance(rows, Mapping) else {}
    if not found or not all(found.values()):
        raise ValueError(
            f"Expected `rows` of the term {term!r} to have the whole numbers that a column may be, by its name, as in "
            f"rows={{'origin': (1, 2)}}. Received: rows={rows!r}"
        )
    return found


def chosen(rows: Mapping[str, Sequence[int]] | None, columns: Mapping[str, Any], term: str) -> Tensor | None:
    """Return where each column of some examples has one of its values, bool, (batch,); None where all are chosen.

    Args:
        rows: see `Rows`.
        columns: that the examples carry, (batch,) or (batch, 1) each, by name.
        term: name of the term that chooses.

    Raises:
        ValueError: examples without a column; a column that is not of one whole number for each.
    """
    if rows is None:
        return None
    found = ops.convert_to_tensor(True)
    for name, values in rows.items():
        found = ops.logical_and(found, _is_one_of(column(columns, name, f"The term {term!r}"), values))
    return found


def column(columns: Mapping[str, Any], name: str, reader: str) -> Tensor:
    """Return a column, (batch,), or raise an error.

    Args:
        columns: that the examples carry, by name.
        name: of the column.
        reader: what reads it, for the message.

    Raises:
        ValueError: see `chosen`.
    """
    require(columns, name, reader)
    found = ops.convert_to_tensor(columns[name])
    flat = len(found.shape) == 1 or (len(found.shape) == 2 and found.shape[1] == 1)
    if not flat or "int" not in found.dtype.name:
        raise ValueError(
            f"{reader} expected the column {name!r} to have a whole number for each example, (batch,). Received: "
            f"{found.dtype.name}, {tuple(found.shape)}."
        )
    return ops.reshape(found, (-1,))


def require(columns: Mapping[str, Any], name: str, reader: str) -> None:
    """Refuse examples without a column, see `column`."""
    if name not in columns:
        raise ValueError(
            f"{reader} expected examples with the column {name!r}. Received the columns {sorted(columns)}. Give x as "
            f"keras_kd.Joined(x, columns={{{name!r}: numbers}}); Rollouts have them as `columns`, and 'origin' "
            "by themselves in `fit`."
        )


def only(values: Tensor, rows: Tensor | None, term: str) -> Tensor:
    """Return the values of a loss with 0 for the examples that are not chosen.

    Args:
        values: (batch, ...).
        rows: where examples are chosen, (batch,), or None for all.
        term: name of the term.

    Raises:
        ValueError: one value for the whole batch.
    """
    if rows is None:
        return values
    if len(values.shape) == 0:
        raise ValueError(
            f"Expected a loss with a value for each example or position, of which the term {term!r} counts those that "
            "its `rows` choose. Received one value for the whole batch. Leave `rows` out."
        )
    return ops.where(masks.aligned(rows, values), values, ops.zeros_like(values))


def _values(given: Any) -> tuple[int, ...]:
    values = np.atleast_1d(np.asarray(given))
    return tuple(map(int, values)) if values.ndim == 1 and values.dtype.kind in "iu" else ()


def _is_one_of(column: Tensor, values: Sequence[int]) -> Tensor:
    return ops.any(ops.equal(column[:, None], ops.convert_to_tensor(values, column.dtype)), axis=-1)
