"""The picture of a benchmark: quality over size."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_kd.experiments.benchmark_result import Row


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the Pareto-optimal points, smallest first: none other is as small and at least as good.

    Args:
        points: (size, quality) of each, more quality is better.
    """
    order = sorted(range(len(points)), key=lambda number: (points[number][0], -points[number][1]))
    kept: list[int] = []
    for number in order:
        if not kept or points[number][1] > points[kept[-1]][1]:
            kept.append(number)
    return kept


def figure_class() -> Any:
    """Return matplotlib's Figure, which needs no screen.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "keras_kd[plot]".') from error
    return Figure


def pareto(path: Any, rows: "list[Row]", metric: str, sign: float, teacher: float | None, teacher_size: int) -> None:
    """Draw quality over the number of parameters.

    Args:
        path: of the picture.
        rows: of the table.
        metric: its name.
        sign: 1 where more of it is better, else -1.
        teacher: the teacher's, or None.
        teacher_size: its number of parameters.
    """
    figure = figure_class()(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    recipes = list(dict.fromkeys(row.recipe for row in rows))

    def place(row: "Row") -> float:
        """Return where a row is drawn: beside those of the same student, which would hide its interval."""
        return row.parameters * 1.06 ** (recipes.index(row.recipe) - (len(recipes) - 1) / 2)

    for recipe in recipes:
        chosen = [row for row in rows if row.recipe == recipe]
        means = [row.test.mean for row in chosen]
        spread = [0.0 if row.test.high is None else row.test.high - row.test.mean for row in chosen]
        axes.errorbar([place(row) for row in chosen], means, spread, fmt="o", capsize=3, label=recipe)
    best = [rows[number] for number in front([(row.parameters, sign * row.test.mean) for row in rows])]
    axes.plot([place(row) for row in best], [row.test.mean for row in best], color="0.5", linewidth=1, zorder=0)
    if teacher is not None:
        axes.plot(teacher_size, teacher, "*", color="black", markersize=12, label="teacher")
    axes.set(xscale="log", xlabel="parameters", ylabel=f"test {metric}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(pathlib.Path(path), dpi=150)
