"""How the targets of one example become bytes, and come back.

A row holds its fields one after the other, each as the bytes of its numbers: no names, no lengths, nothing to parse.
What the fields are is stored once, in the manifest. Positions of top-k targets, of which some may not be kept, are the
last: `records` leaves those out.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal.soft_targets import Parts
from keras_kd.cache import row_fingerprints, top_classes
from keras_kd.cache.top_classes import KEPT_BITS, MASK_BITS, TopClasses

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
        selected = {field.name for field in fields if field.part in (MASK_BITS, KEPT_BITS)}
        self.positions = [field for field in fields if TopClasses.named(field.part) and field.name in selected]
        self.fixed_bytes = self.row_bytes - sum(field.nbytes for field in self.positions)

    @classmethod
    def of(
        cls,
        targets: dict[str, Parts],
        keyed: bool,
        check_bytes: int,
        packed: bool = False,
        weights: int | None = None,
    ) -> "Layout":
        """Return the layout of rows.

        Args:
            targets: the targets of a batch, see `soft_targets.encode`, as tensors or their specs, (batch, ...) each.
            keyed: whether examples have keys.
            check_bytes: see `TeacherCache`.
            packed: whether top-k targets are.
            weights: how many weights an example has, one for each of its positions; None for none.

        Raises:
            ValueError: a teacher whose output for an example has no fixed size.
        """
        own = [Field("", CHECK, row_fingerprints.TYPES[check_bytes], ())] + (
            [Field("", KEY, "int64", ())] if keyed else []
        )
        theirs: list[Field] = []
        for name, parts in targets.items():
            top = top_classes.of_parts(parts, packed)
            if top is not None:
                theirs += _fields_of_top(name, parts, top, weights)
            for part, tensor in _stored_alone(parts, top).items():
                shape = tuple(tensor.shape[1:])
                if None in shape:
                    raise ValueError(
                        f"Expected a teacher whose {name!r} has one shape for all examples. Received: {shape}. Pad the "
                        "examples to one length, or run the teacher live."
                    )
                theirs.append(Field(name, part, tf.as_dtype(tensor.dtype).name, shape))
        layout = cls(own + theirs)
        return cls([field for field in layout.fields if field not in layout.positions] + layout.positions)

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

    def pack(
        self, targets: dict[str, Parts], check: tf.Tensor, key: tf.Tensor | None, weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return the rows of a batch, uint8, (batch, row_bytes)."""
        own = {CHECK: check, KEY: key}
        rows = tf.shape(check)[0]
        columns = []
        for field in self.fields:
            values = self._packed(field, targets[field.name], weights) if field.name else own[field.part]
            values = tf.cast(values, tf.uint8) if field.dtype == "bool" else values
            columns.append(tf.reshape(tf.bitcast(values, tf.uint8), [rows, field.nbytes]))
        return tf.concat(columns, axis=1)

    def unpack(self, rows: tf.Tensor) -> tuple[dict[str, Parts], tf.Tensor, tf.Tensor | None]:
        """Return targets, checks and keys of rows, uint8, (batch, row_bytes).

        A target of which weights have left positions out has a part "kept", (batch, positions), beside its own.
        """
        targets, check, key = self._named(tf.split(rows, [field.nbytes for field in self.fields], axis=1), _from_bytes)
        return {name: self._unpacked(parts) for name, parts in targets.items()}, check, key

    def unpack_arrays(self, rows: np.ndarray) -> tuple[dict[str, Parts], np.ndarray, np.ndarray | None]:
        """Return the same of NumPy rows, which may be mapped from a file."""
        if any(TopClasses.named(field.part) for field in self.fields):
            with tf.device("CPU:0"):
                return tree.map_structure(
                    lambda part: None if part is None else part.numpy(), self.unpack(tf.constant(rows))
                )
        ends = np.cumsum([field.nbytes for field in self.fields])
        return self._named(np.split(rows, ends[:-1], axis=1), _array_from_bytes)

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Return the keys of NumPy rows, int64, (rows,)."""
        start, field = self._place("", KEY)
        return _array_from_bytes(rows[:, start : start + field.nbytes], field)

    def kept_place(self, name: str) -> tuple[int, int, int]:
        """Return where a row has the bits of the positions that are kept under a name, and how many these are.

        Returns:
            The first byte, the number of bytes, the number of positions.
        """
        parts = {field.part for field in self.fields if field.name == name}
        start, field = self._place(name, KEPT_BITS if KEPT_BITS in parts else MASK_BITS)
        return start, field.nbytes, next(each.shape[0] for each in self.positions if each.name == name)

    def kept(self, rows: tf.Tensor, name: str) -> tf.Tensor:
        """Return which positions of rows are kept under a name, bool, (rows, positions)."""
        start, nbytes, count = self.kept_place(name)
        return top_classes.from_bits(rows[:, start : start + nbytes], count)

    def _place(self, name: str, part: str) -> tuple[int, Field]:
        start = 0
        for field in self.fields:
            if (field.name, field.part) == (name, part):
                return start, field
            start += field.nbytes
        raise KeyError(part)

    @staticmethod
    def _packed(field: Field, parts: Parts, weights: tf.Tensor | None) -> tf.Tensor:
        top = TopClasses.named(field.part)
        if top is not None:
            return top.encode(parts)
        if field.part == MASK_BITS:
            return top_classes.to_bits(parts["mask"])
        if field.part == KEPT_BITS:
            counts = tf.not_equal(weights, 0)
            return top_classes.to_bits(tf.logical_and(counts, parts["mask"]) if "mask" in parts else counts)
        return parts[field.part]

    @staticmethod
    def _unpacked(stored: Parts) -> Parts:
        """Return the parts of a target, of which some may be stored row by row."""
        top = next(filter(None, map(TopClasses.named, stored)), None)
        if top is None:
            return stored
        octets = stored[top.part]
        count = octets.shape[1]
        parts = {
            name: top_classes.from_bits(stored[bits], count)
            for name, bits in (("mask", MASK_BITS), ("kept", KEPT_BITS))
            if bits in stored
        }
        kept = parts.get("kept", parts.get("mask"))
        others = {part: each for part, each in stored.items() if part not in (top.part, MASK_BITS, KEPT_BITS)}
        lead = tf.shape(octets)[:-1]
        rows = tf.reshape(octets, [-1, top.nbytes]) if kept is None else tf.boolean_mask(octets, kept)
        found = top.decode(rows)
        if kept is None:
            whole = {part: _reshaped(each, lead, octets.shape) for part, each in found.items()}
        else:
            filler, places = top.without_rows(), tf.where(kept)
            whole = {part: _put_back(each, places, filler[part], kept) for part, each in found.items()}
        return {**others, **parts, **whole}

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


def _fields_of_top(name: str, parts: Parts, top: TopClasses, weights: int | None) -> list[Field]:
    """Return the fields of a top-k target that is stored row by row."""
    lead = tuple(parts["log_probabilities"].shape[1:-1])
    if None in lead:
        raise ValueError(
            f"Expected a teacher whose {name!r} has one shape for all examples. Received: {(*lead, top.classes)}. Pad "
            "the examples to one length, or run the teacher live."
        )
    selects = len(lead) == 1 and "log_weights" not in parts
    bits = [MASK_BITS] * (selects and "mask" in parts) + [KEPT_BITS] * (selects and weights in lead)
    fields = [Field(name, part, "uint8", (-(-lead[0] // 8),)) for part in bits]
    return [*fields, Field(name, top.part, "uint8", (*lead, top.nbytes))]


def _stored_alone(parts: Parts, top: TopClasses | None) -> Parts:
    """Return the parts of a target that are stored as they are."""
    if top is None:
        return parts
    return {
        name: each for name, each in parts.items() if name == "log_weights" or (name == "mask" and _keeps_mask(parts))
    }


def _keeps_mask(parts: Parts) -> bool:
    """Return whether the mask of a top-k target is no mask of its positions."""
    return len(parts["log_probabilities"].shape) != 3 or "log_weights" in parts


def _reshaped(part: tf.Tensor, lead: tf.Tensor, shape: Any) -> tf.Tensor:
    whole = tf.reshape(part, tf.concat([lead, tf.shape(part)[1:]], 0))
    whole.set_shape([*shape[:-1], *part.shape[1:]])
    return whole


def _put_back(part: tf.Tensor, places: tf.Tensor, filler: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    """Return rows in their places among all positions, and the filler in the place of those that are not kept."""
    shape = tf.concat([tf.shape(kept), tf.shape(part)[1:]], 0)
    whole = tf.broadcast_to(filler[None], shape) if len(part.shape) > 1 else tf.fill(shape, filler[0])
    whole = tf.tensor_scatter_nd_update(whole, places, part)
    whole.set_shape([*kept.shape, *part.shape[1:]])
    return whole


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
