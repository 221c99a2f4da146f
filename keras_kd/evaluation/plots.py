"""The plots of a comparison, each a small picture of its own, so that a narrow screen can put one under the other."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_kd._internal.number_formats import percent
from keras_kd._internal.tables import printable
from keras_kd.evaluation.accumulators import BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    from keras_kd.evaluation.comparison_result import Comparison

#: The teacher's colour, then the students' in turn; distinguishable with the common kinds of colour blindness.
_TEACHER, _STUDENTS = (
    "#3c4454",
    ("#0b7a75", "#d1495b", "#e09f3e", "#3d6fb4", "#8f5aa8", "#7a8b2a", "#4fb0c6", "#a0522d"),
)

_MARKERS = {"Keras": "o", "SavedModel": "s", "LiteRT": "^", "ONNX": "D", "Keras file": "v"}

#: With more classes, their names or numbers no longer fit.
_MOST_NAMED, _MOST_NUMBERED = 25, 12

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: any script, in the reader's own font
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3b0",
    "axes.labelcolor": "#3c4454",
    "xtick.color": "#5b6472",
    "ytick.color": "#5b6472",
    "axes.grid": True,
    "grid.color": "#e3e6eb",
    "axes.axisbelow": True,
}


class Plot(NamedTuple):
    """A drawn plot.

    Attributes:
        title: what it shows.
        address: the picture itself, as a "data:" address.
    """

    title: str
    address: str


def colors(comparison: Comparison) -> dict[str, str]:
    """Return a colour for each model."""
    students = [name for name in comparison.quality if name != comparison.teacher]
    chosen = {name: _STUDENTS[place % len(_STUDENTS)] for place, name in enumerate(students)}
    return {name: chosen.get(name, _TEACHER) for name in comparison.quality}


def check_installed() -> None:
    """Raise an error that names the extra where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('Plots need matplotlib. It was not found: pip install "keras_kd[plot]"') from error


def tradeoffs(comparison: Comparison) -> list[Plot]:
    """Draw the score against parameters, file and latency: a point for each way of running each model."""
    if not comparison.costs:
        return []
    return [
        _tradeoff(comparison, "parameters", "parameters", "parameters", 1.0),
        _tradeoff(comparison, "file_bytes", "file size", "MB", 1e-6),
        _tradeoff(comparison, "p50_ms", "latency", "ms for one example, median", 1.0),
    ]


def reliability(comparison: Comparison) -> list[Plot]:
    """Draw accuracy against confidence for each model, with the share of examples below."""
    return [_reliability(comparison, name) for name in comparison.calibration]


def confusions(comparison: Comparison) -> list[Plot]:
    """Draw, for each student, how its confusions differ from the teacher's."""
    if comparison.teacher not in comparison.confusions:
        return []
    return [_confusion(comparison, name) for name in comparison.confusions if name != comparison.teacher]


def curves(comparison: Comparison) -> list[Plot]:
    """Draw what `fit` logged by epoch: validation solid, training dashed."""
    logged = [name.removeprefix("val_") for each in comparison.histories.values() for name in each]
    return [_curve(comparison, name) for name in dict.fromkeys(logged)]


def picture(image: np.ndarray) -> str | None:
    """Return an image as a "data:" address, or None for what is no image.

    Args:
        image: (height, width) or (height, width, 1, 3 or 4), in 0 to 1, in 0 to 255, or any other range, which is then
            stretched.
    """
    from matplotlib import image as images

    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    colored = image.ndim == 3 and image.shape[-1] in (3, 4)
    if not (image.ndim == 2 or colored) or min(image.shape[:2]) < 2 or not np.issubdtype(image.dtype, np.number):
        return None
    values = np.nan_to_num(image.astype("float64"))
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    scaled = (values - low) / (high - low or 1.0)
    written = io.BytesIO()
    images.imsave(written, scaled, format="png", cmap="gray", vmin=0.0, vmax=1.0)
    return _address("image/png", written.getvalue())


def _tradeoff(comparison: Comparison, key: str, title: str, label: str, scale: float) -> Plot:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    palette, metric = colors(comparison), comparison.score
    scores = {
        name: each[metric] * (100 if metric.endswith("accuracy") else 1) for name, each in comparison.quality.items()
    }

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        for name, costs in comparison.costs.items():
            score = scores[name]
            points = [(scale * value, cost.runtime) for cost in costs if (value := getattr(cost, key)) is not None]
            axes.plot([x for x, _ in points], [score] * len(points), color=palette[name], linewidth=1, alpha=0.5)
            for x, runtime in points:
                axes.plot(x, score, _MARKERS[runtime], color=palette[name], markersize=9, markeredgecolor="white")
        axes.margins(0.15, 0.25)
        _widen(axes)
        _heighten(axes, _spread_by_chance(metric, list(scores.values()), comparison.examples))
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _compact(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=label, ylabel=f"{metric} (%)" if metric.endswith("accuracy") else metric)
        places = {name: getattr(costs[0], key) for name, costs in comparison.costs.items()}
        labelled = {name: (scale * value, scores[name]) for name, value in places.items() if value is not None}
        _apart(figure, [_label(axes, name, *point, palette[name]) for name, point in labelled.items()])

    return _plot(f"{metric} against {title}", draw)


def _compact(value: float) -> str:
    """Return a number that is short enough to stand beside others below an axis: 20000 as "20k"."""
    for least, unit, name in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _widen(axes: Axes) -> None:
    """Let a logarithmic axis span a factor of four at least: smaller differences should look small."""
    low, high = axes.get_xlim()
    if high < 4 * low:
        center = (low * high) ** 0.5
        axes.set_xlim(center / 2, 2 * center)


def _heighten(axes: Axes, least: float) -> None:
    """Let the axis of scores span what chance alone moves a score by: smaller differences should look small."""
    low, high = axes.get_ylim()
    missing = max(0.0, least - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)


def _spread_by_chance(metric: str, scores: list[float], examples: int) -> float:
    """Return four standard errors of a score on so many examples, and at least a point, or a percent of an error.

    sqrt(p (1 - p) / n) is that of a share p; e / sqrt(2 n) that of a root mean square e of normal errors.
    """
    middle = float(np.nanmean(scores))
    if metric.endswith("accuracy"):
        return max(1.0, 4 * (middle * (100 - middle) / examples) ** 0.5)
    return max(0.01 * middle, 4 * middle / (2 * examples) ** 0.5)


def _apart(figure: Figure, labels: list[Annotation]) -> None:
    """Move names up or down until none is written over another."""
    figure.draw_without_rendering()  # the layout decides where they are
    taken: list[Bbox] = []
    for label in labels:
        step = 1.05 * label.get_window_extent().height * 72 / figure.dpi
        first, moves = (
            label.xyann[1],
            [0, -2.2, 1, -3.2, 2, -4.2, 3, -5.2],
        )  # in lines; below, past the point
        for move in moves:
            label.xyann = (0, first + move * step)
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def _label(axes: Axes, name: str, x: float, y: float, color: str) -> Annotation:
    """Write a name above its point, towards the middle, where there is room."""
    low, high = np.log(axes.get_xlim())
    place = (np.log(x) - low) / (high - low)
    side = "left" if place < 0.35 else "right" if place > 0.65 else "center"
    text = axes.annotate(_short(name, 24), (x, y), (0, 8), textcoords="offset points", ha=side, parse_math=False)
    text.set(color=color, fontweight="bold")
    return text


def _short(name: str, most: int) -> str:
    return printable(name if len(name) <= most else name[: most - 1] + "…")


def _reliability(comparison: Comparison, name: str) -> Plot:
    color = colors(comparison)[name]
    confidence, accuracy, share = np.array(comparison.calibration[name]).T

    def draw(figure: Figure) -> None:
        axes, below = figure.subplots(2, sharex=True, height_ratios=(3.5, 1))
        axes.plot([0, 1], [0, 1], color="#9aa3b0", linestyle="--", linewidth=1)
        axes.bar(confidence, accuracy, width=0.85 / BINS, color=color, alpha=0.35)
        axes.vlines(confidence, accuracy, confidence, color=color, linewidth=1)
        axes.plot(confidence, accuracy, "o", color=color, markersize=5)
        below.bar(confidence, 100 * share, width=0.85 / BINS, color=color)
        axes.set(xlim=(0, 1), ylim=(0, 1.04), ylabel="accuracy")
        below.set(xlabel="confidence", ylabel="share, %")

    error = comparison.quality[name]["ece"]
    return _plot(f"{name}: calibration error {percent(error, 2)}", draw)


def _confusion(comparison: Comparison, name: str) -> Plot:
    student, teacher = (_by_row(comparison.confusions[each]) for each in (name, comparison.teacher or ""))
    difference = 100 * (student - teacher)
    classes, limit = len(difference), max(1.0, float(np.max(np.abs(difference))))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        image = axes.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.grid(visible=False)
        named = classes <= _MOST_NAMED
        if named:
            labels = [_short(each, 12) for each in comparison.class_names]
            turned = 90 if max(map(len, labels)) > 2 else 0
            axes.set_xticks(range(classes), labels, rotation=turned, parse_math=False)
            axes.set_yticks(range(classes), labels, parse_math=False)
        if classes <= _MOST_NUMBERED:
            for row, column in zip(*np.nonzero(np.round(difference)), strict=True):
                value = difference[row, column]
                color = "white" if abs(value) > 0.6 * limit else "#1c2330"
                axes.text(column, row, f"{value:+.0f}", ha="center", va="center", fontsize=8, color=color)
        axes.set(xlabel="predicted", ylabel="true")
        figure.colorbar(image, ax=axes, shrink=0.75, label="points")

    return _plot(f"{name} against {comparison.teacher}", draw, square=True)


def _by_row(confusion: np.ndarray) -> np.ndarray:
    total = np.sum(confusion, axis=1, keepdims=True)
    return np.divide(confusion, total, out=np.zeros_like(confusion), where=total > 0)


def _curve(comparison: Comparison, metric: str) -> Plot:
    from matplotlib.ticker import MaxNLocator

    palette = colors(comparison)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name, history in comparison.histories.items():
            for key, line in ((metric, "--"), (f"val_{metric}", "-")):
                values = history.get(key, [])
                marker = "o" if len(values) == 1 else None
                axes.plot(range(1, len(values) + 1), values, line, marker=marker, color=palette[name], linewidth=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(printable(metric), parse_math=False)

    return _plot(metric, draw)


def _plot(title: str, draw: Callable[[Any], None], square: bool = False) -> Plot:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": printable(title)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has the font
        figure = Figure(figsize=(4.4, 3.8 if square else 3.1), layout="constrained")
        draw(figure)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(title, _address("image/svg+xml", written.getvalue()))


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
