"""One training of `distill`, kept as it ends."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_kd import augment
from keras_kd._internal import metric_directions
from keras_kd._internal.files import readable, replace
from keras_kd.distiller import Distiller
from keras_kd.experiments import candidate_ranking, mixed_labels
from keras_kd.experiments.benchmark_run import Student, fresh_student
from keras_kd.experiments.candidate_ranking import Scored
from keras_kd.experiments.candidates import Candidate
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.distill_data import TrainingRows
from keras_kd.experiments.scoring import measured, require
from keras_kd.stages.pipeline import fresh_arguments
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.in_memory import InMemory
from keras_kd.term import Term

#: Steps between two returns to Python, at most.
_EXECUTION = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """What all trainings share; see `distill` for the arguments.

    Attributes:
        terms: functions that return the terms, by the name of their method.
        mode: "max" or "min".
        memory: has the teacher's targets of rows that do not change.
        nearness: compares students with their teacher; None for one without logits.
        after: called after each training that was run, with its candidate, steps, score and seconds.
    """

    student: Student
    teacher: Teacher
    rows: TrainingRows
    validation: Part
    compile_arguments: dict[str, Any]
    terms: Mapping[str, Callable[[], list[Term]]]
    metric: str
    mode: str
    folder: pathlib.Path
    seed: int
    memory: InMemory
    nearness: candidate_ranking.Nearness | None
    after: Callable[[Candidate, int, float, float], None]

    def scored(self, candidate: Candidate, steps: int) -> Scored:
        """Return how good a candidate is on validation data; train it unless that was done before."""
        record, outputs = (self._path(candidate, steps, end) for end in (".json", ".npy"))
        if not record.exists():
            self._run(candidate, steps)
        with readable(record, "Remove it, and the training is made again."):
            found = json.loads(record.read_text())
            worth = metric_directions.worth(found["score"], self.mode)
            loss = -metric_directions.worth(found["loss"], "min")
            return Scored(candidate, steps, worth, loss, tuple(found["nearness"]), np.load(outputs))

    def trained(self, candidate: Candidate, steps: int) -> keras.Model:
        """Return the student that `score` has trained, compiled to be evaluated."""
        student = self._fresh()
        student.load_weights(self._path(candidate, steps, ".weights.h5"))
        return student

    def _run(self, candidate: Candidate, steps: int) -> None:
        began = time.perf_counter()
        student = self._fresh()
        self._fit(student, candidate, steps)
        student.compile(**self._judging())
        found = measured(student, self.validation)
        require(self.metric, found)
        record, weights, outputs = (self._path(candidate, steps, end) for end in (".json", ".weights.h5", ".npy"))
        record.parent.mkdir(exist_ok=True)
        replace(weights, student.save_weights)
        rows = candidate_ranking.predicted(student, candidate_ranking.some_rows(self.validation.source[0]))
        replace(outputs, lambda partial: np.save(partial, rows))
        near = () if candidate.is_alone or self.nearness is None else self.nearness.of(student)
        content = {
            **dataclasses.asdict(candidate),
            "steps": steps,
            "score": found[self.metric],
            "loss": found["loss"],
            "nearness": [metric_directions.worth(each, "max") for each in near],
            "seconds": time.perf_counter() - began,
        }
        replace(record, lambda partial: partial.write_text(json.dumps(content, indent=1)))
        self.after(candidate, steps, found[self.metric], content["seconds"])

    def _fit(self, student: keras.Model, candidate: Candidate, steps: int) -> None:
        """Train a student in place."""
        rows, loss = self.rows, self.compile_arguments["loss"]
        rate = keras.optimizers.schedules.CosineDecay(candidate.learning_rate, steps)
        shared = {
            **{name: value for name, value in self.compile_arguments.items() if "metrics" not in name},
            "optimizer": keras.optimizers.Adam(rate),
            "steps_per_execution": next(size for size in range(_EXECUTION, 0, -1) if steps % size == 0),
        }
        trained: keras.Model = student
        if candidate.is_alone:
            if candidate.change:
                classes = mixed_labels.classes_of(student, rows.labelled[0])
                labelled, shared["loss"] = mixed_labels.mixable(rows.labelled, loss, classes)
                rows = rows.with_labels(labelled)
            student.compile(**shared)
        else:
            kept = None if candidate.change else self.memory
            terms = augment.on_all_rows(self.terms[candidate.method]())
            trained = Distiller(student=student, teacher=kept or self.teacher, terms=terms)
            trained.compile(**shared, temperature=candidate.temperature, alpha=candidate.alpha)
        keras.utils.set_random_seed(self.seed)
        data = rows.batches(candidate, None if candidate.is_alone or candidate.change else self.memory)
        trained.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)

    def _fresh(self) -> keras.Model:
        student = fresh_student(self.student, self.seed, "student")
        student.compile(**self._judging())
        return student

    def _judging(self) -> dict[str, Any]:
        return fresh_arguments({"optimizer": "adam", **self.compile_arguments}, distils=False)

    def _path(self, candidate: Candidate, steps: int, end: str) -> pathlib.Path:
        of = json.dumps([dataclasses.asdict(candidate), steps], sort_keys=True)
        return self.folder / "runs" / f"{hashlib.sha256(of.encode()).hexdigest()[:16]}-{steps}{end}"
