"""Fingerprints of examples, in the graph: by which an example is recognised as the one that the teacher saw.

FarmHash64 of an example's bytes, which is fixed for all times and machines, or 2 bytes of it. By 2 bytes, two different
examples agree by chance in 1 of 65,536 cases: a data set that is another is found at once, and of single rows that are
changed, that share is not. By all 8 bytes, none of a billion changed rows is expected to be missed.
"""

from typing import Any

import tensorflow as tf
from keras import tree

from keras_kd._keras import step_errors
from keras_kd._types import Tensors, Tree

#: The type of a fingerprint, by its bytes.
TYPES = {2: "uint16", 8: "int64"}


def fingerprints(x: Tensors, nbytes: int) -> tf.Tensor:
    """Return one number for each example of a batch, (batch,), of a type of `TYPES`."""
    leaves = [tf.fingerprint(tf.convert_to_tensor(leaf)) for leaf in tree.flatten(x) if leaf is not None]
    whole = leaves[0] if len(leaves) == 1 else tf.fingerprint(tf.concat(leaves, axis=1))
    return tf.bitcast(whole[:, :nbytes], TYPES[nbytes])


def of_rows(rows: tf.Tensor) -> tf.Tensor:
    """Return fingerprints of what is stored, uint8, (rows, row_bytes), as int32, (rows,)."""
    return tf.bitcast(tf.fingerprint(rows)[:, :4], tf.int32)


def identities(keys: tf.Tensor) -> tf.Tensor:
    """Return keys, (batch,), as int64: numbers as they are, strings by their hash."""
    if keys.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(keys, 2**63 - 1)
    return tf.cast(keys, tf.int64)


def assert_all(holds: tf.Tensor, message: list[Any], result: Tree) -> Tree:
    """Return the result, and stop with `message`, which a `Distiller` raises as a ValueError, unless all holds.

    Args:
        holds: of any shape.
        message: strings, some of which may be tensors.
        result: what is returned.
    """
    parts = [step_errors.MARK, *message, step_errors.MARK]
    marked = "".join(parts) if all(isinstance(part, str) for part in parts) else tf.strings.join(parts)
    check = tf.debugging.Assert(tf.reduce_all(holds) if holds.shape.rank else holds, [marked])
    with tf.control_dependencies([] if check is None else [check]):  # eagerly, it has raised by now
        return tf.nest.map_structure(tf.identity, result)


def check_specs(x: Tensors) -> None:
    """Refuse examples of a batch, tensors or their specs, whose fingerprints cannot be taken.

    Raises:
        ValueError: sparse or ragged inputs, or inputs of several shapes, or none at all.
    """
    present = [spec for spec in tree.flatten(x) if spec is not None]
    if not present:
        raise ValueError(f"Expected inputs, of which some may be left out. Received none: x={x!r}")
    for spec in present:
        if not isinstance(spec, (tf.TensorSpec, tf.Tensor)) or None in spec.shape:
            raise ValueError(
                f"Expected inputs of one shape in all examples. Received: {spec}. If the dataset is batched: "
                "dataset.unbatch(). Pad inputs to one length, make sparse and ragged ones dense, and set shapes that "
                "are lost in a map: tf.ensure_shape."
            )
