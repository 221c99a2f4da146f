"""Keep the best epoch, the state before the first one included."""

import json
import pathlib
from typing import Any

import keras
import numpy as np

from keras_kd._internal import metric_directions
from keras_kd._internal.files import plain, readable, replace
from keras_kd._types import Tensors


class KeepBest(keras.callbacks.Callback):
    """Remember the weights of the best epoch by validation, and end with them.

    Args:
        student: the model that is trained.
        validation: batches to evaluate the student on before the first epoch.
        monitor: a name in the logs of validation.
        mode: "min", "max" or "auto", see `metric_directions.direction`.
        folder: where to keep the best weights for a run that is killed, or None.

    Raises:
        ValueError: an unknown `mode`; a `monitor` that is not in the logs, or of which nothing declares a direction.
    """

    def __init__(
        self, student: keras.Model, validation: Tensors, monitor: str, mode: str, folder: pathlib.Path | None
    ) -> None:
        super().__init__()
        metric_directions.check_mode(mode)
        self.mode = mode
        self.student = student
        self.validation = validation
        self.monitor = monitor
        self.folder = folder
        self.before: Any = None
        self.best: Any = None
        self.weights: list[np.ndarray] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Evaluate the student as it comes, or read back what an interrupted run has found."""
        self.better = metric_directions.direction(self.student, self.student, self.monitor, self.mode)
        if self.folder is not None and (self.folder / "best.json").exists():
            self._read(self.folder / "best.json")
            return
        found = self.student.evaluate(self.validation, return_dict=True, verbose=0)
        self._see({f"val_{name}": value for name, value in found.items()}, "before")
        self.before = self.best

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember this epoch if it is the best so far."""
        logs = logs if logs is not None else {}
        self._see(logs, str(epoch))
        logs.update(before=self.before, best=self.best)

    def _read(self, path: pathlib.Path) -> None:
        """Read back what was the best before an interruption."""
        with readable(path, f"Remove {str(path.parent)!r}, and the stage is run again."):
            found = json.loads(path.read_text())
            self.before, self.best = float(found["before"]), float(found["best"])
            # The name alone: a record that was edited might lead anywhere.
            with np.load(path.with_name(pathlib.Path(found["weights"]).name), allow_pickle=False) as file:
                self.weights = [file[f"arr_{number}"] for number in range(len(file.files))]
            shapes = [weight.shape for weight in self.weights]
            expected = [tuple(weight.shape) for weight in self.student.weights]
            if shapes != expected:
                raise ValueError(f"the best weights have shapes {shapes}, those of the student {expected}")

    def finish(self) -> None:
        """Give the student its best weights."""
        self.student.set_weights(self.weights)

    def _see(self, logs: dict[str, Any], when: str) -> None:
        if self.monitor not in logs:
            raise ValueError(f"Expected `monitor` to be one of {sorted(logs)}. Received: monitor={self.monitor!r}")
        value = float(logs[self.monitor])
        if self.best is not None and metric_directions.worth(value, self.better) <= metric_directions.worth(
            self.best, self.better
        ):
            return
        self.best, self.weights = value, self.student.get_weights()
        if self.folder is not None:
            name = f"best-{when}.npz"
            replace(self.folder / name, lambda path: np.savez(path, *map(plain, self.weights)))
            found = {"before": value if self.before is None else self.before, "best": value, "weights": name}
            replace(self.folder / "best.json", lambda path: path.write_text(json.dumps(found)))
            for old in self.folder.glob("best-*.npz"):
                if old.name != name:
                    old.unlink()
