"""The reports of a cache; each prints as a few aligned lines."""

import math
from typing import Any, NamedTuple

import numpy as np

from keras_kd._internal.number_formats import duration, size
from keras_kd._internal.tables import aligned
from keras_kd.cache.layout import Layout
from keras_kd.cache.top_classes import KEPT_BITS, MASK_BITS, TopClasses


class Estimate(NamedTuple):
    """What a build would take.

    Attributes:
        examples: their number, or None where the dataset does not know.
        seconds: of the teacher's work for all views, or for one example where their number is not known.
        nbytes: of the cache, or of one example where their number is not known.
        memory: bytes that the build holds, about.
    """

    examples: int | None
    seconds: float
    nbytes: int
    memory: int

    @classmethod
    def of(
        cls, examples: int | None, views: int, seconds_per_example: float, row_bytes: float, memory: int
    ) -> "Estimate":
        """Return the estimate for what was measured on a few batches."""
        rows = views * (1 if examples is None else examples)
        return cls(examples, rows * seconds_per_example, round(rows * row_bytes), memory)

    def __str__(self) -> str:
        rows = "one example" if self.examples is None else f"{self.examples:,} examples"
        lines = [
            ("time", duration(self.seconds), f"for {rows}"),
            ("size", size(self.nbytes), "on disk"),
            ("memory", size(self.memory), "while it is built, about"),
        ]
        return "\n".join(aligned(lines, "<><"))


class Info(NamedTuple):
    """Size and use of a finished cache.

    Attributes:
        examples: their number.
        views: of each.
        nbytes: on disk.
        bytes_per_example: and view.
        bytes_dense: what it would be with all classes, in the same type.
        seconds: what its build took, summed over the jobs.
        break_even: epochs of a live teacher that take as long as this build and the reading in as many epochs; infinite
            where asking the teacher is faster than reading, None where no build time is on record.
    """

    examples: int
    views: int
    nbytes: int
    bytes_per_example: float
    bytes_dense: int
    seconds: float
    break_even: float | None

    @classmethod
    def of(
        cls, content: dict[str, Any], on_disk: int, examples_timed: float, seconds: float, seconds_to_read: float
    ) -> "Info":
        """Return the report for a manifest and what was measured."""
        count, views = content["count"], content["views"]
        asking = seconds / examples_timed if examples_timed else None
        break_even = None
        if asking is not None:
            saved = asking - seconds_to_read
            break_even = views * asking / saved if saved > 0 else math.inf
        return cls(
            examples=count,
            views=views,
            nbytes=on_disk,
            bytes_per_example=on_disk / max(1, count * views),
            bytes_dense=count * views * _dense_bytes(Layout.from_config(content["layout"]), content["dtype"]),
            seconds=(asking or 0.0) * count * views,
            break_even=break_even,
        )

    def __str__(self) -> str:
        pays, why = "not known", ""
        if self.break_even is not None:
            pays = f"{self.break_even:.1f} epochs"
            if math.isinf(self.break_even):
                pays, why = "never", "reading took as long as asking"
        lines = [
            ("examples", f"{self.examples:,}", f"x {self.views} views"),
            ("size", size(self.nbytes), f"{self.bytes_per_example:.1f} bytes an example and view"),
            ("dense", size(self.bytes_dense), "with all classes"),
            ("build", duration(self.seconds), ""),
            ("pays off after", pays, why),
        ]
        return "\n".join(aligned(lines, "<><"))


class Verification(NamedTuple):
    """How far a cache is from its teacher.

    Attributes:
        numbers: how many were compared.
        largest: by tap, the largest absolute difference.
        mean: by tap, the mean absolute difference.
    """

    numbers: int
    largest: dict[str, float]
    mean: dict[str, float]

    @classmethod
    def of(cls, differences: dict[str, list[np.ndarray]]) -> "Verification":
        """Return the report on absolute differences."""
        joined = {name: np.concatenate(parts) for name, parts in differences.items()}
        return cls(
            sum(len(each) for each in joined.values()),
            {name: float(each.max()) for name, each in joined.items()},
            {name: float(each.mean()) for name, each in joined.items()},
        )

    def __str__(self) -> str:
        rows = [(name, f"{self.largest[name]:.2e}", f"{self.mean[name]:.2e}") for name in self.largest]
        return "\n".join(aligned([("", "largest", "mean"), *rows], "<>"))


def _dense_bytes(layout: Layout, dtype: str) -> int:
    total = 0
    for field in layout.fields:
        if field.part.startswith("indices_of_"):
            classes = int(field.part.removeprefix("indices_of_"))
            total += int(np.prod(field.shape[:-1])) * classes * np.dtype(dtype).itemsize
        elif (top := TopClasses.named(field.part)) is not None:
            total += int(np.prod(field.shape[:-1])) * top.classes * (4 if top.dtype == "float32" else 2)
        elif field.part not in ("log_probabilities", "log_tail", MASK_BITS, KEPT_BITS):
            total += field.nbytes
    return total
