"""Keras's checkpoint of a model, which looks for the direction of a metric even where nothing is compared."""

import keras


class Checkpoint(keras.callbacks.ModelCheckpoint):
    """As `keras.callbacks.ModelCheckpoint`; the direction of `monitor` is needed with `save_best_only` alone."""

    def _set_monitor_op(self) -> None:
        if self.save_best_only:
            super()._set_monitor_op()
