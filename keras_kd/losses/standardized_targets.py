"""A loss on features of which the teacher's are standardised over their channels."""

from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Tensor
from keras_kd.losses._shapes import require_same_shape
from keras_kd.losses.regression import huber

_EPSILON = 1e-5


@serializable
def standardized_huber(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 distance from the teacher's features, averaged over positions and standardised over channels (VkD).

    mean_c h(s_c - z_c), with z = (t - mean_c t) / sqrt(var_c t + 1e-5) for t the teacher's mean over positions, and
    h(e) = e**2 / 2 up to abs(e) = 1, abs(e) - 1/2 from there.

    Args:
        student: features, (batch, channels), as `bridges.OrthogonalProjection` returns them.
        teacher: features, (batch, ..., channels).

    Returns:
        One value per example, (batch,), in features squared where they are near.

    Raises:
        ValueError: other channels than the teacher's.

    Example:
        >>> standardized_huber(np.array([[1.0, -1.0]]), np.array([[3.0, 1.0]]))  # 0, but for the 1e-5

    Reference: Miles, Elezi and Deng, VkD: Improving Knowledge Distillation using Orthogonal Projections, 2024,
    arXiv 2403.06213.
    """
    student, teacher = ops.convert_to_tensor(student), ops.convert_to_tensor(teacher)
    positions = tuple(range(1, len(teacher.shape) - 1))
    target = ops.mean(teacher, axis=positions) if positions else teacher
    require_same_shape(student, target)
    mean, variance = ops.moments(target, axes=-1, keepdims=True)
    return ops.mean(huber(student - (target - mean) / ops.sqrt(variance + _EPSILON)), axis=-1)
