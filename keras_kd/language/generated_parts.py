"""What was generated, in the files of a folder: a part for each batch, which appears whole or not at all."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_kd._internal import code_fingerprints
from keras_kd._internal.files import partial_prefix, readable, replace
from keras_kd.cache import manifest

#: What a part holds, by name: one row of each for every completion.
_NAMES = ("tokens", "counts", "score", "finished")

_ADVICE = "Wait for it, or generate into another folder."


class Parts:
    """Generate what is not in a folder yet, and return all of it.

    Args:
        folder: where parts are kept; None keeps nothing.
        settings: all that decides about what is generated, as plain values.
    """

    def __init__(self, folder: Any, settings: dict[str, Any]) -> None:
        self._folder = None if folder is None else pathlib.Path(folder)
        self._settings = {"format": manifest.FORMAT, **settings}

    def run(
        self, write: Callable[[int, int], dict[str, np.ndarray]], rows: int, size: int, verbose: int
    ) -> list[np.ndarray]:
        """Return tokens, counts, scores and ends of all rows.

        Args:
            write: a function that generates the rows from a first to before a last one.
            rows: their number.
            size: rows of a part.
            verbose: whether progress is shown.

        Raises:
            ValueError: the folder holds something else, or a damaged part; another process writes into it.
        """
        if self._folder is None:
            lock: Any = contextlib.nullcontext()
        else:
            lock = manifest.lock(self._folder / "lock", _ADVICE)
        with lock:
            self._begin()
            bar = keras.utils.Progbar(rows, unit_name="completion", verbose=verbose)
            parts = []
            for first in range(0, rows, size):
                last = min(first + size, rows)
                parts.append(self._part(first // size, first, last, write))
                bar.update(last)
        return [np.concatenate([part[name] for part in parts]) for name in _NAMES]

    def _begin(self) -> None:
        """Write down the settings, or compare them with those that are there."""
        if self._folder is None:
            return
        path = self._folder / manifest.PLAN
        try:
            there = manifest.read(path)
        except FileNotFoundError:
            found = sorted(each.name for each in self._folder.iterdir())
            others = [name for name in found if name != "lock" and not name.startswith(partial_prefix())]
            if others:
                raise ValueError(
                    f"Expected an empty folder, or one that was generated into. {str(self._folder)!r} holds "
                    f"{others[0]!r}. Use another folder."
                ) from None
            manifest.write(path, self._settings)
            return
        manifest.refuse_difference(path, there, code_fingerprints.comparable(self._settings, there))

    def _part(
        self, number: int, first: int, last: int, write: Callable[[int, int], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        if self._folder is None:
            return write(first, last)
        path = self._folder / f"part-{number:06d}.npz"
        if not path.exists():
            made = write(first, last)
            replace(path, lambda partial: _save(partial, made))
        with readable(path, "Remove it, and generate again: only this part is made anew."):
            with np.load(path, allow_pickle=False) as found:
                part = {name: found[name] for name in _NAMES}
            if any(len(each) != last - first for each in part.values()):
                raise ValueError(f"{[len(each) for each in part.values()]} rows in the place of {last - first}")
        return part


def _save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:  # given a path, NumPy adds an ending
        np.savez(file, allow_pickle=False, **arrays)
