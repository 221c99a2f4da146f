"""`benchmark`: which student, under which recipe, is worth its size?"""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from typing import Any

import numpy as np

from keras_kd._internal import metric_directions
from keras_kd._internal.files import replace
from keras_kd._internal.log import info, quiet
from keras_kd._internal.number_formats import duration
from keras_kd.experiments import executors, run_settings, statistics
from keras_kd.experiments.baselines import ALONE, SMOOTHING, smoothing_loss
from keras_kd.experiments.benchmark_result import ABOUT, BenchmarkResult, Run
from keras_kd.experiments.benchmark_run import (
    PARTS,
    Common,
    Job,
    Recipe,
    Student,
    check_teacher,
    digests,
    first_metric,
    fresh_terms,
    kept,
    read,
    run,
)
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.scoring import better, require, teacher_measured
from keras_kd.teachers.base import AnyTeacher
from keras_kd.teachers.ensemble import as_teacher


def benchmark(
    students: Mapping[str, Student] | Sequence[Mapping[str, Any]],
    teacher: AnyTeacher,
    train: Any,
    validation: Any,
    test: Any,
    recipes: Mapping[str, Recipe] | None = None,
    seeds: int | Iterable[int] = 3,
    *,
    folder: Any,
    compile_arguments: dict[str, Any],
    epochs: int = 10,
    batch_size: int = 32,
    metric: str | None = None,
    mode: str = "auto",
    keep_best: bool = False,
    label_smoothing: float | None = 0.1,
    executor: Any = None,
    verbose: int = 1,
) -> BenchmarkResult:
    """Train every student under every recipe with every seed, and alone and with label smoothing for comparison.

    A seed decides a student's first weights, the order of the data and dropout; all recipes and both controls start
    from the same weights and take the same batches in the same order, so that they are compared seed by seed. What is
    chosen (an epoch with `keep_best`, a recipe) is chosen on `validation`; `test` is read once in each run, at its end.

    Each run is kept in `folder` as it ends. Stopped or killed at any moment, the same call does only what is missing,
    and `BenchmarkResult.load(folder)` shows what is there; more students, recipes or seeds add to it. A run that was
    made with other settings is refused. Keras's random seed is set anew for each run.

    Args:
        students: by name, models or functions that build one. A model gives its architecture, and what its layers were
            adapted to (`Normalization`, vocabularies): each run draws fresh weights (an initializer with a seed of its
            own, the same ones each time). To keep weights (a pretrained backbone), give a function. Or a list of dicts
            {"name", "model", ...}, each with a recipe of its own in it; `recipes` is then left out.
        teacher: as for `Distiller`, one that does not change with the student. Where `train` is arrays, it runs once
            for all of them.
        train: arrays (x, y) or (x, y, sample_weight); a batched tf.data.Dataset that gives the same batches whenever it
            is read; or a function of the seed that returns one, which may shuffle and augment by it.
        validation: the same.
        test: the same.
        recipes: by name, dicts of "terms", "temperature", "alpha" and further arguments of `compile`, which win over
            `compile_arguments`; or functions of (student, teacher) that return one. None: {"kd": {}}.
        seeds: how many, from 0 on; or which.
        folder: where to keep the runs.
        compile_arguments: "optimizer", "loss", "metrics" and whatever else all runs share, as for `Distiller.compile`.
        epochs: of each run.
        batch_size: of arrays.
        metric: what is compared; None for the first of the metrics, or "loss" where there are none.
        mode: "max" or "min": whether more or less of the metric is better; "auto": as the metric declares, "min" for
            losses.
        keep_best: whether a run ends with its best epoch by validation, instead of the last.
        label_smoothing: of that control, in (0, 1); None leaves it out. It needs a cross-entropy.
        executor: None runs one after the other in this process. "processes": side by side, a process for each GPU or
            each two cores. "ray": on the Ray cluster that is connected, all of whose machines see `folder`, or on this
            machine. Or a `concurrent.futures.Executor` of fresh processes. Models, arrays, and functions that a module
            holds under their own names can cross to other processes; lambdas and tf.data.Datasets cannot. A script that
            starts processes needs `if __name__ == "__main__":`.
        verbose: 1 for a line after each run, with the time that is left; 0 for silence.

    Returns:
        The runs; it prints as a table.

    Raises:
        ValueError: names that are used twice; settings out of range; a metric that does not declare its direction, with
            `mode="auto"`; a folder with runs of other settings; something that cannot cross to another process.
        TypeError: a student, the data or the executor is of another type.
        ImportError: the extra `benchmark` is not installed.

    Example:
        >>> result = kd.benchmark(
        ...     {"small": small, "tiny": tiny}, teacher, (x, y), (x_val, y_val), (x_test, y_test),
        ...     {"kd": {"temperature": 4.0, "alpha": 0.9}, "dkd": {"terms": kd.methods.dkd()}},
        ...     folder="runs/benchmark", compile_arguments={"optimizer": "adam", "loss": loss, "metrics": ["accuracy"]},
        ... )
        >>> print(result)
    """
    statistics.scipy_stats()
    executors.check(executor)
    check_teacher(teacher)
    _check_numbers(epochs, batch_size, label_smoothing)
    metric = first_metric(compile_arguments) if metric is None else metric
    metric_directions.check_mode(mode)
    parts = _parts(batch_size, train, validation, test)
    common = Common(
        teacher=teacher,
        **parts,
        compile_arguments=compile_arguments,
        epochs=epochs,
        metric=metric,
        mode=mode,
        keep_best=keep_best,
        label_smoothing=label_smoothing if smoothing_loss(compile_arguments) else None,
        folder=pathlib.Path(folder),
        digests=digests(teacher, parts),
    )
    jobs = _jobs(common, students, recipes, seeds)
    common = dataclasses.replace(common, mode=better(jobs[0].build(), compile_arguments, metric, mode))
    # What cannot be sent raises an error before any work.
    sent = {} if executor is None else executors.send(common, jobs, executor)
    with quiet(not verbose):
        about = _teacher_of(common, jobs[0])
        runs = _run_all(common, jobs, executor, sent)
    return BenchmarkResult(runs, **about)


def _parts(batch_size: int, *sources: Any) -> dict[str, Part]:
    """Return the training, validation and test data by name; each gives the same batches to every run."""
    parts = {name: Part(name, source, batch_size) for name, source in zip(PARTS, sources, strict=True)}
    for part in parts.values():
        part.check_order()
    return parts


def _jobs(common: Common, students: Any, recipes: Any, seeds: int | Iterable[int]) -> list[Job]:
    """Return all runs: for each student, the controls and its recipes, and for each of these the seeds."""
    numbers = [int(seed) for seed in (range(seeds) if isinstance(seeds, int) else seeds)]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"Expected `seeds` to be a number from 1 on, or different seeds. Received: seeds={seeds!r}")
    controls = [ALONE] if common.label_smoothing is None else [ALONE, SMOOTHING]
    jobs = []
    for student, model, own in _pairs(students, recipes):
        taken = [name for name in own if name in (ALONE, SMOOTHING)]
        if taken:
            raise ValueError(f"Expected other names for recipes than those of the controls. Received: {taken}")
        every = {**dict.fromkeys(controls), **own}
        jobs += [Job(student, recipe, seed, model, how) for recipe, how in every.items() for seed in numbers]
    if not jobs:
        raise ValueError(f"Expected at least one student. Received: students={students!r}")
    for job in {job.student: job for job in jobs}.values():
        job.build()  # what cannot be built raises an error before the first run
    return jobs


def _pairs(students: Any, recipes: Any) -> list[tuple[str, Any, dict[str, Recipe]]]:
    """Return each student's name, model and recipes."""
    if isinstance(students, Mapping):
        recipes = {"kd": {}} if recipes is None else dict(recipes)
        for name, recipe in recipes.items():
            _check_recipe(name, recipe)
        return [(name, model, recipes) for name, model in students.items()]
    if recipes is not None or not all(
        isinstance(each, Mapping) and {"name", "model"} <= set(each) for each in students
    ):
        raise ValueError(
            'Expected `students` by name with `recipes` by name; or a list of dicts {"name", "model", ...} that hold '
            f"their recipes, without `recipes`. Received: students={students!r}, recipes={recipes!r}"
        )
    names = [each["name"] for each in students]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected each student to have a name of its own. Received: {names}")
    own = [{key: value for key, value in each.items() if key not in ("name", "model")} for each in students]
    for name, recipe in zip(names, own, strict=True):
        _check_recipe(name, recipe)
    return [(each["name"], each["model"], {"distilled": recipe}) for each, recipe in zip(students, own, strict=True)]


def _check_recipe(name: str, recipe: Any) -> None:
    if callable(recipe):
        return
    if not isinstance(recipe, Mapping):
        raise TypeError(
            f"Expected recipe {name!r} to be a dict of terms, temperature, alpha and arguments of `compile`, or a "
            f"function of (student, teacher) that returns one. Received: {recipe!r}"
        )
    if recipe.get("terms") is not None:
        fresh_terms(recipe["terms"])


def _teacher_of(common: Common, job: Job) -> dict[str, Any]:
    """Return what a result contains beside the runs, the teacher's evaluation first of all; kept for a later call."""
    path = common.folder / ABOUT
    decides = {"digests": common.digests, "compile": run_settings.describe(common.compile_arguments)}
    about = _kept_about(path, decides)
    if about is None:
        teacher, parts = as_teacher(common.teacher), [getattr(common, name) for name in PARTS]
        found = teacher_measured(teacher, job.build(), common.compile_arguments, parts)
        parameters = sum(int(np.prod(weight.shape)) for weight in teacher.weights)
        about = {"teacher": found, "teacher_parameters": parameters}
    if about["teacher"]:
        require(common.metric, about["teacher"]["validation"])
    about |= {"metric": common.metric, "mode": common.mode}
    content = json.dumps({"about": about, "settings": decides}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, lambda partial: partial.write_text(content))
    return about


def _kept_about(path: pathlib.Path, decides: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier call has found of the same teacher, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept_before = json.loads(path.read_text())
        if run_settings.difference(kept_before["settings"], decides) is None:
            return kept_before["about"]
    return None


def _run_all(common: Common, jobs: list[Job], executor: Any, sent: dict[Job, Any]) -> list[Run]:
    """Read back what is finished, run what is missing, and return all of it in the order of the jobs."""
    done = {job: found for job in jobs if (found := kept(common, job)) is not None}
    missing = [job for job in jobs if job not in done]
    progress = _Progress(common, done, missing)
    try:
        if executor is None:
            for job in missing:
                progress.ended(job, run(common, job))
        elif missing:
            _side_by_side(common, {job: sent[job] for job in missing}, executor, progress)
    except KeyboardInterrupt:
        finished = f"{len(progress.done)} of {len(jobs)} runs"
        info(f"Stopped. {finished} are kept in {str(common.folder)!r}; the same call goes on with the others.")
        raise
    return [progress.done[job] for job in jobs]


def _side_by_side(common: Common, sent: dict[Job, Any], executor: Any, progress: "_Progress") -> None:
    with executors.opened(executor, len(sent)) as pool:
        jobs = {pool.submit(executors.work, each): job for job, each in sent.items()}
        try:
            for future in as_completed(jobs):
                future.result()
                progress.ended(jobs[future], read(common, jobs[future]))
        except BaseException:
            for future in jobs:
                future.cancel()
            raise


class _Progress:
    """Say after each run how far it is, and how long the rest will take at the speed so far."""

    def __init__(self, common: Common, done: dict[Job, Run], missing: list[Job]) -> None:
        self.metric = common.metric
        self.done = dict(done)
        self.missing = list(missing)
        self.total = len(done) + len(missing)
        self.worked = 0.0
        self.started = time.perf_counter()
        found = f"{len(done)} of them are kept in {str(common.folder)!r}; " if done else ""
        info(f"benchmark: {self.total} runs; {found}{len(missing)} to do{self._left()}")

    def ended(self, job: Job, run: Run) -> None:
        """Count a run."""
        self.done[job] = run
        self.missing.remove(job)
        if not self.worked:  # processes take a while to begin, once
            self.started = time.perf_counter() - run.seconds
        self.worked += run.seconds
        info(
            f"{len(self.done)}/{self.total}  {job.student}, {job.recipe}, seed {job.seed}: validation {self.metric} "
            f"{run.validation[self.metric]:.4f}, {duration(run.seconds)}{self._left()}"
        )

    def _left(self) -> str:
        """Return the time that is left: what runs of the same student took, at the pace of those of this call."""
        if not self.missing or not self.done:
            return ""
        everything = [run.seconds for run in self.done.values()]
        expected = 0.0
        for job in self.missing:
            own = [run.seconds for run in self.done.values() if run.student == job.student] or everything
            expected += sum(own) / len(own)
        pace = self.worked / (time.perf_counter() - self.started) if self.worked else 1.0
        return f"; about {duration(expected / pace)} left"


def _check_numbers(epochs: Any, batch_size: Any, label_smoothing: Any) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected `{name}` to be a whole number from 1 on. Received: {name}={value!r}")
    if label_smoothing is not None and not 0 < label_smoothing < 1:
        raise ValueError(
            f"Expected `label_smoothing` to be between 0 and 1, or None. Received: label_smoothing={label_smoothing!r}"
        )
