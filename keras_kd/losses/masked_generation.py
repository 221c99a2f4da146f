"""A loss on maps that owns weights: the student learns to generate the teacher's map from a part of its own."""

from typing import Any

import keras
from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Shape, Tensor
from keras_kd.losses._shapes import require_maps, require_same_shape

#: What may be masked.
_OVER = ("channels", "positions")


@serializable
class MaskedGeneration(keras.layers.Layer):
    """Generate the teacher's map from the student's, of which a part is masked (MGD).

    sum_hwc (G(m * s) - t)_hwc**2, with s what the bridge makes of the student's map, t the teacher's map, G two trained
    3x3 convolutions with a ReLU in between, and m zeros and ones that are drawn anew for each example and each step of
    training; elsewhere, all are ones. A sum, as in the paper: its weights are small.

    Args:
        masked: probability that a part is masked, 0 to below 1.
        over: what a part is. "channels" as in the authors' code for classification, with `masked` 0.15; "positions" as
            in the paper and the code for dense prediction, with 0.45 and more.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> Term(MaskedGeneration(), at=("conv_2", "block_4"), bridge="auto", weight=7e-5)

    Reference: Yang et al., Masked Generative Distillation, 2022, arXiv 2205.01529; github.com/yzd-v/MGD.
    """

    def __init__(self, masked: float = 0.15, over: str = "channels", name: str = "masked_generation") -> None:
        super().__init__(name=name, dtype="float32")
        if not 0 <= masked < 1:
            raise ValueError(f"Expected `masked` to be a share from 0 to below 1. Received: masked={masked!r}")
        if over not in _OVER:
            raise ValueError(f"Expected `over` to be one of {_OVER}. Received: over={over!r}")
        self.masked = masked
        self.over = over
        self.seeds = keras.random.SeedGenerator()

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Create the generator, for the teacher's channels."""
        self.generator = _generator(student_shape, teacher_shape)

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Tensor:
        """Return the loss, (batch,), for maps of one shape, (batch, height, width, channels)."""
        _check(student, teacher)
        kept = student * self._mask(student) if training and self.masked else student
        return ops.sum(ops.square(self.generator(kept) - teacher), axis=(1, 2, 3))

    def _mask(self, maps: Tensor) -> Tensor:
        """Return zeros and ones, one for each channel or each position of an example."""
        batch, height, width, channels = ops.shape(maps)
        shape = (batch, 1, 1, channels) if self.over == "channels" else (batch, height, width, 1)
        return ops.cast(keras.random.uniform(shape, seed=self.seeds) >= self.masked, maps.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"masked": self.masked, "over": self.over, "name": self.name}


@serializable
class MaskedTokenGeneration(keras.layers.Layer):
    """Generate the teacher's tokens of an image where the student's are masked (ViTKD).

    sum_hwc m_hw (G(x) - t)_hwc**2 / masked, with t the teacher's map of tokens, x what the bridge makes of the
    student's, with a trained vector in the place of each token whose m is 1, and G two trained 3x3 convolutions with a
    ReLU in between. Which tokens are masked is drawn anew for each example and each step of training, the same number
    of each example; elsewhere, none is masked, and the sum is over all of them.

    Args:
        masked: share of the tokens that are masked, above 0 and below 1.

    Raises:
        ValueError: `masked` out of range.

    Example:
        >>> Term(MaskedTokenGeneration(), at=("block_12:map", "block_12:map"), bridge="auto", weight=3e-6)

    Reference: Yang et al., ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation, 2022, arXiv 2209.02432;
    github.com/yzd-v/cls_KD.
    """

    def __init__(self, masked: float = 0.5, name: str = "masked_token_generation") -> None:
        super().__init__(name=name, dtype="float32")
        if not 0 < masked < 1:
            raise ValueError(f"Expected `masked` to be a share above 0 and below 1. Received: masked={masked!r}")
        self.masked = masked
        self.seeds = keras.random.SeedGenerator()

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Create the generator and the vector of a masked token, for the teacher's channels."""
        self.generator = _generator(student_shape, teacher_shape)
        self.token = self.add_weight(shape=(teacher_shape[-1],), initializer="zeros", name="token")

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Tensor:
        """Return the loss, (batch,), for maps of one shape, (batch, height, width, channels)."""
        _check(student, teacher)
        if not training:
            return ops.sum(ops.square(self.generator(student) - teacher), axis=(1, 2, 3))
        mask = self._mask(student)
        made = self.generator((1.0 - mask) * student + mask * self.token)
        return ops.sum(mask * ops.square(made - teacher), axis=(1, 2, 3)) / self.masked

    def _mask(self, maps: Tensor) -> Tensor:
        """Return ones where tokens are masked, (batch, height, width, 1)."""
        batch, height, width, _ = ops.shape(maps)
        count = height * width
        noise = keras.random.uniform((batch, count), seed=self.seeds)
        rank = ops.argsort(ops.argsort(noise, axis=-1), axis=-1)
        return ops.reshape(ops.cast(rank >= int(count * (1.0 - self.masked)), maps.dtype), (batch, height, width, 1))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"masked": self.masked, "name": self.name}


def _generator(student_shape: Shape, teacher_shape: Shape) -> keras.Sequential:
    """Return two convolutions that make a map of the teacher's channels of one of the same shape."""
    _check(keras.KerasTensor(student_shape), keras.KerasTensor(teacher_shape))
    channels, layers = teacher_shape[-1], keras.layers
    made = keras.Sequential(
        [
            layers.Conv2D(channels, 3, padding="same", activation="relu", name="first", dtype="float32"),
            layers.Conv2D(channels, 3, padding="same", name="second", dtype="float32"),
        ],
        name="generator",
    )
    made.build(teacher_shape)
    return made


def _check(student: Tensor, teacher: Tensor) -> None:
    require_maps(student, teacher)
    require_same_shape(student, teacher)
