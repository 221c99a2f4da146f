"""What is done to both sides of a term before the temperature: `Term(loss, transform=...)`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Tensor

#: The paper's guard against constant logits.
_EPSILON = 1e-7

#: By how much float32 may miss the mean of equal logits, relative to their size: a few units in the last place.
_ROUNDING = 1e-6

#: Squared length below which a vector counts as zero: far above float32's smallest normal number, 1.2e-38.
_ZERO = 1e-24


@serializable
def standardize(logits: Tensor) -> Tensor:
    """Give logits a mean of 0 and a standard deviation of 1, so that the student learns their shape, not their scale.

    (z - mean) / (std + 1e-7) over the classes, with the unbiased standard deviation (n - 1). A class that a logit of
    -inf excludes counts in neither, and stays excluded.

    Args:
        logits: (..., classes), at least two classes.

    Returns:
        Standardised logits, (..., classes); 0 where all logits are equal.

    Raises:
        ValueError: there is a single class.

    Example:
        >>> standardize(np.array([[0.0, 2.0, 4.0]]))
        [[-1. 0. 1.]]

    Reference: Sun et al., Logit Standardization in Knowledge Distillation, 2024, arXiv 2403.01427.
    """
    classes = logits.shape[-1]
    if classes < 2:
        raise ValueError(f"Expected logits over at least 2 classes. Received: {tuple(logits.shape)}")
    excluded = ops.equal(logits, -np.inf)
    present = ops.where(excluded, 0.0, logits)
    count = classes - ops.sum(ops.cast(excluded, logits.dtype), axis=-1, keepdims=True)
    centred = ops.where(excluded, 0.0, present - ops.sum(present, axis=-1, keepdims=True) / count)
    variance = ops.sum(ops.square(centred), axis=-1, keepdims=True) / ops.maximum(count - 1.0, 1.0)
    # Where all logits are equal there is no shape to learn: 0, with a gradient of 0 instead of 1e7. Their mean is
    # rounded, so that equal is what differs by less than that.
    rounding = ops.square(_ROUNDING * ops.max(ops.abs(present), axis=-1, keepdims=True))
    scale = 1.0 / (ops.sqrt(ops.maximum(variance, _ZERO)) + _EPSILON)
    scale = ops.where(variance > ops.maximum(rounding, _ZERO), scale, 0.0)
    return ops.where(excluded, -np.inf, centred * scale)


@serializable
def l2_normalize(x: Tensor) -> Tensor:
    """Give vectors the length 1.

    x / ||x||_2 over the last axis.

    Args:
        x: (..., n).

    Returns:
        Vectors of length 1, (..., n); a zero vector stays zero.

    Example:
        >>> l2_normalize(np.array([[3.0, 4.0]]))
        [[0.6 0.8]]
    """
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    # A zero vector has no direction: a gradient of 0, not of 1e12.
    return ops.where(squared > _ZERO, x * ops.rsqrt(ops.maximum(squared, _ZERO)), ops.zeros_like(x))


@serializable
class ClassMap:
    """Read a teacher of many classes as one of the student's: a 1000-class teacher for a 10-class student.

    Logits over `teacher_classes` become logits over the student's classes: for each, the logsumexp of the teacher's
    logits that belong to it, which is the sum of their probabilities at T = 1. Classes in no group are left out, and
    the rest is renormalised. Logits of any other width, the student's, pass through.

    Args:
        groups: for each class of the student, the teacher's class or classes.
        teacher_classes: how many classes the teacher has; not the student's number.

    Raises:
        ValueError: a class outside 0 to `teacher_classes` - 1, an empty group, or as many groups as teacher classes.

    Example:
        >>> Term(losses.kl_divergence, transform=ClassMap([281, [151, 152]], teacher_classes=1000))
    """

    def __init__(self, groups: Sequence[int | Sequence[int]], teacher_classes: int) -> None:
        self.groups = [[group] if isinstance(group, int) else list(group) for group in groups]
        self.teacher_classes = teacher_classes
        flat = [index for group in self.groups for index in group]
        if not all(self.groups) or any(not 0 <= index < teacher_classes for index in flat):
            raise ValueError(
                f"Expected one or more of the teacher's classes, 0 to {teacher_classes - 1}, for each of the student's."
                f" Received: {self.groups}"
            )
        if len(self.groups) == teacher_classes:
            raise ValueError(
                f"Expected fewer groups than teacher classes: with {teacher_classes} of both, the student's logits "
                "could not be separated from the teacher's. Reorder the classes in a layer after the teacher instead."
            )

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits over the student's classes, (..., groups)."""
        if logits.shape[-1] != self.teacher_classes:
            return logits
        width = max(len(group) for group in self.groups)
        index = np.array([group + [group[0]] * (width - len(group)) for group in self.groups])
        padding = np.array([[-np.inf if i >= len(group) else 0.0 for i in range(width)] for group in self.groups])
        picked = ops.reshape(ops.take(logits, index.ravel(), axis=-1), (*ops.shape(logits)[:-1], *index.shape))
        return ops.logsumexp(picked + ops.cast(padding, logits.dtype), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"groups": self.groups, "teacher_classes": self.teacher_classes}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ClassMap":
        """Make a class map from `get_config`'s dict."""
        return cls(**config)


@serializable
class FirstClasses:
    """Compare the first classes alone: language models with one vocabulary are padded to several sizes.

    z[..., :classes], before the softmax. Labels of terms with it have to be among these classes.

    Args:
        classes: how many, at least two, and no more than either model has; see `language.shared_vocabulary`.

    Raises:
        ValueError: fewer than two classes; logits over fewer than `classes`.

    Example:
        >>> Term(losses.kl_divergence, transform=FirstClasses(151_665))
    """

    def __init__(self, classes: int) -> None:
        if classes < 2:
            raise ValueError(f"Expected `classes` to be at least 2. Received: classes={classes!r}")
        self.classes = classes

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits over the first classes, (..., classes)."""
        width = logits.shape[-1]
        if width is not None and width < self.classes:
            raise ValueError(
                f"Expected logits over at least the {self.classes:,} classes that are compared. Received: "
                f"{tuple(logits.shape)}. Compare as many as both models have."
            )
        return logits[..., : self.classes]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"classes": self.classes}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FirstClasses":
        """Make the transform from `get_config`'s dict."""
        return cls(**config)


@serializable
class KeptChannels:
    """Read of a teacher's features the channels that its pruned student has left.

    Features of any other width, the student's, pass through.

    Args:
        channels: the numbers of the channels that are left, in the student's order.
        before: how many the teacher has; more than are left.

    Raises:
        ValueError: there are as many channels as before, or a number is none of theirs.

    Example:
        >>> Term(losses.squared_error, at=("block_2", "block_2"), transform=KeptChannels([0, 3, 5], before=8))
    """

    def __init__(self, channels: Sequence[int], before: int) -> None:
        self.channels = [int(each) for each in channels]
        self.before = before
        if not 0 < len(self.channels) < before or not all(0 <= each < before for each in self.channels):
            raise ValueError(
                f"Expected fewer channels than before, each 0 to {before - 1}. Received: {len(self.channels)} of "
                f"{before}: {self.channels[:10]}"
            )

    def __call__(self, features: Tensor) -> Tensor:
        """Return the kept channels, (..., kept)."""
        return features if features.shape[-1] != self.before else ops.take(features, self.channels, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"channels": self.channels, "before": self.before}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KeptChannels":
        """Make one from `get_config`'s dict."""
        return cls(**config)
