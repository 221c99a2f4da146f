"""The objective of a Distiller whose models end in products with their vocabulary, without a tensor of logits."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd import losses, schedules
from keras_kd._internal import (
    layer_reader,
    loss_functions,
    output_labels,
    reduction,
    soft_targets,
    step_guards,
    student_overrides,
)
from keras_kd._keras import compiled, masks, step_errors
from keras_kd._types import Tensor, Tensors
from keras_kd.language import fused_sequences, vocabulary_heads
from keras_kd.language.fused import fused
from keras_kd.language.fused_parts import Batch, Part, columns_of, cross_entropy, ids_of, shares_of
from keras_kd.language.teacher_rows import LiveTeacher, StoredTeacher, TeacherRows, as_rows
from keras_kd.language.vocabulary_heads import VocabularyHead
from keras_kd.objective import Objective
from keras_kd.teachers.cached import Cached
from keras_kd.teachers.frozen import Frozen
from keras_kd.teachers.served import Served
from keras_kd.term import Term

#: From this number of classes on, heads are fused where they can be: it takes less memory, and about as long.
LARGE = 16_384

#: Losses that compare each row by itself.
_BY_ROW = (
    losses.kl_divergence,
    losses.reverse_kl,
    losses.jensen_shannon,
    losses.skew_kl,
    losses.skew_reverse_kl,
    losses.decoupled_kl,
    losses.normalized_kl,
    losses.hard_label,
)

_OUTPUT = ("logits",)

#: Teachers that have targets, and no hidden states of which they are made.
_TARGETS = (Cached, Served)

#: Where no term compares the logits.
_NO_TEACHER = TeacherRows()


def hindrance(distiller: Any) -> str:
    """Return why a Distiller needs its models' logits as a whole, or nothing where it does not."""
    student, teacher = distiller.student, distiller.teacher
    if not isinstance(teacher, _TARGETS):
        if not isinstance(teacher, Frozen) or vocabulary_heads.find(teacher.model) is None:
            return (
                "the teacher is neither a live model that ends in a product with its vocabulary, nor cached or served"
            )
        if teacher.device is not None or teacher.dtype_of_copy is not None:
            return "the teacher has a device or a dtype of its own"
    head = vocabulary_heads.find(student)
    if head is None or head.is_quantized or head.layer.activity_regularizer is not None:
        return "the student does not end in a product with its vocabulary: a Dense without activation, or an embedding"
    reader = distiller._untracked.reader
    if {reader.kind("logits"), teacher.kind("logits")} & {"softmax", "sigmoid", "values"}:
        return "the output of one of the models is not declared as logits"
    for term in distiller.terms:
        reads = (term.student_names, term.teacher_names)
        if _OUTPUT in reads and (reads != (_OUTPUT, _OUTPUT) or term.bridge is not None):
            return f"the term {term.name!r} compares the logits with something else"
        if "logits" in term.student_names and loss_functions.takes_counted(term.loss):
            if not fused_sequences.are_taken(term):
                return f"the term {term.name!r} on whole sequences has a transform, or not a temperature=1.0 of its own"
        elif "logits" in term.student_names and term.loss not in _BY_ROW:
            return f"the loss of the term {term.name!r} is not one of {[each.__name__ for each in _BY_ROW]}"
    if any(student_overrides.has(student, name) for name in ("compute_loss", "compute_metrics", "test_step")):
        return "the student overrides compute_loss, compute_metrics or test_step"
    if compiled.has_loss(distiller) and _loss_of(distiller) is None:
        return "the loss is not a keras.losses.SparseCategoricalCrossentropy(from_logits=True) object"
    return "metrics need logits" if compiled.has_metrics(distiller) else ""


def pays(distiller: Any) -> bool:
    """Return whether the logits of a Distiller's student are large: one output of many classes at each position."""
    outputs = getattr(distiller.student, "outputs", None) or []  # a Sequential that is not built has none
    return len(outputs) == 1 and len(outputs[0].shape) > 2 and (outputs[0].shape[-1] or 0) >= LARGE


class FusedObjective:
    """Compute the parts of an objective from hidden states.

    Args:
        distiller: without a `hindrance`.
    """

    def __init__(self, distiller: Any) -> None:
        self._distiller = distiller
        self._of_output = [term for term in distiller.terms if term.student_names == _OUTPUT]
        self._of_layers = [term for term in distiller.terms if term.student_names != _OUTPUT]
        self._head, self._student = _without_head(distiller.student, self._of_layers, "student")
        self._teacher = (
            StoredTeacher(distiller)
            if isinstance(distiller.teacher, _TARGETS)
            else LiveTeacher(distiller, *_without_head(distiller.teacher.model, self._of_layers, "teacher"))
        )

    def parts(
        self,
        x: Tensors,
        y: Tensors,
        sample_weight: Tensors,
        *,
        training: bool,
        unrecorded: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> dict[str, Tensor]:
        """Return every part of the objective by its name in the logs; see `Distiller`.

        Args:
            x: inputs.
            y: class ids, or None.
            sample_weight: or None.
            training: whether the student is in training mode.
            unrecorded: a context in which no gradient is recorded, for the teacher.
        """
        distiller = self._distiller
        student = self._hidden(x, training)
        with unrecorded():
            teacher = self._teacher.read(x, student, y)
        step = distiller.optimizer.iterations
        of_teacher, of_labels = distiller.shares(self._has_labels(y))
        theirs, mask = self._compared(student, teacher)
        batch = Batch(y, sample_weight, soft_targets.columns(x))
        read = [self._part(term, student, batch, theirs, mask, of_teacher, unrecorded) for term in self._of_output]
        if self._has_labels(y):
            read.append(self._part_of_labels(student["logits"], y, sample_weight, of_labels))
        total, parts = self._summed(read, student["logits"], theirs)
        soft = ops.zeros((), "float32")
        for term in distiller.terms:
            if term in self._of_layers:
                parts[term.name] = self._of_features(term, student, teacher, batch, training)
                total += of_teacher * schedules.at(term.weight, step) * parts[term.name]
            soft += schedules.at(term.weight, step) * parts[term.name]
        loss = total + compiled.regularisation(distiller)
        if training:
            loss = step_guards.against_schedules(loss, Objective(distiller).ranges(), step)
            values = {term.name: parts[term.name] for term in distiller.terms}
            loss = step_guards.against_targets(loss, values, soft, student["logits"], step)
        return {**parts, "distillation_loss": soft, "loss": loss}

    def student_loss(self, x: Tensors, y: Tensors, sample_weight: Tensors) -> Tensor:
        """Return the labels' part of the objective in inference mode."""
        hidden = self._hidden(x, training=False)["logits"]
        return self._summed([self._part_of_labels(hidden, y, sample_weight, 1.0)], hidden)[0]

    def _hidden(self, x: Tensors, training: bool) -> dict[str, Tensor]:
        """Return the student's hidden states, as "logits", and the layers that terms read."""
        return self._head.masked_as_output(self._student(self._distiller._view(x), training=training)[1])

    def _compared(self, student: dict[str, Tensor], teacher: dict[str, Any]) -> tuple[TeacherRows, Tensor | None]:
        """Return what the terms on the logits compare with, and the mask of both models."""
        if not self._of_output:
            return _NO_TEACHER, None
        _, theirs = self._of_output[0].sides(student, teacher)
        mask = reduction.merged_masks(masks.of(student["logits"]), self._teacher.mask(theirs))
        return self._teacher.rows(theirs, mask), mask

    def _has_labels(self, y: Tensors) -> bool:
        return y is not None and compiled.has_loss(self._distiller)

    def _part(
        self,
        term: Term,
        student: dict[str, Tensor],
        batch: Batch,
        theirs: TeacherRows,
        mask: Any,
        share: Any,
        unrecorded: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> Part:
        """Return what a term on the logits adds, of which the teacher has a share."""
        counts, labels = self._counted(term, student, batch)
        settings, hidden = self._settings(term), student["logits"]
        mask = masks.merged(counts.counted, mask)
        part = Part(
            term.name,
            share * schedules.at(term.weight, self._distiller.optimizer.iterations),
            shares_of(term.name, hidden, counts.sample_weight, mask, counts.counting, counts.rows),
            None if labels is None else ids_of(labels),
            lambda logits, targets, ids, _: term.row_values(logits, targets, ids, **settings),
            output_labels.compared_classes(term, self._head.product().classes),
        )
        if not loss_functions.takes_counted(term.loss):
            return part
        with unrecorded():
            counted = reduction.counts(counts.sample_weight, mask)
            return fused_sequences.with_advantages(part, term, hidden, self._head.product(), theirs, counted)

    def _part_of_labels(self, hidden: Tensor, y: Any, sample_weight: Tensors, share: Any) -> Part:
        """Return what the loss on labels adds."""
        loss: Any = _loss_of(self._distiller)
        counted = masks.merged(masks.of(hidden), loss.counting.mask(y, hidden))
        labels = ids_of(y if len(y.shape) < len(hidden.shape) else ops.squeeze(y, -1))
        if counted is not None:
            labels = tf.where(tf.reshape(counted, (-1,)), labels, 0)
        shares = loss.weight * shares_of("student_loss", hidden, sample_weight, counted, loss.counting)
        classes = self._head.product().classes
        return Part(
            "student_loss", share, shares, labels, lambda logits, _, ids, __: cross_entropy(ids, logits), classes
        )

    def _summed(
        self, parts: list[Part], hidden: Tensor, theirs: TeacherRows = _NO_TEACHER
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of all that reads the logits, and its parts.

        Args:
            parts: of the sum.
            hidden: of the student, (batch, ..., width).
            theirs: rows of the teacher.
        """
        if not parts:
            return tf.zeros(()), {}
        product = self._head.product()
        advantages = columns_of(parts, lambda part: part.advantages, "float32")

        def values(logits: Tensor, ids: Tensor, advantages: Tensor, *rows: Tensor) -> list[Tensor]:
            targets, places = theirs.targets(*rows), enumerate(parts)
            return [part.values(logits, targets, ids[:, place], advantages[:, place]) for place, part in places]

        total, sums = fused(
            as_rows(hidden),
            product,
            values,
            [columns_of(parts, Part.inside, "int32"), advantages, *theirs.tensors],
            tf.stack([part.shares for part in parts], axis=-1),
            tf.stack([ops.cast(part.weight, "float32") for part in parts]),
            lambda ids, advantages, *rows: [ids, advantages, *theirs.prepared(*rows)],
        )
        for part in parts:
            message = f"Expected labels from 0 to {part.classes - 1} for {part.name!r}, the student's classes."
            ids = part.labels
            if ids is not None:
                total = step_errors.stop_unless(ops.logical_and(ids >= 0, ids < part.classes), message, total)
        return total, {part.name: each for part, each in zip(parts, tf.unstack(sums), strict=True)}

    def _settings(self, term: Term) -> dict[str, Any]:
        untracked, step = self._distiller._untracked, self._distiller.optimizer.iterations
        temperature = untracked.temperature if term.temperature is None else term.temperature
        return {"temperature": schedules.at(temperature, step), "step": step}

    def _counted(self, term: Term, student: Any, batch: Batch) -> tuple[output_labels.Counted, Tensor | None]:
        """Return what a term counts of a batch, and the labels that it takes."""
        y, sample_weight, columns = batch
        counts = output_labels.counted(term, self._student, student, y, sample_weight, self._countings(), columns)
        return counts, output_labels.for_term(term, self._student, student, y, counts.counted)

    def _of_features(self, term: Term, student: Any, teacher: Any, batch: Batch, training: bool) -> Tensor:
        counts, labels = self._counted(term, student, batch)
        settings = {**self._settings(term), "training": training}
        return term.read(student, teacher, labels=labels, **counts._asdict(), **settings)

    def _countings(self) -> dict[tuple[Any, ...], compiled.Counting]:
        loss = _loss_of(self._distiller)
        return {} if loss is None else {(): loss.counting}


def _loss_of(distiller: Any) -> compiled.CrossEntropy | None:
    return compiled.cross_entropy_of_ids(distiller, distiller._untracked.loss_weights)


def _without_head(model: Any, terms: list[Term], owner: str) -> tuple[VocabularyHead, layer_reader.Reader]:
    """Return the head of a model, and a reader of the layers of terms and of the hidden states, as "logits"."""
    graph: Any = layer_reader.functional(model)
    head: Any = vocabulary_heads.find(graph)
    names = [name for term in terms for name in (term.student_names if owner == "student" else term.teacher_names)]
    body = keras.Model(graph.input, head.hidden, name=model.name)
    return head, layer_reader.Reader(body, tuple(names), "values", owner=owner)
