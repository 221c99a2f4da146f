"""KerasTuner writes its records in place: a search that is killed meanwhile could not be read again."""

import contextlib
import importlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from keras_kd._internal.files import replace


@contextlib.contextmanager
def written_whole() -> Iterator[None]:
    """Let KerasTuner put a record in the place of the last only when all of it is on the disk."""
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
