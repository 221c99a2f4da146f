"""What the quickstart prints and draws: a table, a sentence about the noise, learning curves."""

import contextlib
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from scipy import stats

COLORS = ("#0b7a75", "#d1495b")

#: Trains and tests with a seed; label of a row -> value.
Way = Callable[[int], dict[str, float]]


def print_table(rows: list[tuple[str, keras.Model, list[float]]], x: np.ndarray) -> None:
    """Print label, test accuracy over the seeds, parameters, file size and speed of each model."""
    print(f"\n{'':<18}{'test accuracy':>16}{'parameters':>12}{'file size':>11}{'time per example':>18}")
    known: dict[int, str] = {}
    for label, model, accuracies in rows:
        if id(model) not in known:
            known[id(model)] = (
                f"{model.count_params():>12,}{file_size(model) / 1024:>7.0f} KiB"
                f"{1e6 * seconds_per_example(model, x):>15.1f} µs"
            )
        mean = f"{100 * statistics.mean(accuracies):.2f} %"
        spread = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        print(f"{label:<18}{mean:>9}{spread:<7}{known[id(model)]}")


def print_gains(ways: Sequence[Way], seeds: int, over: Sequence[str]) -> None:
    """Run ways to train a student for several seeds, and print each row as soon as it is known.

    Args:
        ways: functions of the seed that train and test, and return a value for each of their rows, by its label.
        seeds: runs of each way, with seeds 0, 1, ...
        over: labels of earlier rows that later ones are compared with, seed by seed.
    """
    width = max(17, *(len(f"over {base}") + 2 for base in over))
    print(f"\n{'':<26}{'mean ± sd':>15}" + "".join(f"{'over ' + base:>{width}}" for base in over))
    rows: dict[str, list[float]] = {}
    for way in ways:
        found = [way(seed) for seed in range(seeds)]
        for label in found[0]:
            rows[label] = [each[label] for each in found]
            bases = [rows[base] for base in over if base in rows and base != label]
            gains = [[a - b for a, b in zip(rows[label], base, strict=True)] for base in bases]
            printed = "".join(f"{spread(gain, '+'):>{width}}" for gain in gains)
            print(f"{label:<26}{spread(rows[label]):>15}{printed}", flush=True)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Return mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{deviation}"


def verdict(alone: list[float], distilled: list[float]) -> str:
    """Return a sentence on whether the gain is larger than the noise: a paired t-interval over the seeds."""
    gains = [100 * (after - before) for before, after in zip(alone, distilled, strict=True)]
    mean = statistics.mean(gains)
    change = f"Distillation {'gains' if mean >= 0 else 'costs'} {abs(mean):.2f} points"
    if len(gains) < 2:
        return f"{change}; one seed cannot distinguish that from noise: try --seeds 3."
    half = stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    size = "more than the noise" if abs(mean) > half else "which is inside the noise"
    each = ", ".join(f"{gain:+.2f}" for gain in gains)
    return f"{change}, {size}: seed by seed {each}; 95 % interval of the mean {mean - half:+.2f} to {mean + half:+.2f}."


def draw_curves(path: pathlib.Path, title: str, teacher: float, curves: dict[str, list[list[float]]]) -> None:
    """Draw validation accuracy by epoch: mean and range over the seeds for each label, and the teacher's as a line."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(100 * teacher, color="0.35", linestyle="--", linewidth=1.2, label="teacher")
    bottom = 100 * teacher
    for (label, runs), color in zip(curves.items(), COLORS, strict=True):
        values = 100 * np.array(runs)
        epochs = np.arange(1, values.shape[1] + 1)
        axes.plot(epochs, values.mean(axis=0), color=color, linewidth=2, label=label)
        axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        bottom = min(bottom, values[:, len(epochs) // 20 :].min())  # the first few epochs may be outside of the picture
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
    axes.set_title(title, fontsize=11)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom - 2, max(100 * teacher + 2, axes.get_ylim()[1]))
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)


def file_size(model: keras.Model) -> int:
    """Return the bytes of the model's file without its optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        type(model).from_config(model.get_config()).save(path)  # the same weights in number, not compiled
        return path.stat().st_size


def seconds_per_example(model: keras.Model, x: np.ndarray, rounds: int = 30) -> float:
    """Return the median time of a forward pass over the batch x, divided by its size."""
    forward, batch, seconds = tf.function(model), tf.constant(x), []
    forward(batch)  # trace
    for _ in range(rounds):
        started = time.perf_counter()
        forward(batch).numpy()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / len(x)


def peak_memory() -> str:
    """Return the peak memory of this process, or an empty string on Windows, where it is not available."""
    with contextlib.suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB of memory at the peak"
    return ""
