"""What the scripts of this folder measure: printed, kept in measured.json with its date, and shown in README.

    python examples/results/recorded.py

prints the table of README. `--record` of a script replaces its row in measured.json.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import pathlib
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

FILE = pathlib.Path(__file__).with_name("measured.json")


@dataclasses.dataclass
class Measure:
    """One measure of the teacher and of the students, one number for each seed.

    Attributes:
        name: such as "accuracy, %".
        teacher: its score.
        alone: those of the student that has no teacher.
        distilled: those of the student that has one.
        digits: behind the decimal point.
        less_is_better: as of an error.
    """

    name: str
    teacher: float
    alone: list[float]
    distilled: list[float]
    digits: int = 1
    less_is_better: bool = False

    def share(self) -> str:
        """Return how much of the lead of the teacher is closed, or that there is none that could be."""
        alone = statistics.mean(self.alone)
        sign = -1 if self.less_is_better else 1
        if sign * (self.teacher - alone) <= 0:
            return "no lead"
        closed = (statistics.mean(self.distilled) - alone) / (self.teacher - alone)
        return f"{100 * closed:.0f} %" if closed <= 1 else "> 100 %"

    def cells(self) -> list[str]:
        """Return the row of a table: the name, the three scores, the share."""
        scores = [spread(each, self.digits) for each in ([self.teacher], self.alone, self.distilled)]
        return [self.name, *scores, self.share()]


@dataclasses.dataclass
class Result:
    """All that a script measures.

    Attributes:
        task: what is predicted, of which data.
        teacher: the model and its version.
        student: what it is, in a few words.
        measures: one row each.
        teacher_bytes: size of its file.
        student_bytes: size of the LiteRT file.
        teacher_us: microseconds for one example.
        student_us: the same, in LiteRT.
        notes: sentences on what else was measured.
        date: of the measurement, as the following set by `finish`.
        command: that measured it.
        minutes: of one processor core that it took.
        packages: their versions.
    """

    task: str
    teacher: str
    student: str
    measures: list[Measure]
    teacher_bytes: int
    student_bytes: int
    teacher_us: float
    student_us: float
    notes: list[str] = dataclasses.field(default_factory=list)
    date: str = ""
    command: str = ""
    minutes: float = 0.0
    packages: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        head = ["", "teacher", "alone", "distilled", "share of the lead"]
        rows = [head, *(each.cells() for each in self.measures)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        costs = f"{kilobytes(self.teacher_bytes)} and {kilobytes(self.student_bytes)}; one example {self.speed()}"
        return "\n".join([self.task, f"{self.teacher}; {self.student}", "", *lines, "", costs, *self.notes])

    def speed(self) -> str:
        return f"{self.teacher_us:,.0f} µs and {self.student_us:,.0f} µs"


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def kilobytes(size: int) -> str:
    return f"{size / 1000:,.0f} kB"


def of_runs(name: str, teacher: np.ndarray, students: Mapping[str, Sequence[np.ndarray]], truth: np.ndarray) -> Measure:
    """Return the share of classes that are the true ones, in percent."""
    share = lambda found: 100 * float(np.mean(found == truth))  # noqa: E731
    alone, distilled = ([share(each) for each in students[kind]] for kind in ("alone", "distilled"))
    return Measure(name, share(teacher), alone, distilled)


def progress(seed: int) -> None:
    print(f"seed {seed}: {time.process_time() / 60:.1f} minutes of one core", flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all scripts here take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=3, help="students of each kind (default: 3)")
    made.add_argument("--validation", action="store_true", help="score on the data that settings were chosen on")
    made.add_argument("--record", action="store_true", help=f"keep what is measured in {FILE.name}, for README")
    made.add_argument("--smoke", action="store_true", help="one seed, few examples and steps: does it run?")
    made.add_argument("--output", type=pathlib.Path, default="runs/results", help="default: runs/results")
    return made


def require(name: str, packages: Mapping[str, str]) -> None:
    """End with what was measured, where a package is not there.

    Args:
        name: of the script, as in measured.json.
        packages: how pip calls a module, by its name.
    """
    missing = dict.fromkeys(pip for module, pip in packages.items() if importlib.util.find_spec(module) is None)
    if missing:
        together = " ".join(each for each in missing if " " not in each)
        alone = [each for each in missing if " " in each]  # with options that are for them only
        commands = " && ".join(f"pip install {each}" for each in (together, *alone) if each)
        end(name, f"This needs {' and '.join(each.split()[-1] for each in missing)}: {commands}")


def end(name: str, reason: str) -> None:
    """Print the reason, and what was measured before, and exit."""
    print(f"{reason}\n")
    known = load().get(name)
    print(f"Measured on {known.date} by {known.command}:\n\n{known}" if known else "Nothing was recorded yet.")
    sys.exit(0)


def folder_of(module: str) -> pathlib.Path:
    """Return the folder of a package, which is not imported."""
    found = importlib.util.find_spec(module)
    return pathlib.Path(next(iter(found.submodule_search_locations)))


def finish(name: str, result: Result, options: argparse.Namespace, packages: Sequence[str]) -> None:
    """Print what was measured, and keep it with `--record`."""
    result.date = datetime.date.today().isoformat()
    result.command = shlex.join(["python", f"examples/results/{name}.py"])
    result.packages = {each: importlib.metadata.version(each) for each in packages}
    result.minutes = round(time.process_time() / 60, 1)
    print(f"\n{result}\n{result.minutes:.1f} minutes of one core")
    if not options.record:
        return
    if options.smoke or options.validation:
        sys.exit("Expected --record of a whole run on test data: without --smoke and --validation.")
    known = {each: dataclasses.asdict(value) for each, value in load().items()}
    known[name] = dataclasses.asdict(result)
    FILE.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"Recorded in {FILE.name}. For README: python examples/results/recorded.py")


def load() -> dict[str, Result]:
    """Return what is recorded, by script."""
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return {
        name: Result(**{**values, "measures": [Measure(**each) for each in values["measures"]]})
        for name, values in known.items()
    }


def as_markdown() -> str:
    """Return the table of README, and when each row was measured."""
    lines = [
        "| task, script | teacher, student | measure | teacher | alone | distilled | of the lead | size | a row |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, result in load().items():
        sizes = f"{kilobytes(result.teacher_bytes)}, {kilobytes(result.student_bytes)}"
        first = [f"{result.task}, [{name}.py](examples/results/{name}.py)", f"{result.teacher}; {result.student}"]
        last = [sizes, result.speed().replace(" and", ",")]
        for each in result.measures:
            lines.append("| " + " | ".join([*first, *each.cells(), *last]) + " |")
            first, last = ["", ""], ["", ""]
    notes = [f"- {name}.py, {result.date}. {' '.join(result.notes)}".rstrip() for name, result in load().items()]
    return "\n".join([*lines, "", *notes])


if __name__ == "__main__":
    print(as_markdown())
