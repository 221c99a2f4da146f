"""The objective of a Distiller whose models end in products with their vocabulary, without a tensor of logits."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd import losses, schedules
from keras_kd._internal import layer_reader, output_labels, reduction, step_guards, student_overrides
from keras_kd._keras import compiled, masks, step_errors
from keras_kd._types import Tensor, Tensors
from keras_kd.language import vocabulary_heads
from keras_kd.language.fused import fused
from keras_kd.language.vocabulary_heads import VocabularyHead
from keras_kd.teachers.frozen import Frozen
from keras_kd.term import Term

#: From so many classes on, heads are fused where they can be: it takes less memory, and up to twice the time.
LARGE = 100_000

#: Losses that compare each row by itself.
_BY_ROW = (
    losses.kl_divergence,
    losses.reverse_kl,
    losses.jensen_shannon,
    losses.skew_kl,
    losses.decoupled_kl,
    losses.normalized_kl,
    losses.hard_label,
)

_OUTPUT = ("logits",)


def hindrance(distiller: Any) -> str:
    """Return why a Distiller needs its models' logits as a whole, or nothing where it does not."""
    student, teacher = distiller.student, distiller.teacher
    if not isinstance(teacher, Frozen) or vocabulary_heads.find(teacher.model) is None:
        return "the teacher is not a live model that ends in a product with its vocabulary"
    if teacher.device is not None or teacher.dtype_of_copy is not None:
        return "the teacher has a device or a dtype of its own"
    head = vocabulary_heads.find(student)
    if head is None or head.is_quantized:
        return "the student does not end in a product with its vocabulary: a Dense without activation, or an embedding"
    reader = distiller._untracked.reader
    if {reader.kind("logits"), teacher.kind("logits")} & {"softmax", "sigmoid", "values"}:
        return "the output of one of the models is not declared as logits"
    for term in distiller.terms:
        reads = (term.student_names, term.teacher_names)
        if _OUTPUT in reads and (reads != (_OUTPUT, _OUTPUT) or term.bridge is not None):
            return f"the term {term.name!r} compares the logits with something else"
        if "logits" in term.student_names and term.loss not in _BY_ROW:
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
        self._teacher_head, self._teacher = _without_head(distiller.teacher.model, self._of_layers, "teacher")

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
        _, student = self._student(distiller._view(x), training=training)
        with unrecorded():
            teacher = distiller.teacher.read_by(self._teacher, x)
        step = distiller.optimizer.iterations
        alpha = schedules.at(distiller._untracked.alpha, step) if self._has_labels(y) else 1.0
        total, parts = self._of_logits(student, teacher, y, sample_weight, alpha, step)
        soft = ops.zeros((), "float32")
        for term in distiller.terms:
            if term in self._of_layers:
                parts[term.name] = self._of_features(term, student, teacher, y, sample_weight, step, training)
                total += alpha * schedules.at(term.weight, step) * parts[term.name]
            soft += schedules.at(term.weight, step) * parts[term.name]
        loss = total + compiled.regularisation(distiller)
        if training:
            loss = step_guards.against_schedules(loss, distiller._ranges(), step)
            values = {term.name: parts[term.name] for term in distiller.terms}
            loss = step_guards.against_targets(loss, values, soft, student["logits"], step)
        return {**parts, "distillation_loss": soft, "loss": loss}

    def student_loss(self, x: Tensors, y: Tensors, sample_weight: Tensors) -> Tensor:
        """Return the labels' part of the objective in inference mode."""
        _, student = self._student(self._distiller._view(x), training=False)
        counted, labels, share = self._of_labels(student["logits"], y, sample_weight)
        hidden = _rows(reduction.blanked(student["logits"], counted))
        rows = [labels[:, None]]
        return fused(hidden, self._head.product(), _cross_entropy_alone, rows, share[:, None], tf.ones(1))[0]

    def _has_labels(self, y: Tensors) -> bool:
        return y is not None and compiled.has_loss(self._distiller)

    def _of_logits(
        self,
        student: dict[str, Tensor],
        teacher: dict[str, Tensor],
        y: Tensors,
        sample_weight: Tensors,
        alpha: Any,
        step: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of all that reads logits, and its parts."""
        hidden, theirs = student["logits"], teacher["logits"]
        mask = reduction.merged_masks(masks.of(hidden), masks.of(theirs))
        product, of_teacher = self._head.product(), self._teacher_head.logits()
        names, shares, weights, labels = [], [], [], {}
        for term in self._of_output:
            counts = output_labels.counted(term, self._student, student, y, sample_weight, self._countings())
            names.append(term.name)
            shares.append(_shares(hidden, counts.sample_weight, masks.merged(counts.counted, mask), counts.counting))
            weights.append(alpha * schedules.at(term.weight, step))
            ids = output_labels.for_term(term, self._student, student, y, counts.counted)
            labels[term.name] = None if ids is None else _ids(ids)
        if self._has_labels(y):
            _, labels["student_loss"], share = self._of_labels(hidden, y, sample_weight)
            names, shares = [*names, "student_loss"], [*shares, share]
            weights.append(1.0 - alpha)
        known = {name: each for name, each in labels.items() if each is not None}
        inside = {name: tf.clip_by_value(each, 0, product.classes - 1) for name, each in known.items()}
        settings = [self._settings(term, step) for term in self._of_output]

        def values(logits: Tensor, hidden: Tensor, *ids: Tensor) -> Sequence[Tensor]:
            targets = of_teacher(hidden)
            given = dict(zip(known, (each[:, 0] for each in ids), strict=True))
            found = [
                term.row_values(logits, targets, labels=given.get(term.name), **each)
                for term, each in zip(self._of_output, settings, strict=True)
            ]
            return [*found, _cross_entropy(given["student_loss"], logits)] if "student_loss" in given else found

        others = [_rows(reduction.blanked(theirs, mask)), *(each[:, None] for each in inside.values())]
        total, sums = fused(
            _rows(reduction.blanked(hidden, mask)),
            product,
            values,
            others,
            tf.stack(shares, axis=-1),
            tf.stack([ops.cast(each, "float32") for each in weights]),
        )
        parts = dict(zip(names, tf.unstack(sums), strict=True))
        return self._in_range(total, known, product.classes), parts

    def _settings(self, term: Term, step: Any) -> dict[str, Any]:
        untracked = self._distiller._untracked
        temperature = untracked.temperature if term.temperature is None else term.temperature
        return {"temperature": schedules.at(temperature, step), "softened": True, "step": step}

    def _of_features(
        self, term: Term, student: Any, teacher: Any, y: Tensors, sample_weight: Tensors, step: Any, training: bool
    ) -> Tensor:
        counts = output_labels.counted(term, self._student, student, y, sample_weight, self._countings())
        labels = output_labels.for_term(term, self._student, student, y, counts.counted)
        settings = {**self._settings(term, step), "softened": False, "training": training}
        return term.read(student, teacher, labels=labels, **counts._asdict(), **settings)

    def _countings(self) -> dict[tuple[Any, ...], compiled.Counting]:
        found = _loss_of(self._distiller)
        return {} if found is None else {(): found.counting}

    def _of_labels(self, hidden: Tensor, y: Any, sample_weight: Tensors) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return what counts for the loss on labels, the labels of all rows, and their shares in the loss."""
        found: Any = _loss_of(self._distiller)
        counted = masks.merged(masks.of(hidden), found.counting.mask(y, hidden))
        labels = _ids(y if len(y.shape) < len(hidden.shape) else ops.squeeze(y, -1))
        if counted is not None:
            labels = tf.where(tf.reshape(counted, (-1,)), labels, 0)
        return counted, labels, found.weight * _shares(hidden, sample_weight, counted, found.counting)

    def _in_range(self, loss: Tensor, labels: dict[str, Tensor], classes: int) -> Tensor:
        for name, ids in labels.items():
            message = f"Expected labels from 0 to {classes - 1} for {name!r}, the student's classes."
            loss = step_errors.stop_unless(ops.logical_and(ids >= 0, ids < classes), message, loss)
        return loss


def _loss_of(distiller: Any) -> compiled.CrossEntropy | None:
    return compiled.cross_entropy_of_ids(distiller, distiller._untracked.loss_weights)


def _without_head(model: Any, terms: list[Term], owner: str) -> tuple[VocabularyHead, layer_reader.Reader]:
    """Return the head of a model, and a reader of the layers of terms and of the hidden states, as "logits"."""
    graph: Any = layer_reader.functional(model)
    head: Any = vocabulary_heads.find(graph)
    names = [name for term in terms for name in (term.student_names if owner == "student" else term.teacher_names)]
    body = keras.Model(graph.input, head.hidden, name=model.name)
    return head, layer_reader.Reader(body, tuple(names), "values", owner=owner)


def _shares(hidden: Tensor, weight: Any, mask: Any, counting: compiled.Counting) -> Tensor:
    """Return by what the value of each row is multiplied in the mean or sum of all, (rows,)."""
    values = tf.zeros(tf.shape(hidden)[:-1])
    values.set_shape(hidden.shape[:-1])
    with tf.GradientTape() as tape:
        tape.watch(values)
        weight = reduction.fitting_weight(weight, values, "logits", of_layers=False)
        reduced = reduction.reduced(values, weight, mask, counting)
    return tf.stop_gradient(tf.reshape(tape.gradient(reduced, values), (-1,)))


def _rows(tensor: Tensor) -> Tensor:
    return tf.reshape(tensor, (-1, tensor.shape[-1]))


def _ids(labels: Any) -> Tensor:
    return tf.reshape(tf.cast(labels, "int32"), (-1,))


def _cross_entropy(ids: Tensor, logits: Tensor) -> Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)


def _cross_entropy_alone(logits: Tensor, ids: Tensor) -> list[Tensor]:
    return [_cross_entropy(ids[:, 0], logits)]
