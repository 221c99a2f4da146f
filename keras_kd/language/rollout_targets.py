"""What a teacher predicts of the rows of an epoch, made once of each row."""

import time
from typing import Any

import numpy as np
from keras import tree

from keras_kd._internal.written_examples import Targets
from keras_kd._types import Tensors


class RolloutTargets:
    """Keeps a teacher's targets beside rows.

    Args:
        make: returns them, (rows, ...) each, of what the student reads of rows.

    Attributes:
        seconds: that the teacher took for the rows that were written last.
    """

    def __init__(self, make: Targets) -> None:
        self.make = make
        self.seconds = 0.0
        self._kept: dict[str, Any] | None = None

    def renew(self, x: Tensors, slots: np.ndarray) -> None:
        """Make the targets of rows in some places anew, or of all where there are none yet.

        Args:
            x: of all rows.
            slots: places of those that are new.
        """
        began = time.perf_counter()
        if self._kept is None:
            self._kept = self.make(x)
        else:
            made = self.make(tree.map_structure(lambda each: each[slots], x))
            for whole, part in zip(tree.flatten(self._kept), tree.flatten(made), strict=True):
                whole[slots] = part
        self.seconds = time.perf_counter() - began

    def forget(self) -> None:
        """Let all be made anew: the rows are others."""
        self._kept = None

    def of(self, x: Tensors, places: np.ndarray) -> dict[str, Any]:
        """Return the targets of rows in some places; `x` is that of all rows."""
        if self._kept is None:
            self.renew(x, places)
        return tree.map_structure(lambda each: each[places], self._kept)
