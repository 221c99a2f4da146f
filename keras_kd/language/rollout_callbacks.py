"""What `fit` calls of rollouts: to begin to write, and to log what was written."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras import tree

from keras_kd._internal import soft_targets
from keras_kd._internal.written_examples import LiveTeacher

if TYPE_CHECKING:
    from keras_kd.language.rollouts import Rollouts

#: How often a teacher's forward pass is timed.
_ROUNDS = 3


class RolloutStart(keras.callbacks.Callback):
    """Let the student write from the beginning of a training on, once the callbacks before this one have restored it.

    Args:
        rollouts: that are trained on.
    """

    def __init__(self, rollouts: "Rollouts") -> None:
        super().__init__()
        self._rollouts = rollouts

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Let the student write."""
        self._rollouts.begin()


class RolloutLogs(keras.callbacks.Callback):
    """Log what the rows of each epoch are, and the shares of its time; before the callbacks that read logs.

    Shares of rows that follow the logs do so here.

    Args:
        rollouts: that are trained on.
        live_teacher: runs a teacher of each step on x and y, as the step does; None for another one.
    """

    def __init__(self, rollouts: "Rollouts", live_teacher: LiveTeacher | None = None) -> None:
        super().__init__()
        self._rollouts, self._live_teacher = rollouts, live_teacher
        self._began = 0.0
        self._of_teacher: dict[str, float] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add to the logs."""
        whole = time.perf_counter() - self._began
        if self._of_teacher is None:
            self._of_teacher = self._timed()
        if logs is not None:
            spent = {**self._of_teacher, **self._rollouts.times}
            shares = {name: seconds / whole for name, seconds in spent.items()}
            if "rollouts_teacher_time" in shares:
                shares["rollouts_student_time"] = max(0.0, 1.0 - sum(shares.values()))
            logs.update({**self._rollouts.report(), **shares})
            self._rollouts.adapt(logs)

    def _timed(self) -> dict[str, float]:
        """Return the seconds that a live teacher takes for the steps of an epoch, by timing it on a batch."""
        if self._live_teacher is None or "rollouts_teacher_time" in self._rollouts.times:
            return {}
        x, y, _ = self._rollouts[0]
        batch = soft_targets.map_arrays(tf.convert_to_tensor, x), tf.convert_to_tensor(y)
        _, *rounds = (_seconds(self._live_teacher, batch) for _ in range(1 + _ROUNDS))  # the first one traces
        return {"rollouts_teacher_time": len(self._rollouts) * statistics.median(rounds)}


def _seconds(run: Callable[[Any, Any], Any], batch: tuple[Any, Any]) -> float:
    began = time.perf_counter()
    for leaf in tree.flatten(run(*batch)):
        tf.reshape(leaf, (-1,))[:1].numpy()  # waits for an accelerator, and leaves the rest there
    return time.perf_counter() - began
