"""What a search of `distill` is made of: the user's arguments, checked and in the form that the search reads."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_kd._types import Tensors
from keras_kd.augment.changes import Change, Function
from keras_kd.experiments import candidate_ranking, candidates, halving, mixed_labels, paired_scores, row_changes
from keras_kd.experiments.candidates import Candidate
from keras_kd.experiments.held_out import Parts, joined
from keras_kd.experiments.row_changes import Offered
from keras_kd.experiments.scoring import teacher_model
from keras_kd.stages.pipeline import fresh_arguments
from keras_kd.teachers.base import Teacher
from keras_kd.term import Term

#: A function that returns the terms, or several by name.
Terms = Callable[[], list[Term]] | Mapping[str, Callable[[], list[Term]]]

#: Arguments of `compile` that the search sets.
_SET_HERE = {"optimizer", "temperature", "alpha", "steps_per_execution"}

#: A batch has a hundredth of the rows with labels, within these limits.
_BATCH = (64, 512)


class Levers(NamedTuple):
    """What a search chooses from.

    Attributes:
        terms: functions that return terms, by the name of their method.
        changes: what may be done to rows, by name.
        taught: candidates with a teacher.
        controls: those without.
        settings: what these follow from, to be described.
    """

    terms: dict[str, Callable[[], list[Term]]]
    changes: dict[str, Offered]
    taught: list[Candidate]
    controls: list[Candidate]
    settings: dict[str, Any]

    @property
    def sides(self) -> tuple[list[Candidate], list[Candidate]]:
        """The candidates with a teacher, and those without."""
        return self.taught, self.controls


def check_compiled(arguments: dict[str, Any]) -> None:
    """Refuse arguments of `compile` that the search sets itself, and those without a loss.

    Raises:
        ValueError: see above.
    """
    if arguments.get("loss") is None or _SET_HERE & set(arguments):
        raise ValueError(
            f"Expected `compile_arguments` with a loss of the labels, and without {sorted(_SET_HERE)}: the optimizer "
            "is Adam under a cosine schedule at a rate that is searched, as temperature and alpha are, which `fixed` "
            f"gives. Received: {sorted(arguments)}"
        )


def _output_axes(student: keras.Model, x: Tensors) -> int:
    """Return how many axes the output of a student has, from what it predicts for the first row of x.

    Raises:
        ValueError: it has several outputs.
    """
    first = tree.map_structure(lambda leaf: None if leaf is None else np.asarray(leaf)[:1], x)
    outputs = tree.flatten(student(first, training=False))
    if len(outputs) != 1:
        raise ValueError(
            f"Expected a student of one output. Received one of {len(outputs)}. Train it by a Distiller with a term "
            "for each output."
        )
    return len(outputs[0].shape)


def batch_size_of(given: int | None, rows: int) -> int:
    """Return how many rows with labels a batch has."""
    return min(max(_BATCH[0], rows // 100), _BATCH[1]) if given is None else given


def levers(
    student: keras.Model,
    parts: Parts,
    loss: Any,
    terms: Terms | None,
    changes: Mapping[str, Change | Function] | None,
    codes: list[int | str],
    fixed: dict[str, Any],
    seed: int,
) -> Levers:
    """Return what is searched for a student; see `distill` for the arguments.

    Raises:
        ValueError: a student of several outputs, a lever that is not known, values out of range.
        TypeError: `terms` are no functions.
    """
    by_name = named(mixed_labels.method_for(loss) if terms is None else terms)
    on_rows = offered(changes, student, parts, codes)
    softened = terms is not None or mixed_labels.is_softened(loss)
    values = candidates.space(fixed, parts.unlabelled is not None, on_rows, softened, by_name)
    settings = {"fixed": fixed, "codes": codes, "changes": row_changes.settings(on_rows)}
    taught = candidates.drawn(values, halving.TAUGHT[0], seed)
    return Levers(by_name, on_rows, taught, candidates.controls(values), settings)


def named(terms: Terms) -> dict[str, Callable[[], list[Term]]]:
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


def offered(
    changes: Mapping[str, Change | Function] | None, student: keras.Model, parts: Parts, codes: list[int | str]
) -> dict[str, Offered]:
    """Return what may be done to rows, by name: the user's own changes, or those that suit the data."""
    x = parts.train[0]
    axes = _output_axes(student, x)
    if changes is not None:
        return row_changes.given(changes)
    return row_changes.suitable(student, x, parts.has_quantities, axes == 2, codes)


def nearness(student: keras.Model, teacher: Teacher, parts: Parts, loss: Any) -> candidate_ranking.Nearness | None:
    """Return what compares students with the teacher, on rows that nothing is trained on; None without logits."""
    teacher.bind(student, ("logits",))
    model = teacher_model(teacher, student)
    if model is None:
        return None
    x, more = (candidate_ranking.some_rows(part) for part in (parts.validation[0], parts.compared))
    return candidate_ranking.Nearness(model, joined(x, more), loss)


def ranking(
    student: keras.Model, parts: Parts, compile_arguments: dict[str, Any], metric: str
) -> candidate_ranking.Ranking:
    """Return what orders candidates by a metric on validation rows."""
    rows = candidate_ranking.some_rows(parts.validation[:2])
    student.compile(**fresh_arguments(compile_arguments, distils=False))
    score = paired_scores.of_student(student, rows, metric, compile_arguments["loss"])
    return candidate_ranking.Ranking(rows[1], score)
