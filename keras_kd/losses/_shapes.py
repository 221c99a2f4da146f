"""What losses demand of the shapes they are given, and features as the vectors that they compare."""

import math
from typing import Any

from keras import ops, tree

from keras_kd._types import Number, Shape, Tensor


def flat(features: Tensor) -> Tensor:
    """Return features, (batch, ...), as one vector per example, (batch, features)."""
    return ops.reshape(features, (-1, math.prod(ops.shape(features)[1:])))  # the time of a sequence may be unknown


def require_same_shape(student: Tensor, teacher: Any, more: str = "") -> None:
    """Raise a `ValueError` where the static shapes of `student` and `teacher` differ; `more` is what else to do."""
    theirs, ours = tuple(teacher.shape), tuple(student.shape)
    if _may_be_equal(ours, theirs):
        return
    raise ValueError(
        f"Expected the student and the teacher to have one shape. Received: student {ours}, teacher {theirs}. "
        "Give the term a `bridge` (a layer that turns the student's shape into the teacher's), "
        "or a `transform` that brings both to the same classes, as keras_kd.transforms.FirstClasses does for a "
        f"vocabulary that is padded to two sizes.{more}"
    )


def require_classes(student: Tensor, teacher: Tensor) -> None:
    """Raise a `ValueError` unless both are logits over the same two or more classes."""
    require_same_shape(student, teacher, " Vocabularies of their own have keras_kd.losses.universal_logits.")
    if student.shape[-1] == 1:
        raise ValueError(
            "Expected logits over at least 2 classes: the softmax of a single logit is always 1, "
            f"and nothing would be learned. Received: student {tuple(student.shape)}. "
            "Use Term(keras_kd.losses.binary_kl) for a yes-or-no output, "
            "Term(keras_kd.losses.squared_error) for a value."
        )


def require_same_positions(student: Tensor, teacher: Tensor) -> None:
    """Raise a `ValueError` unless both are logits at the same positions, over two or more classes of their own."""
    theirs, ours = tuple(teacher.shape), tuple(student.shape)
    if _may_be_equal(ours[:-1], theirs[:-1]) and 1 not in (ours[-1], theirs[-1]):
        return
    raise ValueError(
        "Expected the student and the teacher to have logits at the same positions, over at least 2 classes each. "
        f"Received: student {ours}, teacher {theirs}. A yes-or-no output has keras_kd.losses.binary_kl, a value "
        "keras_kd.losses.squared_error."
    )


def require_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise a `ValueError` unless labels are ids, (...) or (..., 1), or one-hot, of logits (..., classes)."""
    received, shape = tuple(labels.shape), tuple(logits.shape)
    for allowed in (shape[:-1], (*shape[:-1], 1), shape):
        if _may_be_equal(received, allowed):
            return
    raise ValueError(
        "Expected one class id for each of the student's distributions, or one-hot labels of their shape. "
        f"Received: labels {received}, student {shape}."
    )


def require_fraction(name: str, value: Number) -> None:
    """Raise a `ValueError` unless `value` is from 0 to 1; a tensor is not looked at, it is a schedule's."""
    if not ops.is_tensor(value) and not 0 <= value <= 1:
        raise ValueError(f"Expected `{name}` to be from 0 to 1. Received: {name}={value!r}")


def require_maps(*maps: Tensor) -> None:
    """Raise a `ValueError` unless all are (batch, height, width, channels) with known sizes."""
    for each in maps:
        if len(each.shape) != 4 or None in each.shape[1:]:
            raise ValueError(
                "Expected maps, (batch, height, width, channels), of known size. "
                f"Received: {' and '.join(str(tuple(one.shape)) for one in maps)}. Read a convolutional layer."
            )


def require_stages(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], number: int | None = None) -> None:
    """Raise a `ValueError` unless both sides are tuples of equally many maps, `number` if it is given."""
    several = all(isinstance(side, (tuple, list)) for side in (student, teacher))
    if several and len(student) == len(teacher) and number in (None, len(student)):
        return
    ours, theirs = tree.map_structure(lambda each: tuple(each.shape), (student, teacher))
    raise ValueError(
        f"Expected {'two' if number == 2 else 'equally many'} maps on each side, at=((first, ...), (first, ...)). "
        f"Received: student {ours}, teacher {theirs}."
    )


def _may_be_equal(shape: Shape, other: Shape) -> bool:
    return len(shape) == len(other) and all(a == b or None in (a, b) for a, b in zip(shape, other, strict=True))
