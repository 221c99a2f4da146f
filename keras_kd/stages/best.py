"""Keep the best epoch, the state before the first one included."""

import json
import pathlib
from typing import Any

import keras
import numpy as np

from keras_kd._types import Tensors

_MODES = ("auto", "min", "max")
_LARGER_IS_BETTER = ("acc", "auc", "f1", "precision", "recall")


def larger_is_better(name: str, mode: str = "auto") -> bool:
    """Return whether more of a metric is better, by its name where `mode` is "auto".

    Raises:
        ValueError: an unknown `mode`.
    """
    if mode not in _MODES:
        raise ValueError(f"Expected `mode` to be one of {_MODES}. Received: mode={mode!r}")
    return mode == "max" or (mode == "auto" and any(part in name.lower() for part in _LARGER_IS_BETTER))


class KeepBest(keras.callbacks.Callback):
    """Remember the weights of the best epoch by validation, and end with them.

    Args:
        student: the model that is trained.
        validation: batches to evaluate the student on before the first epoch.
        monitor: a name in the logs of validation.
        mode: "min", "max" or "auto".
        folder: where to keep the best weights for a run that is killed, or None.

    Raises:
        ValueError: an unknown `mode`; a `monitor` that is not in the logs.
    """

    def __init__(
        self, student: keras.Model, validation: Tensors, monitor: str, mode: str, folder: pathlib.Path | None
    ) -> None:
        super().__init__()
        self.sign = 1.0 if larger_is_better(monitor, mode) else -1.0
        self.student = student
        self.validation = validation
        self.monitor = monitor
        self.folder = folder
        self.before: Any = None
        self.best: Any = None
        self.weights: list[np.ndarray] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Evaluate the student as it comes, or read back what an interrupted run has found."""
        if self.folder is not None and (self.folder / "best.json").exists():
            found = json.loads((self.folder / "best.json").read_text())
            self.before, self.best = found["before"], found["best"]
            with np.load(self.folder / found["weights"], allow_pickle=False) as file:
                self.weights = [file[f"arr_{number}"] for number in range(len(file.files))]
            return
        found = self.student.evaluate(self.validation, return_dict=True, verbose=0)
        self._see({f"val_{name}": value for name, value in found.items()}, "before")
        self.before = self.best

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Remember this epoch if it is the best so far."""
        logs = logs if logs is not None else {}
        self._see(logs, str(epoch))
        logs.update(before=self.before, best=self.best)

    def finish(self) -> None:
        """Give the student its best weights."""
        self.student.set_weights(self.weights)

    def _see(self, logs: dict, when: str) -> None:
        if self.monitor not in logs:
            raise ValueError(f"Expected `monitor` to be one of {sorted(logs)}. Received: monitor={self.monitor!r}")
        value = float(logs[self.monitor])
        if self.best is not None and not self.sign * value > self.sign * self.best:
            return
        self.best, self.weights = value, self.student.get_weights()
        if self.folder is not None:
            name = f"best-{when}.npz"
            np.savez(self.folder / name, *self.weights)
            found = {"before": value if self.before is None else self.before, "best": value, "weights": name}
            partial = self.folder / "partial-best.json"
            partial.write_text(json.dumps(found))
            partial.rename(self.folder / "best.json")
            for old in self.folder.glob("best-*.npz"):
                if old.name != name:
                    old.unlink()
