"""Losses on logits that compare a distribution with a mixture of both: bounded, and between the two directions of KL.

`losses.logits` describes what they take, and what a logit of -inf means.
"""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._divergences import divergence, log_probabilities, mixed_both_ways, mixed_divergence
from keras_kd.losses._many_values import for_many_values
from keras_kd.losses._shapes import require_classes, require_fraction


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
