"""The reverse divergence of whole sequences, with the gradient that those which a student has written estimate.

`keras_kd.language` has its name: the gradient is not that of its value, as in `keras_kd.losses` it is.
"""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Tensor
from keras_kd.losses._divergences import label_log_probability
from keras_kd.losses.logits import reverse_kl

#: Where the logarithm of a ratio of probabilities is cut: in float32, one of the two is nothing beside the other.
_FAR = 80.0


@serializable
def sequence_reverse_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    counted: Tensor | None = None,
    advantages: Tensor | None = None,
    normalized: bool = True,
) -> Tensor:
    """Make the texts that the student writes likely under the teacher: a policy gradient, for `Term`.

    With y_1, ..., y_n the tokens that count, drawn from the student's q_t, and p_t those of the teacher::

        value of token t:  KL(q_t || p_t) = sum_k q_t(k) (log q_t(k) - log p_t(k))
        its gradient:      grad KL(q_t || p_t) - A_t grad log q_t(y_t)
        A_t = mean_{s > t} log(p_s(y_s) / q_s(y_s)),  or their sum if not `normalized`;  0 for the last token

    Over the texts that q writes, the sum of the values has the mean KL(q || p) of whole texts and, if not `normalized`,
    the sum of the gradients has the mean grad KL(q || p): a token answers for all that it leads to, where `reverse_kl`
    takes what came before a token as given. With the sum, early tokens and long texts weigh more: the paper divides it
    by the length of what is behind the token.

    The texts have to be written by the student as it is, at a temperature of 1: older ones make a biased estimate.

    Args:
        student: logits, (batch, tokens, classes); or (rows, classes) of tokens with `advantages`.
        teacher: logits of the same shape.
        labels: what was written, class ids, (batch, tokens).
        counted: False for the tokens that are not learned, (batch, tokens); `Term` gives what `sample_weight` and masks
            leave. None: all are.
        advantages: A_t, (batch, tokens), where it is known; None: it is computed.
        normalized: whether A_t is a mean.

    Returns:
        Divergence in nats, (batch, tokens), never negative.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> Term(sequence_reverse_kl, temperature=1.0, rows={"origin": 0})

    Reference: Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, 2023, arXiv 2306.08543.
    """
    values = reverse_kl(student, teacher)
    if advantages is None:
        advantages = future(token_rewards(student, teacher, labels), counted, normalized)
    log_q = label_log_probability(student, labels)
    return values - advantages * (log_q - ops.stop_gradient(log_q))


def token_rewards(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return log(p(y) / q(y)) of each label y, (...), without a gradient.

    Args:
        student: logits of q, (..., classes).
        teacher: logits of p, (..., classes).
        labels: class ids, (...).
    """
    log_p, log_q = (label_log_probability(side, labels) for side in (teacher, student))
    return ops.stop_gradient(ops.clip(log_p - log_q, -_FAR, _FAR))


def future(rewards: Tensor, counted: Tensor | None, normalized: bool = True) -> Tensor:
    """Return the sum or mean of the rewards behind each token, 0 behind the last one, (batch, tokens).

    Args:
        rewards: of the tokens, (batch, tokens).
        counted: False for those that are left out, or None.
        normalized: whether to take the mean.
    """
    if counted is not None:
        rewards = ops.where(counted, rewards, ops.zeros_like(rewards))
    total = _behind(rewards)
    if not normalized:
        return total
    counts = _behind(ops.ones_like(rewards) if counted is None else ops.cast(counted, rewards.dtype))
    return total / ops.maximum(counts, 1.0)


def _behind(values: Tensor) -> Tensor:
    """Return the sum of what is behind each value, (batch, tokens)."""
    sums = ops.flip(ops.cumsum(ops.flip(values, axis=-1), axis=-1), axis=-1)
    return ops.concatenate([sums[..., 1:], ops.zeros_like(sums[..., :1])], axis=-1)
