"""What decides how a student is trained: the levers that `distill` searches, and how candidates are drawn from them."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to train a student.

    Attributes:
        teacher: whether there is one; without it, the two numbers behind and `unlabelled` do not matter.
        method: which terms, where `distill` was given several; "" for the only ones.
        temperature: T of both models.
        alpha: weight of the teacher, 0 to 1.
        change: what is done to copies of the rows of a batch that are put beside them, as "mixtures"; "" for nothing.
        unlabelled: share of rows without labels in a batch, 0 to below 1.
        learning_rate: at which a cosine schedule begins, which ends at 0 with the last step.
    """

    teacher: bool = True
    method: str = ""
    temperature: float = 1.0
    alpha: float = 0.9
    change: str = ""
    unlabelled: float = 0.0
    learning_rate: float = 3e-3

    @property
    def is_alone(self) -> bool:
        """Whether this is a control, which no teacher has a part in."""
        return not self.teacher

    def __str__(self) -> str:
        parts = [f"T={self.temperature:g}, alpha={self.alpha:g}"] if self.teacher else ["alone"]
        parts = [self.method, *parts] if self.method else parts
        parts += [self.change] if self.change else []
        parts += [f"{self.unlabelled:.0%} without labels"] if self.unlabelled else []
        return ", ".join([*parts, f"rate {self.learning_rate:g}"])


#: What is searched, in the order in which it is printed.
CHOICES: dict[str, tuple[Any, ...]] = {
    "method": ("",),
    "temperature": (1.0, 2.0, 4.0),
    "alpha": (0.9, 0.5, 1.0),
    "change": ("",),
    "unlabelled": (0.75, 0.5),
    "learning_rate": (1e-2, 3e-3, 1e-3),
}

#: What a lever is where it is not used.
_UNUSED: dict[str, Any] = {"temperature": 1.0, "change": "", "unlabelled": 0.0}


def space(
    fixed: Mapping[str, Any],
    has_unlabelled: bool,
    changes: Iterable[str] = (),
    softened: bool = True,
    methods: Iterable[str] = ("",),
) -> dict[str, tuple[Any, ...]]:
    """Return the values of each lever.

    Args:
        fixed: a value, or a list of values, for some of them.
        has_unlabelled: whether there are rows without labels.
        changes: names of what may be done to rows.
        softened: whether a temperature applies.
        methods: names of the terms that there are.

    Raises:
        ValueError: a lever that is not known; a value out of range; rows without labels, of which there are none.
    """
    unknown = sorted(set(fixed) - set(CHOICES))
    if unknown:
        raise ValueError(f"Expected `fixed` to name levers: {sorted(CHOICES)}. Received: {unknown}")
    found = {**CHOICES, "change": (*changes, ""), "method": tuple(methods)}
    offered = dict(found)
    if not has_unlabelled:
        found["unlabelled"] = (0.0,)
    if not softened:
        found["temperature"] = (1.0,)
    for name, given in fixed.items():
        values = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if name in _IS_VALID:
            is_valid, which = _IS_VALID[name], _RANGES[name]
        else:
            is_valid, which = offered[name].__contains__, f"of {list(offered[name])}"
        if not values or not all(is_valid(value) for value in values):
            raise ValueError(f"Expected `fixed` to have values of {name!r} {which}. Received: {given!r}")
        if name == "unlabelled" and not has_unlabelled and any(values):
            raise ValueError("Expected `unlabelled` rows for a share of them above 0. Received none.")
        found[name] = values
    return found


def drawn(levers: Mapping[str, Sequence[Any]], count: int, seed: int) -> list[Candidate]:
    """Return different candidates with a teacher, in which each value of a lever is about as frequent as any other.

    Args:
        levers: values of each, the likeliest first: the first candidate has all of these.
        count: of the candidates; fewer where there are no more.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    names, size = list(levers), int(np.prod([len(values) for values in levers.values()]))
    found = {tuple(values[0] for values in levers.values()): None}
    decks: dict[str, list[Any]] = {name: [] for name in names}
    while len(found) < min(count, size):
        for name, deck in decks.items():
            if not deck:
                values = levers[name]
                deck += [values[place] for place in random.permutation(len(values))]
        found.setdefault(tuple(deck.pop() for deck in decks.values()))
    return [Candidate(**dict(zip(names, values, strict=True))) for values in found]


def controls(levers: Mapping[str, Sequence[Any]]) -> list[Candidate]:
    """Return what a student reaches alone: on its labels, and with each change of its rows, at each learning rate."""
    ways = itertools.product(sorted({"", *levers["change"]}), levers["learning_rate"])
    return [Candidate(teacher=False, change=change, learning_rate=rate) for change, rate in ways]


def without(candidate: Candidate) -> dict[str, Candidate]:
    """Return a candidate with each of its levers left out, by the lever's name."""
    values = dataclasses.asdict(candidate)
    return {name: Candidate(**{**values, name: unused}) for name, unused in _UNUSED.items() if values[name] != unused}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)


_IS_VALID = {
    "temperature": lambda value: _is_number(value) and value > 0,
    "alpha": lambda value: _is_number(value) and 0 <= value <= 1,
    "unlabelled": lambda value: _is_number(value) and 0 <= value < 1,
    "learning_rate": lambda value: _is_number(value) and value > 0,
}

_RANGES = {
    "temperature": "above 0",
    "alpha": "from 0 to 1",
    "unlabelled": "from 0 to below 1",
    "learning_rate": "above 0",
}
