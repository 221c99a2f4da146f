"""What the logs of `fit` have of rollouts."""

import time
from typing import Any

import keras

from keras_kd.language.rollouts import Rollouts


class RolloutLogs(keras.callbacks.Callback):
    """Let rollouts begin with a training; log what the rows of each epoch are, and the shares of its time.

    Args:
        rollouts: that are trained on.
    """

    def __init__(self, rollouts: Rollouts) -> None:
        super().__init__()
        self._rollouts = rollouts
        self._began = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Let the student write, once the callbacks before this one have restored it."""
        self._rollouts.begin()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add to the logs."""
        if logs is not None:
            whole = time.perf_counter() - self._began
            logs.update(self._rollouts.report())
            logs.update({name: seconds / whole for name, seconds in self._rollouts.times.items()})
