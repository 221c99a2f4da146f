"""Messages of long work, where Keras would put its own."""

import contextlib
import logging
import math
import sys
from collections.abc import Iterator

import keras


def info(message: str) -> None:
    """Write a line to the screen, or to the log where the user has asked Keras for that."""
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(message + "\n")
        sys.stdout.flush()
    else:
        logging.getLogger("keras_kd").info(message)


@contextlib.contextmanager
def quiet(active: bool = True) -> Iterator[None]:
    """Keep off the screen what Keras and this library would write there; it goes to the log."""
    was = keras.config.is_interactive_logging_enabled()
    if active:
        keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        # Whatever was called may have cleared Keras's session, and this setting with it.
        (keras.config.enable_interactive_logging if was else keras.config.disable_interactive_logging)()


def size(count: float) -> str:
    """Return a number of bytes to read."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    power = min(len(units) - 1, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:,.{1 if power else 0}f} {units[power]}"


def duration(seconds: float) -> str:
    """Return a time to read."""
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
