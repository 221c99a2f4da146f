"""What `compress` found: how good models are for their size and their time, and which one was chosen."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from keras_kd._internal import number_formats
from keras_kd._internal.tables import aligned
from keras_kd.compression.limits import Limits, direction
from keras_kd.compression.trained_points import Point
from keras_kd.evaluation.measures import quality_measure
from keras_kd.experiments.benchmark_plot import front


@dataclasses.dataclass(frozen=True)
class CompressionRecord:
    """What `compress` found; it prints as a report.

    Attributes:
        chosen: the model that is returned.
        points: all that were tried, the largest first.
        controls: of the chosen shape from random weights, "alone" on labels and "distilled".
        teacher: its score on validation data.
        whole: the teacher's own file: as it is, and in the format of the target.
        limits: the target.
        test: scores of "teacher", "chosen" and the controls on test data; empty where there are none.
        path: of the export.
        problem: why `export` refused the file, which is that of the chosen model all the same; empty where it did not.
    """

    chosen: Point
    points: tuple[Point, ...]
    controls: tuple[Point, ...]
    teacher: float
    whole: tuple[Point, ...]
    limits: Limits
    test: dict[str, float]
    path: pathlib.Path
    problem: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the chosen model is as small and as good as the target has it."""
        small = self.limits.is_small(self.chosen.sizes)
        return small and self.limits.is_good(self.chosen.score, self.teacher)

    def __str__(self) -> str:
        measure = quality_measure(self.limits.measure)
        head = ["", "parameters", "multiplications", "file", "ms", measure.title]
        rows = [_row(each, measure.write, each.name == self.chosen.name) for each in self._all()]
        table = aligned([head, *rows], "<>", rule=True)
        return "\n".join([*table, "", *self.sentences()])

    def sentences(self) -> list[str]:
        """Return what came out of it."""
        write, chosen = quality_measure(self.limits.measure).write, self.chosen
        smaller = self.whole[0].bytes / chosen.bytes
        found = [
            f"Chosen: {chosen.name}, {number_formats.size(chosen.bytes)} as {self.limits.kind}, {smaller:.1f} times "
            f"smaller than the teacher's {number_formats.size(self.whole[0].bytes)}. Its {self.limits.measure} on "
            f"validation data is {write(chosen.score)}, the teacher's {write(self.teacher)}.",
            "The target is met." if self.is_met else "The target is missed: no candidate is as small and as good.",
        ]
        if self.controls:
            reached = ", ".join(f"{each.name} {write(each.score)}" for each in self.controls)
            found.append(f"The same shape from random weights reaches, in as many steps: {reached}.")
        if self.problem:
            found.append(f"The file was not exported: {self.problem}")
        if self.test:
            found.append(
                "On test data: " + ", ".join(f"{name} {write(each)}" for name, each in self.test.items()) + "."
            )
        return found

    def plot(self, path: str | pathlib.Path | None = None) -> Any:
        """Return matplotlib's Figure, the measure against size and time, and write it to a path if there is one.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('Pictures need matplotlib: pip install "keras_kd[plot]".') from error
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        columns = (("file, kB", lambda each: each.bytes / 1e3), ("one example, ms", lambda each: each.milliseconds))
        for axis, (label, place) in zip(axes, columns, strict=True):
            self._panel(axis, label, place)
        axes[0].set_ylabel(quality_measure(self.limits.measure).title)
        axes[0].legend(frameon=False, fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def _panel(self, axis: Any, label: str, place: Any) -> None:
        sign = direction(self.limits.measure)
        found = [(place(each), sign * each.score) for each in self.points]
        best = [self.points[number] for number in front(found)]
        axis.plot([place(each) for each in best], [each.score for each in best], color="0.6", linewidth=1, zorder=0)
        groups = (
            ("pruned and distilled", self.points, "o"),
            ("teacher", self.whole, "*"),
            ("control", self.controls, "x"),
        )
        for title, points, mark in groups:
            axis.plot([place(each) for each in points], [each.score for each in points], mark, label=title)
        axis.plot(place(self.chosen), self.chosen.score, "o", mfc="none", mec="black", markersize=12, label="chosen")
        axis.set(xlabel=label, xscale="log")
        axis.grid(alpha=0.3)

    def _all(self) -> Sequence[Point]:
        return (*self.whole, *self.points, *self.controls)


def _row(point: Point, write: Any, is_chosen: bool) -> list[str]:
    size = number_formats.size(point.bytes)
    counts = [number_formats.count(point.parameters), number_formats.count(point.multiplications)]
    return [f"{'* ' if is_chosen else ''}{point.name}", *counts, size, f"{point.milliseconds:.2g}", write(point.score)]
