"""Divergences of distributions that are given by their logarithms, class by class, with gradients found by hand.

What TensorFlow finds by itself is right as well, and takes twice the time: a tensor of the logits' size for each
operation. Some would also overflow where the value does not.
"""

from typing import Any

from keras import ops

from keras_kd._types import Tensor
from keras_kd.losses._shapes import require_labels

#: Takes a class out of a softmax: the probability it leaves is exactly 0, and differences of it are finite.
_REMOVED = -1e30

#: Where the logarithm of a ratio of probabilities is cut: in float32, one of the two is nothing beside the other.
_FAR = 80.0

#: A smaller share in a mixture would be nothing beside 1 in float32.
_SMALLEST_SHARE = 2e-7


def log_probabilities(*logits: Tensor) -> list[Tensor]:
    return [ops.log_softmax(each, axis=-1) for each in logits]


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) over the last axis, of distributions given by their logarithms."""
    return ops.sum(_excess(log_p, log_q), axis=-1)


@ops.custom_gradient
def _excess(log_p: Tensor, log_q: Tensor) -> Any:
    """Return p * (log p - log q) + q - p: what one class adds to the divergence, never negative.

    Over all classes q - p adds nothing. With it, no small divergence is the difference of large numbers: at T = 20,
    p * (log p - log q) alone is off by 1e-4 in float32, times T**2. The gradients, -p * (log q - log p) and q - p, are
    in the forward pass already: found by TensorFlow, they are 20 small operations more.
    """
    p, q, ratio = ops.exp(log_p), ops.exp(log_q), log_q - log_p
    near = ops.abs(ratio) < 1.0
    small = ops.where(near, ratio, 0.0)  # expm1 of a large one is infinite, and its gradient NaN, chosen or not
    difference = ops.where(near, p * ops.expm1(small), q - p)
    return difference - p * ratio, lambda upstream: (-upstream * p * ratio, upstream * difference)


@ops.custom_gradient
def binary_divergence(teacher: Tensor, student: Tensor) -> Any:
    """Return the sum of p (log p - log q) + (1 - p) (log(1 - p) - log(1 - q)) over the last axis, of sigmoids.

    Each is softplus(b) - softplus(a) - p (b - a), for logits a and b, and the same for -a and -b: the side on which the
    teacher is not above one half is exact where p rounds to 1. There, with g = (1 - p) / (1 - q) - 1, it is
    log(1 + g) - p (b - a), and q - p = (1 - p) g / (1 + g). Near 0, g = p expm1(b - a) has no cancellation; far from
    it, g = (1 - p) exp(b) - p is no product of nothing and infinity.
    """
    sign = 1.0 - 2.0 * ops.cast(teacher > 0, teacher.dtype)
    low, high = sign * teacher, sign * student
    ratio = high - low
    p = ops.sigmoid(low)
    rest = 1.0 - p
    capped = ops.minimum(high, _FAR)
    # What is not chosen may be infinite or NaN: no gradient is found through it.
    growth = ops.where(ratio < 1.0, p * ops.expm1(ratio), rest * ops.exp(capped) - p)
    value = ops.log1p(growth) - p * ratio + (high - capped)

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        signed = ops.expand_dims(upstream, -1) * sign
        return -signed * p * rest * ratio, signed * (rest * growth / (1.0 + growth))

    return ops.sum(value, axis=-1), gradient


def mixed_excess(share: float) -> Any:
    """Return a function of log p and log q: `_excess` of p over m = share * p + (1 - share) * q.

    With r = m / p it is p * (r - 1 - log r). The gradients, found by hand as those of `_excess`, are
    p * (share * (r - 1) / r - log r) and p * ((r - 1) - share * (r - 1) / r).
    """

    @ops.custom_gradient
    def excess(log_p: Tensor, log_q: Tensor) -> Any:
        # A p that is nothing beside q may as well be a little more of nothing: their ratio stays a number.
        log_p = ops.maximum(log_p, log_q - _FAR)
        ratio = share + (1 - share) * ops.exp(log_q - log_p)
        p = ops.exp(log_p)
        difference, doubt = p * (ratio - 1.0), p * ops.log(ratio)

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            shared = share * (difference / ratio)
            return upstream * (shared - doubt), upstream * (difference - shared)

        return difference - doubt, gradient

    return excess


def mixed_both_ways(share: float) -> Any:
    """Return a function of log p and log q: share * p * log(p / m) + (1 - share) * q * log(q / m), by class.

    m is share * p + (1 - share) * q. The gradients are the two products: what else there is adds up to 0.
    """

    @ops.custom_gradient
    def both(log_p: Tensor, log_q: Tensor) -> Any:
        ratio = ops.clip(log_q - log_p, -_FAR, _FAR)
        to_mixture = ops.log1p((1 - max(share, _SMALLEST_SHARE)) * ops.expm1(ratio))
        teacher = -share * ops.exp(log_p) * to_mixture
        student = (1 - share) * ops.exp(log_q) * (ratio - to_mixture)
        return teacher + student, lambda upstream: (upstream * teacher, upstream * student)

    return both


def label_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log softmax(logits)[label], (...), for class ids, (...) or (..., 1), or one-hot labels, (..., classes)."""
    return _at(ops.log_softmax(logits, axis=-1), class_ids(labels, logits))


def class_ids(labels: Tensor, logits: Tensor) -> Tensor:
    """Return class ids, (...), of class ids or one-hot labels for `logits`."""
    require_labels(labels, logits)
    rank = len(logits.shape)
    if len(labels.shape) == rank and labels.shape[-1] != 1:
        labels = ops.argmax(labels, axis=-1)
    elif len(labels.shape) == rank:
        labels = ops.squeeze(labels, axis=-1)
    return ops.cast(labels, "int32")


def target_and_others(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's logit against all other classes together, (...), and the others' log-probabilities.

    The gradient is by hand: found by TensorFlow, it is a tensor of the logits' size for each number that is looked up.
    """
    is_target = ops.equal(ops.expand_dims(ids, -1), ops.arange(logits.shape[-1], dtype="int32"))

    @ops.custom_gradient
    def split(logits: Tensor) -> Any:
        others = ops.log_softmax(ops.where(is_target, ops.cast(_REMOVED, logits.dtype), logits), axis=-1)
        another = ops.cast(ops.equal(ids, 0), "int32")  # any of the others tells what they sum to
        target = _at(logits, ids) - (_at(logits, another) - _at(others, another))

        def gradient(of_target: Tensor, of_others: Tensor) -> Tensor:
            of_target = ops.expand_dims(of_target, -1)
            shared = of_target + ops.sum(of_others, axis=-1, keepdims=True)
            return ops.where(is_target, of_target, of_others - ops.exp(others) * shared)

        return (target, others), gradient

    return split(logits)


def _at(values: Tensor, ids: Tensor) -> Tensor:
    """Return the value of one class for each distribution; for an id that is no class, some other's."""
    ids = ops.clip(ids, 0, values.shape[-1] - 1)
    return ops.squeeze(ops.take_along_axis(values, ops.expand_dims(ids, -1), axis=-1), axis=-1)
