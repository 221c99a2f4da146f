"""Which units stay, which may go, and how many weights and multiplications that leaves."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_kd.pruning.channel_trace import Trace, WeightAxis


class Choices:
    """The sets of units of a traced model that may be removed, in groups of which at least one stays.

    Args:
        trace: of the model.
        protect: names of layers whose units stay, as "model/layer"; a model's name stands for all of its layers.

    Raises:
        ValueError: a name is that of no layer.
    """

    def __init__(self, trace: Trace, protect: tuple[str, ...] = ()) -> None:
        self.trace = trace
        self.roots = trace.units.roots()
        self.made = [axis for axis in trace.axes.values() if axis.makes and axis.ids is not None]
        self.reasons = {**_protected(trace, protect, self.made, self.roots), **trace.units.reasons()}
        made = [self.roots[axis.units] for axis in self.made]
        self.free = np.setdiff1d(np.concatenate([[], *made]).astype(int), list(self.reasons))
        self.groups = self._groups(made)

    def _groups(self, made: list[np.ndarray]) -> list[np.ndarray]:
        """Return the free sets by group: those that begin in one layer, or in layers that share some."""
        groups: list[set[int]] = []
        free = set(self.free.tolist())
        for roots in made:
            new = set(roots.tolist()) & free
            touched = [group for group in groups if group & new]
            groups = [group for group in groups if not group & new]
            groups += [new.union(*touched)] if new else []
        return [np.array(sorted(group)) for group in groups]

    def kept(self, removed: np.ndarray) -> "Kept":
        """Return what is left without some sets."""
        alive = np.ones(len(self.roots), bool)
        alive[removed] = False
        return Kept(self, alive[self.roots])

    def fixed(self) -> dict[str, str]:
        """Return the layers of whose units none can be removed, and why."""
        found = dict(self.trace.whole)
        for axis in self.made:
            roots = self.roots[axis.units]
            if all(int(root) in self.reasons for root in roots):
                found[axis.owner] = self.reasons[int(roots[0])]
        return found


def _protected(trace: Trace, names: tuple[str, ...], made: list[WeightAxis], roots: np.ndarray) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in names:
        if not any(_is_in(path, name) for path in trace.paths.values()):
            known = sorted(trace.paths.values())
            raise ValueError(f"Expected `protect` to name layers of the model. Received: {name!r}. It has {known}.")
        for axis in made:
            if _is_in(axis.owner, name):
                found |= dict.fromkeys(roots[axis.units].tolist(), f"{name!r} is protected")
    return found


def _is_in(path: str, name: str) -> bool:
    """Return whether a layer, or a part of it, has a name or is in the model that has it."""
    return path == name or path.startswith((f"{name}/", f"{name}:"))


class Kept:
    """What is left of a model's units.

    Args:
        choices: of the model.
        alive: for each unit, whether it stays.
    """

    def __init__(self, choices: Choices, alive: np.ndarray) -> None:
        self.choices = choices
        self.alive = alive

    def mask(self, ids: np.ndarray) -> np.ndarray:
        """Return for each position whether it stays."""
        return self.alive[ids]

    def count(self, ids: np.ndarray) -> int:
        """Return how many positions stay."""
        return int(np.count_nonzero(self.alive[ids]))

    def positions(self, variable: Any) -> list[tuple[int, np.ndarray]]:
        """Return the axes of a weight that become shorter, and the positions that stay."""
        axes = self.choices.trace.axes
        found = [(axis, axes.get((id(variable), axis))) for axis in range(len(variable.shape))]
        masks = [(axis, self.mask(known.ids)) for axis, known in found if known is not None and known.ids is not None]
        return [(axis, np.flatnonzero(mask)) for axis, mask in masks if not mask.all()]

    def size(self, variable: Any) -> int:
        """Return how many numbers of a weight stay."""
        shape = list(variable.shape)
        for axis, positions in self.positions(variable):
            shape[axis] = len(positions)
        return math.prod(shape)

    def parameters(self, weights: list[Any]) -> int:
        """Return how many of some weights stay."""
        return sum(map(self.size, weights))

    def multiplications(self) -> float:
        """Return the multiplications for one example: of kernels, and of heads of attention; of a free length 1."""
        total = 0.0
        for each in self.choices.trace.work:
            units = 1 if each.ids is None else self.count(each.ids)
            total += each.times * (units if each.variable is None else self.size(each.variable))
        return total

    def values(self, variable: Any, array: np.ndarray) -> np.ndarray:
        """Return what stays of a weight's numbers."""
        for axis, positions in self.positions(variable):
            array = np.take(array, positions, axis=axis)
        return array


def savings(choices: Choices, cost: Callable[[Kept], float]) -> np.ndarray:
    """Return for each group what the first set that is removed of it saves, by group; never below a millionth."""
    whole = cost(choices.kept(np.array([], int)))
    return np.array([max(whole - cost(choices.kept(group[:1])), 1e-6 * whole) for group in choices.groups])
