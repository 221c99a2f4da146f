"""Which rows are written next, and in how many epochs each is used."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_kd import schedules
from keras_kd._types import Schedule

#: By which a number of rows may miss a whole one: schedules return float32.
_ROUNDING = 1e-4


class RowTurns(NamedTuple):
    """Gives the places of rows in turn: all at first, then of some, which are those that were written longest ago.

    Attributes:
        rows: of an epoch.
        replay: epochs in which a row is used: a number or a schedule.
        places: of the rows that are written, in ascending order.
        drawn: rows that were written, with these.
        due: part of a row that was left over.
    """

    rows: int
    replay: Schedule
    places: np.ndarray = np.arange(0)
    drawn: int = 0
    due: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What a file has to be of to go on with it."""
        return {"replay": "a schedule" if callable(self.replay) else self.replay}

    def checked(self) -> "RowTurns":
        """Return the same, or refuse what cannot be, as far as it is known."""
        for step in (0, np.iinfo("int32").max) if schedules.is_known(self.replay) else (0,):
            self._epochs(step)
        return self

    def next(self, step: int) -> "RowTurns":
        """Return the turn at a step of the optimizer."""
        wanted = self.rows / self._epochs(step) + self.due if self.drawn else float(self.rows)
        count = int(wanted + _ROUNDING)
        places = np.sort((self.drawn + np.arange(count)) % self.rows)
        return self._replace(places=places, drawn=self.drawn + count, due=max(0.0, wanted - count))

    def _epochs(self, step: int) -> float:
        found = float(ops.convert_to_numpy(schedules.at(self.replay, ops.convert_to_tensor(step, "int64"))))
        at = f" at step {step}" if callable(self.replay) else ""
        if found > self.rows:
            raise ValueError(
                f"Expected `replay` to be at most the rows of an epoch, {self.rows}. Received: {found:g}{at}"
            )
        if not found >= 1:
            raise ValueError(f"Expected `replay` to be at least 1. Received: {found:g}{at}")
        return found
