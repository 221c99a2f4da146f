"""Units that are removed together: channels, heads and hidden units, joined where a graph adds or multiplies them."""

from collections.abc import Iterable

import numpy as np

#: The numbers of units along an axis of a tensor or a weight, one for each position; None where nothing can be removed.
Ids = np.ndarray | None


class Units:
    """Numbered units, which of them belong together, and which have to stay.

    A disjoint-set forest: the units of one set are removed together or not at all.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def new(self, number: int) -> np.ndarray:
        """Return the numbers of new units, each a set of its own."""
        start = len(self._parents)
        self._parents += range(start, start + number)
        return np.arange(start, start + number)

    def join(self, ids: Iterable[int], others: Iterable[int]) -> None:
        """Join units pairwise."""
        for one, other in zip(ids, others, strict=True):
            self._parents[self._root(int(other))] = self._root(int(one))

    def fix(self, ids: Ids, reason: str) -> None:
        """Keep units, and those that are joined with them.

        Args:
            ids: their numbers; None for none.
            reason: why, for the report; the first one counts.
        """
        for each in () if ids is None else np.unique(ids):
            self._reasons.setdefault(int(each), reason)

    def roots(self) -> np.ndarray:
        """Return for each unit the number of the one that stands for its set."""
        return np.array([self._root(each) for each in range(len(self))], int)

    def reasons(self) -> dict[int, str]:
        """Return why sets have to stay, by the number that stands for them."""
        found: dict[int, str] = {}
        for each, reason in self._reasons.items():
            found.setdefault(self._root(each), reason)
        return found

    def _root(self, unit: int) -> int:
        while self._parents[unit] != unit:
            self._parents[unit] = self._parents[self._parents[unit]]
            unit = self._parents[unit]
        return unit
