"""Losses on the distances and the angles between the examples of a batch (RKD), and how they are found from products.

`losses.relations` describes their features, and what masks do.
"""

from typing import Any

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Tensor
from keras_kd.losses._shapes import flat
from keras_kd.losses.regression import huber

#: Squared distance, relative to the squared lengths, below which two examples coincide: float32's rounding.
_COINCIDE = 1e-6


@serializable
def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Match the distances between examples, as multiples of their mean (RKD-D).

    mean_ij huber(d_s_ij / mean(d_s) - d_t_ij / mean(d_t)), with d the Euclidean distances; the mean distance is over
    pairs i != j, the loss over all batch**2 entries, as in the paper's code. Defined for the whole batch: weights do
    not apply.

    Args:
        student: features, (batch, ...), any trailing shape, at least two examples to learn anything.
        teacher: features, (batch, ...); the trailing shape may differ from the student's.

    Returns:
        Loss, a scalar, never negative, 0 where the distances are proportional; 0 for one example.

    Example:
        >>> rkd_distance(np.array([[0.0], [1.0], [3.0]]), np.array([[0.0, 0.0], [0.0, 2.0], [0.0, 6.0]]))
        0.

    Reference: Park et al., Relational Knowledge Distillation, 2019, arXiv 1904.05068.
    """
    return ops.mean(huber(_relative_distances(flat(student)) - _relative_distances(flat(teacher))))


@serializable
def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Match the angles between all triples of examples (RKD-A).

    mean_ijk huber(cos_s - cos_t), with cos the cosine of the angle at example j between i and k; over batch**3 entries,
    as in the paper's code. Time grows with the cube of the batch, memory with its square: one vertex at a time is
    computed, with its gradient, which reaches the student only. Defined for the whole batch: weights do not apply.

    Args:
        student: features, (batch, ...), any trailing shape, at least three examples to learn anything.
        teacher: features, (batch, ...); the trailing shape may differ from the student's.

    Returns:
        Loss, a scalar, never negative, 0 where the angles are equal; 0 for one or two examples.

    Example:
        >>> rkd_angle(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]]))
        0.

    Reference: Park et al., Relational Knowledge Distillation, 2019, arXiv 1904.05068.
    """
    return _angle_error(_products(flat(student)), ops.stop_gradient(_products(flat(teacher))))


def _products(x: Tensor) -> Tensor:
    """Return (batch, batch) inner products of the centred features: distances and angles follow from them."""
    x = x - ops.mean(x, axis=0, keepdims=True)
    return ops.matmul(x, ops.transpose(x))


def _distances(x: Tensor) -> Tensor:
    """Return (batch, batch) Euclidean distances; 0, with a gradient of 0, between examples that coincide."""
    products = _products(x)
    lengths = ops.diagonal(products)
    pair = ops.expand_dims(lengths, 0) + ops.expand_dims(lengths, 1)
    squared = pair - 2.0 * products
    apart = squared > _COINCIDE * pair
    return ops.where(apart, ops.sqrt(ops.where(apart, squared, 1.0)), 0.0)


def _relative_distances(x: Tensor) -> Tensor:
    distances = _distances(x)
    batch = ops.cast(ops.shape(x)[0], distances.dtype)
    mean = ops.sum(distances) / ops.maximum(batch * (batch - 1.0), 1.0)
    return distances / ops.where(mean > 0, mean, ops.ones_like(mean))


@ops.custom_gradient
def _angle_error(ours: Tensor, theirs: Tensor) -> Any:
    """Return the mean error of all angles, from both sides' inner products, (batch, batch).

    A gradient found by TensorFlow would keep batch**3 values. That of a scalar can be gathered on the way forward.
    """
    batch = ops.shape(ours)[0]

    def add_vertex(j: Tensor, error: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at_j, change = _error_at(ours, theirs, j)
        return j + 1, error + at_j, gradient + change

    start = (ops.zeros((), "int32"), ops.zeros((), ours.dtype), ops.zeros_like(ours))
    _, error, gradient = ops.while_loop(lambda j, *_: j < batch, add_vertex, start)
    share = 1.0 / ops.cast(batch, ours.dtype)
    return error * share, lambda upstream: (upstream * share * gradient, ops.zeros_like(theirs))


def _error_at(ours: Tensor, theirs: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean error of the angles at example j, and its gradient, (batch, batch), by `ours`.

    With n_i = |u_i|**-1 and c_ik = (u_i . u_k) n_i n_k: dc_ik = n_i n_k d(u_i . u_k) - c_ik (n_i**2 d|u_i|**2 + n_k**2
    d|u_k|**2) / 2. Both u_i . u_k and |u_i|**2 are sums of inner products of x, see `_angles`.
    """
    cosines, inverse = _angles(ours, j)
    error = cosines - _angles(theirs, j)[0]
    slope = ops.clip(error, -1.0, 1.0) / ops.cast(ops.size(error), error.dtype)
    inner = slope * ops.expand_dims(inverse, 0) * ops.expand_dims(inverse, 1)
    squared = -ops.square(inverse) * ops.sum(slope * cosines, axis=-1)
    row = -2.0 * (ops.sum(inner, axis=-1) + squared)
    own = ops.sum(inner) + ops.sum(squared)
    corner = ops.cast(ops.equal(ops.arange(ops.shape(ours)[0], dtype="int32"), j), ours.dtype)
    return ops.mean(huber(error)), inner + ops.diag(squared + own * corner) + ops.expand_dims(row, 1) * corner


def _angles(products: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Return (batch, batch) cosines of the angles at example j, and (batch,) inverse distances to it; 0 where equal.

    With u_i = x_i - x_j: u_i . u_k = x_i . x_k - x_i . x_j - x_k . x_j + x_j . x_j.

    Args:
        products: x_i . x_k, (batch, batch).
        j: the example at the vertex.
    """
    row, lengths = ops.take(products, j, axis=0), ops.diagonal(products)
    own = ops.take(row, j)
    squared = lengths - 2.0 * row + own
    apart = squared > _COINCIDE * (lengths + own)
    inverse = ops.where(apart, ops.rsqrt(ops.where(apart, squared, 1.0)), 0.0)
    inner = products - ops.expand_dims(row, 0) - ops.expand_dims(row, 1) + own
    return inner * ops.expand_dims(inverse, 0) * ops.expand_dims(inverse, 1), inverse
