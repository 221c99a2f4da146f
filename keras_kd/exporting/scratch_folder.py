"""The folder that an export works in, beside what it will become, and what killed exports have left of theirs."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

from keras_kd._internal import number_formats
from keras_kd._internal.locks import lock_now

#: Held while an export lives; where it is free, its process is gone.
_LOCK = "keras_kd-export.lock"

#: What a write ends with where there is no room: of the disk, of a quota, of what a process may write.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def scratch(path: pathlib.Path, size: int = 0) -> Iterator[pathlib.Path]:
    """Make the folder of an export beside `path`, remove it in the end, and remove those of exports that were killed.

    Its name follows from `path`: there is one export to a path at a time.

    Args:
        path: what will be written.
        size: bytes that are needed at least.

    Raises:
        FileExistsError: another export to `path` is going on.
        OSError: nothing can be written there, or there is no room for it.
    """
    folder = path.parent / f".{path.name}-export"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise type(error)(f"Expected a folder that can be written to: {path.parent}. Received: {error}") from error
    if free < size:
        needed, there = (number_formats.size(each, "MiB") for each in (size, free))
        raise OSError(errno.ENOSPC, f"Expected room for at least {needed} at {path.parent}. {there} are free")
    _make(folder, path)
    try:
        with _held(folder):
            yield folder
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(
                errno.ENOSPC,
                f"Expected room for the export, and for a copy of each format while it is made, at {path.parent}. "
                f"Nothing was written: {error.strerror}",
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_full(message: str) -> bool:
    """Return whether a message, of this process or another one, is about lack of room."""
    return any(os.strerror(code) in message for code in _FULL)


def _make(folder: pathlib.Path, path: pathlib.Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        raise FileExistsError(
            f"Expected no other export to {path}. One is going on in {folder}. Wait for it, or remove that folder if "
            "its process is gone."
        ) from None
    except OSError as error:
        raise type(error)(f"Expected a folder that can be written to: {path.parent}. Received: {error}") from error


@contextlib.contextmanager
def _held(folder: pathlib.Path) -> Iterator[None]:
    """Hold the folder's lock. It has its name only once it is held: before, another export could take it for free."""
    with open(folder / "new.lock", "a+b") as file:
        # A file system without locks, or Windows, which renames no open file: a folder without a lock is never removed.
        with contextlib.suppress(OSError):
            lock_now(file.fileno())
            os.rename(folder / "new.lock", folder / _LOCK)
        yield


def _remove_abandoned(parent: pathlib.Path) -> None:
    for lock in parent.glob(f".*-*/{_LOCK}"):
        # Held by an export that goes on, already removed by another one, or somebody else's: all are left alone.
        with contextlib.suppress(OSError), open(lock, "r+b") as file:
            lock_now(file.fileno())
            shutil.rmtree(lock.parent)
