"""`distill`: the best student that a budget of steps allows, and whether its teacher was worth it."""

import datetime
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_kd._internal import metric_directions, teacher_fingerprints
from keras_kd._internal.log import quiet
from keras_kd._types import Tensors
from keras_kd.augment.changes import Change, Function
from keras_kd.experiments import (
    candidates,
    distill_setup,
    halving,
    mixed_labels,
    run_settings,
    search_folders,
    time_budget,
)
from keras_kd.experiments.benchmark_run import Student, check_teacher, first_metric, fresh_student
from keras_kd.experiments.candidate_ranking import Ranking
from keras_kd.experiments.candidates import Candidate
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.distill_data import TrainingRows
from keras_kd.experiments.distill_result import Distilled, code_of
from keras_kd.experiments.distill_run import Trainer
from keras_kd.experiments.distill_setup import Terms
from keras_kd.experiments.distill_verdict import judged
from keras_kd.experiments.held_out import Parts, leaves, parts_of
from keras_kd.experiments.scoring import better
from keras_kd.experiments.search_progress import SearchProgress
from keras_kd.teachers.base import AnyTeacher
from keras_kd.teachers.ensemble import as_teacher
from keras_kd.teachers.in_memory import InMemory


def distill(
    student: Student,
    teacher: AnyTeacher,
    train: Any,
    validation: Any = 0.2,
    *,
    folder: Any,
    compile_arguments: dict[str, Any],
    unlabelled: Tensors = None,
    test: Any = None,
    budget: int | datetime.timedelta = 40_000,
    batch_size: int | None = None,
    fixed: Mapping[str, Any] | None = None,
    terms: Terms | None = None,
    changes: Mapping[str, Change | Function] | None = None,
    codes: Iterable[int | str] = (),
    metric: str | None = None,
    mode: str = "auto",
    seed: int = 0,
    verbose: int = 1,
) -> Distilled:
    """Train the best student that a budget of steps allows, and tell whether its teacher was worth it.

    Searched are the temperature, alpha, changes of rows, as mixtures (`augment`), the share of rows without labels in a
    batch, and the learning rate, by successive halving: twelve candidates get a ninth of the steps, the best three of
    them a third, the best one all, each from the same first weights and under a cosine schedule that ends with its own
    last step. Controls go the same way without a teacher: the student on its labels, and on changed rows with theirs.
    The best of both sides on validation data, of whatever length, is returned; if that is a control, distillation does
    not pay, and the result contains that verdict.

    Each training is kept in `folder` as it ends. Stopped or killed at any moment, the same call goes on.

    Args:
        student: a model, which gives its architecture and what its layers were adapted to, or a function that builds
            one.
        teacher: as for `Distiller`, one that does not change with the student.
        train: arrays (x, y) or (x, y, sample_weight), rows with labels.
        validation: the same, of other rows; or a share of `train` that is held out, evenly of all classes.
        folder: where to keep the trainings.
        compile_arguments: "loss", of the labels, "metrics", and whatever else of `compile` but the optimizer, the
            temperature, alpha and `steps_per_execution`.
        unlabelled: x of rows without labels, in the structure of the x of `train`. Of 200 or more, a tenth, but about
            2,000 at most, is not trained on: students are compared with their teacher there.
        test: arrays as `validation`, read once, for the verdict; None takes the validation data, on which the student
            was chosen.
        budget: steps of all trainings together, of which the longest one has about a seventh; or a time, from which the
            steps follow by timing two trainings.
        batch_size: rows with labels in a batch. None: a hundredth of them, but 64 at least and 512 at most.
        fixed: a value, or a list of values, for some of the levers: "method", "temperature", "alpha", "change",
            "unlabelled", "learning_rate".
        terms: a function that returns the terms, whose own temperature is None where it is searched; or several by
            name, which are searched as well. None: as the loss on labels has it, `methods.kd`, `methods.multi_label` or
            `methods.regression`.
        changes: what may be done to rows, by name, of which one is chosen, or none: changes of `augment`, whose copies
            are put beside the rows of a batch for the teacher to predict for. None: "mixtures" where x has quantities,
            "crops" of images of at least 16 pixels, "token noise" of ids whose embedding has `mask_zero`.
        codes: columns that are no quantities, see `augment.MixUp`.
        metric: what is compared; None for the first of the metrics, or "loss" where there are none.
        mode: "max" or "min": whether more or less of the metric is better; "auto": as the metric declares, "min" for
            losses.
        seed: of the weights, the order of the data, mixtures, and the search.
        verbose: 1 for a line after each training, with the time that is left; 0 for silence.

    Returns:
        The student, the candidates with their scores, and the verdict; it prints as a report with the lines of code
        that train this student again.

    Raises:
        ValueError: a student of several outputs; too small a budget; fewer than 20 rows to choose on; NaN or infinite
            numbers; `compile_arguments` with an optimizer or without a loss; a lever that is not known; a folder of
            another search.
        TypeError: data that are no arrays; no student or teacher; a budget that is neither steps nor a time.

    Example:
        >>> result = kd.distill(
        ...     student, teacher, (x, y), unlabelled=more_x, test=(x_test, y_test), folder="runs/distill",
        ...     compile_arguments={"loss": loss, "metrics": ["accuracy"]},
        ... )
        >>> print(result)
        >>> result.student.save("student.keras")
    """
    check_teacher(teacher)
    distill_setup.check_compiled(compile_arguments)
    metric_directions.check_mode(mode)
    metric = first_metric(compile_arguments) if metric is None else metric
    parts, loss = parts_of(train, validation, test, unlabelled, seed), compile_arguments["loss"]
    batch_size = distill_setup.batch_size_of(batch_size, len(leaves(parts.train)[0]))
    built = fresh_student(student, seed, "student")
    levers = distill_setup.levers(built, parts, loss, terms, changes, list(codes), dict(fixed or {}), seed)
    time_budget.check(budget, *levers.sides)
    progress = SearchProgress(metric, verbose)
    trainer = Trainer(
        student=student,
        teacher=as_teacher(teacher),
        rows=TrainingRows(parts.train, parts.unlabelled, batch_size, levers.changes, seed),
        validation=Part("validation", parts.validation, batch_size),
        compile_arguments=compile_arguments,
        terms=levers.terms,
        metric=metric,
        mode=better(fresh_student(student, seed, "student"), compile_arguments, metric, mode),
        folder=pathlib.Path(folder),
        seed=seed,
        memory=InMemory(teacher),
        nearness=distill_setup.nearness(built, as_teacher(teacher), parts, loss),
        after=progress.line,
    )
    ranking = distill_setup.ranking(built, parts, compile_arguments, metric)
    with quiet(not verbose):
        found = _searched(trainer, parts, levers, budget, progress, ranking)
        return _result(trainer, parts, found, _code_of_terms(terms, loss, found.best.candidate))


def _searched(
    trainer: Trainer,
    parts: Parts,
    levers: distill_setup.Levers,
    budget: int | datetime.timedelta,
    progress: SearchProgress,
    ranking: Ranking,
) -> halving.Found:
    """Search in a folder of this search's own, with lines on how far it is."""
    steps = time_budget.steps_of(budget, trainer, *levers.sides)
    settings = {"budget": str(budget), "batch_size": trainer.rows.batch_size, **levers.settings}
    search_folders.claim(trainer.folder, {**run_settings.describe(settings), **_described(trainer, parts)})
    time_budget.keep(trainer.folder, steps)
    rounds = halving.rounds_of(steps, *levers.sides)
    progress.begin(rounds, halving.trainings(*levers.sides))
    return halving.search(*levers.sides, rounds, trainer.scored, ranking.ordered)


def _described(trainer: Trainer, parts: Parts) -> dict[str, Any]:
    """Return what decides a search, as JSON; not the test data, which are read when it has ended."""
    fresh = as_teacher(fresh_student(trainer.student, trainer.seed, "student"))
    models = {"student": fresh, "teacher": trainer.teacher}
    data = {"train": parts.train, "validation": parts.validation, "unlabelled": parts.unlabelled}
    return {
        **{name: teacher_fingerprints.of_arrays(leaves(part)) for name, part in data.items()},
        **{name: list(teacher_fingerprints.of_teacher(model).values()) for name, model in models.items()},
        "compile_arguments": run_settings.describe(trainer.compile_arguments),
        "terms": run_settings.describe(trainer.terms),
        "metric": [trainer.metric, trainer.mode],
        "seed": trainer.seed,
    }


def _brought(trainer: Trainer, candidate: Candidate, steps: int) -> dict[str, float]:
    """Return how much worse a candidate is without each of its levers."""
    if candidate.is_alone:
        return {}
    whole = trainer.scored(candidate, steps).worth
    return {name: whole - trainer.scored(each, steps).worth for name, each in candidates.without(candidate).items()}


def _result(
    trainer: Trainer,
    parts: Parts,
    found: halving.Found,
    terms: str,
) -> Distilled:
    best = found.best
    students = {
        name: trainer.trained(each.candidate, each.steps)
        for name, each in (("student", best), ("control", found.control))
    }
    verdict, notes = judged(trainer, parts, students, found.rounds)
    return Distilled(
        student=students["student"],
        candidate=best.candidate,
        steps=best.steps,
        metric=trainer.metric,
        mode=trainer.mode,
        rounds=found.rounds,
        levers=_brought(trainer, best.candidate, found.rounds[-2][0].steps),
        verdict=verdict,
        notes=notes,
        code=code_of(
            best.candidate,
            best.steps,
            _data_code(trainer, parts, best.candidate, students["student"]),
            terms,
            trainer.seed,
        ),
    )


def _code_of_terms(terms: Any, loss: Any, candidate: Candidate) -> str:
    """Return Python that makes the terms of a candidate."""
    if terms is None:
        return mixed_labels.expression_for(loss)
    return f"terms[{candidate.method!r}]()" if isinstance(terms, Mapping) else "terms()"


def _data_code(trainer: Trainer, parts: Parts, candidate: Candidate, student: keras.Model) -> list[str]:
    """Return Python that makes the data of a candidate."""
    mixes_labels = candidate.is_alone and candidate.change
    loss = trainer.compile_arguments["loss"]
    classes = mixed_labels.classes_of(student, trainer.rows.labelled[0])
    labels = mixed_labels.mixable_code(loss, classes) if mixes_labels else []
    rows = []
    if candidate.unlabelled and parts.every is not None:
        kept = f"lambda leaf: leaf[np.arange(len(leaf)) % {parts.every} != {parts.every - 1}]"
        rows = [f"unlabelled = keras.tree.map_structure({kept}, unlabelled)"]
    return [*labels, *rows, *trainer.rows.code(candidate)]
