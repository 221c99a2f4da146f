"""How a format is described."""

import dataclasses
import pathlib
from collections.abc import Callable

from keras_kd.exporting.deviation import Tolerance
from keras_kd.exporting.export_source import Source


@dataclasses.dataclass(frozen=True)
class Format:
    """How a format is written, run and judged.

    Attributes:
        name: in the report.
        file: name of the file or folder.
        write: writes it, and returns what the user must know of it, if anything.
        runtime: the kind of file, see `runtimes.model_files.open_file`.
        of_scale: largest difference accepted between student and artefact, as a part of an output's scale.
        extra: of keras_kd, that brings `packages`.
        packages: that it needs beside TensorFlow.
        resolution: least difference accepted of probabilities.
    """

    name: str
    file: str
    write: Callable[[Source, pathlib.Path], str | None]
    runtime: str
    of_scale: float
    extra: str = ""
    packages: tuple[str, ...] = ()
    resolution: float = 0.0

    def tolerance(self, rounding: float, probabilities: bool) -> Tolerance:
        """Return what may differ in an output of a student that rounds its own numbers so far."""
        return Tolerance(self.of_scale, rounding, self.resolution if probabilities else 0.0)
