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

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._divergences import binary_divergence, divergence, log_probabilities
from keras_kd.losses._many_values import for_many_values
from keras_kd.losses._shapes import require_classes, require_same_shape


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
