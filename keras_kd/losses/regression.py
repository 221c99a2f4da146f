"""Losses on values: logits or features taken as numbers to be reproduced.

They take finite values: the difference of two logits of -inf, of a class that is masked, is not a number.
"""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._shapes import require_same_shape


@serializable
def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Reproduce the teacher's values: logits (Ba and Caruana) or features (a FitNets hint).

    mean_k (student_k - teacher_k)**2 over the last axis, without a factor of 1/2. On softened logits the temperature
    cancels: T**2 * squared_error(student / T, teacher / T) does not depend on T.

    Args:
        student: values, (..., n).
        teacher: values, (..., n).

    Returns:
        Mean squared difference, (...), never negative.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> squared_error(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
        [2.]

    Reference: Ba and Caruana, Do Deep Nets Really Need to be Deep?, 2014, arXiv 1312.6184; Romero et al., FitNets,
    2014, arXiv 1412.6550.
    """
    require_same_shape(student, teacher)
    return ops.mean(ops.square(student - teacher), axis=-1)


@serializable
def absolute_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Reproduce the teacher's values, without minding single large errors.

    `mean_k |student_k - teacher_k|` over the last axis.

    Args:
        student: values, (..., n).
        teacher: values, (..., n).

    Returns:
        Mean absolute difference, (...), never negative.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> absolute_error(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
        [1.]
    """
    require_same_shape(student, teacher)
    return ops.mean(ops.abs(student - teacher), axis=-1)


@serializable
def huber_error(student: Tensor, teacher: Tensor, delta: Number = 1.0) -> Tensor:
    """Reproduce the teacher's values: squared for small errors, absolute for large ones.

    `mean_k h(student_k - teacher_k)` over the last axis, with `h(e) = e**2 / 2` up to `|e| = delta`, and
    `delta * |e| - delta**2 / 2` from there.

    Args:
        student: values, (..., n).
        teacher: values, (..., n).
        delta: where the line begins, above 0, in units of the values.

    Returns:
        Mean Huber error, (...), never negative.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> huber_error(np.array([[3.0, 0.5]]), np.array([[0.0, 0.0]]))  # (2.5 + 0.125) / 2
        [1.3125]

    Reference: Huber, Robust Estimation of a Location Parameter, 1964, doi 10.1214/aoms/1177703732.
    """
    require_same_shape(student, teacher)
    return ops.mean(huber(student - teacher, delta), axis=-1)


@serializable
def teacher_bounded(student: Tensor, teacher: Tensor, labels: Tensor, margin: Number = 0.0) -> Tensor:
    """Reproduce the true values, but only until the student is better than the teacher by a margin.

    e_s where e_s + margin > e_t, else 0, with e the squared distance to the labels, summed over the last axis.

    Args:
        student: values, (..., n).
        teacher: values, (..., n).
        labels: true values, (..., n).
        margin: by how much the student has to be better, in units of the squared values, not negative.

    Returns:
        Squared distance to the labels or 0, (...).

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> teacher_bounded(np.array([[2.0], [1.0]]), np.array([[1.5], [1.5]]), np.array([[0.0], [0.0]]))
        [4. 0.]

    Reference: Chen et al., Learning Efficient Object Detection Models with Knowledge Distillation, NeurIPS 2017.
    """
    require_same_shape(student, teacher)
    require_same_shape(student, labels)
    labels = ops.cast(labels, student.dtype)  # they may be bools
    student_error = ops.sum(ops.square(student - labels), axis=-1)
    teacher_error = ops.sum(ops.square(teacher - labels), axis=-1)
    return ops.where(student_error + margin > teacher_error, student_error, ops.zeros_like(student_error))


def huber(error: Tensor, delta: Number = 1.0) -> Tensor:
    """Return e**2 / 2 up to |e| = delta, and delta * |e| - delta**2 / 2 from there."""
    size = ops.abs(error)
    inside = ops.minimum(size, delta)
    return inside * (size - 0.5 * inside)
