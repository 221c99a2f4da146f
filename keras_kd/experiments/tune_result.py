"""What a search found: each trial, the best one, and how flat the optimum is."""

import dataclasses
import pathlib
from typing import Any

import keras

from keras_kd._internal.number_formats import significant
from keras_kd._internal.tables import aligned
from keras_kd.experiments.benchmark_plot import figure_class


@dataclasses.dataclass
class Trial:
    """One setting that was tried.

    Attributes:
        settings: "temperature", "alpha", "method" and "weight of <term>", those that were searched.
        score: the metric on the validation data, of the trial's best epoch.
        epochs: how many it was given.
    """

    settings: dict[str, Any]
    score: float
    epochs: int


@dataclasses.dataclass
class TuneResult:
    """What a search found; it prints as a table.

    Attributes:
        best: the settings of the best trial.
        student: the student of the best trial, at its best epoch.
        trials: all of them, the best first.
        metric: what was compared, on the validation data.
        noise: how far two equally good students are apart by chance: the standard error of an accuracy on so many
            validation examples; None for other metrics.
    """

    best: dict[str, Any]
    student: keras.Model
    trials: list[Trial]
    metric: str
    noise: float | None

    def as_good(self) -> list[Trial]:
        """Return the trials that are within noise of the best: the wider their settings, the flatter the optimum."""
        return [trial for trial in self.trials if abs(trial.score - self.trials[0].score) <= (self.noise or 0.0)]

    def plot(self, path: Any) -> None:
        """Draw the score over each setting, and the band in which trials cannot be distinguished from the best one.

        Args:
            path: of the picture; its ending decides the format.

        Raises:
            ImportError: the extra `plot` is not installed.
        """
        names = list(self.best)
        figure = figure_class()(figsize=(3.4 * len(names), 3.4), layout="constrained")
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            values = [trial.settings[name] for trial in self.trials]
            axes.scatter(values, [trial.score for trial in self.trials], s=18)
            axes.scatter(values[:1], [self.trials[0].score], marker="*", s=120, label="best")
            if self.noise:
                top = self.trials[0].score
                axes.axhspan(top - self.noise, top + self.noise, alpha=0.15, linewidth=0, label="within the noise")
            if name == "temperature" or name.startswith("weight"):
                axes.set_xscale("log", subs=(2, 5))
                for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
                    ticks("{x:g}")  # as powers of ten, the labels of a short range overlap
            axes.set_xlabel(name)
            axes.grid(alpha=0.25)
        panels[0].set_ylabel(f"validation {self.metric}")
        panels[-1].legend(frameon=False, fontsize="small")
        figure.savefig(pathlib.Path(path), dpi=150)

    def __str__(self) -> str:
        names = list(self.best)
        rows = [[*names, "epochs", f"validation {self.metric}"]]
        for trial in self.trials:
            rows.append([*(text(trial.settings[name]) for name in names), str(trial.epochs), f"{trial.score:.4f}"])
        return "\n".join([*aligned(rows, ">"), "", self._flatness()])

    def _flatness(self) -> str:
        if self.noise is None:
            return f"Best of {len(self.trials)} trials. More seeds show how much of its lead is chance: kd.benchmark."
        good, ranges = self.as_good(), []
        for name in self.best:
            values = sorted({trial.settings[name] for trial in good})
            ends = values if isinstance(values[0], str) else sorted({values[0], values[-1]})
            ranges.append(f"{name} " + (" or " if isinstance(values[0], str) else " to ").join(map(text, ends)))
        return (
            f"{len(good)} of {len(self.trials)} trials are within {self.noise:.4f} of the best, the standard error of "
            f"this accuracy: {', '.join(ranges)}."
        )


def text(value: Any) -> str:
    """Return a value of a setting to read."""
    return significant(value) if isinstance(value, float) else str(value)
