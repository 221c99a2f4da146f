"""How well scores rank what is true above what is not, and the threshold that tells them apart best.

For these all scores are needed at once. scikit-learn computes the same areas, which tests compare; it is no dependency
of the library.
"""

from typing import NamedTuple

import numpy as np

#: With more scores than this, they are not kept, and nothing is ranked: 1 GiB of float64.
_MOST = 2**27


class Ranked(NamedTuple):
    """Scores in falling order, and what is decided at each: yes for all from the first on.

    Attributes:
        scores: one for each group of equal scores, from the largest on.
        right: the weight of the yes among those that are as large or larger.
        wrong: the weight of the no among them.
    """

    scores: np.ndarray
    right: np.ndarray
    wrong: np.ndarray

    def roc_auc(self) -> float:
        """Return the probability that a yes has a larger score than a no; NaN without one of the two."""
        yes, no = self.right[-1], self.wrong[-1]
        if not (yes and no):
            return float("nan")
        heights = np.concatenate([[0.0], self.right])
        widths = np.diff(self.wrong, prepend=0.0)
        return float(np.sum(widths * (heights[1:] + heights[:-1])) / (2 * yes * no))

    def pr_auc(self) -> float:
        """Return the average precision, sum_n (recall_n - recall_(n-1)) precision_n; NaN without a yes."""
        if not self.right[-1]:
            return float("nan")
        gains = np.diff(self.right, prepend=0.0) / self.right[-1]
        return float(np.sum(gains * self.right / (self.right + self.wrong)))

    def threshold(self) -> float:
        """Return the score above which yes has the largest F1, halfway to the next lower score."""
        f1 = 2 * self.right / (self.right + self.wrong + self.right[-1])
        place = int(np.argmax(f1))
        lower = self.scores[min(place + 1, len(self.scores) - 1)]
        return float((self.scores[place] + lower) / 2 if lower < self.scores[place] else np.nextafter(lower, -np.inf))


class Scores:
    """The scores of one model, batch by batch.

    Args:
        labels: how many each row has.
    """

    def __init__(self, labels: int) -> None:
        self._labels, self._kept = labels, 0
        self._batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> None:
        """Add a batch: scores (rows, labels), whether they should be large (rows, labels), and weights (rows,)."""
        self._kept += scores.size
        if self._kept > _MOST:
            self._batches.clear()
        else:
            self._batches.append((scores, truth, weights))

    def ranked(self) -> list[Ranked]:
        """Return the scores of each label in their order; nothing where there were too many."""
        if not self._batches:
            return []
        scores, truth, weights = (np.concatenate(each) for each in zip(*self._batches, strict=True))
        return [_ranked(scores[:, place], truth[:, place], weights) for place in range(self._labels)]


def _ranked(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Ranked:
    order = np.argsort(-scores, kind="stable")
    scores, truth, weights = scores[order], truth[order], weights[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each group of equal scores
    return Ranked(scores[last], np.cumsum(weights * truth)[last], np.cumsum(weights * ~truth)[last])
