"""Lines on how far a search is."""

from collections.abc import Sequence

from keras_kd._internal.log import info
from keras_kd._internal.number_formats import duration
from keras_kd.experiments.candidates import Candidate


class SearchProgress:
    """Prints a line after each training, with the time that is left, once it is known how many there are.

    Args:
        metric: name of the score.
        verbose: 0 for silence.
    """

    def __init__(self, metric: str, verbose: int) -> None:
        self._metric, self._verbose = metric, verbose
        self._seconds = self._done = self._left = 0.0
        self._has_begun = False

    def begin(self, steps: Sequence[int], counts: Sequence[int]) -> None:
        """Count the steps of as many trainings in each round."""
        self._left = sum(count * each for count, each in zip(counts, steps, strict=True))
        self._has_begun = True

    def line(self, candidate: Candidate, steps: int, score: float, seconds: float) -> None:
        """Print what a training has reached."""
        self._left = max(0.0, self._left - steps)
        self._seconds, self._done = self._seconds + seconds, self._done + steps
        if self._verbose and self._has_begun:
            left = duration(self._left * self._seconds / self._done)
            info(f"{candidate!s:<72} {steps:>6,} steps  {self._metric} {score:.4f}  {left} left")
