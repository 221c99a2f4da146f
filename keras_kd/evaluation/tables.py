"""The tables of a comparison, and how they are written: as aligned text, Markdown or HTML."""

import html
import math
import pathlib
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from keras_kd.cache.cache_reports import size

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


def percent(value: float) -> str:
    """Return 0.8472 as "84.72 %"."""
    return f"{100 * value:.2f} %"


def number(value: float) -> str:
    """Return a number with four digits."""
    return f"{value:.4g}"


def count(value: float) -> str:
    """Return 1234567 as "1,234,567"."""
    return f"{value:,.0f}"


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
    "nll": Measure("negative log-likelihood", number, -1),
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
    "file_bytes": Measure("file", lambda value: size(int(value)), -1),
    "p50_ms": Measure("one example, p50", lambda value: f"{value:.3g} ms", -1, _NOISE),
    "p95_ms": Measure("one example, p95", lambda value: f"{value:.3g} ms", 0),
    "p99_ms": Measure("one example, p99", lambda value: f"{value:.3g} ms", 0),
    "examples_per_second": Measure("examples per second", count, 1, _NOISE),
    "memory_bytes": Measure("peak memory", lambda value: size(int(value)), -1, _NOISE),
}


def quality_measure(name: str) -> Measure:
    """Return how a measure of quality is shown."""
    if name.startswith("top_"):
        return Measure(f"top-{name.split('_')[1]} accuracy", percent, 1)
    return QUALITY[name]


def ways(name: str, costs: "Sequence[Cost]") -> list[str]:
    """Return a heading for each way of running a model: its runtime, and as much of a path as tells two files apart."""
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
    titles = [printable(each.title) for each in table.lines]
    first = max(len(title) for title in [table.title, *titles])
    cells = [
        [f"{cell}{'*' if place in each.best else ' '}" for place, cell in enumerate(each.cells)] for each in table.lines
    ]
    names = [printable(name) + " " for name in table.columns]
    widths = [max(len(each[place]) for each in [names, *cells]) for place in range(len(names))]

    def row(title: str, parts: list[str]) -> str:
        return f"{title:<{first}}" + "".join(f"  {part:>{width}}" for part, width in zip(parts, widths, strict=True))

    rule = "-" * len(row("", names))
    body = [row(title, each) for title, each in zip(titles, cells, strict=True)]
    return "\n".join(each.rstrip() for each in [row(table.title, names), rule, *body])


def as_markdown(table: Table) -> str:
    """Return a table of GitHub's Markdown; the best of each line is bold."""
    rows = [
        [each.title, *(f"**{cell}**" if place in each.best else cell for place, cell in enumerate(each.cells))]
        for each in table.lines
    ]
    rows = [[table.title, *table.columns], ["---", *["---:"] * len(table.columns)], *rows]
    return "\n".join("| " + " | ".join(map(markdown, row)) + " |" for row in rows)


def as_html(table: Table) -> str:
    """Return an HTML table, everything in it escaped; the best of each line has the class "best"."""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in table.columns)
    rows = "".join(
        f"<tr><th scope='row'>{escape(each.title)}</th>"
        + "".join(
            f"<td{' class=best' if place in each.best else ''}>{escape(cell)}</td>"
            for place, cell in enumerate(each.cells)
        )
        + "</tr>"
        for each in table.lines
    )
    return (
        f"<div class='scroll'><table><thead><tr><th scope='col'>{escape(table.title)}</th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


#: Looks of tables and notes, of nothing outside them.
STYLE = """
.kd { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; }
.kd .scroll { overflow-x: auto; margin: 0.6em 0 1.4em; }
.kd table { border-collapse: collapse; font-variant-numeric: tabular-nums; background: #fff; }
.kd th, .kd td { padding: 0.3em 0.9em; text-align: right; white-space: nowrap; border: 0; }
.kd th:first-child { text-align: left; font-weight: 400; }
.kd thead th { border-bottom: 2px solid #1c2330; font-weight: 600; }
.kd thead th:first-child { font-weight: 600; color: #5b6472; }
.kd tbody tr { border-bottom: 1px solid #e3e6eb; background: #fff; }
.kd thead th { white-space: normal; overflow-wrap: break-word; max-width: 12em; vertical-align: bottom; }
.kd th:first-child { position: sticky; left: 0; background: inherit; white-space: normal; overflow-wrap: anywhere; }
.kd th:first-child { min-width: 16em; }
.kd thead tr { background: #fff; }
@media (max-width: 600px) { .kd th, .kd td { padding: 0.3em 0.5em; font-size: 13px; } }
@media (max-width: 600px) { .kd th:first-child { min-width: 7.5em; } .kd thead th { max-width: 7em; } }
.kd td.best { font-weight: 700; color: #0b6b66; }
.kd .note { color: #5b6472; font-size: 0.9em; }
"""


def fragment(found: list[Table], note: str) -> str:
    """Return tables as a piece of HTML that a notebook can show."""
    body = "".join(as_html(each) for each in found)
    return f"<div class='kd'><style>{STYLE}</style>{body}<p class='note'>{escape(note)}</p></div>"


def markdown(text: str) -> str:
    """Return text as Markdown that shows it as it is."""
    return html.escape(printable(text), quote=False).replace("|", "\\|")


def escape(text: str) -> str:
    """Return text as HTML that shows it as it is."""
    return html.escape(printable(text))


def printable(name: str) -> str:
    """Return a name without characters that break a line or colour a terminal, or that no text or SVG file may hold."""
    return "".join(each if each.isprintable() or unicodedata.category(each) == "Zs" else "?" for each in name)
