"""Rows of a cache as records, without the positions of examples that are not kept.

A record of rows of which nothing is left out is their bytes. Else it holds the number of its rows, in 4 bytes, their
bytes without the positions, and then the positions that are kept, of all rows, target by target.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_kd.cache.layout import Layout

#: The number of rows.
_COUNT = np.dtype("<u4")


def encode(layout: Layout, rows: np.ndarray) -> bytes:
    """Return the record of rows, uint8, (rows, row_bytes)."""
    if not layout.positions:
        return rows.tobytes()
    parts = [np.array(len(rows), _COUNT).tobytes(), np.ascontiguousarray(rows[:, : layout.fixed_bytes]).tobytes()]
    start = layout.fixed_bytes
    for field in layout.positions:
        found = rows[:, start : start + field.nbytes].reshape(len(rows), *field.shape)
        parts.append(found[_kept(layout, rows, field.name)].tobytes())
        start += field.nbytes
    return b"".join(parts)


def decode(layout: Layout, record: tf.Tensor) -> tf.Tensor:
    """Return the rows of a record, a string, with zeros in the place of what is left out; none of an empty one."""
    octets = tf.io.decode_raw(record, tf.uint8)
    if not layout.positions:
        return tf.reshape(octets, [-1, layout.row_bytes])
    count = tf.bitcast(tf.concat([octets, tf.zeros([4], tf.uint8)], 0)[:4], tf.int32)
    stop = 4 + count * layout.fixed_bytes
    columns = [tf.reshape(octets[4:stop], [count, layout.fixed_bytes])]
    for field in layout.positions:
        places = tf.where(layout.kept(columns[0], field.name))
        start, stop = stop, stop + tf.size(places, tf.int32) // 2 * field.shape[-1]
        found = tf.reshape(octets[start:stop], [-1, field.shape[-1]])
        whole = tf.scatter_nd(places, found, tf.cast([count, *field.shape], tf.int64))
        columns.append(tf.reshape(whole, [count, field.nbytes]))
    return tf.concat(columns, axis=1)


def count(layout: Layout, record: np.ndarray) -> int:
    """Return how many rows a record holds; fewer than 4 bytes hold none."""
    if not layout.positions:
        return len(record) // layout.row_bytes
    return int(np.frombuffer(record[:4].tobytes(), _COUNT)[0]) if len(record) >= 4 else 0


def bounds(layout: Layout, rows: int, records: int) -> tuple[int, int]:
    """Return the fewest and the most bytes that a number of rows take in a number of records."""
    if not layout.positions:
        return rows * layout.row_bytes, rows * layout.row_bytes
    own = 4 * records
    return own + rows * layout.fixed_bytes, own + rows * layout.row_bytes


class Rows:
    """The rows of one record, read when they are needed.

    Args:
        layout: of a row.
        record: its bytes, uint8, which may be mapped from a file.
    """

    def __init__(self, layout: Layout, record: np.ndarray) -> None:
        self._layout = layout
        self._record = record
        self._count = count(layout, record)
        self._starts: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> np.ndarray:
        """Return one row, uint8, (row_bytes,)."""
        layout = self._layout
        row = np.zeros(layout.row_bytes, np.uint8)
        row[: layout.fixed_bytes] = self._fixed[number]
        start = layout.fixed_bytes
        for field, starts in zip(layout.positions, self._places(), strict=True):
            kept = _kept(layout, row[None], field.name)[0]
            found = self._record[starts[number] : starts[number + 1]].reshape(-1, field.shape[-1])
            row[start : start + field.nbytes].reshape(field.shape)[kept] = found
            start += field.nbytes
        return row

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows, uint8, (rows, row_bytes)."""
        return np.stack(list(self)) if len(self) else np.zeros((0, self._layout.row_bytes), np.uint8)

    @property
    def _fixed(self) -> np.ndarray:
        stop = 4 + self._count * self._layout.fixed_bytes
        return self._record[4:stop].reshape(self._count, self._layout.fixed_bytes)

    def _places(self) -> list[np.ndarray]:
        """Return where the positions of each row begin, (rows + 1,), by target."""
        if self._starts is None:
            self._starts, start = [], 4 + self._count * self._layout.fixed_bytes
            for field in self._layout.positions:
                sizes = _kept(self._layout, self._fixed, field.name).sum(axis=-1) * field.shape[-1]
                self._starts.append(start + np.concatenate([[0], np.cumsum(sizes)]))
                start = int(self._starts[-1][-1])
        return self._starts


def _kept(layout: Layout, rows: np.ndarray, name: str) -> np.ndarray:
    """Return which positions of rows are kept under a name, bool, (rows, positions)."""
    start, nbytes, count = layout.kept_place(name)
    bits = np.unpackbits(np.ascontiguousarray(rows[:, start : start + nbytes]), axis=-1, bitorder="little")
    return bits[:, :count].astype(bool)
