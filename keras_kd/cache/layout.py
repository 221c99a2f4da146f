"""How the targets of one example become bytes, and come back.

A row holds its fields one after the other, each as the bytes of its numbers: no names, no lengths, nothing to parse.
What the fields are is stored once, in the manifest.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd._internal.soft_targets import Parts
from keras_kd.cache import row_fingerprints

#: Rows begin with a fingerprint of what the teacher saw, to be compared with what the student is about to see.
CHECK = "check"
#: In a cache that is joined by key, the key of the example follows.
KEY = "key"


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a row.

    Attributes:
        name: what a term reads, as "logits"; empty for the cache's own fields.
        part: see `keras_kd._internal.soft_targets`.
        dtype: name of a NumPy type.
        shape: of one example's array.
    """

    name: str
    part: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of one example's array."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


class Layout:
    """The fields of a row.

    Args:
        fields: in their order.
    """

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self.row_bytes = sum(field.nbytes for field in fields)

    @classmethod
    def of(cls, targets: dict[str, Parts], keyed: bool, check_bytes: int) -> "Layout":
        """Return the layout of rows.

        Args:
            targets: the targets of a batch, see `soft_targets.encode`, as tensors or their specs, (batch, ...) each.
            keyed: whether examples have keys.
            check_bytes: see `TeacherCache`.

        Raises:
            ValueError: a teacher whose output for an example has no fixed size.
        """
        own = [Field("", CHECK, row_fingerprints.TYPES[check_bytes], ())] + (
            [Field("", KEY, "int64", ())] if keyed else []
        )
        theirs = []
        for name, parts in targets.items():
            for part, tensor in parts.items():
                shape = tuple(tensor.shape[1:])
                if None in shape:
                    raise ValueError(
                        f"Expected a teacher whose {name!r} has one shape for all examples. Received: {shape}. Pad the "
                        "examples to one length, or run the teacher live."
                    )
                theirs.append(Field(name, part, tf.as_dtype(tensor.dtype).name, shape))
        return cls(own + theirs)

    @classmethod
    def from_config(cls, config: list[dict[str, Any]]) -> "Layout":
        """Make a layout from `get_config`'s list."""
        return cls([Field(**{**field, "shape": tuple(field["shape"])}) for field in config])

    def get_config(self) -> list[dict[str, Any]]:
        """Return the fields as plain values."""
        return [{**dataclasses.asdict(field), "shape": list(field.shape)} for field in self.fields]

    @property
    def check_bytes(self) -> int:
        """The bytes of the fingerprint of an example."""
        return next(field.nbytes for field in self.fields if not field.name and field.part == CHECK)

    def pack(self, targets: dict[str, Parts], check: tf.Tensor, key: tf.Tensor | None) -> tf.Tensor:
        """Return the rows of a batch, uint8, (batch, row_bytes)."""
        own = {CHECK: check, KEY: key}
        rows = tf.shape(check)[0]
        columns = []
        for field in self.fields:
            values = targets[field.name][field.part] if field.name else own[field.part]
            values = tf.cast(values, tf.uint8) if field.dtype == "bool" else values
            columns.append(tf.reshape(tf.bitcast(values, tf.uint8), [rows, field.nbytes]))
        return tf.concat(columns, axis=1)

    def unpack(self, rows: tf.Tensor) -> tuple[dict[str, Parts], tf.Tensor, tf.Tensor | None]:
        """Return targets, checks and keys of rows, uint8, (batch, row_bytes)."""
        return self._named(tf.split(rows, [field.nbytes for field in self.fields], axis=1), _from_bytes)

    def unpack_arrays(self, rows: np.ndarray) -> tuple[dict[str, Parts], np.ndarray, np.ndarray | None]:
        """Return the same of NumPy rows, which may be mapped from a file."""
        ends = np.cumsum([field.nbytes for field in self.fields])
        return self._named(np.split(rows, ends[:-1], axis=1), _array_from_bytes)

    def _named(self, columns: list[Any], convert: Any) -> tuple[dict[str, Parts], Any, Any]:
        targets: dict[str, Parts] = {}
        own: dict[str, Any] = {KEY: None}
        for field, octets in zip(self.fields, columns, strict=True):
            values = convert(octets, field)
            if field.name:
                targets.setdefault(field.name, {})[field.part] = values
            else:
                own[field.part] = values
        return targets, own[CHECK], own[KEY]


def _from_bytes(columns: tf.Tensor, field: Field) -> tf.Tensor:
    # These operations are few, as tf.data compiles them anew for each pass, before its first example.
    if field.dtype == "bool":
        return tf.reshape(tf.cast(columns, tf.bool), [-1, *field.shape])
    dtype = tf.as_dtype(field.dtype)
    octets = [dtype.size] if dtype.size > 1 else []
    return tf.bitcast(tf.reshape(columns, [-1, *field.shape, *octets]), dtype)


def _array_from_bytes(columns: np.ndarray, field: Field) -> np.ndarray:
    values = np.ascontiguousarray(columns).view(np.dtype(field.dtype))
    return values.reshape(len(columns), *field.shape)
