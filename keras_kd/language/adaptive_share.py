"""A share of rows that grows while a student gets worse on validation data."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_kd import schedules
from keras_kd._internal import metric_directions
from keras_kd._types import Tensor


class AdaptiveShare:
    """Raise the share of a student's own texts once it gets worse on validation data.

    Texts that a student writes early are poor, and a teacher is unsure of them: little is learned from these. The share
    begins at `start`. Whenever the monitored value, after an epoch, is worse by at least `tolerance` than it was when
    the share was raised last, `step` is added to the share, up to `end`. Epochs without validation change nothing, nor
    does a value that is not finite.

    It is given to `Rollouts` as `student_share`. The rows that were written before keep their origin, so with `replay`
    the rows of an epoch follow the share slowly. A file of the Distiller holds it with the rows.

    Args:
        start: the share at first, 0 to 1.
        end: the highest share, from `start` to 1.
        step: what is added at a time, above 0.
        tolerance: by how much the value has to be worse, in its own unit: of a loss, nats a token.
        monitor: name in the logs of `fit`; of one of validation data, as "val_loss", `fit` needs these.
        mode: "min" if less of it is better, "max" if more is, or "auto" for losses and for metrics that declare it.
        reference: the value that the first one is compared with. None: there is none, so that the first raise cannot
            come before the second value. The reference implementation takes the loss before training:
            `distiller.evaluate(validation, return_dict=True)["loss"]`.

    Attributes:
        follows: whether the logs of a Distiller reach it.

    Raises:
        ValueError: a number out of range. In `fit`: no validation data; nothing declares whether more of `monitor` is
            better; the `fit` is not a Distiller's.

    Example:
        >>> share = AdaptiveShare(start=0.0, step=0.1, tolerance=0.1)
        >>> rollouts = Rollouts(prompts, student=student, data=examples, length=64, student_share=share)
        >>> distiller.fit(rollouts, validation_data=validation, epochs=20)

    Reference: Ko et al., DistiLLM, 2024, arXiv 2402.03898, whose share of new texts among the student's falls in a
    straight line, which `replay` as a schedule comes close to.
    """

    def __init__(
        self,
        start: float = 0.0,
        end: float = 1.0,
        step: float = 0.1,
        tolerance: float = 0.1,
        monitor: str = "val_loss",
        mode: str = "auto",
        reference: float | None = None,
    ) -> None:
        self.start, self.end = schedules.finite("start", start), schedules.finite("end", end)
        self.step, self.tolerance = schedules.finite("step", step), schedules.finite("tolerance", tolerance)
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(f"Expected 0 <= start <= end <= 1. Received: start={start!r}, end={end!r}")
        if self.step <= 0.0:
            raise ValueError(f"Expected `step` to be above 0. Received: step={step!r}")
        metric_directions.check_mode(mode)
        self.monitor, self.mode = monitor, mode
        self._reference = None if reference is None else schedules.finite("reference", reference)
        self._raised = 0
        self.follows = False

    @property
    def value(self) -> float:
        """The share as it is now."""
        return min(self.start + self.step * self._raised, self.end)

    def __call__(self, step: Tensor) -> Tensor:
        """Return the share, whatever the step."""
        return ops.convert_to_tensor(self.value, "float32")

    def follow(self, distiller: Any, validates: bool) -> None:
        """Prepare for the `fit` of a Distiller.

        Args:
            distiller: that trains the student.
            validates: whether `fit` has validation data.
        """
        if self.monitor.startswith("val_") and not validates:
            raise ValueError(
                f"Expected `validation_data` in fit, which the share of the student's texts follows: {self.monitor!r}. "
                "Received: none. Give them, or another `monitor`."
            )
        self.mode = metric_directions.direction(distiller, distiller.student, self.monitor, self.mode)
        self.follows = True

    def update(self, logs: dict[str, Any]) -> None:
        """Raise the share, if the logs of an epoch have it so."""
        value = float(logs.get(self.monitor, math.nan))
        if not math.isfinite(value):
            return
        if self._reference is None:
            self._reference = value
            return
        worse = value - self._reference if self.mode == "min" else self._reference - value
        if worse >= self.tolerance:
            self._raised += 1
            self._reference = value

    def state(self) -> np.ndarray:
        """Return what a file has to hold."""
        return np.array([self._raised, math.nan if self._reference is None else self._reference])

    def restore(self, state: np.ndarray) -> None:
        """Go on from what `state` has returned."""
        self._raised = int(state[0])
        self._reference = None if math.isnan(state[1]) else float(state[1])
