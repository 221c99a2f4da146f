"""Noise for tables, in the units of each column."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd._internal import batches, soft_targets
from keras_kd._types import Tensor, Tensors
from keras_kd.augment import changes
from keras_kd.augment.changes import Change, folded, like, wide


class Noise(Change):
    """Add normal noise to the columns of a table, each by its own spread.

    x_j + scale * std_j * N(0, 1), with the standard deviation std_j of the table given here. Columns that are constant
    there, columns of integers, and `codes` stay as they are; NaN stays NaN, and does not count in std_j.

    Args:
        table: rows to take the spreads from, in the structure of the x that is changed: an array (rows, columns), a
            DataFrame, or a dict of arrays.
        scale: how much of a standard deviation, above 0.
        codes: columns that are no quantities, see `MixUp`.

    Raises:
        ValueError: `scale` out of range; `codes` that the table does not have; x of another structure.

    Example:
        >>> train = kd.augment.apply(batches, kd.augment.Beside(kd.augment.Noise(x, 0.2, codes=[3])), seed=0)
    """

    def __init__(self, table: Any, scale: float = 0.1, *, codes: Iterable[int | str] = ()) -> None:
        self.scale = changes.positive("scale", scale)
        table = batches.as_arrays(table)
        self._structure = soft_targets.map_arrays(lambda leaf: None, table)
        named = table if isinstance(table, dict) else {"": table}
        self._deviations = [_deviation(leaf) for leaf in tf.nest.flatten(named)]
        self._leave_out(list(codes), table)

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        """Return the rows with noise."""
        try:
            tf.nest.assert_same_structure(self._structure, x)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected x in the structure of the table that `Noise` was made with. Received: {x}"
            ) from error
        noisy = [
            self._noisy(tf.convert_to_tensor(leaf), deviation, folded(seed, number))
            for number, (leaf, deviation) in enumerate(zip(tf.nest.flatten(x), self._deviations, strict=True))
        ]
        return tf.nest.pack_sequence_as(x, noisy)

    def _noisy(self, leaf: Any, deviation: np.ndarray | None, seed: Tensor) -> Any:
        if deviation is None or not leaf.dtype.is_floating:
            return leaf
        values = wide(leaf)
        noise = tf.random.stateless_normal(tf.shape(values), seed, dtype=values.dtype)
        return like(values + tf.constant(self.scale * deviation, values.dtype) * noise, leaf)

    def _leave_out(self, codes: list[Any], table: Any) -> None:
        """Set the spread of `codes` to 0."""
        for code in codes:
            if isinstance(table, dict) and code in table:
                self._deviations[sorted(table).index(code)] = None
            elif not isinstance(table, dict) and isinstance(code, int) and 0 <= code < np.shape(table)[-1]:
                self._deviations[0][..., code] = 0.0  # type: ignore[index]
            else:
                known = sorted(table) if isinstance(table, dict) else f"columns from 0 to {np.shape(table)[-1] - 1}"
                raise ValueError(f"Expected `codes` among {known}. Received: {code!r}")


def _deviation(leaf: Any) -> np.ndarray | None:
    """Return the standard deviation of each column, or None where there are no quantities."""
    leaf = np.asarray(leaf)
    if leaf.dtype.kind != "f":
        return None
    known = np.where(np.isnan(leaf).all(axis=0), 0.0, leaf.astype("float64"))
    return np.nanstd(known, axis=0)
