"""Which units to remove: the least important ones for what they save, until a budget holds."""

import math
from collections.abc import Callable

import numpy as np

from keras_kd.pruning.kept_units import Choices, Kept


class Ranking:
    """An order in which units are removed.

    Args:
        choices: what may be removed.
        scores: the order of each set, by the number that stands for it: the smallest first, infinite ones never.
        importance: within a group, which sets come back where a layer would be empty or has a number to meet.
        round_to: each layer keeps a multiple of so many units, or all.
    """

    def __init__(self, choices: Choices, scores: np.ndarray, importance: np.ndarray, round_to: int = 1) -> None:
        self._choices = choices
        self._importance = importance
        self._round_to = round_to
        free = choices.free[np.isfinite(scores[choices.free])]
        self.order = free[np.argsort(scores[free], kind="stable")]
        self.sorted_scores = scores[self.order]
        self._widths = self._positions()

    def _positions(self) -> dict[int, int]:
        """Return how many positions of a layer a set has, by its number."""
        found: dict[int, int] = {}
        for axis in self._choices.made:
            roots, counts = np.unique(self._choices.roots[axis.ids], return_counts=True)
            for root, count in zip(roots.tolist(), counts.tolist(), strict=True):
                found.setdefault(root, count)
        return found

    def kept(self, number: int) -> Kept:
        """Return what is left without so many sets, but for those that a layer needs."""
        removed = set(self.order[:number].tolist())
        for group in self._choices.groups:
            removed -= self._back_for_rounding(group, removed)
        removed -= self._back_for_empty(removed)
        return self._choices.kept(np.array(sorted(removed), int))

    def _back_for_rounding(self, group: np.ndarray, removed: set[int]) -> set[int]:
        gone = [root for root in self._best_first(group) if root in removed]
        step = self._round_to // math.gcd(self._round_to, self._widths[int(group[0])])
        return set(gone[: -(len(group) - len(gone)) % step])

    def _back_for_empty(self, removed: set[int]) -> set[int]:
        back: set[int] = set()
        for axis in self._choices.made:
            roots = set(self._choices.roots[axis.ids].tolist())
            if roots <= removed - back:
                best = self._best_first(np.array(sorted(roots)))
                step = self._round_to // math.gcd(self._round_to, self._widths[best[0]])
                back |= set(best[:step])
        return back

    def _best_first(self, roots: np.ndarray) -> list[int]:
        return list(map(int, roots[np.argsort(-self._importance[roots], kind="stable")]))

    def until(
        self, cost: Callable[[Kept], float], most: float, name: str, like: Callable[[Kept], float] | None = None
    ) -> Kept:
        """Return what is left when as few sets as possible are removed for a cost to be at most so much.

        Args:
            cost: of what is left.
            most: that it may be.
            name: of the cost, for the message.
            like: for a cost that takes long to find, another one that is found at once, and of which the first is
                about a constant and a multiple. A cost within a hundredth of `most` is then near enough.

        Raises:
            ValueError: it is more with all removed that can be.
        """
        low, high = 0, len(self.order)
        before, least = cost(self.kept(low)), cost(self.kept(high))
        if before <= most:
            return self.kept(low)
        if least > most:
            raise ValueError(
                f"Expected {name}={most:,.6g} to be possible. With all units removed that can be, it is {least:,.6g}, "
                f"and {before:,.6g} before. What stays, and why: {self._choices.fixed()}."
            )
        while high - low > 1 and not (like and least > 0.99 * most):
            share = (before - 0.995 * most) / (before - least)
            middle = (low + high) // 2 if like is None else self._at(low, high, share, like)
            found = cost(self.kept(middle))
            if found <= most:
                high, least = middle, found
            else:
                low, before = middle, found
        return self.kept(high)

    def _at(self, low: int, high: int, share: float, like: Callable[[Kept], float]) -> int:
        """Return a number of sets between two others that takes a cost a share of the way from one to the other."""
        first, last = like(self.kept(low)), like(self.kept(high))
        wanted = first + share * (last - first)
        while high - low > 2:
            middle = (low + high) // 2
            low, high = (low, middle + 1) if like(self.kept(middle)) <= wanted else (middle, high)
        return (low + high) // 2


def by_share(choices: Choices, importance: np.ndarray) -> np.ndarray:
    """Return scores by which each group loses the same share: for each set, that of those up to it."""
    scores = np.full(len(importance), np.inf)
    for group in choices.groups:
        order = np.argsort(np.argsort(importance[group], kind="stable"))
        scores[group] = np.where(np.isfinite(importance[group]), (order + 1) / len(group), np.inf)
    return scores


def by_saving(choices: Choices, importance: np.ndarray, savings: np.ndarray) -> np.ndarray:
    """Return scores: importance for each part of the cost that a set saves.

    Args:
        choices: what may be removed.
        importance: of each set.
        savings: of one set of each group.
    """
    scores = np.full(len(importance), np.inf)
    for group, saving in zip(choices.groups, savings, strict=True):
        scores[group] = importance[group] / saving
    return scores
