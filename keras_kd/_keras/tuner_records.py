"""KerasTuner writes its records in place: a search that is killed meanwhile could not be read again."""

import contextlib
import importlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def written_with(replace: Callable[[pathlib.Path, Callable[[pathlib.Path], Any]], None]) -> Iterator[None]:
    """Let KerasTuner write its records with `replace`, a function of a path and of what writes a file to a path."""
    stateful: Any = importlib.import_module("keras_tuner.src.engine.stateful").Stateful
    original = stateful.save

    def save(self: Any, fname: str) -> str:
        text = json.dumps(self.get_state())
        replace(pathlib.Path(fname), lambda partial: partial.write_text(text))
        return text

    stateful.save = save
    try:
        yield
    finally:
        stateful.save = original
