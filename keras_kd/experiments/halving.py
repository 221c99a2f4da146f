"""Successive halving, in which each candidate is trained to the end of a schedule of its own.

A training that is cut short ranks what learns fastest first. Here, a round gives each candidate a whole cosine schedule
of fewer steps, from the same first weights, and the best of a round get three times the steps in the next.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from keras_kd.experiments.candidate_ranking import Scored, by_labels
from keras_kd.experiments.candidates import Candidate

#: By how much steps grow from round to round, as the candidates become fewer.
FACTOR = 3

#: Candidates with a teacher in each round.
TAUGHT = (12, 3, 1)

#: Levers that are left out, one by one, of the candidate that is chosen.
LEFT_OUT = 3

#: Steps of a training in each round, as a share of the longest.
_SHARES = [FACTOR ** (number + 1 - len(TAUGHT)) for number in range(len(TAUGHT))]

#: The fewest steps of the longest training.
_LEAST = 90

#: Trains a candidate for a number of steps, and returns how good it is.
Trial = Callable[[Candidate, int], Scored]

#: Puts the best first.
Order = Callable[[list[Scored]], list[Scored]]


class Found(NamedTuple):
    """The trainings of each round, the best by their labels first, and the best of all with a teacher and without.

    A longer training is not always a better one: alone, on few labels, students overfit.
    """

    rounds: list[list[Scored]]
    taught: Scored
    control: Scored

    @property
    def best(self) -> Scored:
        """The better of both winners by the labels; of equals the control, which needs no teacher."""
        return max(self.control, self.taught, key=by_labels)


def trainings(taught: Sequence[Candidate], controls: Sequence[Candidate]) -> list[int]:
    """Return how many trainings each round has."""
    alone = (len(controls), len({each.change for each in controls}), 1)
    return [min(len(taught), most) + count for most, count in zip(TAUGHT, alone, strict=True)]


def rounds_of(budget: int, taught: Sequence[Candidate], controls: Sequence[Candidate]) -> list[int]:
    """Return the steps of a training in each round, all of which together have at most `budget`.

    Raises:
        ValueError: a budget in which the longest training has fewer than 90 steps.
    """
    least, whole = least_budget(taught, controls), _longest_trainings(taught, controls)
    if budget < least:
        raise ValueError(
            f"Expected a `budget` of at least {least:,} steps, for {sum(trainings(taught, controls))} trainings of "
            f"which the longest have {_LEAST}. Received: {budget:,}. Give more, or fix some levers."
        )
    return [int(budget / whole * share) for share in _SHARES]


def least_budget(taught: Sequence[Candidate], controls: Sequence[Candidate]) -> int:
    """Return the steps of the shortest search."""
    return round(_LEAST * _longest_trainings(taught, controls))


def _longest_trainings(taught: Sequence[Candidate], controls: Sequence[Candidate]) -> float:
    """Return how many of the longest trainings have as many steps as the whole search."""
    counts = trainings(taught, controls)
    return sum(count * share for count, share in zip(counts, _SHARES, strict=True)) + LEFT_OUT * _SHARES[-2]


def search(
    taught: Sequence[Candidate], controls: Sequence[Candidate], steps: Sequence[int], trial: Trial, ordered: Order
) -> Found:
    """Train candidates round by round, and return what was found.

    Of the controls, the best with each change of rows and with none reach the second round, and the best one the last.

    Args:
        taught: candidates with a teacher.
        controls: those without.
        steps: of each round.
        trial: trains and scores one.
        ordered: decides which go on.
    """
    rounds: list[list[Scored]] = []
    leaders: list[tuple[Scored, Scored]] = []
    for count, most in zip(steps, TAUGHT, strict=True):
        with_teacher = ordered([trial(each, count) for each in taught[:most]])
        alone = ordered([trial(each, count) for each in controls])
        leaders.insert(0, (with_teacher[0], alone[0]))  # of equals, the longest training is the first
        taught = [each.candidate for each in with_teacher]
        # The first of each change; in the second round, there is one of each already.
        firsts = {each.candidate.change: each.candidate for each in reversed(alone)}
        controls = list(firsts.values()) if not rounds else [alone[0].candidate]
        rounds.append(sorted([*with_teacher, *alone], key=by_labels, reverse=True))
    taught_best, alone_best = (ordered(list(side))[0] for side in zip(*leaders, strict=True))
    return Found(rounds, taught_best, alone_best)
