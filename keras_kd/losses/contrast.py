"""Losses that tell an example from others by its features: in a batch, or with a memory bank (CRD).

`losses.relations` describes their features, and what masks do.
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
from keras_kd.losses._shapes import flat, require_same_shape
from keras_kd.transforms import l2_normalize

#: How many numbers decide whether two features are those of one example, and by how much they may differ, relative to
#: the length of the features: far more than by the order of float32's sums, far less than from example to example.
_KEY_WIDTH, _KEY_TOLERANCE = 3, 1e-4

#: Stands for an infinite negative similarity: differences of it are finite.
_EXCLUDED = -1e30


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
    ours, theirs = l2_normalize(flat(student)), l2_normalize(flat(teacher))
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
        features = flat(teacher)
        ours = l2_normalize(self.student_embedding(flat(student)))
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


def _keys(features: Tensor) -> Tensor:
    """Return (batch, 3) projections of features, (batch, width), on fixed random directions."""
    directions = np.random.default_rng(0).normal(size=(features.shape[-1], _KEY_WIDTH))
    return ops.matmul(ops.stop_gradient(features), ops.convert_to_tensor(directions, features.dtype))


def _within(keys: Tensor, others: Tensor, tolerance: Tensor) -> Tensor:
    """Return (batch, others): whether all numbers of two keys differ by at most the tolerance, (batch, 1)."""
    equal = [ops.abs(keys[:, number, None] - others[None, :, number]) <= tolerance for number in range(_KEY_WIDTH)]
    return functools.reduce(ops.logical_and, equal)
