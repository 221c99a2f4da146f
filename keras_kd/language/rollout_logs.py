"""What the logs of `fit` have of rollouts."""

import time
from typing import Any

import keras

from keras_kd.language.rollouts import Rollouts


class RolloutLogs(keras.callbacks.Callback):
    """Log what the rows of an epoch are, and which share of its time was spent on writing them.

    Args:
        rollouts: that are trained on.
    """

    def __init__(self, rollouts: Rollouts) -> None:
        super().__init__()
        self._rollouts = rollouts
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add to the logs."""
        if logs is not None:
            share = self._rollouts.seconds / (time.perf_counter() - self._began)
            logs.update(self._rollouts.report(), rollouts_time=share)
