"""The most probable classes of a row as bytes: exact, or packed; and which rows of an example are kept."""

import re
from typing import NamedTuple

import tensorflow as tf

from keras_kd._internal import soft_targets
from keras_kd._internal.soft_targets import Parts
from keras_kd.cache.packed_classes import PackedClasses

#: Bits of the positions that the teacher's mask leaves in, and of those that are kept, where weights leave some out.
MASK_BITS, KEPT_BITS = "mask_bits", "kept_bits"

_PART = re.compile(r"top_([1-9][0-9]{0,9})_of_([1-9][0-9]{0,9})_in_(float16|float32|packed)")


class TopClasses(NamedTuple):
    """How the k most probable of some classes are stored.

    Attributes:
        k: how many are kept.
        classes: of how many.
        dtype: "float16" or "float32", or "packed", see `PackedClasses`.
    """

    k: int
    classes: int
    dtype: str

    @classmethod
    def named(cls, part: str) -> "TopClasses | None":
        """Return what the name of a part stands for, or None for another part."""
        found = _PART.fullmatch(part)
        return None if found is None else cls(int(found[1]), int(found[2]), found[3])

    @property
    def part(self) -> str:
        """The name of the part that holds such rows."""
        return f"top_{self.k}_of_{self.classes}_in_{self.dtype}"

    @property
    def nbytes(self) -> int:
        """The bytes of a row."""
        if self.dtype == "packed":
            return PackedClasses(self.k, self.classes).nbytes
        return sum(size * tf.as_dtype(dtype).size for size, dtype in self._columns())

    def encode(self, parts: Parts) -> tf.Tensor:
        """Return bytes of a top-k target's parts, see `soft_targets.encode`: uint8, (..., nbytes)."""
        lead = tf.shape(parts["log_probabilities"])[:-1]
        given = [parts["log_probabilities"], parts[f"indices_of_{self.classes}"]]
        given += [parts["log_tail"][..., None]] if "log_tail" in parts else []
        rows = [tf.reshape(each, [-1, each.shape[-1]]) for each in given]
        if self.dtype == "packed":
            tail = rows[2][:, 0] if len(rows) > 2 else None
            octets = PackedClasses(self.k, self.classes).encode(rows[1], rows[0], tail)
        else:
            columns = [
                (tf.bitcast(each, tf.uint8), width) for each, (width, _) in zip(rows, self._columns(), strict=True)
            ]
            octets = tf.concat([tf.reshape(each, [tf.shape(rows[0])[0], -1]) for each, _ in columns], axis=-1)
        return tf.reshape(octets, tf.concat([lead, [self.nbytes]], 0))

    def decode(self, octets: tf.Tensor) -> Parts:
        """Return the parts of rows, uint8, (rows, nbytes)."""
        if self.dtype == "packed":
            ids, logarithms, tail = PackedClasses(self.k, self.classes).decode(octets)
            ids = tf.cast(ids, soft_targets.index_type(self.classes))
        else:
            found, start = [], 0
            for width, dtype in self._columns():
                size = tf.as_dtype(dtype).size
                part = tf.reshape(octets[:, start : start + width * size], [-1, width, *([size] if size > 1 else [])])
                found.append(tf.bitcast(part, dtype))
                start += width * size
            logarithms, ids, *rest = found
            tail = rest[0][:, 0] if rest else None
        return soft_targets.of_largest(logarithms, ids, tail, self.classes)

    def without_rows(self) -> Parts:
        """Return the parts of one row that is not kept: the first k classes, all as probable."""
        even = tf.fill([1, self.k], -tf.math.log(float(self.k + 1)))
        dtype = "float32" if self.dtype == "packed" else self.dtype
        ids = tf.cast(tf.range(self.k)[None], soft_targets.index_type(self.classes))
        return soft_targets.of_largest(tf.cast(even, dtype), ids, tf.cast(even[:, 0], dtype), self.classes)

    def _columns(self) -> list[tuple[int, str]]:
        """Return how many numbers of which type stand one after the other."""
        tail = [(1, self.dtype)] if self.k < self.classes else []
        return [(self.k, self.dtype), (self.k, soft_targets.index_type(self.classes)), *tail]


def of_parts(parts: Parts, packed: bool) -> TopClasses | None:
    """Return how a target is stored row by row; None where each of its parts is stored as it is.

    A target with positions has rows of which some may not be kept; one of examples has none, and is stored as it is
    unless it is packed.
    """
    name = next((part for part in parts if part.startswith("indices_of_")), None)
    if name is None or not (packed or (len(parts[name].shape) == 3 and "log_weights" not in parts)):
        return None
    dtype = "packed" if packed else tf.as_dtype(parts["log_probabilities"].dtype).name
    return TopClasses(int(parts[name].shape[-1]), int(name.rpartition("_")[2]), dtype)


def to_bits(kept: tf.Tensor) -> tf.Tensor:
    """Return booleans, (rows, n), as bytes of 8 bits, uint8, (rows, bytes)."""
    bits = tf.pad(tf.cast(kept, tf.uint8), [[0, 0], [0, -kept.shape[-1] % 8]])
    weights = tf.constant([1 << place for place in range(8)], tf.uint8)
    return tf.reduce_sum(tf.reshape(bits, [tf.shape(kept)[0], -1, 8]) * weights, axis=-1)


def from_bits(octets: tf.Tensor, count: int) -> tf.Tensor:
    """Return booleans, (rows, count), of bytes, see `to_bits`."""
    shifted = tf.bitwise.right_shift(octets[..., None], tf.constant(list(range(8)), tf.uint8))
    bits = tf.bitwise.bitwise_and(shifted, tf.constant(1, tf.uint8))
    return tf.cast(tf.reshape(bits, [tf.shape(octets)[0], 8 * octets.shape[-1]])[:, :count], tf.bool)
