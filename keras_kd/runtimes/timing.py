"""How long calls take: warmed up, and interleaved, so that other load on the machine falls on all of them."""

import gc
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

#: Calls of one contestant in a row: enough for warm caches, few enough that a busy second is shared.
_BLOCK = 10


def in_turns(
    contestants: dict[Key, Callable[[], Any]], rounds: int = 200, warm_up: int = 10, seconds: float = 10.0
) -> dict[Key, np.ndarray]:
    """Return the seconds of each timed call of each contestant.

    Blocks of ten calls in a random order, after an untimed one each. Python's garbage collector waits meanwhile.

    Args:
        contestants: functions that return when their result is there: nothing may be left running on a device.
        rounds: timed calls of each, at least 10.
        warm_up: calls of each before the first timed one, where there is time: they trace, compile and fill caches.
        seconds: of timed calls, after which a contestant gets no further block.

    Returns:
        The seconds of each call, by name.

    Raises:
        ValueError: less than one block.

    Example:
        >>> np.percentile(in_turns({"student": lambda: student(x).numpy()})["student"], 99)
    """
    check(rounds)
    for call in contestants.values():
        _warm(call, warm_up, seconds)
    times: dict[Key, list[float]] = {name: [] for name in contestants}
    random = np.random.default_rng(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        while going := [name for name, past in times.items() if len(past) < rounds and sum(past) < seconds]:
            for place in random.permutation(len(going)):
                name = going[place]
                times[name] += _block(contestants[name], min(_BLOCK, rounds - len(times[name])))
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(past) for name, past in times.items()}


def check(rounds: int) -> int:
    """Return `rounds`, or raise an error where that is less than a block."""
    if not isinstance(rounds, int) or rounds < _BLOCK:
        raise ValueError(f"Expected `rounds` to be a whole number, at least {_BLOCK}. Received: rounds={rounds!r}")
    return rounds


def _warm(call: Callable[[], Any], times: int, seconds: float) -> None:
    started = time.perf_counter()
    call()
    for _ in range(times - 1):
        if time.perf_counter() - started > seconds:
            return
        call()


def _block(call: Callable[[], Any], times: int) -> list[float]:
    call()
    past = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        past.append(time.perf_counter() - started)
    return past
