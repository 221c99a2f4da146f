"""The report of the check before `fit`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_kd._internal.number_formats import duration, percent, significant, size
from keras_kd._internal.tables import aligned


@dataclasses.dataclass
class Report:
    """What a few batches show; it prints as a short table with advice. None where something cannot be known.

    Attributes:
        examples: how many were looked at.
        rows: how many of them, or of their positions, count: not masked, of a weight above 0. What follows is a mean
            over these, by their weights.
        classes: of the teacher.
        teacher_accuracy: on the labels, on the student's inputs.
        student_accuracy: as it is now.
        guessing: accuracy of always saying the most frequent label.
        renamed_accuracy: the teacher's, once each of its classes is given the label that it mostly stands for, of
            examples that were not used to find that out.
        confidence: the teacher's mean largest probability.
        teacher_roc_auc: of one yes-or-no output, the probability that a yes has a larger logit than a no. Where yes is
            rare, it tells more than the accuracy, which is high for never predicting it.
        yes: how many of the rows are a yes, of one such output.
        teacher_scale: mean standard deviation of the teacher's logits over the classes.
        student_scale: the student's.
        temperature: at which the targets are softened.
        entropy: of the targets at that temperature, as a share of the largest possible, 0 to 1.
        memory: bytes for weights, optimizer and the outputs of all layers on a batch, about.
        teacher_seconds: of the teacher, for an epoch.
        epoch_seconds: of an epoch, about, without what reading the data takes.
        advice: what to look at, in words.
    """

    examples: int
    rows: int = 0
    classes: int | None = None
    teacher_accuracy: float | None = None
    student_accuracy: float | None = None
    guessing: float | None = None
    renamed_accuracy: float | None = None
    confidence: float | None = None
    teacher_roc_auc: float | None = None
    yes: int | None = None
    teacher_scale: float | None = None
    student_scale: float | None = None
    temperature: float | None = None
    entropy: float | None = None
    memory: int | None = None
    teacher_seconds: float | None = None
    epoch_seconds: float | None = None
    advice: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        rows: list[tuple[str, Any, Callable[[Any], str], str]] = [
            ("teacher's accuracy", self.teacher_accuracy, percent, f"on {self.examples} examples"),
            ("student's accuracy", self.student_accuracy, percent, "as it is now"),
            ("guessing", self.guessing, percent, "the most frequent label"),
            ("teacher's confidence", self.confidence, percent, "mean of the largest probability"),
            ("teacher's ROC-AUC", self.teacher_roc_auc, significant, f"with {self.yes} yes among {self.rows}"),
            ("teacher's logits", self.teacher_scale, significant, "standard deviation over the classes"),
            ("student's logits", self.student_scale, significant, ""),
            ("entropy of targets", self.entropy, percent, f"of the largest, at T = {significant(self.temperature)}"),
            ("memory", self.memory, size, "about"),
            ("epoch", self.epoch_seconds, duration, "about"),
            ("teacher in it", self.teacher_seconds, duration, ""),
        ]
        known = [(name, write(value), note) for name, value, write, note in rows if value is not None]
        lines = aligned(known, "<><") if known else []
        return "\n".join([*lines, "", *(f"- {each}" for each in self.advice or ["Nothing looks wrong."])])
