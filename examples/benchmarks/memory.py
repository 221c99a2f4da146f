"""The memory that a call takes in this process."""

import os
import pathlib
import threading
from collections.abc import Callable


def peak_of(call: Callable[[], object]) -> float:
    """Return the highest resident memory during a call, less that before it, in megabytes."""
    before, peak, done = resident(), resident(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(2e-4):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    peak = max(peak, resident())
    done.set()
    watcher.join()
    return (peak - before) / 1e6


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
