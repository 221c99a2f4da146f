"""A comparison: numbers of several models, and how they are shown."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from keras_kd._internal.tables import as_markdown
from keras_kd.evaluation import measures
from keras_kd.evaluation.costs import Cost
from keras_kd.evaluation.disagreements import Disagreement

#: Classes in which a model differs most from the teacher, that the text shows.
_CLASSES_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found. It prints as aligned tables, and shows itself in a notebook.

    Attributes:
        task: "classification", "binary", "multi-label" or "regression".
        teacher: name of the model that the others are compared with, or None.
        examples: how many were seen.
        quality: measures by model, see `quality.measure`.
        costs: by model, in Keras and through each export.
        class_names: of the classes or labels; empty for regression and language models.
        recall: by model, for each class the share of its examples that was found; NaN for a class without any.
        f1: by model, for each class; NaN for one that is neither predicted nor true.
        support: for each class, the weight of its examples.
        calibration: by model, (mean confidence, accuracy, share) of the bins of confidence that are not empty.
        confusions: by model, (true class, predicted class), weights; empty where there are more than 100 classes.
        disagreements: by student, the examples on which it is farthest from the teacher.
        histories: by model, by name in the logs, a value for each epoch.
        machine: on which the costs were measured.
        outputs: of models with several outputs, a comparison for each, without costs. `task` is then "several outputs",
            `quality` has measures such as "box/rmse", and all that has classes is found here alone.
    """

    task: str
    teacher: str | None
    examples: int
    quality: dict[str, dict[str, float]]
    costs: dict[str, list[Cost]]
    class_names: list[str]
    recall: dict[str, np.ndarray]
    f1: dict[str, np.ndarray]
    support: np.ndarray
    calibration: dict[str, list[tuple[float, float, float]]]
    confusions: dict[str, np.ndarray]
    disagreements: dict[str, list[Disagreement]]
    histories: dict[str, dict[str, list[float]]]
    machine: str
    outputs: dict[str, "Comparison"] = dataclasses.field(default_factory=dict)

    @property
    def score(self) -> str:
        """The measure that stands for quality in plots; of several outputs, that of the first."""
        for name, each in self.outputs.items():
            return f"{name}/{each.score}"
        return "rmse" if self.task == "regression" else "accuracy"

    def as_tables(self, classes: int | None = None) -> list[measures.Table]:
        """Return what is printed: quality, costs, and classes by their difference from the teacher.

        Args:
            classes: how many of these; None for all.
        """
        found = [self._quality_table()]
        if self.costs:
            found.append(self._cost_table())
        for name, each in {"": self, **self.outputs}.items():
            if each.class_names and each.teacher is not None and len(each.quality) > 1:
                table = each._class_table(classes)
                found.append(table._replace(title=f"{name}: {table.title}" if name else table.title))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, texts, lists and dicts; what is not known is None. Inputs of examples are left out."""
        return _plain(
            {
                "task": self.task,
                "teacher": self.teacher,
                "examples": self.examples,
                "machine": self.machine,
                "class_names": self.class_names,
                "support": self.support,
                "models": {name: self._model(name) for name in self.quality},
                **({"outputs": {name: each.to_dict() for name, each in self.outputs.items()}} if self.outputs else {}),
            }
        )

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """Return `to_dict` as JSON, and write it to `path` where there is one."""
        return _written(json.dumps(self.to_dict(), indent=2, allow_nan=False), path)

    def to_markdown(self, path: str | pathlib.Path | None = None) -> str:
        """Return the tables in Markdown, and write them to `path` where there is one."""
        text = "\n\n".join(measures.as_markdown(each) for each in self.as_tables(_CLASSES_SHOWN))
        return _written(f"{text}\n\n{as_markdown(self.footnote())}\n", path)

    def to_html(self, path: str | pathlib.Path) -> pathlib.Path:
        """Write one page with the tables and plots, which needs no other file and no network.

        Args:
            path: of the file; what is there is overwritten.

        Returns:
            The path.

        Raises:
            ImportError: the extra `plot` is not installed.
        """
        from keras_kd.evaluation import html_page

        path = pathlib.Path(path)
        path.write_text(html_page.of(self), encoding="utf-8")
        return path

    def __str__(self) -> str:
        return "\n\n".join([*(measures.as_text(each) for each in self.as_tables(_CLASSES_SHOWN)), self.footnote()])

    def __repr__(self) -> str:
        return f"<Comparison of {list(self.quality)} on {self.examples} examples; print it for its tables>"

    def _repr_html_(self) -> str:
        """Show the tables in a notebook."""
        return measures.as_fragment(self.as_tables(_CLASSES_SHOWN), self.footnote())

    def footnote(self) -> str:
        """Return what the numbers were measured on."""
        text = f"{self.examples:,} examples. The best of each line is marked."
        if not self.costs:
            return text
        cost = next(iter(self.costs.values()))[0]
        return f"{text} {self.machine}; {cost.calls} calls with one example, batches of {cost.batch}."

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "quality": self.quality[name],
            "costs": [dataclasses.asdict(cost) for cost in self.costs.get(name, [])],
            "recall": self.recall.get(name, []),
            "f1": self.f1.get(name, []),
            "calibration": self.calibration.get(name, []),
            "confusion": self.confusions.get(name),
            "history": self.histories.get(name, {}),
            "disagreements": [
                {field: value for field, value in vars(each).items() if field != "x"}
                for each in self.disagreements.get(name, [])
            ],
        }

    def _quality_table(self) -> measures.Table:
        names = list(self.quality)
        known = {key for each in self.quality.values() for key in each}
        tops = [key.rpartition("/")[2] for key in known if key.rpartition("/")[2].startswith("top_")]
        order = ["accuracy", *tops, *measures.QUALITY]
        outputs = ["", *self.outputs]

        def place(key: str) -> tuple[int, int]:
            output, _, name = key.rpartition("/")
            return outputs.index(output), order.index(name)

        keys = sorted(known, key=place)
        lines = [
            measures.line(measures.quality_measure(key), [self.quality[name].get(key) for name in names])
            for key in keys
        ]
        return measures.Table("quality", names, lines)

    def _cost_table(self) -> measures.Table:
        columns = [(name, cost) for name, costs in self.costs.items() for cost in costs]
        titles = [title for name, costs in self.costs.items() for title in measures.ways(name, costs)]
        lines = [
            measures.line(measure, [getattr(cost, key) for _, cost in columns])
            for key, measure in measures.COSTS.items()
        ]
        measured = [line for line in lines if set(line.cells) != {"-"}]
        return measures.Table("cost", titles, measured)

    def _class_table(self, classes: int | None) -> measures.Table:
        """Return the recall of the teacher by class, and what each student has more or less."""
        students = [name for name in self.quality if name != self.teacher]
        theirs = self.recall[self.teacher or ""]
        differences = np.stack([self.recall[name] - theirs for name in students])
        order = np.argsort(-np.nan_to_num(np.max(np.abs(differences), axis=0), nan=-1.0), kind="stable")[:classes]
        shown = measures.Measure("", lambda value: f"{100 * value:+.1f}", 0)
        lines = []
        for place in order:
            base = measures.line(measures.Measure(self.class_names[place], measures.percent, 0), [theirs[place]])
            rest = measures.line(shown, [float(each) for each in differences[:, place]])
            lines.append(base._replace(cells=base.cells + rest.cells))
        return measures.Table("recall by class, difference in points", [self.teacher or "", *students], lines)


def _plain(value: Any) -> Any:
    """Return what JSON can hold; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _written(text: str, path: str | pathlib.Path | None) -> str:
    if path is not None:
        pathlib.Path(path).write_text(text, encoding="utf-8")
    return text
