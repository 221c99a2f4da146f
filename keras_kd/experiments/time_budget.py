"""How many steps fit into a time, by timing two short trainings."""

import dataclasses
import datetime
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence

from keras_kd._internal.files import readable, replace
from keras_kd._internal.number_formats import duration
from keras_kd.experiments import halving
from keras_kd.experiments.candidates import Candidate
from keras_kd.experiments.distill_run import Trainer

#: What a search by time has planned, in its folder.
_FILE = "steps.json"

#: Steps of the two trainings: of their difference, the time of a step is read.
_SHORT, _LONG = 20, 200

#: Share of the time that is planned for; the rest is for the verdict, and for what takes longer than it was timed.
_SHARE = 0.85


def steps_of(
    budget: int | datetime.timedelta, trainer: Trainer, taught: Sequence[Candidate], controls: Sequence[Candidate]
) -> int:
    """Return how many steps a search has: as given, as it has planned before, or as are likely to fit into a time.

    Args:
        budget: steps, or a time.
        trainer: trains; its folder is only read.
        taught: candidates with a teacher, of which the dearest is timed.
        controls: those without.

    Raises:
        ValueError: too little time.
    """
    if not isinstance(budget, datetime.timedelta):
        return budget
    path = trainer.folder / _FILE
    if path.exists():
        with readable(path, "Remove it, and the steps are timed again."):
            return int(json.loads(path.read_text()))
    began = time.perf_counter()
    dearest = max(taught, key=lambda each: (bool(each.change), each.unlabelled))
    a_step, a_training = _timed(trainer, dearest)
    least, count = halving.least_budget(taught, controls), sum(halving.trainings(taught, controls)) + halving.LEFT_OUT
    left = _SHARE * budget.total_seconds() - (time.perf_counter() - began)
    steps = int((left - count * a_training) / a_step)
    if steps < least:
        needed = (count * a_training + least * a_step) / _SHARE + 1
        raise ValueError(
            f"Expected a `budget` of at least {duration(needed)}: a step of this student takes {1000 * a_step:.1f} ms "
            f"here, and each of {count} trainings {a_training:.1f} s more. Received: {budget}. Give more, or fix some "
            "levers."
        )
    return steps


def check(budget: int | datetime.timedelta, taught: Sequence[Candidate], controls: Sequence[Candidate]) -> None:
    """Refuse too few steps before any work; too little time shows when a training has been timed.

    Raises:
        ValueError: too few steps.
        TypeError: neither steps nor a time.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, datetime.timedelta)):
        raise TypeError(
            "Expected `budget` to be a number of steps or a datetime.timedelta. Received: "
            f"{budget!r} of type {type(budget).__name__}"
        )
    if isinstance(budget, int):
        halving.rounds_of(budget, taught, controls)


def keep(folder: pathlib.Path, steps: int) -> None:
    """Note the steps of a search, so that it goes on with as many."""
    replace(folder / _FILE, lambda partial: partial.write_text(json.dumps(steps)))


def _timed(trainer: Trainer, candidate: Candidate) -> tuple[float, float]:
    """Return the seconds of a step, and of what a training takes without its steps."""
    with tempfile.TemporaryDirectory() as folder:
        apart = dataclasses.replace(trainer, folder=pathlib.Path(folder))
        _seconds(apart, candidate, 1)  # lets the teacher predict for all rows, which is kept
        short, long = (_seconds(apart, candidate, steps) for steps in (_SHORT, _LONG))
    a_step = max(long - short, 1e-3) / (_LONG - _SHORT)
    return a_step, max(short - _SHORT * a_step, 0.0)


def _seconds(trainer: Trainer, candidate: Candidate, steps: int) -> float:
    began = time.perf_counter()
    trainer.scored(candidate, steps)
    return time.perf_counter() - began
