"""Losses on relations: how the examples of a batch are related, whatever the widths of the two spaces.

Features are (batch, ...) and are flattened to (batch, features); student and teacher may differ in everything but the
batch. What is compared is (batch, batch), so memory grows with the square of the batch, not with the features.

Masked positions are zeros on both sides: they add nothing to products and lengths, but a masked example stays in the
comparisons of the others as a zero vector; where there is one value per example, it has none in the mean.
"""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd._keras import replicas
from keras_kd._serialization import serializable
from keras_kd._types import Number, Shape, Tensor
from keras_kd.losses._shapes import require_same_shape
from keras_kd.losses.regression import huber
from keras_kd.transforms import l2_normalize

#: In the logarithm of PKT, as in the paper's code: similarities of opposite examples are 0.
_PKT_EPSILON = 1e-7

#: How many numbers decide whether two features are those of one example, and by how much they may differ, relative to
#: the length of the features: far more than by the order of float32's sums, far less than from example to example.
_KEY_WIDTH, _KEY_TOLERANCE = 3, 1e-4

#: Stands for an infinite negative similarity: differences of it are finite.
_EXCLUDED = -1e30

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
    return ops.mean(huber(_relative_distances(_flat(student)) - _relative_distances(_flat(teacher))))


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
    return _angle_error(_products(_flat(student)), ops.stop_gradient(_products(_flat(teacher))))


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
    return ops.mean(ops.square(_gram(_flat(student)) - _gram(_flat(teacher))), axis=-1)


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
    ours, theirs = _neighbours(_flat(student)), _neighbours(_flat(teacher))
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
    ours, theirs = _taylor_kernel(_flat(student), gamma, order), _taylor_kernel(_flat(teacher), gamma, order)
    return ops.mean(ops.square(ours - theirs), axis=-1)


@serializable
def contrastive(student: Tensor, teacher: Tensor, similarity_temperature: Number = 0.07) -> Tensor:
    """Tell the teacher's features of the same example from those of the rest of the batch.

    -log softmax_j(s_i . t_j / similarity_temperature)_i, with s and t of length 1. This is InfoNCE with the batch as
    negatives, for embeddings of one width; `ContrastiveMemory` has embeddings of its own and a memory bank.

    A weight counts for the example's own row: a weight of 0 takes it out of the mean, not out of
    the negatives of the others.

    Args:
        student: embeddings, (batch, ...), of the teacher's flattened width.
        teacher: embeddings, (batch, ...).
        similarity_temperature: of the similarities, above 0; it is not the temperature of the logits.

    Returns:
        Loss in nats per example, (batch,), never negative.

    Raises:
        ValueError: the flattened widths differ.

    Example:
        >>> contrastive(np.eye(2), np.eye(2), similarity_temperature=1.0)  # log(1 + 1 / e)
        [0.31326169 0.31326169]

    Reference: Tian, Krishnan and Isola, Contrastive Representation Distillation, 2019, arXiv 1910.10699; in the form of
    van den Oord et al., 2018, arXiv 1807.03748.
    """
    ours, theirs = l2_normalize(_flat(student)), l2_normalize(_flat(teacher))
    require_same_shape(ours, theirs)
    log_share = ops.log_softmax(ops.matmul(ours, ops.transpose(theirs)) / similarity_temperature, axis=-1)
    return -ops.diagonal(log_share)


@serializable
class ContrastiveMemory(keras.layers.Layer):
    """Tell the teacher's embedding of the same example from those of the batch and of a memory bank (CRD).

    -log(exp(s_i . t_i / temperature) / sum_j exp(s_i . t_j / temperature)), j over i itself and all other examples in
    the batch of all replicas and in the bank, with s and t the embeddings of length 1 that a trained dense layer makes
    on each side. The bank holds the teacher's embeddings of the last examples, first in, first out. This is InfoNCE;
    the paper has a binary loss against a bank by example, in both directions.

    A bank that is larger than the data holds example i as well, from earlier epochs. Such copies are no negatives of i
    and are left out: those whose teacher's features differ from i's by less than 1e-4 of their length. A copy that was
    augmented in another way has other features and counts as another example: there, let the bank hold less than an
    epoch.

    A weight counts for the example's own row: a weight of 0 takes it out of the mean, not out of
    the negatives of the others.

    Args:
        dimension: width of the embeddings.
        temperature: of the similarities, above 0; it is not the temperature of the logits.
        memory: how many embeddings the bank holds, at least one batch of all replicas; 0 for the batch alone.

    Raises:
        ValueError: a number out of range, or features of unknown size.

    Example:
        >>> Term(ContrastiveMemory(), at=("features", "features"), weight=0.8)

    Reference: Tian, Krishnan and Isola, Contrastive Representation Distillation, 2019, arXiv 1910.10699; with the queue
    of He et al., Momentum Contrast, 2019, arXiv 1911.05722.
    """

    def __init__(
        self, dimension: int = 128, temperature: float = 0.07, memory: int = 4096, name: str = "contrastive_memory"
    ) -> None:
        super().__init__(name=name, dtype="float32")
        if dimension < 1 or memory < 0 or not temperature > 0:
            raise ValueError(
                "Expected `dimension` of at least 1, `memory` of at least 0 and `temperature` above 0. "
                f"Received: dimension={dimension}, memory={memory}, temperature={temperature}"
            )
        self.dimension = dimension
        self.temperature = temperature
        self.memory = memory
        self.student_embedding = keras.layers.Dense(dimension, name="student_embedding")
        self.teacher_embedding = keras.layers.Dense(dimension, name="teacher_embedding")

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Create both embeddings and the bank, filled with random directions."""
        if None in (*student_shape[1:], *teacher_shape[1:]):
            raise ValueError(
                "Expected features of known size, (batch, ...): the embeddings are dense layers. Received: student "
                f"{student_shape}, teacher {teacher_shape}. Read a layer after the pooling."
            )
        self.student_embedding.build((None, math.prod(student_shape[1:])))
        self.teacher_embedding.build((None, math.prod(teacher_shape[1:])))
        if self.memory:
            # The same on every replica: what is written is gathered from all of them first.
            shared = {"trainable": False, "aggregation": "only_first_replica"}
            directions = keras.initializers.RandomNormal(stddev=self.dimension**-0.5)  # of length 1, about
            self.bank = self.add_weight(
                shape=(self.memory, self.dimension), initializer=directions, name="bank", **shared
            )
            no_example = keras.initializers.Constant(float("inf"))
            self.keys = self.add_weight(shape=(self.memory, _KEY_WIDTH), initializer=no_example, name="keys", **shared)
            self.position = self.add_weight(shape=(), dtype="int32", initializer="zeros", name="position", **shared)

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Tensor:
        """Return the loss in nats per example, (batch,); in training, remember the teacher's embeddings."""
        features = _flat(teacher)
        ours = l2_normalize(self.student_embedding(_flat(student)))
        theirs = l2_normalize(self.teacher_embedding(features))
        keys = _keys(features)
        everyone, all_keys = replicas.gather(theirs), replicas.gather(keys)
        others, their_keys = everyone, all_keys
        if self.memory:
            others = ops.concatenate([everyone, ops.convert_to_tensor(self.bank)])
            their_keys = ops.concatenate([all_keys, ops.convert_to_tensor(self.keys)])
        length = ops.norm(features, axis=-1, keepdims=True)
        copies = _within(keys, their_keys, _KEY_TOLERANCE * length)  # the example itself is one of them
        similar = ops.matmul(ours, ops.transpose(others)) / self.temperature
        negatives = ops.logsumexp(ops.where(copies, _EXCLUDED, similar), axis=-1)
        loss = ops.softplus(negatives - ops.sum(ours * theirs, axis=-1) / self.temperature)
        if self.memory and training:
            self._remember(ops.stop_gradient(everyone), all_keys)
        return loss

    def _remember(self, embeddings: Tensor, keys: Tensor) -> None:
        start, count = ops.convert_to_tensor(self.position), ops.shape(embeddings)[0]
        rows = ops.expand_dims((start + ops.arange(count, dtype="int32")) % self.memory, -1)
        self.bank.assign(ops.scatter_update(self.bank, rows, embeddings))
        self.keys.assign(ops.scatter_update(self.keys, rows, keys))
        self.position.assign((start + count) % self.memory)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"dimension": self.dimension, "temperature": self.temperature, "memory": self.memory}
        return {**own, "name": self.name}


def _flat(features: Tensor) -> Tensor:
    return ops.reshape(features, (-1, math.prod(ops.shape(features)[1:])))  # the time of a sequence may be unknown


def _keys(features: Tensor) -> Tensor:
    """Return (batch, 3) projections of features, (batch, width), on fixed random directions."""
    directions = np.random.default_rng(0).normal(size=(features.shape[-1], _KEY_WIDTH))
    return ops.matmul(ops.stop_gradient(features), ops.convert_to_tensor(directions, features.dtype))


def _within(keys: Tensor, others: Tensor, tolerance: Tensor) -> Tensor:
    """Return (batch, others): whether all numbers of two keys differ by at most the tolerance, (batch, 1)."""
    equal = [ops.abs(keys[:, number, None] - others[None, :, number]) <= tolerance for number in range(_KEY_WIDTH)]
    return functools.reduce(ops.logical_and, equal)


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
