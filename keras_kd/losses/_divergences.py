"""Divergences of distributions that are given by their logarithms, class by class, with gradients found by hand.

What TensorFlow finds by itself is right as well, and takes twice the time: a tensor of the logits' size for each
operation. Some would also overflow where the value does not.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_kd._types import Number, Tensor
from keras_kd.losses._shapes import require_labels

#: The logarithm of a probability that is exactly 0: of a class whose logit is -inf, or that is taken out of a softmax.
#: Differences and products with 0 of -inf would be NaN.
_REMOVED = -1e30

#: Where the logarithm of a ratio of probabilities is cut: in float32, one of the two is nothing beside the other.
_FAR = 80.0

#: The smallest normal float32.
_SMALLEST = 1.1754944e-38

#: A smaller share in a mixture would be nothing beside 1 in float32.
_SMALLEST_SHARE = 2e-7


def log_probabilities(*logits: Tensor) -> list[Tensor]:
    """Return log softmax over the last axis; -1e30 for a logit of -inf."""
    return [_log_softmax(each) for each in logits]


@ops.custom_gradient
def _log_softmax(logits: Tensor) -> Any:
    log_p = _finite_log_softmax(logits)
    return log_p, lambda upstream: _through_softmax(upstream, ops.exp(log_p))


def _finite_log_softmax(logits: Tensor) -> Tensor:
    return ops.maximum(ops.log_softmax(logits, axis=-1), ops.cast(_REMOVED, logits.dtype))


def _through_softmax(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """Return the gradient by the logits, of that by the logarithms of their softmax."""
    return gradient - probabilities * ops.sum(gradient, axis=-1, keepdims=True)


@ops.custom_gradient
def divergence(log_p: Tensor, log_q: Tensor) -> Any:
    """Return KL(p || q) over the last axis, of distributions given by their logarithms.

    Each class adds p * (log p - log q) + q - p, which is never negative: over all classes q - p adds nothing. With it,
    no small divergence is the difference of large numbers: at T = 20, p * (log p - log q) alone is off by 1e-4 in
    float32, times T**2. The gradients, -p * (log q - log p) and q - p, are in the forward pass already: found by
    TensorFlow, they are 20 small operations more.

    The divergence is infinite where q is 0 for a class that p has: it is replaced by 1e30 times that class's p, finite
    so that a weight of 0 takes it away.
    """
    p, q, ratio = ops.exp(log_p), ops.exp(log_q), log_q - log_p
    small = ops.minimum(ratio, 1.0)  # expm1 of a large one is infinite, where p may be 0
    difference = ops.where(ratio < 1.0, p * ops.expm1(small), q - p)

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        upstream = ops.expand_dims(upstream, -1)
        # An infinite slope would end the training. That of a class which q excludes is the largest of float32.
        slope = ops.where(ratio > 0.5 * _REMOVED, ratio, -_FAR)
        return (-upstream) * (p * slope), upstream * difference

    return ops.sum(difference - p * ratio, axis=-1), gradient


@ops.custom_gradient
def binary_divergence(teacher: Tensor, student: Tensor) -> Any:
    """Return the sum of p (log p - log q) + (1 - p) (log(1 - p) - log(1 - q)) over the last axis, of sigmoids.

    Each is softplus(b) - softplus(a) - p (b - a), for logits a and b, and the same for -a and -b: the side on which the
    teacher is not above one half is exact where p rounds to 1. There, with g = (1 - p) / (1 - q) - 1, it is
    log(1 + g) - p (b - a), and q - p = (1 - p) g / (1 + g). Near 0, g = p expm1(b - a) has no cancellation; far from
    it, g = (1 - p) exp(b) - p is no product of nothing and infinity.
    """
    teacher, student = (ops.maximum(each, ops.cast(_REMOVED, each.dtype)) for each in (teacher, student))
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


def mixed_divergence(share: Number) -> Any:
    """Return a function of logits, the teacher's and the student's: KL(p || m) over the last axis.

    m is share * p + (1 - share) * q. With u = m / p - 1, each class adds p * (u - log(1 + u)). The gradient by the
    student's logits is (share - 1) * q * (w - s), with w = p / m and s = sum q w. Where q is far from p, all w are
    close to 0, and where it is near, to 1: w - s is w * (sum q u w - s u), which cancels in neither. That by the
    teacher's is p * (f - sum p f), with f = log w + share * (1 - w): small where q is near. Where it is far, all f are
    close to -log(share) + share - 1, and what they differ by is found by itself.
    """

    @ops.custom_gradient
    def mixed(teacher: Tensor, student: Tensor) -> Any:
        log_p, log_q = _finite_log_softmax(teacher), _finite_log_softmax(student)
        # A p that is nothing beside q may as well be a little more of nothing: their ratio stays a number.
        log_p = ops.maximum(log_p, log_q - _FAR)
        p, ratio = ops.exp(log_p), log_q - log_p

        def of_small_share() -> tuple[Tensor, ...]:  # it is lost beside 1
            mixture = share + (1 - share) * ops.exp(ratio)
            return mixture - 1.0, mixture, ops.log(mixture)

        def of_large_share() -> tuple[Tensor, ...]:  # a small difference is lost beside 1
            u = (1 - share) * ops.expm1(ratio)
            return u, 1.0 + u, ops.log1p(u)

        u, mixture, doubt = _chosen(share < 0.5, of_small_share, of_large_share)

        def slope_of_p() -> Tensor:
            rest = (1 - share) * ops.exp(ratio)  # of q in the mixture
            near = share * (u / mixture) - doubt
            far = rest / mixture - ops.log1p(rest / ops.maximum(share, _SMALLEST_SHARE))
            is_near = _sum(p * ops.absolute(near)) < _sum(p * ops.absolute(far))
            slope = ops.where(is_near, near, far)
            found = p * (slope - _sum(p * slope) / _sum(p))
            return found - p * (_sum(found) / _sum(p))  # what the mean was rounded by

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            upstream = ops.expand_dims(upstream, -1)
            q = ops.exp(log_q)
            of_q, scale = q / mixture, (1 - share) * upstream / ops.sum(q, axis=-1, keepdims=True)
            near = scale * ops.sum(of_q, axis=-1, keepdims=True)
            far = scale * ops.sum(of_q * u, axis=-1, keepdims=True)
            return upstream * slope_of_p(), of_q * (near * u - far)

        return ops.sum(p * (u - doubt), axis=-1), gradient

    return mixed


def _sum(values: Tensor) -> Tensor:
    return ops.sum(values, axis=-1, keepdims=True)


def mixed_both_ways(share: Number) -> Any:
    """Return a function of logits, the teacher's and the student's: share * KL(p || m) + (1 - share) * KL(q || m).

    Over the last axis; m is share * p + (1 - share) * q. The gradient by the student's logits is
    (1 - share) * q * (s - u), with u = log(m / q) and s = sum q u. Where q is far from p, all u are close to
    log(1 - share): there they differ by log(1 + share * p / ((1 - share) * q)) alone.
    """
    limits = (_SMALLEST_SHARE, 1 - _SMALLEST_SHARE)
    inside: Any = ops.clip(share, *limits) if ops.is_tensor(share) else min(max(share, limits[0]), limits[1])

    @ops.custom_gradient
    def both(teacher: Tensor, student: Tensor) -> Any:
        log_p, log_q = _finite_log_softmax(teacher), _finite_log_softmax(student)
        p, q = share * ops.exp(log_p), (1 - share) * ops.exp(log_q)
        # log(m / p) and log(m / q): from the side of the larger share, the logarithm has no cancellation.

        def of_small_share() -> tuple[Tensor, ...]:
            ratio = ops.minimum(log_p - log_q, _FAR)
            from_q = ops.log1p(inside * ops.expm1(ratio))
            return from_q - ratio, from_q

        def of_large_share() -> tuple[Tensor, ...]:
            ratio = ops.minimum(log_q - log_p, _FAR)
            from_p = ops.log1p((1 - inside) * ops.expm1(ratio))
            return from_p, from_p - ratio

        from_p, from_q = _chosen(share <= 0.5, of_small_share, of_large_share)

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            upstream = ops.expand_dims(upstream, -1)
            beyond = ops.log1p(p / ops.maximum(q, _SMALLEST))
            total = ops.sum(q, axis=-1, keepdims=True)
            of_q = q * (ops.sum(q * beyond, axis=-1, keepdims=True) / total - beyond)
            of_q -= q * (ops.sum(of_q, axis=-1, keepdims=True) / total)  # what the mean was rounded by
            return _through_softmax(-upstream * p * from_p, p / share), upstream * of_q

        return -ops.sum(p * from_p + q * from_q, axis=-1), gradient

    return both


def _chosen(first: Any, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """Return what `one` returns where `first` is true, else what `other` does; of a tensor, both are computed."""
    if not ops.is_tensor(first):
        return one() if first else other()
    return tuple(ops.where(first, each, instead) for each, instead in zip(one(), other(), strict=True))


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

    Where a logit of -inf excludes all other classes, the first is 1e30 and the second mean nothing: see `has_others`.
    The gradient is by hand: found by TensorFlow, it is a tensor of the logits' size for each number that is looked up.
    """
    is_target = ops.equal(ops.expand_dims(ids, -1), ops.arange(logits.shape[-1], dtype="int32"))

    @ops.custom_gradient
    def split(logits: Tensor) -> Any:
        removed = ops.cast(_REMOVED, logits.dtype)
        rest = ops.maximum(ops.where(is_target, removed, logits), removed)
        others = ops.log_softmax(rest, axis=-1)
        largest = ops.max(rest, axis=-1)
        together = largest - ops.max(others, axis=-1)  # the logarithm of the sum of their powers
        target = ops.maximum(_at(logits, ids), removed) - together

        def gradient(of_target: Tensor, of_others: Tensor) -> Tensor:
            of_target = ops.expand_dims(of_target, -1)
            shared = of_target + ops.sum(of_others, axis=-1, keepdims=True)
            return ops.where(is_target, of_target, of_others - ops.exp(others) * shared)

        return (target, others), gradient

    return split(logits)


def has_others(target: Tensor) -> Tensor:
    """Return where `target_and_others` found other classes than the label."""
    return target < -0.5 * _REMOVED


def _at(values: Tensor, ids: Tensor) -> Tensor:
    """Return the value of one class for each distribution; for an id that is no class, some other's."""
    ids = ops.clip(ids, 0, values.shape[-1] - 1)
    return ops.squeeze(ops.take_along_axis(values, ops.expand_dims(ids, -1), axis=-1), axis=-1)
