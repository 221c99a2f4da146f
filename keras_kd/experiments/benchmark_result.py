"""What a benchmark found: each run, and the table over the seeds."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from keras_kd._internal import metric_directions, tables
from keras_kd._internal.files import readable
from keras_kd.experiments import benchmark_plot, statistics
from keras_kd.experiments.baselines import ALONE

#: What a folder contains beside its runs.
ABOUT = "about.json"

#: Names stand on the left, numbers on the right.
_ALIGN = "<<>"


@dataclasses.dataclass
class Run:
    """One student, trained once.

    Attributes:
        student: its name.
        recipe: name of the recipe, or of a control.
        seed: of its weights and of the order of the data.
        parameters: number of its weights.
        seconds: that the run took, evaluations included.
        epoch: the epoch that was kept, from 1 on.
        train: what its own `evaluate` returns, by name, on the training data.
        validation: on the validation data.
        test: on the test data.
        history: the logs of every epoch: "loss" is the total, "student_loss" the hard and "distillation_loss" the soft.
        path: the student's .keras file.
    """

    student: str
    recipe: str
    seed: int
    parameters: int
    seconds: float
    epoch: int
    train: dict[str, float]
    validation: dict[str, float]
    test: dict[str, float]
    history: dict[str, list[float]]
    path: str

    @classmethod
    def read(cls, path: pathlib.Path) -> "Run":
        """Return a run that is kept; its student stands beside it.

        Raises:
            ValueError: the file is damaged.
        """
        with readable(path, "Remove it, and the run is made again."):
            return cls(**{**json.loads(path.read_text())["run"], "path": str(path.with_suffix(".keras"))})


@dataclasses.dataclass
class Row:
    """One student under one recipe, over the seeds.

    Attributes:
        student: its name.
        recipe: name of the recipe, or of a control.
        parameters: number of its weights.
        seeds: how many.
        validation: mean and interval of the metric on the validation data.
        test: the same on the test data.
        over_alone: difference of the test metric to the student trained alone, None for that one itself.
        chosen: whether this is the student's best recipe by the mean on the validation data.
    """

    student: str
    recipe: str
    parameters: int
    seeds: int
    validation: statistics.Interval
    test: statistics.Interval
    over_alone: statistics.Difference | None
    chosen: bool


@dataclasses.dataclass
class BenchmarkResult:
    """The runs of a benchmark; it prints as a table.

    Attributes:
        runs: all of them that are finished.
        teacher: what the teacher's own evaluation returns, by part and name; empty for one that cannot be evaluated.
        teacher_parameters: number of the teacher's weights.
        metric: what is compared.
        mode: "max" or "min": whether more or less of the metric is better.
    """

    runs: list[Run]
    teacher: dict[str, dict[str, float]]
    teacher_parameters: int
    metric: str
    mode: str

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(
                f"Expected `mode` to be 'max' or 'min', whether more or less of {self.metric!r} is better. Received: "
                f"mode={self.mode!r}. The call of `benchmark` that made the folder finds it anew."
            )

    @classmethod
    def load(cls, folder: Any) -> "BenchmarkResult":
        """Return what is finished of a benchmark, be it running, stopped or done.

        Args:
            folder: of the benchmark.

        Raises:
            ValueError: there is none, or a file is damaged.
        """
        folder = pathlib.Path(folder)
        if not (folder / ABOUT).exists():
            raise ValueError(f"Expected the folder of a benchmark. Received: {str(folder)!r}, where no {ABOUT!r} is.")
        with readable(folder / ABOUT, "Remove it, and call `benchmark` again: it writes it anew."):
            about = json.loads((folder / ABOUT).read_text())["about"]
        paths = [path for path in folder.glob("runs/*.json") if not path.name.startswith("partial-")]
        return cls([Run.read(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)], **about)

    @property
    def histories(self) -> dict[tuple[str, str, int], dict[str, list[float]]]:
        """The logs of every epoch, by (student, recipe, seed)."""
        return {(run.student, run.recipe, run.seed): run.history for run in self.runs}

    def rows(self) -> list[Row]:
        """Return the rows of the table, in the order of students and recipes; choices look at validation alone."""
        chosen = {student: self._chosen(student) for student in dict.fromkeys(run.student for run in self.runs)}
        pairs = dict.fromkeys((run.student, run.recipe) for run in self.runs)
        return [self._row(student, recipe, recipe == chosen[student]) for student, recipe in pairs]

    def best(self, student: str | None = None) -> Run:
        """Return the best run by validation: of the best recipe, by its mean over the seeds, the best seed.

        Args:
            student: its name; None for the best of all students.

        Raises:
            ValueError: no such student.
        """
        rows = [row for row in self.rows() if row.chosen and student in (None, row.student)]
        if not rows:
            raise ValueError(
                f"Expected `student` to be one of {sorted({run.student for run in self.runs})}. Received: {student!r}"
            )
        best = max(rows, key=lambda row: self._worth(row.validation.mean))
        runs = self._runs(best.student, best.recipe)
        return max(runs, key=lambda run: self._worth(run.validation[self.metric]))

    def table(self) -> str:
        """Return the table in aligned columns, with a line on how to read it."""
        return "\n".join([*tables.aligned(self._cells(), _ALIGN), "", self._legend()])

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        return "\n".join([tables.markdown(self._cells(), _ALIGN), "", self._legend()])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, dicts and numbers, for JSON."""
        rows = [dataclasses.asdict(row) for row in self.rows()]
        for row in rows:
            for name in ("validation", "test", "over_alone"):
                row[name] = None if row[name] is None else row[name]._asdict()
        return {**dataclasses.asdict(self), "rows": rows}

    def plot_pareto(self, path: Any) -> None:
        """Draw the test metric over the number of parameters, and the front of what nothing else beats in both.

        Args:
            path: of the picture; its ending decides the format.

        Raises:
            ImportError: the extra `plot` is not installed.
        """
        teacher = self.teacher.get("test", {}).get(self.metric)
        sign = 1.0 if self.mode == "max" else -1.0
        benchmark_plot.pareto(path, self.rows(), self.metric, sign, teacher, self.teacher_parameters)

    def __str__(self) -> str:
        return self.table()

    def _worth(self, value: float) -> float:
        return metric_directions.worth(value, self.mode)

    def _runs(self, student: str, recipe: str) -> list[Run]:
        return [run for run in self.runs if (run.student, run.recipe) == (student, recipe)]

    def _chosen(self, student: str) -> str:
        recipes = dict.fromkeys(run.recipe for run in self.runs if run.student == student)
        means = {
            name: float(np.mean([run.validation[self.metric] for run in self._runs(student, name)])) for name in recipes
        }
        return max(means, key=lambda name: self._worth(means[name]))

    def _row(self, student: str, recipe: str, chosen: bool) -> Row:
        runs = self._runs(student, recipe)
        alone = {run.seed: run.test[self.metric] for run in self._runs(student, ALONE)}
        both = [run for run in runs if run.seed in alone and recipe != ALONE]  # an unfinished benchmark has fewer
        pairs = [run.test[self.metric] for run in both], [alone[run.seed] for run in both]
        return Row(
            student=student,
            recipe=recipe,
            parameters=runs[0].parameters,
            seeds=len(runs),
            validation=statistics.interval([run.validation[self.metric] for run in runs]),
            test=statistics.interval([run.test[self.metric] for run in runs]),
            over_alone=statistics.paired(*pairs) if both else None,
            chosen=chosen,
        )

    def _cells(self) -> list[list[str]]:
        head = [
            "student",
            "recipe",
            "parameters",
            "seeds",
            f"validation {self.metric}",
            f"test {self.metric}",
            "over alone",
            "p",
        ]
        lines = [head]
        if self.teacher:
            known = [f"{self.teacher[part][self.metric]:.4f}" for part in ("validation", "test")]
            lines.append(["teacher", "", f"{self.teacher_parameters:,}", "", *known, "", ""])
        for row in self.rows():
            name = row.recipe + (" *" if row.chosen else "")
            cells = [row.student, name, f"{row.parameters:,}", str(row.seeds)]
            lines.append([*cells, _spread(row.validation), _spread(row.test), *_change(row.over_alone)])
        return lines

    def _legend(self) -> str:
        seeds = max((row.seeds for row in self.rows()), default=0)
        if seeds < 2:
            noise = "One seed: nothing here can be distinguished from noise. Give at least 3."
        else:
            noise = (
                "Mean ± half of its 95 % interval (Student's t over the seeds); over alone: the same of the\n"
                "differences, seed by seed, on test; p: paired t-test of these, not corrected for the many recipes."
            )
        return f"* best recipe of its student, by validation.\n{noise}"


def _spread(found: statistics.Interval) -> str:
    return f"{found.mean:.4f}" if found.high is None else f"{found.mean:.4f} ± {found.high - found.mean:.4f}"


def _change(found: statistics.Difference | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    spread = "" if found.high is None else f" ± {found.high - found.mean:.4f}"
    return f"{found.mean:+.4f}{spread}", "" if found.p is None else f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"
