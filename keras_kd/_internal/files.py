"""Atomic writes, and errors that name a damaged file."""

import contextlib
import os
import pathlib
import re
import secrets
import socket
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

#: What reading a file that was cut, edited or removed can raise.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


def replace(path: pathlib.Path, write: Callable[[Any], Any]) -> None:
    """Write a file in one step: a process that is killed meanwhile leaves the one before.

    What was left unfinished by processes of this machine that were killed is removed.

    Args:
        path: of the file.
        write: writes it, to the path that it is given.
    """
    partial = partial_path(path)
    try:
        write(partial)
        publish(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    left = re.compile(rf"{re.escape(partial_prefix())}(\d+)-[0-9a-f]{{8}}-{re.escape(_tail(path))}")
    for each in path.parent.iterdir():
        found = left.fullmatch(each.name)
        if found is not None and not _is_running(int(found[1])):
            each.unlink(missing_ok=True)


def partial_path(path: pathlib.Path) -> pathlib.Path:
    """Return a path for a file that is not finished, which no other process, on any machine, uses or can foresee."""
    return path.with_name(f"{partial_prefix()}{os.getpid()}-{secrets.token_hex(4)}-{_tail(path)}")


def partial_prefix() -> str:
    """Return how the names of the unfinished files of this machine begin; the number of the process follows."""
    return f"partial-{socket.gethostname()}-"


def publish(partial: pathlib.Path, path: pathlib.Path) -> None:
    """Bring a finished file to the disk, and give it its name."""
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _tail(path: pathlib.Path) -> str:
    return path.name[-120:]  # a file system may take no longer name


def _is_running(process: int) -> bool:
    """Return whether a process of this machine may be running."""
    if os.name != "posix":  # elsewhere, this signal interrupts
        return True
    try:
        os.kill(process, 0)
    except (OSError, OverflowError) as error:
        return not isinstance(error, ProcessLookupError)
    return True


def plain(value: Any) -> np.ndarray:
    """Return an array of a type that NumPy can read back: bfloat16 is none, but float32 holds it exactly."""
    array = keras.ops.convert_to_numpy(value)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


@contextlib.contextmanager
def readable(path: pathlib.Path, remedy: str) -> Iterator[None]:
    """Name the file that is read, where it is not what was written.

    Args:
        path: of the file.
        remedy: what to do about it.

    Raises:
        ValueError: the file is cut, edited or not there.
    """
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(
            f"Expected {str(path)!r} to be as it was written. It is damaged: {type(error).__name__}: {error}. {remedy}"
        ) from error
