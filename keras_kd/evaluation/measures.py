"""The measures of a comparison, how each is shown, and the tables that they make."""

import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from keras_kd._internal import number_formats, tables
from keras_kd._internal.number_formats import count, milliseconds, size

if TYPE_CHECKING:
    from keras_kd.evaluation.costs import Cost


class Line(NamedTuple):
    """One line of a table: a measure of every model.

    Attributes:
        title: what is measured.
        cells: one text for each column.
        best: the columns with the best value; none where there is no better and worse.
    """

    title: str
    cells: list[str]
    best: frozenset[int] = frozenset()


class Table(NamedTuple):
    """A table.

    Attributes:
        title: above it.
        columns: names, mostly of models.
        lines: in order.
    """

    title: str
    columns: list[str]
    lines: list[Line]


class Measure(NamedTuple):
    """How a number is shown.

    Attributes:
        title: what people call it.
        write: from a number to text.
        better: 1 where more is better, -1 where less is, 0 where neither.
        noise: how far from the best, as a part of it, a value may be and still be as good.
    """

    title: str
    write: Callable[[float], str]
    better: int
    noise: float = 0.0


percent = functools.partial(number_formats.percent, digits=2)
number = functools.partial(number_formats.significant, digits=4)

_EXPORTED = ("SavedModel", "LiteRT", "ONNX", "Keras file")

#: Two copies of one model, measured side by side on a busy machine, differed by up to 1 % in median and memory, 15 % in
#: throughput. In the tail they differed by up to five times: there, none is called the best.
_NOISE = 0.15

#: Every measure of quality by its name, but for top-k.
QUALITY = {
    "accuracy": Measure("accuracy", percent, 1),
    "exact_match": Measure("exact match", percent, 1),
    "f1_macro": Measure("F1, macro", percent, 1),
    "f1_micro": Measure("F1, micro", percent, 1),
    "f1": Measure("F1", percent, 1),
    "pr_auc": Measure("PR-AUC", number, 1),
    "roc_auc": Measure("ROC-AUC", number, 1),
    "threshold": Measure("threshold from validation", number, 0),
    "precision_at_threshold": Measure("precision at threshold", percent, 1),
    "recall_at_threshold": Measure("recall at threshold", percent, 1),
    "f1_at_threshold": Measure("F1 at threshold", percent, 1),
    "nll": Measure("log-loss", number, -1),
    "perplexity": Measure("perplexity", number, -1),
    "bits_per_byte": Measure("bits per byte", number, -1),
    "brier": Measure("Brier score", number, -1),
    "ece": Measure("calibration error", percent, -1),
    "mae": Measure("mean absolute error", number, -1),
    "rmse": Measure("root mean square error", number, -1),
    "r2": Measure("R2", number, 1),
    "agreement": Measure("agreement with teacher", percent, 1),
    "agreement_where_teacher_wrong": Measure("agreement where teacher is wrong", percent, 0),
    "kl_teacher_student": Measure("KL(teacher || student)", number, -1),
    "kl_student_teacher": Measure("KL(student || teacher)", number, -1),
    "mae_to_teacher": Measure("mean absolute error to teacher", number, -1),
    "rmse_to_teacher": Measure("root mean square to teacher", number, -1),
}

COSTS = {
    "parameters": Measure("parameters", count, -1),
    "flops": Measure("FLOPs for one example", count, -1),
    "file_bytes": Measure("file", size, -1),
    "p50_ms": Measure("one example, p50", milliseconds, -1, _NOISE),
    "p95_ms": Measure("one example, p95", milliseconds, 0),
    "p99_ms": Measure("one example, p99", milliseconds, 0),
    "examples_per_second": Measure("examples per second", count, 1, _NOISE),
    "tokens_per_second": Measure("tokens generated per second", count, 1, _NOISE),
    "cache_bytes": Measure("cache of one text", size, -1),
    "memory_bytes": Measure("peak memory", size, -1, _NOISE),
}


def quality_measure(name: str) -> Measure:
    """Return how a measure of quality is shown; that of one of several outputs is named "output/measure"."""
    output, slash, name = name.rpartition("/")
    if slash:
        measure = quality_measure(name)
        return measure._replace(title=f"{output}: {measure.title}")
    if name.startswith("top_"):
        return Measure(f"top-{name.split('_')[1]} accuracy", percent, 1)
    return QUALITY[name]


def ways(name: str, costs: "Sequence[Cost]") -> list[str]:
    """Return a heading for each way of running a model: its runtime, and enough of a path to distinguish two files."""
    paths = {kind: [pathlib.Path(each.path or "") for each in costs if each.runtime == kind] for kind in _EXPORTED}
    titles = []
    for cost in costs:
        among = paths.get(cost.runtime, [])
        place = f", {_tail(pathlib.Path(cost.path or ''), among)}" if len(among) > 1 else ""
        titles.append(f"{name} ({cost.runtime}{place})" if cost.runtime in _EXPORTED else name)
    return titles


def _tail(path: pathlib.Path, among: list[pathlib.Path]) -> str:
    """Return the end of a path, up to where it differs from all others."""
    others = [each.parts for each in among if each != path]
    lengths = range(1, len(path.parts) + 1)
    found = (length for length in lengths if all(each[-length:] != path.parts[-length:] for each in others))
    return "/".join(path.parts[-next(found, len(path.parts)) :])


def line(measure: Measure, values: list[float | None]) -> Line:
    """Return the line of a measure; None and NaN become a dash."""
    known = {place: value for place, value in enumerate(values) if value is not None and not math.isnan(value)}
    best: frozenset[int] = frozenset()
    if measure.better and len(known) > 1:
        target = max(known.values()) if measure.better > 0 else min(known.values())
        reach = measure.noise * abs(target)
        best = frozenset(place for place, value in known.items() if abs(value - target) <= reach)
        best = best if len(best) < len(known) else frozenset()
    cells = [measure.write(known[place]) if place in known else "-" for place in range(len(values))]
    return Line(measure.title, cells, best)


def as_text(table: Table) -> str:
    """Return aligned lines; the best of each is marked with a star."""
    rows = _rows(table, lambda cell, is_best: f"{cell}{'*' if is_best else ' '}")
    return "\n".join(tables.aligned(rows, "<>", rule=True))


def as_markdown(table: Table) -> str:
    """Return a table of GitHub's Markdown; the best of each line is bold."""
    return tables.markdown(_rows(table, lambda cell, is_best: f"**{cell}**" if is_best else cell), "<>")


def as_html(table: Table) -> str:
    """Return an HTML table; the best of each line has the class "best"."""
    return tables.hypertext(_rows(table, lambda cell, is_best: cell), [each.best for each in table.lines])


def as_fragment(found: list[Table], note: str) -> str:
    """Return tables as a piece of HTML that a notebook can show."""
    body = "".join(as_html(each) for each in found)
    return f"<div class='kd'><style>{tables.STYLE}</style>{body}<p class='note'>{tables.as_html(note)}</p></div>"


def _rows(table: Table, mark: Callable[[str, bool], str]) -> list[list[str]]:
    head = [table.title, *(mark(name, False) for name in table.columns)]
    return [
        head,
        *([each.title, *(mark(cell, n in each.best) for n, cell in enumerate(each.cells))] for each in table.lines),
    ]
