"""Callbacks that know that a Distiller holds a student."""

import keras

from keras_kd.distiller import Distiller


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
    """Write the student alone, as a plain Keras model, whenever `ModelCheckpoint` would write the Distiller.

    Args:
        *args: as in `keras.callbacks.ModelCheckpoint`.
        **kwargs: as in `keras.callbacks.ModelCheckpoint`; `monitor` names the Distiller's logs.

    Raises:
        TypeError: the model that is trained is not a Distiller.

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

    def _set_monitor_op(self) -> None:
        """Look for the monitored metric where it is: in the Distiller, not in the student that is saved."""
        super().set_model(self._distiller)
        super()._set_monitor_op()
        super().set_model(self._distiller.student)
