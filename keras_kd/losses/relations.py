"""Losses on relations: how the examples of a batch are related, whatever the widths of the two spaces.

Features are (batch, ...) and are flattened to (batch, features); student and teacher may differ in everything but the
batch. What is compared is (batch, batch), so memory grows with the square of the batch, not with the features.

Masked positions are zeros on both sides: they add nothing to products and lengths, but a masked example stays in the
comparisons of the others as a zero vector; where there is one value per example, it has none in the mean.
"""

import math

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._shapes import flat
from keras_kd.transforms import l2_normalize

#: In the logarithm of PKT, as in the paper's code: similarities of opposite examples are 0.
_PKT_EPSILON = 1e-7


@serializable
def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Match how similar the examples of a batch are to one another (SP).

    Row i compares example i with the whole batch: mean_j (G_s - G_t)_ij**2, with G the row-normalised Gram matrix of
    the flattened features. The mean over the rows is the paper's loss.

    A weight counts for the example's own row: a weight of 0 takes it out of the mean, not out of the
    comparisons of the others.

    Args:
        student: features, (batch, ...), any trailing shape.
        teacher: features, (batch, ...); the trailing shape may differ from the student's.

    Returns:
        Loss per example, (batch,), never negative, 0 where the similarities are equal.

    Example:
        >>> similarity_preserving(np.eye(2), 3.0 * np.eye(2))
        [0. 0.]

    Reference: Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019, arXiv 1907.09682.
    """
    return ops.mean(ops.square(_gram(flat(student)) - _gram(flat(teacher))), axis=-1)


@serializable
def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Match the probability with which each example picks each other one as its neighbour (PKT).

    Row i is mean_j t_ij log((t_ij + e) / (s_ij + e)), with s and t the row-normalised (cosine + 1) / 2 and e = 1e-7.
    The mean over the rows is that of the paper's code, and of its weight of 30000.

    A weight counts for the example's own row: a weight of 0 takes it out of the mean, not out of the
    comparisons of the others.

    Args:
        student: features, (batch, ...), any trailing shape.
        teacher: features, (batch, ...); the trailing shape may differ from the student's.

    Returns:
        Loss per example, (batch,), not below -1e-7, 0 where the similarities are equal.

    Example:
        >>> pkt(np.eye(2), 3.0 * np.eye(2))
        [0. 0.]

    Reference: Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, 2018,
    arXiv 1803.10837.
    """
    ours, theirs = _neighbours(flat(student)), _neighbours(flat(teacher))
    return ops.mean(theirs * (ops.log(theirs + _PKT_EPSILON) - ops.log(ours + _PKT_EPSILON)), axis=-1)


@serializable
def correlation_congruence(student: Tensor, teacher: Tensor, gamma: Number = 0.4, order: int = 2) -> Tensor:
    """Match the Gaussian similarities of the examples of a batch (CC).

    Row i is mean_j (K_s - K_t)_ij**2, with K the Taylor series, up to `order`, of exp(-gamma * ||x - y||**2) for
    features of length 1: exp(-2 gamma) * sum_n (2 gamma)**n / n! * (x . y)**n.

    A weight counts for the example's own row: a weight of 0 takes it out of the mean, not out of the
    comparisons of the others.

    Args:
        student: features, (batch, ...), any trailing shape.
        teacher: features, (batch, ...); the trailing shape may differ from the student's.
        gamma: width of the kernel, above 0, per squared length.
        order: last power of the series, at least 1.

    Returns:
        Loss per example, (batch,), never negative, 0 where the similarities are equal.

    Example:
        >>> correlation_congruence(np.eye(2), 3.0 * np.eye(2))
        [0. 0.]

    Reference: Peng et al., Correlation Congruence for Knowledge Distillation, 2019, arXiv 1904.01802.
    """
    ours, theirs = _taylor_kernel(flat(student), gamma, order), _taylor_kernel(flat(teacher), gamma, order)
    return ops.mean(ops.square(ours - theirs), axis=-1)


def _gram(x: Tensor) -> Tensor:
    return l2_normalize(ops.matmul(x, ops.transpose(x)))


def _neighbours(x: Tensor) -> Tensor:
    x = l2_normalize(x)
    similarity = ops.maximum((ops.matmul(x, ops.transpose(x)) + 1.0) / 2.0, 0.0)  # rounding goes below
    return similarity / ops.sum(similarity, axis=-1, keepdims=True)


def _taylor_kernel(x: Tensor, gamma: Number, order: int) -> Tensor:
    x = l2_normalize(x)
    products = ops.matmul(x, ops.transpose(x))
    power = series = ops.ones_like(products)  # by multiplication: the gradient of x**0 is NaN at 0
    for n in range(1, order + 1):
        power = power * products * (2.0 * gamma / n)
        series = series + power
    return (ops.exp(-2.0 * gamma) if ops.is_tensor(gamma) else math.exp(-2.0 * gamma)) * series
