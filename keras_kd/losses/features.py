"""Losses on feature maps: what the student's intermediate layers should learn from the teacher's.

Maps are (batch, height, width, channels). Where two maps may differ in size, the larger one is averaged down to the
smaller; docstrings name those where channels may differ; for anything else there are bridges.
"""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Shape, Tensor
from keras_kd.losses._shapes import require_maps, require_same_shape, require_stages
from keras_kd.losses.logits import kl_divergence
from keras_kd.transforms import l2_normalize

#: Keeps a trained variance away from 0, as in the paper's code.
_SMALLEST_VARIANCE = 1e-5


@serializable
def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Look where the teacher looks (AT).

    mean_i (a_s / ||a_s|| - a_t / ||a_t||)_i**2 over the positions, with a = mean over the channels of f**2. Channels
    may differ. The mean over positions, of a squared norm, is that of the paper's code and of its weights of 1000.

    Args:
        student: maps, (batch, height, width, channels).
        teacher: maps, (batch, height, width, channels), of any size and number of channels.

    Returns:
        Loss per example, (batch,), never negative, 0 for equal maps of attention.

    Raises:
        ValueError: not two maps.

    Example:
        >>> attention_transfer(np.ones((1, 4, 4, 8)), np.ones((1, 2, 2, 16)))
        [0.]

    Reference: Zagoruyko and Komodakis, Paying More Attention to Attention, 2016, arXiv 1612.03928.
    """
    student, teacher = _of_one_size(student, teacher)
    return ops.mean(ops.square(_attention(student) - _attention(teacher)), axis=-1)


@serializable
def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Match which neurons fire where, as distributions of channel maps (neuron selectivity transfer).

    mean k(t, t') + mean k(s, s') - 2 mean k(s, t) over all pairs of channels, with k(x, y) = (x . y)**2 on channel maps
    of length 1. Channels may differ.

    Args:
        student: maps, (batch, height, width, channels).
        teacher: maps, (batch, height, width, channels), of any size and number of channels.

    Returns:
        Squared maximum mean discrepancy per example, (batch,), never negative, 0 for equal sets of maps.

    Raises:
        ValueError: not two maps.

    Example:
        >>> nst(np.ones((1, 2, 2, 8)), np.ones((1, 2, 2, 16)))
        [0.]

    Reference: Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017,
    arXiv 1707.01219.
    """
    student, teacher = (l2_normalize(_channel_maps(maps)) for maps in _of_one_size(student, teacher))
    return _mean_kernel(teacher, teacher) + _mean_kernel(student, student) - 2.0 * _mean_kernel(student, teacher)


@serializable
def fsp(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Match the flow of the solution: how the channels of a first map go with those of a later one.

    mean_ij (G_s - G_t)_ij**2, with G_ij = mean over the positions of first_i * last_j. The larger of the two maps is
    averaged down to the smaller.

    Args:
        student: a pair of maps, each (batch, height, width, channels).
        teacher: a pair of maps, with the channels of the student's.

    Returns:
        Loss per example, (batch,), never negative.

    Raises:
        ValueError: not pairs of maps, or other channels.

    Example:
        >>> Term(fsp, at=(("stem", "block_1"), ("stem", "block_1")), weight=50.0)

    Reference: Yim et al., A Gift from Knowledge Distillation, CVPR 2017.
    """
    require_stages(student, teacher, number=2)
    ours, theirs = _flow(*student), _flow(*teacher)
    require_same_shape(ours, theirs)
    return ops.mean(ops.square(ours - theirs), axis=(1, 2))


@serializable
def channel_wise(student: Tensor, teacher: Tensor) -> Tensor:
    """Match where each channel is active, for dense prediction (CWD).

    mean_c KL(softmax_i t_ic || softmax_i s_ic) over the positions i. With `soften=True`, `Term` divides both sides by T
    and multiplies by T**2, as in the paper.

    Args:
        student: maps, (batch, ..., channels).
        teacher: maps, of the same shape.

    Returns:
        Divergence in nats per example, (batch,), never negative, 0 for equal maps.

    Raises:
        ValueError: the shapes differ, or there is a single position.

    Example:
        >>> Term(channel_wise, at=("head", "head"), soften=True, temperature=4.0)

    Reference: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, 2020, arXiv 2011.13256.
    """
    require_same_shape(student, teacher)
    return ops.mean(kl_divergence(_channel_maps(student), _channel_maps(teacher)), axis=-1)


@serializable
def hierarchical_pooling(student: Tensor, teacher: Tensor) -> Tensor:
    """Match maps at full size and averaged to 4x4, 2x2 and 1x1 (ReviewKD's hierarchical context loss).

    sum_l w_l * mean (pool_l(s) - pool_l(t))**2 / sum_l w_l. The weights are 1 at full size, then halved with each level
    that is smaller than the maps.

    Args:
        student: maps, (batch, height, width, channels).
        teacher: maps, of the same shape.

    Returns:
        Loss per example, (batch,), never negative, 0 for equal maps.

    Raises:
        ValueError: the shapes differ, or they are not maps.

    Example:
        >>> hierarchical_pooling(np.ones((1, 8, 8, 4)), np.zeros((1, 8, 8, 4)))
        [1.]

    Reference: Chen et al., Distilling Knowledge via Knowledge Review, 2021, arXiv 2104.09044.
    """
    require_maps(student, teacher)
    require_same_shape(student, teacher)
    difference = student - teacher
    weight, total = 1.0, 1.0
    loss = ops.mean(ops.square(difference), axis=(1, 2, 3))
    for size in (4, 2, 1):
        if size < student.shape[1]:
            weight, total = weight / 2.0, total + weight / 2.0
            loss += weight * ops.mean(ops.square(average_pool(difference, size, size)), axis=(1, 2, 3))
    return loss / total


@serializable
def review(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """Match fused stages, each by `hierarchical_pooling` (ReviewKD).

    sum over the stages of hierarchical_pooling(student_n, teacher_n).

    Args:
        student: one map per stage, each (batch, height, width, channels), as `bridges.ReviewFusion` makes them.
        teacher: one map per stage, of the same shapes.

    Returns:
        Loss per example, (batch,), never negative, 0 for equal maps.

    Raises:
        ValueError: the shapes or the numbers of stages differ, or they are not maps.

    Example:
        >>> Term(review, at=(("s1", "s2"), ("t1", "t2")), bridge=bridges.ReviewFusion(channels, sizes))

    Reference: Chen et al., Distilling Knowledge via Knowledge Review, 2021, arXiv 2104.09044.
    """
    require_stages(student, teacher)
    return functools.reduce(ops.add, map(hierarchical_pooling, student, teacher))


@serializable
def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Point in the teacher's direction, whatever the length.

    1 - cos(student, teacher) over the last axis.

    Args:
        student: features, (..., channels).
        teacher: features, (..., channels).

    Returns:
        Loss, (...), 0 to 2; 1 where either is zero.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> cosine(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))
        [1.]

    Reference: Sanh et al., DistilBERT, 2019, arXiv 1910.01108.
    """
    require_same_shape(student, teacher)
    return 1.0 - ops.sum(l2_normalize(student) * l2_normalize(teacher), axis=-1)


@serializable
class VariationalInformation(keras.layers.Layer):
    """Predict the teacher's features with a trained uncertainty for each channel (VID).

    mean_c 0.5 * ((mu - f)**2 / v + log v), with mu what the student's bridge predicts, f the teacher's features and
    v = softplus(a) + 1e-5, one per channel, trained with the student. Can be negative: log(2 pi) / 2 is left out.

    Args:
        initial_variance: v before training, above 1e-5, in units of the squared features.

    Raises:
        ValueError: `initial_variance` is not above 1e-5.

    Example:
        >>> Term(VariationalInformation(), at=("conv_2", "block_4"), bridge=keras.layers.Conv2D(64, 1))

    Reference: Ahn et al., Variational Information Distillation for Knowledge Transfer, 2019, arXiv 1904.05835.
    """

    def __init__(self, initial_variance: float = 5.0, name: str = "variational_information") -> None:
        super().__init__(name=name, dtype="float32")
        if not initial_variance > _SMALLEST_VARIANCE:
            raise ValueError(
                f"Expected `initial_variance` to be above {_SMALLEST_VARIANCE}. Received: {initial_variance!r}"
            )
        self.initial_variance = initial_variance

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Create one variance for each of the teacher's channels."""
        start = math.log(math.expm1(self.initial_variance - _SMALLEST_VARIANCE))
        initializer = keras.initializers.Constant(start)
        self.raw_variance = self.add_weight(shape=(teacher_shape[-1],), initializer=initializer, name="variance")

    def call(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, (...), for means and features of shape (..., channels)."""
        require_same_shape(student, teacher)
        variance = ops.softplus(self.raw_variance) + _SMALLEST_VARIANCE
        return 0.5 * ops.mean(ops.square(student - teacher) / variance + ops.log(variance), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"initial_variance": self.initial_variance, "name": self.name}


def average_pool(maps: Tensor, height: int, width: int) -> Tensor:
    """Average maps to another size: cell i covers floor(i H / height) up to ceil((i + 1) H / height)."""
    if maps.shape[1:3] == (height, width):
        return maps
    rows = ops.cast(_cells(maps.shape[1], height), maps.dtype)
    columns = ops.cast(_cells(maps.shape[2], width), maps.dtype)
    return ops.einsum("ih,bhwc,jw->bijc", rows, maps, columns)


def _cells(size: int, cells: int) -> np.ndarray:
    """Return the (cells, size) matrix that averages `size` values into `cells`."""
    matrix = np.zeros((cells, size))
    for cell in range(cells):
        matrix[cell, cell * size // cells : -(-(cell + 1) * size // cells)] = 1.0
    return matrix / matrix.sum(axis=1, keepdims=True)


def _of_one_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average both maps down to the smaller height and width."""
    require_maps(a, b)
    height, width = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])
    return average_pool(a, height, width), average_pool(b, height, width)


def _attention(maps: Tensor) -> Tensor:
    energy = ops.mean(ops.square(maps), axis=-1)
    return l2_normalize(ops.reshape(energy, (-1, energy.shape[1] * energy.shape[2])))


def _channel_maps(maps: Tensor) -> Tensor:
    """Return (batch, channels, positions)."""
    positions = math.prod(ops.shape(maps)[1:-1])  # heights and widths may be unknown
    return ops.transpose(ops.reshape(maps, (-1, positions, maps.shape[-1])), (0, 2, 1))


def _mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    return ops.mean(ops.square(ops.matmul(a, ops.transpose(b, (0, 2, 1)))), axis=(1, 2))


def _flow(first: Tensor, last: Tensor) -> Tensor:
    first, last = _of_one_size(first, last)
    return ops.einsum("bhwi,bhwj->bij", first, last) / (first.shape[1] * first.shape[2])
