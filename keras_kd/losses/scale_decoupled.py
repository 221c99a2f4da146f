"""Logits at several places of an image: what the teacher sees there, and in the image as a whole."""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._divergences import divergence, log_probabilities
from keras_kd.losses._shapes import require_classes


@serializable
def scale_decoupled_kl(student: Tensor, teacher: Tensor, complementary_weight: Number = 2.0) -> Tensor:
    """Match the distribution over classes in each cell of an image, those most where the teacher sees another class.

    mean_c w_c KL(p_c || q_c), with p_c = softmax(teacher_c) and q_c = softmax(student_c). The first cell is the whole
    image. A cell where the teacher's most probable class is that of the first one is consistent, and w_c is 1; any
    other is complementary, with w_c = complementary_weight. The mean is that of the authors' code, which divides cells
    by the labels instead: there, those are complementary whose class is the label while the image's is not, or the
    other way round. Without labels, the class of the image as a whole takes their place.

    Args:
        student: logits, (batch, cells, classes), at least two classes; -inf excludes a class.
        teacher: logits, (batch, cells, classes).
        complementary_weight: not negative; beta in the paper.

    Returns:
        Divergence in nats, (batch,), never negative, 0 where all distributions are equal.

    Raises:
        ValueError: the shapes differ, there is a single class, or there are no cells.

    Example:
        >>> teacher = np.array([[[200.0, 0.0], [0.0, 200.0]]])  # the second cell is complementary
        >>> scale_decoupled_kl(np.zeros((1, 2, 2)), teacher)  # log(2) * (1 + 2) / 2
        [1.03972077]

    Reference: Wei, Luo and Luo, Scale Decoupled Distillation, 2024, arXiv 2403.13512; the authors' code is
    github.com/shicaiwei123/SDD-CVPR2024.
    """
    require_classes(student, teacher)
    if len(student.shape) != 3:
        raise ValueError(
            "Expected logits of cells, (batch, cells, classes), as the layer of methods.with_local_logits has them. "
            f"Received: student {tuple(student.shape)}."
        )
    seen, values = ops.argmax(teacher, axis=-1), divergence(*log_probabilities(teacher, student))
    weights = ops.where(seen == seen[:, :1], 1.0, complementary_weight)
    return ops.mean(ops.cast(weights, values.dtype) * values, axis=-1)
