"""Fingerprints of examples, in the graph: what tells that an example is the one that the teacher saw.

16 bits of FarmHash64 of an example's bytes, which is fixed for all times and machines. Two different examples agree by
chance in 1 of 65,536 cases: one that is changed, moved, or augmented otherwise is found with that certainty each, and a
whole data set at once.
"""

from typing import Any

import tensorflow as tf
from keras import tree

from keras_kd import distribution
from keras_kd._types import Tensors


def fingerprints(x: Tensors) -> tf.Tensor:
    """Return one uint16 for each example of a batch, (batch,)."""
    leaves = [tf.fingerprint(tf.convert_to_tensor(leaf)) for leaf in tree.flatten(x)]
    whole = leaves[0] if len(leaves) == 1 else tf.fingerprint(tf.concat(leaves, axis=1))
    return tf.bitcast(whole[:, :2], tf.uint16)


def identities(keys: tf.Tensor) -> tf.Tensor:
    """Return keys, (batch,), as int64: numbers as they are, strings by their hash."""
    if keys.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(keys, 2**63 - 1)
    return tf.cast(keys, tf.int64)


def insist(holds: tf.Tensor, message: list[Any], result: Tensors) -> Tensors:
    """Return the result, and stop with `message`, which a `Distiller` raises as a ValueError, unless all holds.

    Args:
        holds: of any shape.
        message: strings, some of which may be tensors.
        result: what is returned.
    """
    parts = [distribution.MARK, *message, distribution.MARK]
    marked = "".join(parts) if all(isinstance(part, str) for part in parts) else tf.strings.join(parts)
    check = tf.debugging.Assert(tf.reduce_all(holds) if holds.shape.rank else holds, [marked])
    with tf.control_dependencies([] if check is None else [check]):  # eagerly, it has raised by now
        return tf.nest.map_structure(tf.identity, result)


def check_specs(x: Tensors) -> None:
    """Refuse examples of a batch, tensors or their specs, whose fingerprints cannot be taken.

    Raises:
        ValueError: sparse or ragged inputs, or inputs of several shapes.
    """
    for spec in tree.flatten(x):
        if not isinstance(spec, (tf.TensorSpec, tf.Tensor)) or None in spec.shape:
            raise ValueError(
                f"Expected inputs of one shape in all examples. Received: {spec}. If the dataset is batched: "
                "dataset.unbatch(). Pad inputs to one length, make sparse and ragged ones dense, and set shapes that "
                "are lost in a map: tf.ensure_shape."
            )
