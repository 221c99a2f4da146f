"""Losses on logits whose classes are not the teacher's: of models with vocabularies of their own."""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Tensor
from keras_kd.losses._many_values import for_many_values_of_other_classes
from keras_kd.losses._shapes import require_same_positions


@serializable
@for_many_values_of_other_classes
def universal_logits(student: Tensor, teacher: Tensor, top_k: int | None = None) -> Tensor:
    """Match how the teacher's probabilities fall from the most likely class to the least, whichever these are (ULD).

    sum_r abs(p_(r) - q_(r)), with p_(1) >= p_(2) >= ... the sorted softmax(teacher) and q that of the student; the side
    with fewer classes has probabilities of 0 behind its own. With `top_k`, what is behind the first k counts as one
    class: a lower bound of the whole sum, which is larger by at most twice the smaller of the two remainders.

    Args:
        student: logits, (..., classes), at least two classes; -inf excludes a class.
        teacher: logits, (..., other classes), of the same positions.
        top_k: how many probabilities of each side are compared, at least 1; None for all. To sort a vocabulary of some
            ten thousand as a whole takes fifty times as long as to find its first hundred.

    Returns:
        Distance, (...), 0 to 2; 0 where both sides have the same probabilities, in any order.

    Raises:
        ValueError: the positions differ, there is a single class, or `top_k` is below 1.

    Example:
        >>> universal_logits(np.array([[0.0, 200.0]]), np.array([[200.0, 0.0, 0.0]]))
        [0.]

    Reference: Boizard et al., Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs,
    2024, arXiv 2402.12030.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"Expected `top_k` to be at least 1, or None. Received: top_k={top_k!r}")
    require_same_positions(student, teacher)
    classes = max(student.shape[-1], teacher.shape[-1])
    count = classes if top_k is None else min(top_k, classes)
    difference = _largest(teacher, count) - _largest(student, count)
    distance = ops.sum(ops.abs(difference), axis=-1)
    return distance if count == classes else distance + ops.abs(ops.sum(difference, axis=-1))


def _largest(logits: Tensor, count: int) -> Tensor:
    """Return the largest probabilities in their order, (..., count), with 0 behind those that there are."""
    largest, _ = ops.top_k(logits, min(count, logits.shape[-1]))
    probabilities = ops.exp(largest - ops.logsumexp(logits, axis=-1, keepdims=True))
    missing = count - probabilities.shape[-1]
    return ops.pad(probabilities, [[0, 0]] * (len(logits.shape) - 1) + [[0, missing]]) if missing else probabilities
