"""The folder of rounds of pruning: what each has made, so that the same call goes on where it was stopped."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_kd._internal import teacher_fingerprints
from keras_kd._internal.files import readable, replace
from keras_kd._keras import layer_tree
from keras_kd.pruning.prune_report import PruneReport, Width


class SavedRounds:
    """The models and reports of rounds, in a folder.

    Args:
        folder: where they are kept; None for nowhere.
        model: where the first round begins.
        shares: of the rounds.
        seed: of the first round.

    Raises:
        ValueError: the folder has rounds of another model, other shares or another seed.
    """

    def __init__(self, folder: Any, model: keras.Model, shares: Sequence[float], seed: int) -> None:
        self._folder = None if folder is None else pathlib.Path(folder)
        self._model = model
        self._decides: dict[str, Any] = {}
        self.done = 0
        if self._folder is not None:
            weights = teacher_fingerprints.of_arrays(model.get_weights())
            self._decides = {"model": weights, "seed": seed, "shares": list(map(float, shares))}
            self._folder.mkdir(parents=True, exist_ok=True)
            while self.done < len(shares) and self._path(self.done, "json").exists():
                self._check(self._read(self.done))
                self.done += 1

    def last(self) -> tuple[keras.Model, PruneReport | None]:
        """Return the model of the last round that is kept, and the report up to it; without any, the first model."""
        if not self.done:
            return self._model, None
        path = self._path(self.done - 1, "keras")
        own = {each.__name__: each for each in layer_tree.custom_classes(self._model)}
        with readable(path, self._remedy):
            model = keras.saving.load_model(path, custom_objects=own, compile=False)
            return model, report_of(self._read(self.done - 1)["report"])

    def keep(self, number: int, model: keras.Model, report: PruneReport) -> None:
        """Keep what a round has made: at last its record, without which it is made again."""
        if self._folder is None:
            return
        replace(self._path(number, "keras"), model.save)
        decides = {**self._decides, "shares": self._decides["shares"][: number + 1]}
        content = json.dumps({**decides, "report": as_json(report)})
        replace(self._path(number, "json"), lambda path: path.write_text(content))

    def _path(self, number: int, kind: str) -> pathlib.Path:
        return pathlib.Path(str(self._folder)) / f"round_{number + 1}.{kind}"

    def _read(self, number: int) -> dict[str, Any]:
        path = self._path(number, "json")
        with readable(path, self._remedy):
            return dict(json.loads(path.read_text()))

    def _check(self, record: dict[str, Any]) -> None:
        expected = {**self._decides, "shares": self._decides["shares"][: self.done + 1]}
        other = [name for name, value in expected.items() if record.get(name) != value]
        if other:
            raise ValueError(
                f"{str(self._folder)!r} has rounds with another `{other[0]}` than is given now. Use another folder, or "
                "remove that one."
            )

    @property
    def _remedy(self) -> str:
        return f"Remove {str(self._folder)!r}, and the rounds are made again."


def as_json(report: PruneReport) -> dict[str, Any]:
    """Return what `report_of` makes the report of again."""
    return {
        **vars(report),
        "widths": [[each.layer, each.units.tolist(), each.before] for each in report.widths],
        "fixed": dict(report.fixed),
        "channels": {name: [before, numbers.tolist()] for name, (before, numbers) in report.channels.items()},
    }


def report_of(content: dict[str, Any]) -> PruneReport:
    """Return the report of which `as_json` has made this."""
    channels = {name: (before, np.array(numbers, int)) for name, (before, numbers) in content["channels"].items()}
    return PruneReport(
        widths=tuple(Width(layer, np.array(units, int), before) for layer, units, before in content["widths"]),
        parameters=tuple(content["parameters"]),
        multiplications=tuple(content["multiplications"]),
        blocks=tuple(content["blocks"]),
        fixed=content["fixed"],
        channels=channels,
        shared=tuple(content["shared"]),
    )
