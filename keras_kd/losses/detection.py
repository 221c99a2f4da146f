"""Losses of detectors, which predict for thousands of anchors, nearly all of them empty: the teacher's sure ones count.

An anchor is a foreground as far as the teacher's highest class probability there, the maximum of the sigmoids, goes. A
mean over all anchors would be one over background, whatever the few objects of an image are.
"""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor
from keras_kd.losses._divergences import binary_divergence
from keras_kd.losses._shapes import require_fraction, require_same_shape
from keras_kd.losses.regression import huber_error
from keras_kd.transforms import l2_normalize

#: By how much float32 may miss the mean of equal numbers, relative to their size: a few units in the last place.
_ROUNDING = 1e-6


@serializable
def foreground_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Match the class probabilities at each anchor, the more the surer the teacher is of an object there.

    sum_a w_a sum_k KL(p_ak || q_ak) / sum_a w_a, with p = sigmoid(teacher), q = sigmoid(student), the divergence of
    each label's two probabilities, and w_a = max_k p_ak. The sums run over all anchors of the batch: weights do
    not apply. In the paper, the anchors of a position share their largest score, and each level of the pyramid has a
    sum of its own; the cross-entropy there has the same gradient.

    Args:
        student: logits of labels, (batch, anchors, labels); -inf excludes a label.
        teacher: logits of labels, (batch, anchors, labels).

    Returns:
        Divergence in nats, a scalar, never negative, 0 where all probabilities are equal.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> foreground_kl(np.array([[[0.0], [5.0]]]), np.array([[[0.0], [-100.0]]]))  # the second anchor is empty
        0.

    Reference: Du et al., Distilling Object Detectors with Feature Richness, 2021, arXiv 2111.00674.
    """
    require_same_shape(student, teacher)
    scores = ops.log_sigmoid(ops.maximum(ops.max(teacher, axis=-1), -1e30))
    share = ops.exp(scores - ops.logsumexp(scores))  # of logarithms: every sigmoid may round to 0
    return ops.sum(share * binary_divergence(teacher, student))


@serializable
def foreground_huber(student: Tensor, teacher: tuple[Tensor, Tensor], threshold: Number = 0.5) -> Tensor:
    """Reproduce the teacher's boxes at the anchors where it is sure of an object.

    sum_a w_a mean_k h(student_ak - teacher_ak) / sum_a w_a, with h(e) = e**2 / 2 up to abs(e) = 1 and abs(e) - 1/2 from
    there (smooth L1), w_a the largest sigmoid of the teacher's logits at the anchor where that is above the threshold,
    and 0 elsewhere. 0 where the teacher is sure nowhere. The sums run over all anchors of the batch: weights do
    not apply.

    Args:
        student: boxes, (batch, anchors, 4), as offsets from the anchors.
        teacher: the teacher's boxes, (batch, anchors, 4), and its logits of labels, (batch, anchors, labels).
        threshold: from 0 to 1; a lower probability is none of an object.

    Returns:
        Smooth L1 distance, a scalar, never negative, 0 where the boxes are equal.

    Raises:
        ValueError: the shapes differ; the teacher's logits are of other anchors; a threshold out of range.

    Example:
        >>> boxes, logits = np.array([[[3.0, 0.0, 0.0, 0.0]]]), np.array([[[2.0]]])
        >>> foreground_huber(np.zeros((1, 1, 4)), (boxes, logits))  # 2.5 / 4
        0.625

    Reference: Girshick, Fast R-CNN, 2015, arXiv 1504.08083 (the distance); the weights are this library's own.
    """
    require_fraction("threshold", threshold)
    boxes, logits = _boxes_and_logits(teacher)
    require_same_shape(student, boxes)
    scores = ops.sigmoid(ops.max(logits, axis=-1))
    weights = ops.where(scores > threshold, scores, ops.zeros_like(scores))
    total = ops.sum(weights)
    return ops.sum(weights * huber_error(student, boxes)) / ops.where(total > 0, total, ops.ones_like(total))


@serializable
def map_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Match the pattern of each channel of maps, whatever its scale and offset (PKD).

    mean_c mean_i (s_ic - t_ic)**2 / 2, each channel standardised to mean 0 and variance 1 over the m positions i of all
    maps of the batch, which is mean_c (1 - r_c) with Pearson's correlation r_c. Of a channel that is constant, s_ic
    or t_ic is 0. Defined for the whole batch: weights do not apply.

    Args:
        student: maps, (batch, ..., channels).
        teacher: maps, (batch, ..., channels).

    Returns:
        Loss, a scalar, from 0 to 2.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> map_correlation(np.array([[[1.0], [2.0]]]), np.array([[[5.0], [9.0]]]))
        0.

    Reference: Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient,
    2022, arXiv 2207.02039.
    """
    require_same_shape(student, teacher)
    ours, theirs = (_unit_channels(maps) for maps in (student, teacher))
    return 0.5 * ops.mean(ops.sum(ops.square(ours - theirs), axis=-1))


def _boxes_and_logits(teacher: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the teacher's boxes and logits, or raise an error unless they are of the same anchors."""
    shapes = [tuple(each.shape) for each in teacher] if isinstance(teacher, (tuple, list)) else [tuple(teacher.shape)]
    if len(shapes) != 2 or len(shapes[0]) != len(shapes[1]) or {*shapes[0][1:-1]} != {*shapes[1][1:-1]}:
        raise ValueError(
            "Expected the teacher's boxes and its logits for the same anchors, at={'student': 'boxes', 'teacher': "
            f"('boxes', 'logits')}}. Received: teacher {', '.join(map(str, shapes))}."
        )
    boxes, logits = teacher
    return boxes, logits


def _unit_channels(maps: Tensor) -> Tensor:
    """Return each channel over all positions of the batch, of mean 0 and length 1, (channels, positions)."""
    rows = ops.transpose(ops.reshape(maps, (-1, maps.shape[-1])))
    centred = rows - ops.mean(rows, axis=-1, keepdims=True)
    # What a constant differs from its rounded mean by is no pattern: its gradient would be of 1e6.
    largest = ops.max(ops.abs(rows), axis=-1, keepdims=True)
    varies = ops.max(ops.abs(centred), axis=-1, keepdims=True) > _ROUNDING * largest
    return l2_normalize(ops.where(varies, centred, ops.zeros_like(centred)))
