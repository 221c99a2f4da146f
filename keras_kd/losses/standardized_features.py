"""A loss on the features of a backbone, whose channels differ in scale by orders of magnitude: each is standardised."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Shape, Tensor
from keras_kd.losses._shapes import require_fraction, require_same_shape
from keras_kd.losses.features import cosine
from keras_kd.losses.regression import huber_error

#: A channel whose standard deviation is a smaller part of its mean than this is constant, but for float32's rounding.
_CONSTANT = 1e-5


@serializable
class StandardizedFeatures(keras.layers.Layer):
    """Reproduce the teacher's features, each channel of mean 0 and variance 1: direction, and some length.

    a * (1 - cos(s, z)) + (1 - a) * mean_c h(s_c - z_c) at each position, with z_c = (t_c - mean_c) / sqrt(variance_c),
    h(e) = e**2 / 2 up to abs(e) = 1 and abs(e) - 1/2 from there, and a the share of the cosine. Where the variance of a
    channel is 0, z_c is 0: a constant says nothing about an image.

    Args:
        mean: of each of the teacher's channels, over images and positions; None for 0.
        variance: of each of the teacher's channels, not negative; None for 1.
        cosine_share: a, from 0 to 1. 1 - a is the share of the smooth L1 distance, by which lengths are learned, too.

    Raises:
        ValueError: a share out of range; a variance that is negative; numbers that are not finite, or not as many of
            both; in a term: features with another number of channels.

    Example:
        >>> Term(StandardizedFeatures(mean=mean, variance=variance), at=("top", "encoder:map"), bridge="auto")

    Reference: Ranzinger et al., AM-RADIO: Agglomerative Vision Foundation Model, 2023, arXiv 2312.06709 (the sum, with
    shares of 0.9 and 0.1); Shang et al., Theia: Distilling Diverse Vision Foundation Models for Robot Learning, 2024,
    arXiv 2407.20179 (the same, of standardised channels).
    """

    def __init__(
        self,
        mean: Sequence[float] | np.ndarray | None = None,
        variance: Sequence[float] | np.ndarray | None = None,
        cosine_share: float = 0.9,
        name: str = "standardized_features",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        require_fraction("cosine_share", cosine_share)
        self.mean, self.variance = _plain("mean", mean), _plain("variance", variance)
        _check(self.mean, self.variance)
        self.cosine_share = cosine_share

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Refuse features of other channels than those that were measured."""
        for known in filter(None, (self.mean, self.variance)):
            if teacher_shape[-1] != len(known):
                raise ValueError(
                    f"Expected features of {len(known)} channels, of which mean and variance are known. Received: "
                    f"teacher {tuple(teacher_shape)}. Measure them on the layer that is read."
                )

    def call(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, (...), for features of one shape, (..., channels)."""
        require_same_shape(student, teacher)
        target = self.standardized(teacher)
        direction = cosine(student, target)
        return self.cosine_share * direction + (1.0 - self.cosine_share) * huber_error(student, target)

    def standardized(self, teacher: Tensor) -> Tensor:
        """Return the teacher's features, (..., channels), with channels of mean 0 and variance 1."""
        if self.mean is not None:
            teacher = teacher - ops.convert_to_tensor(np.array(self.mean, "float32"))
        return teacher if self.variance is None else teacher * ops.convert_to_tensor(self._scale())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "mean": self.mean,
            "variance": self.variance,
            "cosine_share": self.cosine_share,
            "name": self.name,
        }

    def _scale(self) -> np.ndarray:
        """Return 1 over the standard deviation of each channel, 0 of a constant one, (channels,)."""
        deviation = np.sqrt(np.array(self.variance, "float64"))
        mean = np.zeros_like(deviation) if self.mean is None else np.abs(self.mean)
        varies = deviation > _CONSTANT * mean
        return np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0).astype("float32")


def _plain(name: str, values: Any) -> list[float] | None:
    """Return numbers as a list, which a file can hold, or raise an error that names them."""
    if values is None:
        return None
    array = np.asarray(values, "float64")
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"Expected `{name}` to be one finite number for each channel. Received: {values!r}")
    return [float(each) for each in array]


def _check(mean: list[float] | None, variance: list[float] | None) -> None:
    if variance is not None and min(variance) < 0:
        raise ValueError(f"Expected `variance` to be at least 0. Received: {min(variance)}")
    if mean is not None and variance is not None and len(mean) != len(variance):
        raise ValueError(
            f"Expected `mean` and `variance` of the same channels. Received: {len(mean)} and {len(variance)} numbers."
        )
