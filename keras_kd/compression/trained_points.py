"""Candidates of `compress`: each is trained, also with the rounding of its file, written, and measured as it is run."""

import dataclasses
import json
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd._internal import layer_reader
from keras_kd._internal.files import readable, replace
from keras_kd._internal.log import info, quiet
from keras_kd.compression import shapes
from keras_kd.compression.limits import Limits
from keras_kd.distiller import Distiller
from keras_kd.evaluation import model_runners, quality
from keras_kd.pruning import pruned_sizes
from keras_kd.quantization import quantization_aware
from keras_kd.runtimes import timing
from keras_kd.stages.pipeline import Pipeline
from keras_kd.teachers import ONNX, InMemory, LiteRT, SavedModel
from keras_kd.term import Term

_RUNTIMES: dict[str, Any] = {"litert": LiteRT, "onnx": ONNX, "saved_model": SavedModel}
_TIMED = 100
#: Inputs on which ranges of integers are found, and on which residual blocks and units are compared.
EXAMPLES = 512


@dataclasses.dataclass(frozen=True)
class Point:
    """A model that was tried.

    Attributes:
        name: of its shape; "alone" and "distilled" for controls.
        parameters: of the model.
        multiplications: for one example.
        bytes: of its file.
        milliseconds: for one example, through its file; the median.
        score: on validation data, of its file.
        seconds: that its training took.
    """

    name: str
    parameters: int
    multiplications: float
    bytes: int
    milliseconds: float
    score: float
    seconds: float

    @property
    def sizes(self) -> dict[str, float]:
        """Return what limits of size are about, by name."""
        names = ("bytes", "milliseconds", "parameters", "multiplications")
        return {name: float(getattr(self, name)) for name in names}


@dataclasses.dataclass(frozen=True)
class Training:
    """How all candidates are trained.

    Attributes:
        train: arrays (x, y) or (x, y, sample_weight).
        validation: the same, of other rows.
        compile_arguments: as of `compress`.
        epochs: of each training.
        batch_size: of its steps.
        learning_rate: at its beginning, under a cosine schedule.
        temperature: of the Distiller.
        alpha: of the Distiller.
        terms: a function that returns the terms, or None.
        seed: of weights and order.
    """

    train: tuple[Any, ...]
    validation: tuple[Any, ...]
    compile_arguments: dict[str, Any]
    epochs: int
    batch_size: int
    learning_rate: float
    temperature: float
    alpha: float
    terms: Callable[[], list[Term]] | None
    seed: int

    @property
    def representative(self) -> Any:
        """Return some inputs."""
        return tree.map_structure(lambda each: np.asarray(each)[:EXAMPLES], self.train[0])

    def run(self, student: keras.Model, teacher: InMemory | None, folder: pathlib.Path, part: float) -> float:
        """Train a student in place, for a part of the epochs at a part of the rate; return the seconds."""
        epochs = max(1, round(self.epochs * part))
        steps = epochs * -(-len(tree.flatten(self.train[0])[0]) // self.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(self.learning_rate * part, steps)
        compiled = {"optimizer": keras.optimizers.Adam(rate), **self.compile_arguments}
        trained: keras.Model = student
        if teacher is not None:
            trained = Distiller(student=student, teacher=teacher, terms=self.terms and self.terms())
            compiled |= {"temperature": self.temperature, "alpha": self.alpha}
        names = ("x", "y", "sample_weight")
        data = dict(zip(names, self.train, strict=False))
        fitted = {**data, "epochs": epochs, "batch_size": self.batch_size, "verbose": 0}
        with quiet(True):
            pipeline = Pipeline(compiled, fitted, folder, self.seed)
            return pipeline.run(student, "labels" if teacher is None else "teacher", trained).seconds


class Runs:
    """Make the points of `compress`, each once.

    Args:
        teacher: a Keras model.
        limits: the target.
        training: see `Training`.
        folder: where all is kept.
    """

    def __init__(self, teacher: keras.Model, limits: Limits, training: Training, folder: pathlib.Path) -> None:
        self._teacher, self._limits, self._training = teacher, limits, training
        self._folder = folder
        self._memory = InMemory(teacher)
        self._head = layer_reader.Reader(teacher).kind("logits")

    def whole(self, kind: str, multiplications: float) -> Point:
        """Return the teacher as a file of a format, as it is."""
        name = f"teacher, {kind}"
        return self._point(name, multiplications, kind, lambda folder: (self._teacher, 0.0))

    def point(self, pruned: shapes.Pruned, name: str = "", taught: bool = True) -> Point:
        """Train a model of a shape, and measure its file.

        Args:
            pruned: the shape and the first weights.
            name: of a control; empty for a candidate.
            taught: whether the teacher teaches it.
        """
        memory = self._memory if taught else None

        def trained(folder: pathlib.Path) -> tuple[keras.Model, float]:
            student = pruned.model
            seconds = self._training.run(student, memory, folder / "healed", 1.0)
            rounding = self._rounding(student)
            if rounding is not None:
                seconds += self._training.run(rounding, memory, folder / "rounded", 0.25)
            return student if rounding is None else rounding, seconds

        return self._point(name or pruned.shape.name, pruned.multiplications, self._limits.kind, trained)

    def student(self, name: str) -> keras.Model:
        """Return the trained model of a point."""
        return shapes.load(self._place(name) / "student.keras", self._teacher)

    def score(self, name: str, data: Any) -> float:
        """Return how good the file of a point is on other data."""
        return self._quality(self._file(name, self._limits.kind), self.student(name), data)

    def of_teacher(self, data: Any) -> float:
        """Return how good the teacher is."""
        return self._measured(self._teacher, data)

    def _point(
        self, name: str, multiplications: float, kind: str, make: Callable[[pathlib.Path], tuple[keras.Model, float]]
    ) -> Point:
        record = self._place(name) / "point.json"
        if not record.exists():
            self._place(name).mkdir(parents=True, exist_ok=True)
            student, seconds = make(self._place(name))
            replace(self._place(name) / "student.keras", student.save)
            found = self._of_file(name, student, kind)
            point = Point(name, student.count_params(), multiplications, seconds=seconds, **found)
            replace(record, lambda partial: partial.write_text(json.dumps(dataclasses.asdict(point), indent=1)))
            info(f"{name}: {point.bytes / 1e3:,.1f} kB, {self._limits.measure} {point.score:.4f}")
        with readable(record, f"Remove {str(record.parent)!r}, and it is made again."):
            return Point(**json.loads(record.read_text()))

    def _of_file(self, name: str, student: keras.Model, kind: str) -> dict[str, Any]:
        folder = self._place(name) / "file"
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=self._place(name)) as unfinished:
                made = pathlib.Path(unfinished) / "file"
                pruned_sizes.written(student, kind, self._training.representative, made, fresh=True)
                made.rename(folder)
        path = self._file(name, kind)
        runner = model_runners.of_export(path, student)
        one = tree.map_structure(lambda each: each[:1], self._training.representative)
        times = timing.in_turns({"": runner(one)}, _TIMED)[""]
        return {
            "bytes": runner.size(),
            "milliseconds": 1e3 * float(np.median(times)),
            "score": self._quality(path, student, self._training.validation),
        }

    def _quality(self, path: pathlib.Path, student: keras.Model, data: Any) -> float:
        kind = pruned_sizes.FORMATS[self._limits.kind][0] if path.suffix != ".keras" else "keras"
        return self._measured(student if kind == "keras" else _RUNTIMES[kind](path, head=self._head), data)

    def _measured(self, model: Any, data: Any) -> float:
        found = quality.measure(model, data)
        if self._limits.measure not in found:
            raise ValueError(f"Expected a measure of this task, {sorted(found)}. Received: {self._limits.measure!r}")
        return found[self._limits.measure]

    def _rounding(self, student: keras.Model) -> keras.Model | None:
        """Return a student that computes as its file of integers will; None for other files and layers."""
        if self._limits.kind != "litert_int8":
            return None
        try:
            return quantization_aware(student, self._training.representative)
        except ValueError as error:
            info(f"{student.name!r} is not trained with its rounding: {str(error).splitlines()[0]}")
            return None

    def _file(self, name: str, kind: str) -> pathlib.Path:
        return self._place(name) / "file" / pruned_sizes.file_name(kind)

    def _place(self, name: str) -> pathlib.Path:
        return self._folder / "runs" / re.sub(r"[^\w%]+", "-", name)
