"""The folder that an export works in, beside what it will become, and what killed exports have left of theirs."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from keras_kd._locks import lock_now

#: Held while an export lives; where nobody holds it, its process is gone.
_LOCK = "keras_kd-export.lock"


@contextlib.contextmanager
def scratch(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Make a folder beside `path`, to be removed in the end, and remove those of exports that were killed.

    Raises:
        OSError: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise type(error)(f"Expected a folder that can be written to: {path.parent}. Received: {error}") from error
    with folder as name, _held(pathlib.Path(name)):
        yield pathlib.Path(name)


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
