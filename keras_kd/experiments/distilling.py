"""`distill`: the best student that a budget of steps allows, and whether its teacher was worth it."""

import datetime
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd._internal import metric_directions, teacher_fingerprints
from keras_kd._internal.log import info, quiet
from keras_kd._internal.number_formats import duration
from keras_kd._types import Tensors
from keras_kd.augment.changes import Change, Function
from keras_kd.experiments import (
    candidate_order,
    halving,
    levers,
    paired_scores,
    row_changes,
    run_settings,
    search_folders,
    soft_labels,
    time_budget,
)
from keras_kd.experiments.benchmark_run import Student, check_teacher, first_metric, fresh_student
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.distill_data import TrainingRows
from keras_kd.experiments.distill_result import Distilled, code_of
from keras_kd.experiments.distill_run import Trainer
from keras_kd.experiments.distill_verdict import judged
from keras_kd.experiments.held_out import Parts, leaves, parts_of
from keras_kd.experiments.levers import Candidate
from keras_kd.experiments.row_changes import Offered
from keras_kd.experiments.scoring import better, teacher_model
from keras_kd.stages.pipeline import fresh_arguments
from keras_kd.teachers.base import AnyTeacher, Teacher
from keras_kd.teachers.ensemble import as_teacher
from keras_kd.teachers.in_memory import InMemory
from keras_kd.term import Term

#: Arguments of `compile` that the search sets.
_SET_HERE = {"optimizer", "temperature", "alpha", "steps_per_execution"}


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
    terms: Callable[[], list[Term]] | Mapping[str, Callable[[], list[Term]]] | None = None,
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
    not pay, and the result says so.

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
        ValueError: too small a budget; fewer than 20 rows to choose on; NaN or infinite numbers; `compile_arguments`
            with an optimizer or without a loss; a lever that is not known; a folder of another search.
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
    _check_compiled(compile_arguments)
    metric = first_metric(compile_arguments) if metric is None else metric
    metric_directions.check_mode(mode)
    loss, codes, fixed = compile_arguments["loss"], list(codes), dict(fixed or {})
    parts = parts_of(train, validation, test, unlabelled, seed)
    batch_size = batch_size or min(max(64, len(leaves(parts.train)[0]) // 100), 512)
    softened = terms is not None or soft_labels.is_softened(loss)
    built, named = (
        fresh_student(student, seed, "student"),
        _named(soft_labels.method_for(loss) if terms is None else terms),
    )
    offered = _offered(changes, built, parts, codes)
    values = levers.space(fixed, unlabelled is not None, offered, softened, named)
    taught, controls = levers.drawn(values, halving.TAUGHT[0], seed), levers.controls(values)
    _check_budget(budget)
    if isinstance(budget, int):
        halving.rounds_of(budget, taught, controls)  # refuses too small a one, before any work
    progress = _Progress(metric, verbose)
    trainer = Trainer(
        student=student,
        teacher=as_teacher(teacher),
        rows=TrainingRows(parts.train, parts.unlabelled, batch_size, offered, seed),
        validation=Part("validation", parts.validation, batch_size),
        compile_arguments=compile_arguments,
        terms=named,
        metric=metric,
        mode=better(fresh_student(student, seed, "student"), compile_arguments, metric, mode),
        folder=pathlib.Path(folder),
        seed=seed,
        memory=InMemory(teacher),
        nearness=_nearness(built, as_teacher(teacher), parts, loss),
        after=progress.line,
    )
    settings = {"budget": str(budget), "fixed": fixed, "batch_size": batch_size, "codes": codes}
    settings["changes"] = {name: [each.code, each.change, vars(each.change)] for name, each in offered.items()}
    with quiet(not verbose):
        whole = time_budget.steps_of(budget, trainer, taught, controls)
        search_folders.claim(trainer.folder, {**run_settings.describe(settings), **_described(trainer, parts)})
        time_budget.keep(trainer.folder, whole)
        steps = halving.rounds_of(whole, taught, controls)
        progress.begin(steps, halving.trainings(taught, controls))
        order = _ranking(trainer, parts, built)
        found = halving.search(taught, controls, steps, trainer.scored, order.ordered)
        brought = _brought(trainer, found.best.candidate, steps[-2])
    return _result(trainer, parts, found, brought, _code_of_terms(terms, loss, found.best.candidate))


def _check_budget(budget: Any) -> None:
    if isinstance(budget, bool) or not isinstance(budget, (int, datetime.timedelta)):
        raise TypeError(
            "Expected `budget` to be a number of steps or a datetime.timedelta. Received: "
            f"{budget!r} of type {type(budget).__name__}"
        )


def _check_compiled(arguments: dict[str, Any]) -> None:
    if arguments.get("loss") is None or _SET_HERE & set(arguments):
        raise ValueError(
            f"Expected `compile_arguments` with a loss of the labels, and without {sorted(_SET_HERE)}: the optimizer "
            "is Adam under a cosine schedule at a rate that is searched, as temperature and alpha are, which `fixed` "
            f"gives. Received: {sorted(arguments)}"
        )


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


def _nearness(student: keras.Model, teacher: Teacher, parts: Parts, loss: Any) -> candidate_order.Nearness | None:
    """Return what compares students with the teacher, on rows that nothing is trained on."""
    teacher.bind(student, ("logits",))
    model = teacher_model(teacher, student)
    if model is None:
        return None
    x = candidate_order.some_rows(parts.validation[0])
    if parts.compared is not None:
        x = tree.map_structure(
            lambda one, more: np.concatenate([one, more]), x, candidate_order.some_rows(parts.compared)
        )
    return candidate_order.Nearness(model, x, loss)


def _ranking(trainer: Trainer, parts: Parts, student: keras.Model) -> candidate_order.Ranking:
    first = candidate_order.some_rows(parts.validation[:2])
    student.compile(**fresh_arguments(trainer.compile_arguments, distils=False))
    return candidate_order.Ranking(
        first[1], paired_scores.of_student(student, first, trainer.metric, trainer.compile_arguments["loss"])
    )


def _brought(trainer: Trainer, candidate: Candidate, steps: int) -> dict[str, float]:
    """Return how much worse a candidate is without each of its levers."""
    if candidate.is_alone:
        return {}
    whole = trainer.scored(candidate, steps).worth
    return {name: whole - trainer.scored(each, steps).worth for name, each in levers.without(candidate).items()}


def _result(
    trainer: Trainer,
    parts: Parts,
    found: halving.Found,
    brought: dict[str, float],
    terms: str,
) -> Distilled:
    best = found.best
    students = {
        name: trainer.trained(each.candidate, each.steps)
        for name, each in (("student", best), ("control", found.control))
    }
    verdict, notes = judged(trainer, parts, students)
    return Distilled(
        student=students["student"],
        candidate=best.candidate,
        steps=best.steps,
        metric=trainer.metric,
        mode=trainer.mode,
        rounds=found.rounds,
        levers=brought,
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
        return soft_labels.expression_for(loss)
    return f"terms[{candidate.method!r}]()" if isinstance(terms, Mapping) else "terms()"


def _data_code(trainer: Trainer, parts: Parts, candidate: Candidate, student: keras.Model) -> list[str]:
    """Return Python that makes the data of a candidate."""
    mixes_labels = candidate.is_alone and candidate.change
    loss = trainer.compile_arguments["loss"]
    classes = soft_labels.classes_of(student, trainer.rows.labelled[0])
    labels = soft_labels.mixable_code(loss, classes) if mixes_labels else []
    rows = []
    if candidate.unlabelled and parts.every is not None:
        kept = f"lambda leaf: leaf[np.arange(len(leaf)) % {parts.every} != {parts.every - 1}]"
        rows = [f"unlabelled = keras.tree.map_structure({kept}, unlabelled)"]
    return [*labels, *rows, *trainer.rows.code(candidate)]


def _named(terms: Callable[[], list[Term]] | Mapping[str, Callable[[], list[Term]]]) -> dict[str, Any]:
    """Return the functions that return terms, by name; "" is the name of a single one.

    Raises:
        TypeError: anything but functions.
    """
    found = dict(terms) if isinstance(terms, Mapping) else {"": terms}
    if not found or not all(isinstance(name, str) and callable(each) for name, each in found.items()):
        raise TypeError(
            "Expected `terms` to be a function that returns terms, as lambda: keras_kd.methods.kd(temperature=None), "
            f"or a dict of such functions. Received: {terms!r}"
        )
    return found


def _offered(
    changes: Mapping[str, Change | Function] | None, student: keras.Model, parts: Parts, codes: list[int | str]
) -> dict[str, Offered]:
    if changes is not None:
        return row_changes.given(changes)
    return row_changes.suitable(student, parts.train[0], parts.has_quantities, codes)


class _Progress:
    """Prints a line after each training, with the time that is left."""

    def __init__(self, metric: str, verbose: int) -> None:
        self._metric, self._verbose = metric, verbose
        self._seconds = self._done = self._left = 0.0
        self._has_begun = False

    def begin(self, steps: list[int], counts: list[int]) -> None:
        """Count the steps of as many trainings in each round."""
        self._left = sum(count * each for count, each in zip(counts, steps, strict=True))
        self._has_begun = True

    def line(self, candidate: Candidate, steps: int, score: float, seconds: float) -> None:
        """Print what a training has reached."""
        self._left = max(0.0, self._left - steps)
        self._seconds, self._done = self._seconds + seconds, self._done + steps
        if self._verbose and self._has_begun:
            left = duration(self._left * self._seconds / self._done)
            info(f"{candidate!s:<72} {steps:>6,} steps  {self._metric} {score:.4f}  {left} left")
