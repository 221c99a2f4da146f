"""`distill`: the best student that a budget of steps allows, and whether its teacher was worth it."""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd._internal import batches, metric_directions, teacher_fingerprints
from keras_kd._internal.files import readable, replace
from keras_kd._internal.log import info, quiet
from keras_kd._internal.number_formats import duration
from keras_kd._types import Tensors
from keras_kd.experiments import halving, levers, run_settings, soft_labels
from keras_kd.experiments.benchmark_run import Student, check_teacher, first_metric, fresh_student
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.distill_data import TrainingRows
from keras_kd.experiments.distill_result import Distilled, code_of
from keras_kd.experiments.distill_run import Trainer
from keras_kd.experiments.distill_verdict import judged
from keras_kd.experiments.held_out import check_rows, held_out
from keras_kd.experiments.levers import Candidate
from keras_kd.experiments.scoring import better
from keras_kd.teachers.base import AnyTeacher
from keras_kd.teachers.ensemble import as_teacher
from keras_kd.teachers.in_memory import InMemory
from keras_kd.term import Term


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
        compile_arguments: "loss", of the labels, "metrics", and whatever else of `compile` but the optimizer.
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
    labelled, chosen_on = held_out(_arrays("train", train), _arrays("validation", validation), seed)
    parts = {"train": labelled, "validation": chosen_on, "test": None if test is None else _arrays("test", test)}
    unlabelled = None if unlabelled is None else batches.as_arrays(unlabelled)
    check_rows({**parts, "unlabelled": None if unlabelled is None else (unlabelled,)})
    judge = fresh_student(student, seed, "student")
    loss = compile_arguments["loss"]
    codes = list(codes)
    rows = TrainingRows(labelled, unlabelled, batch_size, codes, seed)
    values = levers.space(fixed or {}, unlabelled is not None, mixable=_has_quantities(labelled[0]))
    if not soft_labels.is_softened(loss) and terms is None and "temperature" not in (fixed or {}):
        values["temperature"] = (1.0,)
    taught = levers.drawn(values, halving.TAUGHT[0], seed)
    controls = levers.controls(values)
    steps = halving.rounds_of(budget, taught, controls)
    trainer = Trainer(
        student=student,
        teacher=as_teacher(teacher),
        rows=rows,
        validation=Part("validation", chosen_on, batch_size),
        compile_arguments=compile_arguments,
        terms=terms or soft_labels.method_for(loss),
        metric=metric,
        mode=better(judge, compile_arguments, metric, mode),
        folder=pathlib.Path(folder),
        seed=seed,
        memory=InMemory(teacher),
        after=_Progress(metric, steps, taught, controls, verbose).line,
    )
    _check_folder(
        trainer,
        parts,
        unlabelled,
        {
            "budget": budget,
            "fixed": run_settings.describe(dict(fixed or {})),
            "batch_size": batch_size,
            "codes": list(codes),
        },
    )
    with quiet(not verbose):
        rounds = halving.search(taught, controls, steps, trainer.worth)
        best = _chosen(rounds[-1])
        brought = _brought(trainer, best.candidate, steps[-2])
    return _result(trainer, parts, rounds, best, brought, terms is None)


def _arrays(name: str, data: Any) -> Any:
    """Return a part of the data as arrays, or the share of another part that it is to be."""
    if name == "validation" and isinstance(data, float):
        return data
    Part(name, data, 1)
    if not isinstance(data, (tuple, list)):
        raise TypeError(
            f"Expected `{name}` to be arrays (x, y) or (x, y, sample_weight). Received: {type(data).__name__}"
        )
    return tuple(batches.as_arrays(tuple(data)))


def _check_compiled(arguments: dict[str, Any]) -> None:
    if arguments.get("loss") is None or "optimizer" in arguments:
        raise ValueError(
            "Expected `compile_arguments` with a loss of the labels, and without an optimizer, which is Adam under a "
            f"cosine schedule at a rate that is searched. Received: {sorted(arguments)}"
        )


def _has_quantities(x: Tensors) -> bool:
    """Return whether an average of two rows means something: not of token ids."""
    leaves = [np.asarray(leaf) for leaf in tree.flatten(x) if leaf is not None]
    return any(leaf.dtype.kind == "f" or (leaf.dtype == "uint8" and leaf.ndim > 2) for leaf in leaves)


def _check_folder(trainer: Trainer, parts: dict[str, Any], unlabelled: Tensors, settings: dict[str, Any]) -> None:
    """Refuse a folder of another search, or note whose it is."""
    fresh = fresh_student(trainer.student, trainer.seed, "student")
    decides = {
        **settings,
        **{name: teacher_fingerprints.of_arrays(_leaves(part)) for name, part in parts.items() if name != "test"},
        "unlabelled": teacher_fingerprints.of_arrays(_leaves(unlabelled)),
        "compile_arguments": run_settings.describe(trainer.compile_arguments),
        "terms": run_settings.describe(trainer.terms),
        "metric": [trainer.metric, trainer.mode],
        "seed": trainer.seed,
        "student": list(teacher_fingerprints.of_teacher(as_teacher(fresh)).values()),
        "teacher": list(teacher_fingerprints.of_teacher(trainer.teacher).values()),
    }
    path = trainer.folder / "search.json"
    if path.exists():
        with readable(path, f"Remove {str(trainer.folder)!r}, and the search is made again."):
            there = dict(json.loads(path.read_text()))
        name = run_settings.difference(there, decides)
        if name is not None:
            raise ValueError(
                f"{str(trainer.folder)!r} holds a search with another `{name}` than is given now. Use another folder, "
                "or remove that one."
            )
    elif trainer.folder.exists() and any(trainer.folder.iterdir()):
        raise ValueError(f"Expected an empty folder, or one of a search. {str(trainer.folder)!r} holds something else.")
    (trainer.folder / "runs").mkdir(parents=True, exist_ok=True)
    replace(path, lambda partial: partial.write_text(json.dumps(decides, indent=1)))


def _leaves(data: Any) -> list[Any]:
    return [np.asarray(leaf) for leaf in tree.flatten(data) if leaf is not None]


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
    parts: dict[str, Any],
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
    terms = soft_labels.expression_for(trainer.compile_arguments["loss"]) if is_default else "terms"
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
