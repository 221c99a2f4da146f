"""Files that are there in whole or not at all, and that are named where they are damaged."""

import contextlib
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

#: What reading a file that was cut, edited or removed can raise.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


def replace(path: pathlib.Path, write: Callable[[Any], Any]) -> None:
    """Write a file in one step: whoever is killed in between leaves the one before."""
    partial = path.with_name(f"partial-{path.name}")
    write(partial)
    partial.rename(path)


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
