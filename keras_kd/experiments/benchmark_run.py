"""One run of a benchmark: a student, a recipe, a seed."""

import dataclasses
import functools
import json
import pathlib
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import keras

from keras_kd import losses
from keras_kd._internal import teacher_fingerprints
from keras_kd._internal.cloning import fresh_model
from keras_kd._internal.files import readable, replace
from keras_kd._internal.log import info
from keras_kd._internal.number_formats import duration
from keras_kd.distiller import Distiller
from keras_kd.experiments import run_settings
from keras_kd.experiments.baselines import ALONE, SMOOTHING, Uniform, smoothing_loss
from keras_kd.experiments.benchmark_result import Run
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.scoring import measured, require
from keras_kd.stages.pipeline import fresh_arguments
from keras_kd.teachers.base import AnyTeacher, Teacher
from keras_kd.teachers.ensemble import as_teacher
from keras_kd.teachers.in_memory import InMemory
from keras_kd.term import Term

#: The parts of the data.
PARTS = ("train", "validation", "test")

#: A student's architecture, whose weights are drawn anew for each seed; or a function that builds the student.
Student = keras.Model | Callable[[], keras.Model]

#: Terms, temperature, alpha and other arguments of `compile`; or a function of (student, teacher) that returns them.
Recipe = dict[str, Any] | Callable[[keras.Model, Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What is to be run.

    Attributes:
        student: its name.
        recipe: name of the recipe, or of a control.
        seed: of weights and order.
        model: the student's architecture, or a function that builds the student.
        how: the recipe; None for a control.
    """

    student: str
    recipe: str
    seed: int
    model: Student
    how: Recipe | None

    @property
    def name(self) -> str:
        """The name of its files, another for each job."""
        quoted = [urllib.parse.quote(part, safe=" +=,()") for part in (self.student, self.recipe)]
        return f"{quoted[0]}--{quoted[1]}--seed-{self.seed}"

    def build(self) -> keras.Model:
        """Return the student as its seed makes it: the same one for all recipes."""
        return fresh_student(self.model, self.seed, self.student)


@dataclasses.dataclass(frozen=True)
class Common:
    """What all runs share; see `benchmark` for the arguments. `mode` is "max" or "min"."""

    teacher: AnyTeacher
    train: Part
    validation: Part
    test: Part
    compile_arguments: dict[str, Any]
    epochs: int
    metric: str
    mode: str
    keep_best: bool
    label_smoothing: float | None
    folder: pathlib.Path
    digests: dict[str, Any]

    @functools.cached_property
    def remembered(self) -> Teacher:
        """The one teacher that runs once for all runs in this process."""
        return InMemory(self.teacher)

    def settings(self, job: Job, student: keras.Model) -> dict[str, Any]:
        """Return what decides a run, for comparison; `student` is as `build` returns it."""
        shared = {
            "epochs": self.epochs,
            "batch_size": self.train.batch_size,
            "kept": [self.metric, self.mode] if self.keep_best else "last epoch",
            "compile_arguments": run_settings.describe(self.compile_arguments),
            **{name: self.digests[name] for name in PARTS},
            "student": list(teacher_fingerprints.of_teacher(as_teacher(student)).values()),
        }
        if job.recipe == ALONE:
            return shared
        if job.recipe == SMOOTHING:
            return {**shared, "label_smoothing": self.label_smoothing}
        return {**shared, "recipe": run_settings.describe(job.how), "teacher": self.digests["teacher"]}


def fresh_student(model: Student, seed: int, name: str) -> keras.Model:
    """Return the student as a seed makes it.

    Args:
        model: its architecture, or a function that builds it.
        seed: of its weights.
        name: for the message.

    Raises:
        TypeError: no built model.
    """
    keras.utils.set_random_seed(seed)
    student = fresh_model(model) if isinstance(model, keras.Model) else model() if callable(model) else model
    if not isinstance(student, keras.Model) or not student.built:
        raise TypeError(
            f"Expected student {name!r} to be a built keras.Model, or a function that returns one. Received: "
            f"{student!r}"
        )
    return student


def digests(teacher: AnyTeacher, parts: dict[str, Part]) -> dict[str, Any]:
    """Return checksums of the teacher and of the parts of the data, by name."""
    weights = list(teacher_fingerprints.of_teacher(as_teacher(teacher)).values())
    return {"teacher": weights, **{name: part.digest() for name, part in parts.items()}}


def paths(common: Common, job: Job) -> tuple[pathlib.Path, pathlib.Path]:
    """Return where the record and the student of a job are kept."""
    folder = common.folder / "runs"
    return folder / f"{job.name}.json", folder / f"{job.name}.keras"


def kept(common: Common, job: Job) -> Run | None:
    """Return a run that is finished, or None.

    Raises:
        ValueError: it was run with other settings, or its file is damaged.
    """
    path, _ = paths(common, job)
    if not path.exists():
        return None
    found = read(common, job)
    with readable(path, "Remove it, and the run is made again."):
        there = dict(json.loads(path.read_text())["settings"])
    name = run_settings.difference(there, common.settings(job, job.build()))
    if name is not None:
        raise ValueError(
            f"{str(path)!r} was run with another `{name}` than is given now. Use another folder, another name for the "
            "recipe or the student, or remove that file for the run to be made again."
        )
    return found


def read(common: Common, job: Job) -> Run:
    """Return a run that is finished.

    Raises:
        ValueError: its file is damaged.
    """
    return Run.read(paths(common, job)[0])


def run(common: Common, job: Job) -> Run:
    """Train a student, evaluate it, keep both: the record last, so that what is there is finished."""
    started = time.perf_counter()
    student = job.build()
    decides = common.settings(job, student)
    trained = _compiled(common, job, student)
    keras.utils.set_random_seed(job.seed)
    history, epoch = _fit(common, job, trained)
    evaluated = [measured(trained, part) for part in (common.train, common.validation, common.test)]
    require(common.metric, evaluated[1])
    path, model = paths(common, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = Run(
        student=job.student,
        recipe=job.recipe,
        seed=job.seed,
        parameters=student.count_params(),
        seconds=time.perf_counter() - started,
        epoch=epoch,
        train=evaluated[0],
        validation=evaluated[1],
        test=evaluated[2],
        history=history,
        path=str(model),
    )
    replace(model, student.save)
    content = json.dumps({"run": dataclasses.asdict(done), "settings": decides}, indent=1)
    replace(path, lambda partial: partial.write_text(content))
    return done


class Heartbeat(keras.callbacks.Callback):
    """Say now and then how far a long run is.

    Args:
        name: of the run.
        epochs: that it has.
        every: seconds of silence, at least.
    """

    def __init__(self, name: str, epochs: int, every: float = 30.0) -> None:
        super().__init__()
        self.name = name
        self.epochs = epochs
        self.every = every

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self.started = self.reported = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Say how far it is, after a while without a word."""
        now = time.perf_counter()
        if epoch + 1 < self.epochs and now - self.reported >= self.every:
            self.reported = now
            left = (now - self.started) / (epoch + 1) * (self.epochs - epoch - 1)
            info(f"     {self.name}: epoch {epoch + 1} of {self.epochs}; about {duration(left)} left of this run")


def check_teacher(teacher: AnyTeacher) -> None:
    """Refuse what is no teacher, or one whose state would go from one run into the next.

    Raises:
        TypeError: no teacher.
        ValueError: a teacher that changes with the student.
    """
    if as_teacher(teacher).stateful():
        raise ValueError(
            f"Expected a teacher that all runs can share. Received: {teacher!r}, which changes with its student."
        )


def _compiled(common: Common, job: Job, student: keras.Model) -> keras.Model:
    if job.recipe == ALONE:
        student.compile(**fresh_arguments(common.compile_arguments, distils=False))
        return student
    if job.recipe == SMOOTHING:
        smoothing = [Term(smoothing_loss(common.compile_arguments) or losses.kl_divergence)]
        numbers = {"temperature": 1.0, "alpha": common.label_smoothing}
        return _distiller(common, student, Uniform(), smoothing, numbers)
    how: Any = job.how
    own = dict(how(student, common.teacher) if callable(how) else how)
    terms = own.pop("terms", None)
    terms = [Term(losses.kl_divergence)] if terms is None else terms if callable(how) else fresh_terms(terms)
    teacher = teacher_of_run(terms, common.train, common.teacher, common.remembered)
    return _distiller(common, student, teacher, terms, own)


def teacher_of_run(terms: list[Term], train: Part, teacher: AnyTeacher, remembered: Teacher) -> Any:
    """Return the teacher that runs once for all runs, where that gives the same; else the live one.

    The targets of layers for all examples may be more than the memory holds: those are read as they come.
    """
    names = tuple(name for term in terms for name in term.teacher_names)
    once = train.is_arrays and set(names) == {"logits"} and as_teacher(teacher).cacheable(names)
    return remembered if once else teacher


def first_metric(compile_arguments: dict[str, Any]) -> str:
    """Return the name that the first metric has in the logs, or "loss" where there are no metrics.

    Raises:
        ValueError: the metrics of several outputs, or one without a name.
    """
    metrics = compile_arguments.get("metrics") or ["loss"]
    first = metrics[0] if isinstance(metrics, (list, tuple)) else metrics
    if isinstance(first, str):
        return first
    if isinstance(first, keras.metrics.Metric):
        return first.name
    raise ValueError(
        f"Expected `metric` to name the metric that is compared, as these have several outputs or no name: {metrics!r}"
    )


def _distiller(
    common: Common, student: keras.Model, teacher: AnyTeacher, terms: list[Term], own: dict[str, Any]
) -> Distiller:
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    distiller.compile(**fresh_arguments({**common.compile_arguments, **own}, distils=True))
    return distiller


def fresh_terms(terms: Any) -> list[Term]:
    """Return terms of the same settings that no other run has used.

    Raises:
        ValueError: a term that cannot be made again.
    """
    try:
        configs = [term.get_config() for term in terms]
        if "Unsaved" in json.dumps(configs, default=str):
            raise ValueError("a lambda, or a function that is not registered with Keras.")
        return [Term.from_config(config) for config in configs]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            "Expected the terms of a recipe to be Terms that can be made anew for each run. Received one that cannot: "
            f"{error} Give the recipe as a function: lambda student, teacher: {{'terms': [...], ...}}."
        ) from error


def _fit(common: Common, job: Job, trained: keras.Model) -> tuple[dict[str, list[float]], int]:
    """Train for the budget; return the logs, and the epoch whose weights the student ends with."""
    callbacks: list[Any] = [Heartbeat(f"{job.student}, {job.recipe}, seed {job.seed}", common.epochs)]
    if common.keep_best:
        best = keras.callbacks.EarlyStopping(
            f"val_{common.metric}",
            patience=common.epochs,
            mode=common.mode,
            restore_best_weights=True,
        )
        callbacks.append(best)
    teacher = trained.teacher if isinstance(trained, Distiller) else None
    found = trained.fit(
        common.train.shuffled(job.seed, teacher),
        validation_data=common.validation.batches(),
        epochs=common.epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    history = {name: [float(value) for value in values] for name, values in found.history.items()}
    return history, best.best_epoch + 1 if common.keep_best else common.epochs
