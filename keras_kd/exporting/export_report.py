"""The report of an export: a table for people, JSON for machines."""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from typing import Any

import keras
import tensorflow as tf

from keras_kd._internal.number_formats import milliseconds, percent, size
from keras_kd._internal.tables import aligned

#: Name of the report in the folder of the artefacts.
FILE = "export.json"


@dataclasses.dataclass(frozen=True)
class Artefact:
    """One format of the student.

    Attributes:
        name: of the format, as "saved_model" or "litert int8".
        path: where it is: in the folder's `failed` if it failed, None if it could not be written.
        error: why it failed; empty if it passed.
        size: bytes on disk.
        difference: largest absolute difference from the student, in the example (of any output) where it is largest in
            proportion to what is allowed; None if it did not run, as all below.
        allowed: the difference that this example may have.
        agreement: part of the examples (and positions) whose top class is the student's; None without classes.
        least_agreement: what it has to be at least.
        accuracy: its accuracy less the student's; None without labels.
        latency: 50th and 95th percentile of the milliseconds for one example.
        note: what else is to be known of it.
        checksums: SHA-256 by file, relative to the export's folder.
    """

    name: str
    path: pathlib.Path | None
    error: str = ""
    size: int = 0
    difference: float | None = None
    allowed: float | None = None
    agreement: float | None = None
    least_agreement: float | None = None
    accuracy: float | None = None
    latency: tuple[float, float] | None = None
    note: str = ""
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether it agrees with the student."""
        return not self.error


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the student.

    Attributes:
        path: the export's folder.
        examples: number of examples compared.
        artefacts: one for each format, those that failed too.
        note: what else is to be known of the comparison, as that it is weak.
    """

    path: pathlib.Path
    examples: int
    artefacts: tuple[Artefact, ...]
    note: str = ""

    def __getitem__(self, name: str) -> Artefact:
        """Return the artefact of a format, as in report["litert int8"]."""
        found = {artefact.name: artefact for artefact in self.artefacts}
        if name not in found:
            raise KeyError(f"Expected one of {sorted(found)}. Received: {name!r}")
        return found[name]

    @property
    def passed(self) -> bool:
        """Whether all artefacts agree with the student."""
        return all(artefact.passed for artefact in self.artefacts)

    @property
    def size(self) -> int:
        """Bytes of the artefacts that passed."""
        return sum(artefact.size for artefact in self.artefacts if artefact.passed)

    @property
    def difference(self) -> float:
        """Largest difference of an artefact that passed."""
        return max(artefact.difference or 0.0 for artefact in self.artefacts if artefact.passed)

    def __str__(self) -> str:
        """Return a table for people."""
        rows: list[tuple[str, ...]] = [("format", "size", "difference", "top class", "accuracy", "p50", "p95")]
        rows += [_row(artefact) for artefact in self.artefacts if artefact.passed]
        lines = [f"{self.path}, compared with the student on {self.examples} examples:", *aligned(rows, "<>")]
        lines += [self.note] if self.note else []
        lines += [f"{artefact.name}: {artefact.note}" for artefact in self.artefacts if artefact.note]
        lines += [f"{artefact.name}: FAILED. {artefact.error}" for artefact in self.artefacts if not artefact.passed]
        return "\n".join(lines)

    def write(self, folder: pathlib.Path) -> None:
        """Write the report, with the versions that it was made with."""
        content = {
            "examples": self.examples,
            "note": self.note,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "artefacts": [self._plain(artefact) for artefact in self.artefacts],
        }
        (folder / FILE).write_text(json.dumps(content, indent=2) + "\n")

    def _plain(self, artefact: Artefact) -> dict[str, Any]:
        """Return what JSON can hold; paths are relative, as the folder may be moved."""
        path = None if artefact.path is None else artefact.path.relative_to(self.path).as_posix()
        numbers = {**dataclasses.asdict(artefact), "path": path, "passed": artefact.passed}
        finite = {name: not isinstance(value, float) or math.isfinite(value) for name, value in numbers.items()}
        return {name: value if finite[name] else str(value) for name, value in numbers.items()}  # JSON has no NaN


def brief(error: Any) -> str:
    """Return the message of an error of any kind in a line, without colours."""
    return " ".join(re.sub("\x1b\\[[0-9;]*m", "", str(error)).split())[:600]


def checksums(path: pathlib.Path, root: pathlib.Path) -> dict[str, str]:
    """Return SHA-256 by file of a file or folder, with names relative to `root`."""
    files = sorted(file for file in [path, *path.rglob("*")] if file.is_file())
    return {file.relative_to(root).as_posix(): _sha256(file) for file in files}


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _row(artefact: Artefact) -> tuple[str, ...]:
    p50, p95 = artefact.latency or (0.0, 0.0)
    return (
        artefact.name,
        size(artefact.size, "KiB"),
        f"{artefact.difference:.1e}",
        "" if artefact.agreement is None else percent(artefact.agreement),
        "" if artefact.accuracy is None else percent(artefact.accuracy, sign="+"),
        milliseconds(p50),
        milliseconds(p95),
    )
