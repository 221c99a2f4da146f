"""A loss on logits for a teacher of another architecture: its probabilities, with the label's share raised."""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._divergences import class_ids, log_probabilities
from keras_kd.losses._many_values import for_many_values
from keras_kd.losses._shapes import require_classes


@serializable
@for_many_values
def enhanced_target(student: Tensor, teacher: Tensor, labels: Tensor, power: Number = 1.5) -> Tensor:
    """Learn the teacher's probabilities, the label's raised and the others lowered (OFA-KD).

    -((1 + p_y)**power - 1) log q_y - sum_{k != y} p_k**power log q_k, as in the authors' code. At a power of 1 it is
    the cross-entropy with the teacher; the larger the power, the more the label counts. Cross-entropies: not 0 where
    student and teacher agree.

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., classes).
        labels: class ids, (...) or (..., 1), or one-hot, (..., classes).
        power: of the teacher's probabilities, gamma in the paper, above 0; 1 to 1.5 in the authors' code.

    Returns:
        Loss in nats, (...), never negative.

    Raises:
        ValueError: the shapes differ, the labels do not fit, or there is a single class.

    Example:
        >>> enhanced_target(np.zeros((1, 2)), np.zeros((1, 2)), np.array([0]), power=2.0)  # (1.25 + 0.25) log(2)
        [1.03972077]

    Reference: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation,
    2023, arXiv 2310.19444; github.com/Hao840/OFAKD.
    """
    require_classes(student, teacher)
    is_label = ops.one_hot(class_ids(labels, student), student.shape[-1], dtype="bool")
    log_p, log_q = log_probabilities(teacher, student)
    label = ops.expm1(power * ops.log1p(ops.exp(log_p)))
    return -ops.sum(ops.where(is_label, label, ops.exp(power * log_p)) * log_q, axis=-1)
