"""The objective: `alpha * sum(weight_i * term_i) + (1 - alpha) * student_loss + regularisation`, and its parts.

From the outputs of both models; `language.fused_objective` computes the same without logits.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from keras_kd import losses, schedules
from keras_kd._internal import layer_reader, output_labels, soft_targets, step_guards, student_overrides
from keras_kd._keras import compiled
from keras_kd._types import Schedule, Tensor, Tensors
from keras_kd.teachers import as_teacher
from keras_kd.teachers.base import AnyTeacher
from keras_kd.term import Term

_LOGGED = ("loss", "student_loss", "distillation_loss")


class Objective:
    """Compute the parts of the objective of a Distiller.

    Args:
        distiller: whose models, terms, and numbers they are; made anew for each use, so that it keeps nothing.
    """

    def __init__(self, distiller: Any) -> None:
        self._distiller = distiller

    def parts(
        self,
        x: Tensors,
        y: Tensors,
        sample_weight: Tensors,
        *,
        training: bool,
        unrecorded: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> tuple[dict[str, Tensor], Tensors]:
        """Return every part of the objective by its name in the logs, and the student's outputs.

        Args:
            x: inputs.
            y: labels, or None.
            sample_weight: or None.
            training: whether the student is in training mode.
            unrecorded: a context in which no gradient is recorded, for the teacher.

        Returns:
            Scalars, divided by the number of replicas, and what the student returned for x.
        """
        distiller = self._distiller
        y_pred, student = distiller._read_student(x, training=training)
        with unrecorded():
            teacher = distiller._read_teacher(x, student, y)
        has_labels = has_student_loss(distiller, y)
        hard = {"student_loss": self._of_labels(x, y, y_pred, sample_weight, training)} if has_labels else {}
        values, labels = self._of_terms(x, student, teacher, y, sample_weight, training)
        step = distiller.optimizer.iterations
        soft = ops.zeros((), "float32")
        for term in distiller.terms:
            soft += schedules.at(term.weight, step) * values[term.name]
        of_teacher, of_labels = distiller.shares(has_labels)
        loss = of_teacher * soft + of_labels * hard.get("student_loss", 0.0) + compiled.regularisation(distiller)
        loss = output_labels.guarded(loss, distiller.terms, labels, student)
        if training:
            loss = step_guards.against_schedules(loss, self.ranges(), step)
            loss = step_guards.against_targets(loss, values, soft, hard.get("student_loss", y_pred), step)
        return {**values, **hard, "distillation_loss": soft, "loss": loss}, y_pred

    def student_loss(self, x: Tensors, y: Tensors, sample_weight: Tensors) -> tuple[Tensor, Tensors]:
        """Return the labels' part in inference mode, and the student's outputs."""
        y_pred, _ = self._distiller._read_student(x, training=False)
        return self._of_labels(x, y, y_pred, sample_weight, training=False), y_pred

    def _of_labels(self, x: Tensors, y: Tensors, y_pred: Tensors, sample_weight: Tensors, training: bool) -> Tensor:
        """Return the labels' part, without the student's regularisation, divided by the number of replicas."""
        distiller = self._distiller
        if student_overrides.has(distiller.student, "compute_loss"):
            view = distiller._view(x)
            whole = student_overrides.compute_loss(distiller, view, y, y_pred, sample_weight, training)
            return whole - compiled.regularisation(distiller.student)
        return compiled.loss(distiller, y, y_pred, sample_weight)

    def _of_terms(
        self,
        x: Tensors,
        student: dict[str, Tensor],
        teacher: dict[str, Tensor],
        y: Tensors,
        sample_weight: Tensors,
        training: bool,
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Return the value of each term by its name, and the labels that each takes."""
        distiller, reader = self._distiller, self._distiller._untracked.reader
        countings, columns = compiled.countings(distiller), soft_targets.columns(x)
        step = distiller.optimizer.iterations
        values: dict[str, Tensor] = {}
        labels = []
        for term in distiller.terms:
            self._check_outputs(term, reader.outputs(student), teacher)
            temperature = distiller._untracked.temperature if term.temperature is None else term.temperature
            counts = output_labels.counted(term, reader, student, y, sample_weight, countings, columns)
            labels.append(output_labels.for_term(term, reader, student, y, counts.counted))
            values[term.name] = term.read(
                student,
                teacher,
                labels=labels[-1],
                **counts._asdict(),
                temperature=schedules.at(temperature, step),
                softened=self.softens(term),
                step=step,
                training=training,
            )
        return values, labels

    def ranges(self) -> list[schedules.Range]:
        """Return the schedules in use, with the values that they may take."""
        distiller = self._distiller
        found = [each for owner in (*distiller.terms, distiller.teacher) for each in owner.ranges()]
        if any(term.temperature is None for term in distiller.terms):
            found.append(schedules.Range("the temperature", distiller._untracked.temperature, schedules.SMALLEST))
        return [schedules.Range("alpha", distiller._untracked.alpha, 0.0, 1.0), *found]

    def prepare(self) -> None:
        """Build bridges and check shapes as far as they are known before data are seen."""
        distiller, untracked = self._distiller, self._distiller._untracked
        ours = untracked.reader.specs
        theirs = None if distiller.teacher is None else distiller.teacher.specs()
        untracked.normalizing = any(self._compares_numbers(term) for term in distiller.terms)
        for term in distiller.terms:
            self._check_outputs(term, untracked.reader.outputs(ours or {}), theirs or {})
            if ours is not None:
                term.prepare(ours, theirs, self.softens(term))
            term.built = True
        if distiller.compiled:
            self.check_tails(distiller.temperature)

    def check_tails(self, temperature: Schedule) -> None:
        """Refuse terms and temperatures for which it is not enough what the teacher's targets name."""
        teacher = self._distiller.teacher
        of_outputs = [] if teacher is None else [term for term in self._distiller.terms if self.softens(term)]
        for term in of_outputs:
            for name in term.teacher_names:
                term.check_tail(teacher.tail(name), temperature)

    def softens(self, term: Term) -> bool:
        """Return whether T and T**2 apply to a term where its `soften` is None: unless it reads numbers."""
        return all(self._distiller._untracked.reader.kind(name) != "values" for name in term.student_names)

    def _check_outputs(self, term: Term, student: Iterable[str], teacher: Iterable[str]) -> None:
        """Refuse two outputs as a pair, unless the teacher predicts with the student's own: one learns from another."""
        bound = self._distiller.teacher
        if bound is not None and not bound.layers_of_student(term.teacher_names):
            term.check_outputs(student, teacher)

    def _compares_numbers(self, term: Term) -> bool:
        """Return whether a constant added to all logits, which changes no softmax, would change a term."""
        teacher = self._distiller.teacher
        kinds = [self._distiller._untracked.reader.kind(name) for name in term.student_names]
        kinds += [] if teacher is None else [teacher.kind(name) for name in term.teacher_names]
        return not term.compares_distributions and set(kinds) != {"values"}


def has_student_loss(distiller: Any, y: Tensors) -> bool:
    """Return whether a batch with labels y has the labels' part of the objective."""
    if student_overrides.has(distiller.student, "compute_loss"):
        return y is not None or distiller.alpha != 1.0  # it may need none, or have no share
    return y is not None and compiled.has_loss(distiller)


def check_alpha(alpha: Schedule) -> Schedule:
    """Return alpha, or raise an error if it is outside 0 to 1, as far as a schedule's values are known."""
    values = [schedules.finite("alpha", each) for each in schedules.known(alpha)]
    if not (min(values) >= 0 and max(values) <= 1):
        raise ValueError(
            "Expected `alpha`, the weight of the teacher, to be from 0 to 1. Received: "
            f"{schedules.described('alpha', alpha)}. To weigh the teacher more than that, give its terms a `weight`."
        )
    return alpha if callable(alpha) else values[0]


def default_term(student: keras.Model, student_head: str | dict[str, str], teacher: AnyTeacher) -> Term:
    """Return plain knowledge distillation: of one yes-or-no unit where that is known, else of the softmax."""
    reader = layer_reader.Reader(student, head=student_head, owner="student")
    output = (reader.specs or {}).get("logits")
    if output is None or output.shape[-1] != 1:
        return Term(losses.kl_divergence)
    other = as_teacher(teacher) if teacher is not None and teacher is not student else None
    if other is not None:
        other.bind(student, ("logits",))  # of two classes, an estimator predicts what the student has units for
    per_label = "sigmoid" in (reader.kind("logits"), other and other.kind("logits"))
    return Term(losses.binary_kl if per_label else losses.kl_divergence)


def check_terms(terms: list[Any]) -> list[Term]:
    """Return terms, at least one, or raise an error where two would have one name in the logs."""
    if not terms or not all(isinstance(term, Term) for term in terms):
        raise TypeError(f"Expected `terms` to be one or more keras_kd.Term. Received: {terms!r}")
    names = [term.name for term in terms]
    taken = sorted({n for n in names if names.count(n) > 1 or n in _LOGGED or n.startswith("val_")})
    if taken:
        raise ValueError(
            f"Expected each term to have a name of its own in the logs, where Keras puts 'val_' before those of "
            f"validation. Received: {names}; {taken} are taken. Give the terms names: Term(..., name='...')."
        )
    return terms
