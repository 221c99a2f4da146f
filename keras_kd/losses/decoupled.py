"""Losses on logits and labels, in which the label's class and the others have weights of their own.

`losses.logits` describes what they take, and what a logit of -inf means.
"""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._divergences import binary_divergence, class_ids, divergence, has_others, target_and_others
from keras_kd.losses._many_values import for_many_values
from keras_kd.losses._shapes import require_classes


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
