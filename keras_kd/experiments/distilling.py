"""`distill`: the best student that a budget of steps allows, and whether its teacher was worth it."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from keras_kd._internal import metric_directions, teacher_fingerprints
from keras_kd._internal.log import info, quiet
from keras_kd._internal.number_formats import duration
from keras_kd._types import Tensors
from keras_kd.experiments import halving, levers, run_settings, search_folders, soft_labels
from keras_kd.experiments.benchmark_run import Student, check_teacher, first_metric, fresh_student
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.distill_data import TrainingRows
from keras_kd.experiments.distill_result import Distilled, code_of
from keras_kd.experiments.distill_run import Trainer
from keras_kd.experiments.distill_verdict import judged
from keras_kd.experiments.held_out import Parts, leaves, parts_of
from keras_kd.experiments.levers import Candidate
from keras_kd.experiments.scoring import better
from keras_kd.teachers.base import AnyTeacher
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
    budget: int = 40_000,
    batch_size: int = 64,
    fixed: Mapping[str, Any] | None = None,
    terms: Callable[[], list[Term]] | None = None,
    codes: Iterable[int | str] = (),
    metric: str | None = None,
    mode: str = "auto",
    seed: int = 0,
    verbose: int = 1,
) -> Distilled:
    """Train the best student that a budget of steps allows, and tell whether its teacher was worth it.

    Searched are the temperature, alpha, mixtures of rows (`augment.MixUp`), the share of rows without labels in a
    batch, and the learning rate, by successive halving: twelve candidates get a ninth of the steps, the best four of
    them a third, the best two all, each from the same first weights and under a cosine schedule that ends with its own
    last step. Controls go the same way without a teacher: the student on its labels, and on its labels and mixtures of
    them. The best of both sides on validation data is returned; if that is a control, distillation does not pay, and
    the result says so.

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
        unlabelled: x of rows without labels, in the structure of the x of `train`.
        test: arrays as `validation`, read once, for the verdict; None takes the validation data, on which the student
            was chosen.
        budget: steps of all trainings together. The longest one has about a ninth.
        batch_size: rows with labels in a batch.
        fixed: a value, or a list of values, for some of the levers: "temperature", "alpha", "mixtures", "unlabelled",
            "learning_rate".
        terms: a function that returns the terms, whose own temperature is None where it is searched. None: as the loss
            on labels has it, `methods.kd`, `methods.multi_label` or `methods.regression`.
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
        TypeError: data that are no arrays; no student or teacher.

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
    softened = terms is not None or soft_labels.is_softened(loss)
    values = levers.space(fixed, unlabelled is not None, parts.has_quantities, softened)
    taught, controls = levers.drawn(values, halving.TAUGHT[0], seed), levers.controls(values)
    steps = halving.rounds_of(budget, taught, controls)
    trainer = Trainer(
        student=student,
        teacher=as_teacher(teacher),
        rows=TrainingRows(parts.train, parts.unlabelled, batch_size, codes, seed),
        validation=Part("validation", parts.validation, batch_size),
        compile_arguments=compile_arguments,
        terms=terms or soft_labels.method_for(loss),
        metric=metric,
        mode=better(fresh_student(student, seed, "student"), compile_arguments, metric, mode),
        folder=pathlib.Path(folder),
        seed=seed,
        memory=InMemory(teacher),
        after=_Progress(metric, steps, taught, controls, verbose).line,
    )
    settings = {"budget": budget, "fixed": run_settings.describe(fixed), "batch_size": batch_size, "codes": codes}
    search_folders.claim(trainer.folder, {**settings, **_described(trainer, parts)})
    with quiet(not verbose):
        rounds = halving.search(taught, controls, steps, trainer.worth)
        best = _chosen(rounds[-1])
        brought = _brought(trainer, best.candidate, steps[-2])
    return _result(trainer, parts, rounds, best, brought, terms is None)


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


def _chosen(last: list[halving.Scored]) -> halving.Scored:
    """Return the best of the last round; of equals, a control, which needs no teacher."""
    return max(last, key=lambda each: (each.worth, each.candidate.is_alone))


def _brought(trainer: Trainer, candidate: Candidate, steps: int) -> dict[str, float]:
    """Return how much worse a candidate is without each of its levers."""
    if candidate.is_alone:
        return {}
    whole = trainer.worth(candidate, steps)
    return {name: whole - trainer.worth(each, steps) for name, each in levers.without(candidate).items()}


def _result(
    trainer: Trainer,
    parts: Parts,
    rounds: list[list[halving.Scored]],
    best: halving.Scored,
    brought: dict[str, float],
    is_default: bool,
) -> Distilled:
    control = halving.ordered(each for each in rounds[-1] if each.candidate.is_alone)[0]
    students = {
        name: trainer.trained(each.candidate, each.steps) for name, each in (("student", best), ("control", control))
    }
    verdict, notes = judged(trainer, parts, students)
    terms = soft_labels.expression_for(trainer.compile_arguments["loss"]) if is_default else "terms()"
    return Distilled(
        student=students["student"],
        candidate=best.candidate,
        steps=best.steps,
        metric=trainer.metric,
        mode=trainer.mode,
        rounds=rounds,
        levers=brought,
        verdict=verdict,
        notes=notes,
        code=code_of(
            best.candidate, best.steps, _data_code(trainer, best.candidate, students["student"]), terms, trainer.seed
        ),
    )


def _data_code(trainer: Trainer, candidate: Candidate, student: keras.Model) -> list[str]:
    """Return Python that makes the data of a candidate."""
    mixes_labels = candidate.is_alone and candidate.mixtures
    loss = trainer.compile_arguments["loss"]
    classes = soft_labels.classes_of(student, trainer.rows.labelled[0])
    labels = soft_labels.mixable_code(loss, classes) if mixes_labels else []
    return [*labels, *trainer.rows.code(candidate)]


class _Progress:
    """Prints a line after each training, with the time that is left."""

    def __init__(
        self, metric: str, steps: list[int], taught: list[Candidate], controls: list[Candidate], verbose: int
    ) -> None:
        self._metric, self._verbose = metric, verbose
        counts = halving.trainings(taught, controls)
        self._left = sum(count * each for count, each in zip(counts, steps, strict=True))
        self._seconds = self._done = 0.0

    def line(self, candidate: Candidate, steps: int, score: float, seconds: float) -> None:
        """Print what a training has reached."""
        self._left = max(0, self._left - steps)
        self._seconds, self._done = self._seconds + seconds, self._done + steps
        if self._verbose:
            left = duration(self._left * self._seconds / self._done)
            info(f"{candidate!s:<72} {steps:>6,} steps  {self._metric} {score:.4f}  {left} left")
