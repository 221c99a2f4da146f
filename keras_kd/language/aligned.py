"""Distillation over aligned spans: a teacher with tokens of its own, and the loss that compares both (GOLD).

The probability of a span of the text is the product of those of its tokens. So the distribution with which a span
begins is multiplied by the probabilities of the span's other tokens, on both sides.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd._internal import raw_views, soft_targets
from keras_kd._serialization import serializable
from keras_kd._types import Number, Schedule, Tensor, Tensors
from keras_kd.language.decoding import next_logits
from keras_kd.language.token_pieces import Pieces, shared_tokens
from keras_kd.losses._divergences import divergence, log_probabilities
from keras_kd.teachers import Teacher, as_teacher
from keras_kd.teachers.base import AnyTeacher
from keras_kd.term import Term

#: What the teacher offers to the loss, by name.
_READ = ("logits", "rest", "begins", "targets", "spans")

#: What it reads of the examples.
_OF_ALIGN = ("teacher_token_ids", "teacher_padding_mask", "teacher_targets", "teacher_spans", "teacher_places", "spans")


@serializable
class AlignedTeacher(Teacher):
    """Let a language model with another tokenizer than the student's predict where spans of the text begin.

    For examples that `align` has made, and `span_terms`. Where no span begins, nothing is compared. Tasks of KerasHub
    read these examples once the student's `preprocessor` is None.

    Args:
        teacher: a causal language model of ids, as in `generate`.

    Example:
        >>> distiller = Distiller(student=student, teacher=AlignedTeacher(teacher), terms=span_terms(ours, theirs))
    """

    def __init__(self, teacher: AnyTeacher) -> None:
        super().__init__(name="aligned_teacher")
        self.teacher = as_teacher(teacher)

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Let the teacher that is aligned know which student is taught.

        Raises:
            ValueError: the student makes tokens of its own of raw text.
        """
        if raw_views.preprocessing(student) is not None:
            raise ValueError(
                f"Expected a student that reads what `align` has made. {student.name!r} makes tokens of raw text "
                "itself: set its `preprocessor` to None, once `align` has them."
            )
        self.teacher.bind(student, ("logits",))

    def kind(self, name: str) -> str:
        """Return "values": the loss softens nothing."""
        return "values"

    def call(self, x: Any, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return what the loss reads, at the student's positions.

        Returns:
            "logits", the teacher's where it predicts the first token of the span that begins, (batch, positions, the
            teacher's vocabulary); "rest", the logarithm of what it predicts for the span's other tokens, (batch,
            positions); "begins", whether a span begins; "targets" and "spans" of the student, see `align`, the latter
            from 1 on, with 0 for none.

        Raises:
            ValueError: examples that `align` has not made.
        """
        x = soft_targets.without_targets(x)  # which may carry columns
        missing = [name for name in _OF_ALIGN if not isinstance(x, dict) or name not in x]
        if missing:
            raise ValueError(
                f"Expected examples that keras_kd.language.align has made, with {missing[0]!r}. Received: "
                f"{sorted(x) if isinstance(x, dict) else type(x).__name__}."
            )
        logits = ops.cast(next_logits(self.teacher, x["teacher_token_ids"], x["teacher_padding_mask"]), "float32")
        rest = _rest(tf.nn.log_softmax(logits), x["teacher_targets"], x["teacher_spans"])
        places = ops.maximum(x["teacher_places"], 0)
        return {
            "logits": tf.gather(logits, places, axis=1, batch_dims=1),
            "rest": tf.gather(rest, places, axis=1, batch_dims=1),
            "begins": x["teacher_places"] >= 0,
            "targets": tf.identity(x["targets"]),
            "spans": x["spans"] + 1,  # masks put 0 where there is padding
        }

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"teacher": keras.saving.serialize_keras_object(self.teacher)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AlignedTeacher":
        """Make a teacher from `get_config`'s dict."""
        return cls(keras.saving.deserialize_keras_object(config["teacher"]))


@serializable
class SpanDivergence(keras.layers.Layer):
    """Match the probabilities of spans: of tokens that both vocabularies have one by one, of the others by their order.

    With P and Q the teacher's and the student's distributions where a span begins, each times the probabilities of the
    span's other tokens::

        weight * sum over shared tokens of (P log(P / Q) + Q - P)  +  (1 - weight) * sum_r abs(P_(r) - Q_(r)) of others

    Q - P makes the first sum 0 where both are equal and above 0 elsewhere, though neither adds up to 1; over one
    vocabulary and spans of one token, it is `losses.kl_divergence`. The second is `losses.universal_logits`'s. Where no
    span begins, the value is 0: the mean is one over the student's tokens.

    Args:
        student_ids: tokens of the student's vocabulary that the teacher's has too, see `shared_tokens`.
        teacher_ids: the same tokens in the teacher's vocabulary, in the same order.
        weight: of the shared tokens, 0 to 1. None: their share of the teacher's vocabulary.
        top_k: how many probabilities of the other tokens are compared, see `losses.universal_logits`.

    Raises:
        ValueError: other numbers of ids; `weight` outside 0 to 1; `top_k` below 1.

    Reference: Patiño et al., Unlocking On-Policy Distillation for Any Model Family, 2025, Hugging Face (GOLD); the
    second sum: Boizard et al., 2024, arXiv 2402.12030.
    """

    def __init__(
        self,
        student_ids: Sequence[int],
        teacher_ids: Sequence[int],
        weight: float | None = None,
        top_k: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**{"name": "span_divergence", **arguments})
        if len(student_ids) != len(teacher_ids):
            raise ValueError(f"Expected as many ids on both sides. Received: {len(student_ids)} and {len(teacher_ids)}")
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"Expected `weight` to be from 0 to 1, or None. Received: weight={weight!r}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"Expected `top_k` to be at least 1, or None. Received: top_k={top_k!r}")
        self.student_ids, self.teacher_ids = ([int(each) for each in ids] for ids in (student_ids, teacher_ids))
        self.weight, self.top_k = weight, top_k
        self.supports_masking = True
        self.built = True

    def call(self, student: Tensor, teacher: tuple[Tensor, ...]) -> Tensor:
        """Return the values of the spans that begin at each position, (batch, positions).

        Args:
            student: logits, (batch, positions, vocabulary).
            teacher: what an `AlignedTeacher` predicts: logits, rest, begins, targets and spans.
        """
        logits, rest, begins, targets, spans = teacher
        [log_q], [log_p] = log_probabilities(student), log_probabilities(logits)
        log_q = log_q + ops.expand_dims(_rest(log_q, targets, spans), -1)
        log_p = log_p + ops.expand_dims(rest, -1)
        weight = len(self.teacher_ids) / log_p.shape[-1] if self.weight is None else self.weight
        value = ops.zeros(ops.shape(rest))
        if weight > 0 and self.teacher_ids:
            p, q = ops.take(log_p, self.teacher_ids, axis=-1), ops.take(log_q, self.student_ids, axis=-1)
            value += weight * divergence(p, q)
        if weight < 1:
            p, q = _others(log_p, self.teacher_ids), _others(log_q, self.student_ids)
            value += (1.0 - weight) * _sorted_distance(p, q, self.top_k)
        return ops.where(begins, value, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        ids = {"student_ids": self.student_ids, "teacher_ids": self.teacher_ids}
        return {"name": self.name, **ids, "weight": self.weight, "top_k": self.top_k}


def span_terms(
    student: Pieces,
    teacher: Pieces,
    shared_weight: float | None = None,
    top_k: int | None = None,
    weight: Schedule = 1.0,
) -> list[Term]:
    """Match the probabilities of aligned spans, for a teacher with another tokenizer (GOLD). Compile with alpha=1.

    Args:
        student: what the student's tokens stand for, see `pieces`.
        teacher: what the teacher's tokens stand for.
        shared_weight: weight of the tokens that both have against the others, 0 to 1. None: their share of the
            teacher's vocabulary.
        top_k: how many probabilities of the others are compared; None for all, which takes long.
        weight: weight of the term, not negative.

    Returns:
        A list of one term, to which no temperature applies, for an `AlignedTeacher`.

    Example:
        >>> terms = span_terms(pieces(ours), pieces(theirs), top_k=100)

    Reference: see `SpanDivergence`.
    """
    loss = SpanDivergence(*shared_tokens(student, teacher), weight=shared_weight, top_k=top_k)
    at: Any = {"student": "logits", "teacher": _READ}
    return [Term(loss, at=at, weight=weight, soften=False, name="span_divergence")]


def _rest(log_p: Tensor, targets: Tensor, spans: Tensor) -> Tensor:
    """Return the sum of the log-probabilities of what follows each position in its span, (batch, positions).

    At positions in no span, it means nothing.
    """
    of_target = tf.gather(log_p, targets, axis=2, batch_dims=2)
    places = tf.range(tf.shape(spans)[1])
    follows = (spans[:, :, None] == spans[:, None, :]) & (places[:, None] < places)
    return tf.reduce_sum(tf.where(follows, of_target[:, None, :], 0.0), axis=-1)


def _others(log_p: Tensor, ids: list[int]) -> Tensor:
    """Return the probabilities of the tokens that are not among these."""
    return ops.exp(ops.take(log_p, np.setdiff1d(np.arange(log_p.shape[-1]), ids), axis=-1))


def _sorted_distance(p: Tensor, q: Tensor, top_k: int | None) -> Tensor:
    """Return the distance of sorted numbers of two sides, what is behind the first ones as one number."""
    longest = max(p.shape[-1], q.shape[-1])
    count = longest if top_k is None else min(top_k, longest)
    difference = _largest(p, count) - _largest(q, count)
    distance = ops.sum(ops.abs(difference), axis=-1)
    if count == longest:
        return distance
    return distance + ops.abs(ops.sum(p, axis=-1) - ops.sum(q, axis=-1) - ops.sum(difference, axis=-1))


def _largest(values: Tensor, count: int) -> Tensor:
    """Return the largest numbers in their order, with 0 behind those that there are."""
    found, _ = ops.top_k(values, min(count, values.shape[-1]))
    return ops.pad(found, [[0, 0]] * (len(found.shape) - 1) + [[0, count - found.shape[-1]]])
