"""Callbacks that know that a Distiller holds a student."""

import keras

from keras_kd import directions
from keras_kd.distiller import Distiller


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
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

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Find which way is better, in the Distiller's metrics: the student that is saved may have none."""
        if self.save_best_only:
            self.mode = directions.direction(self._distiller, self._distiller.student, self.monitor, self.mode)

    def _set_monitor_op(self) -> None:
        """Leave alone what is not compared: Keras would look for its direction all the same."""
        if self.save_best_only:
            super()._set_monitor_op()
