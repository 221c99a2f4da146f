"""Losses on the tokens of an example: how they are related to one another, whatever the widths of the two models.

What is compared is (batch, heads, tokens, tokens). Patches of images and cells of maps are tokens as well.
"""

import math

from keras import ops

from keras_kd._keras import masks
from keras_kd._serialization import serializable
from keras_kd._types import Tensor
from keras_kd.losses._divergences import divergence, log_probabilities


@serializable
def token_relations(student: Tensor, teacher: Tensor, heads: int = 1) -> Tensor:
    """Match how much each token of an example is related to each other one, in parts of their vectors.

    With x_a the part a of the `heads` equal parts of each vector, of width d::

        R_a = softmax(x_a x_a' / sqrt(d))                      (tokens, tokens)
        value of token t: mean_a KL(R_a of the teacher || R_a of the student) in row t

    The mean over the tokens is the paper's loss for one kind of vectors: queries, keys or values of an attention layer,
    `"attention:query"`. No token is related to one that the Keras mask of `student` leaves out; `Term` puts the mask of
    both models there.

    Args:
        student: vectors, (batch, ..., width): tokens, or the cells of maps.
        teacher: vectors, (batch, ..., width) of as many tokens; the width may differ from the student's.
        heads: parts of each vector, "relation heads"; divides both widths.

    Returns:
        Divergence in nats for each token, (batch, ...), never negative, 0 where the relations are equal.

    Raises:
        ValueError: other tokens than the teacher's, or widths that `heads` does not divide.

    Example:
        >>> token_relations(np.zeros((1, 2, 3)) + 1.0, np.zeros((1, 2, 4)) + 1.0)
        [[0. 0.]]

    Reference: Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers, 2020, arXiv 2012.15828.
    """
    _require_tokens(student, teacher, heads)
    scores = [_scores(_by_head(each, heads)) for each in (teacher, student)]
    mask = masks.of(student)
    if mask is not None:
        related = ops.reshape(ops.cast(mask, "bool"), (-1, 1, 1, ops.shape(scores[0])[-1]))
        # An example of masked tokens alone has no value, but a softmax needs a token.
        related = ops.logical_or(related, ops.logical_not(ops.any(related, axis=-1, keepdims=True)))
        scores = [ops.where(related, each, -math.inf) for each in scores]
    return ops.reshape(ops.mean(divergence(*log_probabilities(*scores)), axis=1), ops.shape(student)[:-1])


def _by_head(vectors: Tensor, heads: int) -> Tensor:
    """Return vectors as (batch, heads, tokens, width of a head)."""
    width, tokens = vectors.shape[-1], math.prod(vectors.shape[1:-1]) if None not in vectors.shape[1:-1] else -1
    split = ops.reshape(vectors, (ops.shape(vectors)[0], tokens, heads, width // heads))
    return ops.transpose(split, (0, 2, 1, 3))


def _scores(parts: Tensor) -> Tensor:
    return ops.matmul(parts, ops.swapaxes(parts, -1, -2)) / math.sqrt(parts.shape[-1])


def _require_tokens(student: Tensor, teacher: Tensor, heads: int) -> None:
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    known = [(a, b) for a, b in zip(ours[1:-1], theirs[1:-1], strict=False) if None not in (a, b)]
    if len(ours) != len(theirs) or len(ours) < 3 or any(a != b for a, b in known):
        raise ValueError(
            f"Expected vectors of the same tokens, (batch, ..., width). Received: student {ours}, teacher {theirs}."
        )
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or ours[-1] % heads or theirs[-1] % heads:
        raise ValueError(
            f"Expected `heads` to be a whole number that divides the widths {ours[-1]} and {theirs[-1]}. Received: "
            f"heads={heads!r}."
        )
