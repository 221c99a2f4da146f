"""Losses on logits: what the student's predicted distribution should learn from the teacher's.

They take logits that are already softened: temperature and T**2 are applied by `Term`. Sums run over the classes, so
that a value is a divergence in nats whatever the number of classes; nothing is averaged over examples or positions.

A logit of -inf excludes a class: its probability is exactly 0. Excluded on both sides, a class adds nothing to a sum
over the classes and has a gradient of 0; means and correlations count it as the 0 that it is. Where q excludes a class
that p has, KL(p || q) is infinite: `kl_divergence`, `decoupled_kl`, `normalized_kl`, `transformed_teacher` and
`binary_kl` where only the student excludes it, `reverse_kl` where only the teacher does. There, 1e30 times the
probability replaces infinity, so that a weight of 0 takes it away, and the gradients are finite: those of the formula
for the other classes. All other losses are bounded and keep their formula.
"""

from typing import Any

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._divergences import (
    binary_divergence,
    class_ids,
    divergence,
    has_others,
    log_probabilities,
    mixed_both_ways,
    mixed_divergence,
    target_and_others,
)
from keras_kd.losses._many_values import for_many_values
from keras_kd.losses._shapes import require_classes, require_fraction, require_same_shape

#: Mean squared deviation from a constant that is rounding in float32, of numbers up to 1: (1e-7)**2.
_CONSTANT = 1e-14


@serializable
@for_many_values
def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Match the student's distribution over classes to the teacher's.

    KL(p || q) = sum_k p_k (log p_k - log q_k), with p = softmax(teacher) and q = softmax(student).

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).

    Returns:
        Divergence in nats, the unit of natural logarithms (1 nat is 1.44 bits), (...), never negative, 0 where both
        distributions are equal.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        >>> kl_divergence(np.array([[0.0, 200.0, 0.0]]), np.array([[200.0, 0.0, 0.0]]))
        [200.]

    Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531.
    """
    require_classes(student, teacher)
    return divergence(*log_probabilities(teacher, student))


@serializable
@for_many_values
def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Make the student put its probability where the teacher does, rather than cover all of it.

    KL(q || p) = sum_k q_k (log q_k - log p_k), with p = softmax(teacher) and q = softmax(student).

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).

    Returns:
        Divergence in nats, (...), never negative, 0 where both distributions are equal.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        >>> reverse_kl(np.array([[0.0, 0.0]]), np.array([[0.0, 0.0]]))
        [0.]

    Reference: Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, 2023, arXiv 2306.08543.
    """
    require_classes(student, teacher)
    return divergence(*log_probabilities(student, teacher))


@serializable
@for_many_values
def jensen_shannon(student: Tensor, teacher: Tensor, beta: Number = 0.5) -> Tensor:
    """Go from the forward to the reverse divergence by one number.

    beta * KL(p || m) + (1 - beta) * KL(q || m), with m = beta * p + (1 - beta) * q. At the two ends, where that is 0,
    it is the limit of it over beta * (1 - beta), as in the paper's code: KL(p || q) at 0, KL(q || p) at 1.

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).
        beta: 0 to 1; 0.5 is the Jensen-Shannon divergence.

    Returns:
        Divergence in nats, (...), never negative, 0 where both distributions are equal.

    Raises:
        ValueError: the shapes differ, there is a single class, or `beta` is outside 0 to 1.

    Example:
        >>> jensen_shannon(np.array([[0.0, 200.0]]), np.array([[200.0, 0.0]]))
        [0.6931472]

    Reference: Agarwal et al., On-Policy Distillation of Language Models (GKD), 2023, arXiv 2306.13649.
    """
    require_fraction("beta", beta)
    require_classes(student, teacher)
    if not ops.is_tensor(beta) and beta in (0, 1):
        first, second = (teacher, student) if beta == 0 else (student, teacher)
        return divergence(*log_probabilities(first, second))
    return mixed_both_ways(beta)(teacher, student)


@serializable
@for_many_values
def skew_kl(student: Tensor, teacher: Tensor, skew: Number = 0.1) -> Tensor:
    """Bound the divergence by mixing some of the teacher into the student's distribution.

    KL(p || skew * p + (1 - skew) * q), with p = softmax(teacher) and q = softmax(student). At most -log(skew).

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).
        skew: share of the teacher, 0 to 1; 0 is `kl_divergence`.

    Returns:
        Divergence in nats, (...), never negative, 0 where both distributions are equal.

    Raises:
        ValueError: the shapes differ, there is a single class, or `skew` is outside 0 to 1.

    Example:
        >>> skew_kl(np.array([[0.0, 200.0]]), np.array([[200.0, 0.0]]))  # log 10
        [2.3025851]

    Reference: Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, 2024, arXiv 2402.03898.
    """
    require_fraction("skew", skew)
    require_classes(student, teacher)
    if not ops.is_tensor(skew) and skew == 0:
        return divergence(*log_probabilities(teacher, student))
    return mixed_divergence(skew)(teacher, student)


@serializable
@for_many_values
def skew_reverse_kl(student: Tensor, teacher: Tensor, skew: Number = 0.1) -> Tensor:
    """Bound the reverse divergence by mixing some of the student into the teacher's distribution.

    KL(q || skew * q + (1 - skew) * p), with p = softmax(teacher) and q = softmax(student). At most -log(skew).

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).
        skew: share of the student, 0 to 1; 0 is `reverse_kl`.

    Returns:
        Divergence in nats, (...), never negative, 0 where both distributions are equal.

    Raises:
        ValueError: the shapes differ, there is a single class, or `skew` is outside 0 to 1.

    Example:
        >>> skew_reverse_kl(np.array([[0.0, 200.0]]), np.array([[200.0, 0.0]]))  # log 10
        [2.3025851]

    Reference: Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, 2024, arXiv 2402.03898.
    """
    require_fraction("skew", skew)
    require_classes(student, teacher)
    if not ops.is_tensor(skew) and skew == 0:
        return divergence(*log_probabilities(student, teacher))
    return mixed_divergence(skew)(student, teacher)


@serializable
@for_many_values
def decoupled_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    target_weight: Number = 1.0,
    non_target_weight: Number = 8.0,
) -> Tensor:
    """Weigh the teacher's probability of the label, and how it distributes the rest, apart from one another (DKD).

    target_weight * KL((p_y, 1 - p_y) || (q_y, 1 - q_y)) + non_target_weight * KL(p' || q'), where p' and q' are the
    softmaxes over the classes other than the label y. kl_divergence is the case of weights 1 and 1 - p_y.

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).
        labels: class ids, (...) or (..., 1), or one-hot, (..., classes).
        target_weight: weight of the first part, alpha in the paper, not negative.
        non_target_weight: weight of the second part, beta in the paper, not negative; the paper tunes it per pair of
            models, 2 to 8 on CIFAR-100 and 0.5 on ImageNet.

    Returns:
        Divergence in nats, (...), never negative, 0 where both distributions are equal.

    Raises:
        ValueError: the shapes differ, the labels do not fit, or there is a single class.

    Example:
        >>> decoupled_kl(np.zeros((1, 3)), np.zeros((1, 3)), np.array([2]))
        [0.]

    Reference: Zhao et al., Decoupled Knowledge Distillation, 2022, arXiv 2203.08679.
    """
    require_classes(student, teacher)
    ids = class_ids(labels, student)
    target_p, others_p = target_and_others(teacher, ids)
    target_q, others_q = target_and_others(student, ids)
    target = binary_divergence(ops.expand_dims(target_p, -1), ops.expand_dims(target_q, -1))
    non_target = ops.where(has_others(target_p), divergence(others_p, others_q), 0.0)
    return target_weight * target + non_target_weight * non_target


@serializable
@for_many_values
def normalized_kl(student: Tensor, teacher: Tensor, labels: Tensor, non_target_weight: Number = 1.5) -> Tensor:
    """Learn the label as strongly as the teacher believes it, and the other classes renormalised (NKD).

    -p_y log q_y - non_target_weight * sum_k p'_k log q'_k, where p' and q' are the softmaxes over the classes other
    than the label y. Cross-entropies: not 0 where student and teacher agree. The paper softens the second part only;
    here both see the temperature of the term, which is the same at its default of 1.

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).
        labels: class ids, (...) or (..., 1), or one-hot, (..., classes).
        non_target_weight: weight of the second part, gamma in the paper, not negative.

    Returns:
        Loss in nats, (...), never negative.

    Raises:
        ValueError: the shapes differ, the labels do not fit, or there is a single class.

    Example:
        >>> normalized_kl(np.zeros((1, 2)), np.zeros((1, 2)), np.array([0]))  # log(2) / 2
        [0.34657359]

    Reference: Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, 2023, arXiv 2303.13005.
    """
    require_classes(student, teacher)
    ids = class_ids(labels, student)
    target_p, others_p = target_and_others(teacher, ids)
    target_q, others_q = target_and_others(student, ids)
    target = ops.sigmoid(target_p) * ops.softplus(-target_q)
    non_target = ops.where(has_others(target_p), ops.sum(ops.exp(others_p) * others_q, axis=-1), 0.0)
    return target - non_target_weight * non_target


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


@serializable
def transformed_teacher(student: Tensor, teacher: Tensor, power: Number = 0.1, weighted: bool = False) -> Tensor:
    """Soften the teacher only, by a power of its probabilities (TTM).

    KL(p**g / sum p**g || q), with p = softmax(teacher), q = softmax(student) and g = `power`; weighted: times
    sum_k p_k**g, which is large where the teacher is unsure. The student belongs at T = 1: use
    `Term(transformed_teacher, soften=False)`.

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).
        power: g, above 0; 1 / g is the teacher's temperature.
        weighted: whether an example counts by the teacher's doubt.

    Returns:
        Divergence in nats, (...), never negative, 0 where student = power * teacher.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        >>> transformed_teacher(np.array([[1.0, 0.0]]), np.array([[10.0, 0.0]]))
        [0.]

    Reference: Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, 2024, arXiv 2402.11148.
    """
    loss = kl_divergence(student, power * teacher)
    if not weighted:
        return loss
    return loss * ops.exp(ops.logsumexp(power * ops.log_softmax(teacher, axis=-1), axis=-1))


@serializable
@for_many_values
def hard_label(student: Tensor, teacher: Tensor) -> Tensor:
    """Learn the class that the teacher predicts, as if it were the label (DeiT).

    -log q_y with y = argmax(teacher) and q = softmax(student). No temperature changes y: use
    `Term(hard_label, soften=False)`.

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).

    Returns:
        Cross-entropy in nats, (...), never negative.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        >>> hard_label(np.array([[0.0, 0.0]]), np.array([[3.0, 1.0]]))  # log 2
        [0.6931472]

    Reference: Touvron et al., Training Data-Efficient Image Transformers & Distillation Through Attention, 2021,
    arXiv 2012.12877.
    """
    require_classes(student, teacher)
    [log_q] = log_probabilities(student)
    return -ops.squeeze(ops.take_along_axis(log_q, ops.argmax(teacher, axis=-1, keepdims=True), axis=-1), axis=-1)


@serializable
@for_many_values
def binary_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Match each label's probability to the teacher's: for yes-or-no and multi-label outputs.

    mean_k [p_k (log p_k - log q_k) + (1 - p_k) (log(1 - p_k) - log(1 - q_k))], with p = sigmoid(teacher) and
    q = sigmoid(student). The mean over labels is that of Keras's binary cross-entropy.

    Args:
        student: logits, (..., labels), one label is enough; -inf excludes a label.
        teacher: logits, (..., labels).

    Returns:
        Divergence in nats, (...), never negative, 0 where all probabilities are equal.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> binary_kl(np.array([[0.0]]), np.array([[0.0]]))
        [0.]

    Reference: the objective of Hinton et al. (arXiv 1503.02531), for each label a distribution over two classes.
    """
    require_same_shape(student, teacher)
    return binary_divergence(teacher, student) / ops.cast(ops.shape(student)[-1], student.dtype)


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
