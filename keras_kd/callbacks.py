"""Callbacks for a Distiller: write its student alone, and log the gradients of each part of the objective."""

import pathlib
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd._internal import metric_directions
from keras_kd._keras.checkpoint import Checkpoint
from keras_kd._types import Tensors
from keras_kd.distiller import Distiller


class StudentCheckpoint(Checkpoint):
    """Write the student alone, as a plain Keras model, whenever `ModelCheckpoint` would write the Distiller.

    Args:
        *args: as in `keras.callbacks.ModelCheckpoint`.
        **kwargs: as in `keras.callbacks.ModelCheckpoint`; `monitor` names the Distiller's logs.

    Raises:
        TypeError: the model that is trained is not a Distiller.
        ValueError: before the first step, with `save_best_only`: nothing declares whether more of `monitor` is better,
            and `mode` is "auto".

    Example:
        >>> StudentCheckpoint("student.keras", monitor="val_accuracy", mode="max", save_best_only=True)
    """

    def set_model(self, model: keras.Model) -> None:
        """Watch the logs of `model`, a Distiller, and save its student."""
        if not isinstance(model, Distiller):
            raise TypeError(
                "Expected to be used in the fit of a keras_kd.Distiller. "
                f"Received: {model!r}. Use keras.callbacks.ModelCheckpoint for other models."
            )
        self._distiller = model
        super().set_model(model.student)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find which way is better, in the Distiller's metrics: the student that is saved may have none."""
        if self.save_best_only:
            self.mode = metric_directions.direction(self._distiller, self._distiller.student, self.monitor, self.mode)


class GradientDiagnostics(keras.callbacks.Callback):
    """Write, after every epoch, the norm of each part's gradient and the cosine of the soft and the hard one.

    Scalars for TensorBoard: `gradient_norm/<part>` for each term, for `distillation_loss` and for `student_loss`,
    unweighted by alpha, and `gradient_cosine` between the last two: below 0, teacher and labels disagree about where to
    go. One batch, in inference mode, so that training goes on as it would without; without the callback nothing is
    computed.

    Args:
        data: one batch, (x,), (x, y) or (x, y, sample_weight), as `fit` would get it.
        log_dir: folder for TensorBoard.

    Raises:
        TypeError: the model that is trained is not a Distiller.

    Example:
        >>> distiller.fit(train, callbacks=[GradientDiagnostics((x[:256], y[:256]), "runs/logs")])
    """

    def __init__(self, data: tuple[Tensors, ...], log_dir: str | pathlib.Path) -> None:
        super().__init__()
        self._data = data
        self._log_dir = str(log_dir)

    def set_model(self, model: keras.Model) -> None:
        """Watch the gradients of `model`, a Distiller."""
        if not isinstance(model, Distiller):
            raise TypeError(f"Expected to be used in the fit of a keras_kd.Distiller. Received: {model!r}")
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the log."""
        self._writer = tf.summary.create_file_writer(self._log_dir)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the scalars of an epoch."""
        with self._writer.as_default(step=epoch):
            for name, value in gradient_diagnostics(self.model, *self._data).items():
                tf.summary.scalar(name, value)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the log."""
        self._writer.close()


def gradient_diagnostics(
    distiller: Distiller, x: Tensors, y: Tensors = None, sample_weight: Tensors = None
) -> dict[str, float]:
    """Return the gradient norms of the parts of the objective on one batch, and the cosine of soft and hard.

    Args:
        distiller: a compiled Distiller with a teacher.
        x: inputs, (batch, ...).
        y: labels, or None.
        sample_weight: weights, or None.

    Returns:
        "gradient_norm/<part>" for each term and both losses, and "gradient_cosine" where there are labels, -1 to 1.
        Gradients are with respect to the student's trainable weights.
    """
    variables = distiller.student.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        parts = distiller.objective(x, y, sample_weight)
    gradients: dict[str, Any] = {}
    for name in parts.keys() - {"loss"}:
        # A term on features does not reach the layers behind them. TensorFlow cannot fill in zeros for Keras variables.
        reached = zip(tape.gradient(parts[name], variables), variables, strict=True)
        flat = [ops.zeros_like(weight) if part is None else ops.convert_to_tensor(part) for part, weight in reached]
        gradients[name] = ops.concatenate([ops.reshape(part, (-1,)) for part in flat])
    report = {f"gradient_norm/{name}": float(ops.norm(gradient)) for name, gradient in sorted(gradients.items())}
    if "student_loss" in gradients:
        soft, hard = gradients["distillation_loss"], gradients["student_loss"]
        lengths = ops.norm(soft) * ops.norm(hard)
        report["gradient_cosine"] = float(ops.divide_no_nan(ops.sum(soft * hard), lengths))
    return report
