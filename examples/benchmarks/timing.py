"""Time several contestants so that what else the machine does falls on all of them."""

import time
from collections.abc import Callable

import keras
import numpy as np


def in_turns(contestants: dict[str, Callable[[], object]], rounds: int, warm_up: int) -> dict[str, np.ndarray]:
    """Return the milliseconds of each call of each contestant: one call each a round, in a random order."""
    names = list(contestants)
    random = np.random.default_rng(0)
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    progress = keras.utils.Progbar(rounds, unit_name="round")
    for number in range(-warm_up, rounds):
        for name in random.permutation(names):
            started = time.perf_counter()
            contestants[name]()
            if number >= 0:
                milliseconds[name].append(1e3 * (time.perf_counter() - started))
        if number >= 0:
            progress.update(number + 1)
    return {name: np.array(values) for name, values in milliseconds.items()}
