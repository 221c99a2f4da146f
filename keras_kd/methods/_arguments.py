"""Arguments that several methods take: pairs of layers, and a weight that rises from 0."""

from collections.abc import Sequence

from keras_kd import schedules
from keras_kd._types import Schedule

#: Names of a layer of the student and of one of the teacher.
Pair = tuple[str, str]


def warm_up(weight: float, steps: int) -> Schedule:
    """Return a weight that rises from 0 in a number of steps; the weight itself where there is at most one."""
    return weight if steps <= 1 else schedules.Ramp(0.0, weight, steps)


def checked(at: Sequence[Pair]) -> list[Pair]:
    """Return pairs of layers, at least one, or raise an error that shows their form."""
    stages = list(at)
    if not stages or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in stages):
        raise ValueError(
            "Expected pairs of layers, [('student_layer', 'teacher_layer'), ...]; methods.suggest_pairs(student, "
            f"teacher) finds some. Received: {at!r}"
        )
    return [(ours, theirs) for ours, theirs in stages]
