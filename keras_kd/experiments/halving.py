"""Successive halving, in which each candidate is trained to the end of a schedule of its own.

A training that is cut short ranks what learns fastest first. Here, a round gives each candidate a whole cosine schedule
of fewer steps, from the same first weights, and the best of a round get three times the steps in the next.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from keras_kd.experiments.levers import Candidate

#: By how much steps grow from round to round, as the candidates become fewer.
FACTOR = 3

#: Candidates with a teacher in each round.
TAUGHT = (12, 4, 2)

#: Levers that are left out, one by one, of the candidate that is chosen.
_LEVERS = 3

#: The fewest steps of the longest training.
_LEAST = 90

#: Trains a candidate for so many steps, and returns how good it is: more is better.
Trial = Callable[[Candidate, int], float]


class Scored(NamedTuple):
    """A candidate, for how many steps it was trained, and how good it is."""

    candidate: Candidate
    steps: int
    worth: float


def trainings(taught: Sequence[Candidate], controls: Sequence[Candidate]) -> list[int]:
    """Return how many trainings each round has."""
    kinds = len({each.mixtures for each in controls})
    return [min(len(taught), most) + (kinds if number else len(controls)) for number, most in enumerate(TAUGHT)]


def rounds_of(budget: int, taught: Sequence[Candidate], controls: Sequence[Candidate]) -> list[int]:
    """Return the steps of a training in each round, all of which together have at most `budget`.

    Raises:
        ValueError: a budget in which the longest training has fewer than 90 steps.
    """
    counts = trainings(taught, controls)
    shares = [FACTOR ** (number + 1 - len(TAUGHT)) for number in range(len(TAUGHT))]
    whole = sum(count * share for count, share in zip(counts, shares, strict=True))
    whole += _LEVERS * shares[-2]
    if budget < whole * _LEAST:
        raise ValueError(
            f"Expected a `budget` of at least {round(whole * _LEAST):,} steps, for {sum(counts)} trainings of which "
            f"the longest have {_LEAST}. Received: {budget:,}. Give more, or fix some levers."
        )
    return [int(budget / whole * share) for share in shares]


def search(
    taught: Sequence[Candidate], controls: Sequence[Candidate], steps: Sequence[int], trial: Trial
) -> list[list[Scored]]:
    """Train candidates round by round, and return those of each round, the best first.

    Controls compete with their own kind alone: with mixtures or without, the best of each reaches the last round.

    Args:
        taught: candidates with a teacher.
        controls: those without.
        steps: of each round.
        trial: trains and scores one.
    """
    groups = [list(taught), *([each for each in controls if each.mixtures is kind] for kind in (False, True))]
    found: list[list[Scored]] = []
    for number, (count, most) in enumerate(zip(steps, TAUGHT, strict=True)):
        limits = [most, *[1 if number else len(controls)] * 2]
        scored = [
            ordered(Scored(each, count, trial(each, count)) for each in group[:limit])
            for group, limit in zip(groups, limits, strict=True)
        ]
        groups = [[each.candidate for each in group] for group in scored]
        found.append(ordered(each for group in scored for each in group))
    return found


def ordered(found: Iterable[Scored]) -> list[Scored]:
    """Return the best first; of equals, the one that came first."""
    return sorted(found, key=lambda each: -each.worth)
