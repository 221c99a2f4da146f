"""What `fit` and the first step refuse: data and settings that would train on something else than was meant."""

from collections.abc import Iterable
from typing import Any

from keras_kd._internal import raw_views, student_overrides
from keras_kd._keras import compiled
from keras_kd._types import Tensors


def check_labels(y: Any) -> None:
    """Refuse labels that are words."""
    if raw_views.has_text(y):
        raise TypeError(
            "Expected labels as numbers. Received text. Make class ids of it: classes, y = np.unique(y, "
            "return_inverse=True)."
        )


def check_batch_size(batch_size: Any) -> None:
    """Refuse weights in the place of a batch size, as `fit(*examples)` gives them."""
    shape = getattr(batch_size, "shape", ())
    if len(shape):
        raise TypeError(
            "Expected `batch_size` to be a number, the third argument of Keras's `fit`. Received an array of shape "
            f"{tuple(shape)}. Weights are given by name: fit(x, y, sample_weight=weights)."
        )


def check_ready(distiller: Any, y: Tensors) -> None:
    """Refuse a student that cannot learn, and a batch without labels where these have a share."""
    student = distiller.student
    if student.built and not student.trainable_variables:
        raise ValueError(
            f"Expected a student that can learn. {student.name!r} has no trainable weights: "
            "set `trainable = True` on it, or on those of its layers that are to be trained."
        )
    if not reads_labels(distiller, y) and distiller.alpha != 1.0:
        raise ValueError(
            f"Expected labels for their share of 1 - alpha. Received none, with alpha={distiller.alpha!r}. "
            "Pass them as y, or compile with alpha=1.0 to learn from the teacher alone."
        )


def reads_labels(distiller: Any, y: Tensors) -> bool:
    """Return whether a batch with labels y has any, or the student's own loss needs none."""
    return y is not None or student_overrides.has(distiller.student, "compute_loss")


def check_log_names(distiller: Any, parts: Iterable[str]) -> None:
    """Refuse metrics that have the name of a part of the objective in the logs."""
    clash = sorted({"loss", *parts} & compiled.names(distiller))
    if clash:
        raise ValueError(
            f"Expected each name in the logs to be used once. {clash} are names of metrics, or of losses of "
            "outputs, and of parts of the objective: give the metric, the term or the output another `name`."
        )
