"""Keras metrics for training time, usable in any model. After training, `keras_kd.compare` measures more."""

from typing import Any

import keras
from keras import ops

from keras_kd._keras import compiled, masks
from keras_kd._serialization import serializable
from keras_kd._types import Tensor


@serializable
def same_prediction(student: Tensor, teacher: Tensor, threshold: float | None = None) -> Tensor:
    """Return for each example whether the student predicts as the teacher: [argmax(student) = argmax(teacher)].

    It has no gradient. As a term of weight 0, not softened, it is logged while a `Distiller` trains, and changes
    nothing.

    Args:
        student: outputs, (..., classes).
        teacher: outputs, (..., classes), or class ids, (...) or (..., 1).
        threshold: None, or a number above which each output is a yes of its own, see `Agreement`.

    Returns:
        1 or 0; by threshold, the share of outputs that agree; (...).

    Example:
        >>> agreement = Term(metrics.same_prediction, weight=0.0, soften=False, name="agreement")
        >>> distiller = Distiller(student=student, teacher=teacher, terms=[*methods.kd(), agreement])
    """
    student, teacher = ops.convert_to_tensor(student), ops.convert_to_tensor(teacher)
    if threshold is not None:
        return ops.mean(ops.cast((teacher > threshold) == (student > threshold), "float32"), axis=-1)
    predicted = ops.cast(ops.argmax(student, axis=-1), "int32")
    return ops.cast(predicted == _ids(teacher, student.shape[-1], len(predicted.shape)), "float32")


@serializable
class Agreement(keras.metrics.MeanMetricWrapper):
    """How often a student predicts the class that its teacher predicts: mean of [argmax(teacher) = argmax(student)].

    The teacher's prediction takes the place of the labels, as for every metric: a model that is trained on a teacher's
    outputs as y can be compiled with it; a loop of one's own calls `update_state(teacher_output, student_output)`. In a
    `Distiller`, metrics see the labels: there it is a term of weight 0, see `same_prediction`.

    Args:
        threshold: None: the prediction is the class of the largest output. A number: every output is a yes-or-no of its
            own, yes above it: 0.0 for logits, 0.5 for probabilities.
        name: in the logs.
        dtype: of the sums.

    Example:
        >>> student.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[Agreement()])
        >>> student.fit(x, teacher_probabilities)
    """

    def __init__(self, threshold: float | None = None, name: str = "agreement", dtype: Any = None) -> None:
        super().__init__(_as_metric, name=name, dtype=dtype, threshold=threshold)
        self.threshold = threshold
        compiled.declare_direction(self, "up")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"threshold": self.threshold, "name": self.name, "dtype": self.dtype}


@serializable
class ExpectedCalibrationError(keras.metrics.Metric):
    """How far a model's confidence is from its accuracy: `sum_b share_b |accuracy_b - confidence_b|`.

    Confidence is the probability of the predicted class; b are bins of equal width, (0, 1 / bins], ... up to 1. The
    sums of the bins are kept, so the value is that of all examples at once. Few examples, as in one batch, make it too
    large.

    Args:
        bins: their number.
        from_logits: whether the model outputs logits; else probabilities.
        name: in the logs.
        dtype: of the sums.

    Raises:
        ValueError: `bins` is not a whole number above 0.

    Example:
        >>> model.compile("adam", loss, metrics=["accuracy", ExpectedCalibrationError(from_logits=True)])

    Reference: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599.
    """

    def __init__(
        self,
        bins: int = 15,
        from_logits: bool = False,
        name: str = "expected_calibration_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if not isinstance(bins, int) or bins < 1:
            raise ValueError(f"Expected `bins` to be a whole number, at least 1. Received: bins={bins!r}")
        self.bins, self.from_logits = bins, from_logits
        compiled.declare_direction(self, "down")
        self._weight, self._confidence, self._correct = (
            self.add_variable((bins,), "zeros", name=part) for part in ("weight", "confidence", "correct")
        )

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            y_true: class ids, (batch, ...) or (batch, ..., 1), or one-hot, (batch, ..., classes).
            y_pred: (batch, ..., classes); of one output, the probability or the logit of yes.
            sample_weight: (batch, ...), or None.
        """
        confidence, correct = self._judge(ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred))
        weight = ops.ones_like(confidence)
        for factor in (sample_weight, masks.of(y_pred)):
            if factor is not None:
                weight *= ops.reshape(ops.cast(factor, self.dtype), ops.shape(weight))
        bins = ops.cast(ops.ceil(confidence * self.bins), "int32") - 1
        places = ops.one_hot(ops.reshape(ops.clip(bins, 0, self.bins - 1), (-1,)), self.bins, dtype=self.dtype)
        for variable, values in ((self._weight, 1.0), (self._confidence, confidence), (self._correct, correct)):
            variable.assign_add(ops.matmul(ops.reshape(weight * values, (1, -1)), places)[0])

    def result(self) -> Tensor:
        """Return the error of all examples since the last reset, 0 to 1."""
        gaps = ops.abs(self._correct - self._confidence)
        return ops.divide_no_nan(ops.sum(gaps), ops.sum(self._weight))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"bins": self.bins, "from_logits": self.from_logits, "name": self.name, "dtype": self.dtype}

    def _judge(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        """Return the confidence in the predicted class and whether it is the right one, (batch, ...) each."""
        y_pred = ops.cast(y_pred, self.dtype)
        if y_pred.shape[-1] == 1:
            yes = (ops.sigmoid(y_pred) if self.from_logits else y_pred)[..., 0]
            predicted, confidence = ops.cast(yes > 0.5, "int32"), ops.maximum(yes, 1 - yes)
            return confidence, ops.cast(predicted == _ids(y_true, 1, len(predicted.shape)), self.dtype)
        probabilities = ops.softmax(y_pred) if self.from_logits else y_pred
        predicted = ops.argmax(y_pred, axis=-1)
        correct = ops.cast(predicted, "int32") == _ids(y_true, y_pred.shape[-1], len(predicted.shape))
        return ops.max(probabilities, axis=-1), ops.cast(correct, self.dtype)


def _as_metric(teacher: Tensor, student: Tensor, threshold: float | None) -> Tensor:
    return same_prediction(student, teacher, threshold)


def _ids(labels: Tensor, classes: int, rank: int) -> Tensor:
    """Return class ids (batch, ...) of ids, of ids in a last axis of one, or of one output for each class."""
    if len(labels.shape) > rank:
        labels = ops.argmax(labels, axis=-1) if classes > 1 and labels.shape[-1] == classes else labels[..., 0]
    return ops.cast(labels, "int32")
