"""Losses on logits that match how probabilities vary together, over the classes or over the examples of a batch.

`losses.logits` describes what they take, and what a logit of -inf means.
"""

from typing import Any

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Tensor
from keras_kd.losses._many_values import for_many_values
from keras_kd.losses._shapes import require_classes

#: Mean squared deviation from a constant that is rounding in float32, of numbers up to 1: (1e-7)**2.
_CONSTANT = 1e-14


@serializable
@for_many_values
def inter_class_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """Match how each example's probabilities relate to one another, whatever their scale (DIST, first part).

    1 - Pearson correlation, over the classes, of softmax(student) and softmax(teacher).

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).

    Returns:
        Loss, (...), 0 to 2; 0 where both distributions are equal, 1 where one of them is uniform.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        >>> inter_class_relation(np.array([[1.0, 0.0, 0.0]]), np.array([[5.0, 0.0, 0.0]]))
        [0.]

    Reference: Huang et al., Knowledge Distillation from A Stronger Teacher, 2022, arXiv 2205.10536.
    """
    require_classes(student, teacher)
    return _decorrelation(-1)(student, teacher)


@serializable
def intra_class_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """Match how the examples of a batch share each class (DIST, second part).

    Mean over the classes of 1 - Pearson correlation, over the batch, of softmax(student) and softmax(teacher). Defined
    for the whole batch: weights do not apply, and positions count as examples.

    Args:
        student: logits, (batch, ..., classes), at least two classes and two examples; -inf excludes a class.
        teacher: logits, (batch, ..., classes).

    Returns:
        Loss, a scalar, 0 to 2; 0 where all distributions are equal; a class that is constant in the batch adds 1.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        >>> intra_class_relation(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
        0.

    Reference: Huang et al., Knowledge Distillation from A Stronger Teacher, 2022, arXiv 2205.10536.
    """
    require_classes(student, teacher)
    log_q, log_p = (ops.reshape(ops.log_softmax(each, axis=-1), (-1, student.shape[-1])) for each in (student, teacher))
    return ops.mean(_decorrelation(0)(log_q, log_p))


@serializable
def class_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Match which classes appear together in a batch (MLKD, class level).

    sum_kl (P_t' P_t - P_s' P_s)_kl**2 / classes, with P the (batch, classes) probabilities. Defined for the whole
    batch: weights do not apply, and positions count as examples.

    Args:
        student: logits, (batch, ..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (batch, ..., classes).

    Returns:
        Loss, a scalar, never negative, 0 where all distributions are equal. Grows with the square of the batch.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        >>> class_correlation(np.zeros((2, 3)), np.zeros((2, 3)))
        0.

    Reference: Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.
    """
    require_classes(student, teacher)
    difference = _difference_of_products(ops.transpose(_rows(teacher)), ops.transpose(_rows(student)))
    return ops.sum(ops.square(difference)) / student.shape[-1]


@serializable
def batch_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Match which examples of a batch look alike (MLKD, batch level).

    Row i is sum_j (P_t P_t' - P_s P_s')_ij**2, with P the (batch, classes) probabilities; the mean over the rows is the
    paper's loss. Positions are examples of their own. A weight counts for the example's own row: a weight of 0 takes it
    out of the mean, not out of the comparisons of the others.

    Args:
        student: logits, (batch, ..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (batch, ..., classes).

    Returns:
        Loss, (batch, ...), never negative, 0 where all distributions are equal.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        >>> batch_correlation(np.zeros((2, 3)), np.zeros((2, 3)))
        [0. 0.]

    Reference: Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.
    """
    require_classes(student, teacher)
    difference = _difference_of_products(_rows(teacher), _rows(student))
    return ops.reshape(ops.sum(ops.square(difference), axis=-1), ops.shape(student)[:-1])


def _rows(logits: Tensor) -> Tensor:
    """Return the probabilities of every example and position, (examples, classes)."""
    return ops.reshape(ops.softmax(logits, axis=-1), (-1, logits.shape[-1]))


@ops.custom_gradient
def _difference_of_products(a: Tensor, b: Tensor) -> Any:
    """Return a a' - b b'. TensorFlow would find gradients of two products each, of matrices that are symmetric."""

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        both = upstream + ops.transpose(upstream)
        return ops.matmul(both, a), -ops.matmul(both, b)

    return ops.matmul(a, ops.transpose(a)) - ops.matmul(b, ops.transpose(b)), gradient


def _decorrelation(axis: int) -> Any:
    """Return a function of log a and log b: 1 - Pearson's correlation of a and b along an axis; 1 with a constant.

    Half the squared distance of the centred vectors of length 1, which does not cancel where they are close, with its
    gradients. It has no scale: the largest number along the axis is taken as 1, because of thousands of classes, the
    probabilities of most are too small to be distinguished from 0.
    """

    def largest(x: Tensor) -> Tensor:
        return ops.maximum(ops.max(x, axis=axis, keepdims=True), ops.cast(-1e30, x.dtype))  # all may be -inf

    @ops.custom_gradient
    def distance(log_a: Tensor, log_b: Tensor) -> Any:
        raw = [ops.exp(x - largest(x)) for x in (log_a, log_b)]
        centred = [x - ops.mean(x, axis=axis, keepdims=True) for x in raw]
        squares = [ops.sum(ops.square(x), axis=axis, keepdims=True) for x in centred]
        constant = _CONSTANT * ops.cast(ops.shape(log_a)[axis], log_a.dtype)
        varies = ops.minimum(*squares) > constant
        # A constant correlates with nothing: a gradient of 0, not of 1e7.
        scales = [ops.where(varies, ops.rsqrt(ops.maximum(x, constant)), 0.0) for x in squares]
        a, b = (x * scale for x, scale in zip(centred, scales, strict=True))
        apart = 0.5 * ops.sum(ops.square(a - b), axis=axis)
        value = ops.where(ops.squeeze(varies, axis=axis), apart, 1.0)

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            upstream = ops.expand_dims(upstream, axis)
            near = ops.expand_dims(value, axis)
            same = ops.where(near < 0.5, 1.0 - near, ops.sum(a * b, axis=axis, keepdims=True))
            of_a, of_b = (x - ops.mean(x, axis=axis, keepdims=True) for x in (same * a - b, same * b - a))
            return raw[0] * ((upstream * scales[0]) * of_a), raw[1] * ((upstream * scales[1]) * of_b)

        return value, gradient

    return distance
