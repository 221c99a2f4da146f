"""What the check before `fit` says."""

import dataclasses

from keras_kd._internal.log import duration, size


@dataclasses.dataclass
class Report:
    """What a few batches say; it prints as a short table with advice. None where something cannot be known.

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
    teacher_scale: float | None = None
    student_scale: float | None = None
    temperature: float | None = None
    entropy: float | None = None
    memory: int | None = None
    teacher_seconds: float | None = None
    epoch_seconds: float | None = None
    advice: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            ("teacher's accuracy", percent(self.teacher_accuracy), f"on {self.examples} examples"),
            ("student's accuracy", percent(self.student_accuracy), "as it is now"),
            ("guessing", percent(self.guessing), "the most frequent label"),
            ("teacher's confidence", percent(self.confidence), "mean of the largest probability"),
            ("teacher's logits", _number(self.teacher_scale), "standard deviation over the classes"),
            ("student's logits", _number(self.student_scale), ""),
            (
                "entropy of targets",
                percent(self.entropy),
                f"of the largest, at T = {_number(self.temperature)}",
            ),
            ("memory", None if self.memory is None else size(self.memory), "about"),
            ("epoch", None if self.epoch_seconds is None else duration(self.epoch_seconds), "about"),
            ("teacher in it", None if self.teacher_seconds is None else duration(self.teacher_seconds), ""),
        ]
        lines = [f"{name:<22}{value:>10}  {note}".rstrip() for name, value, note in rows if value is not None]
        return "\n".join([*lines, "", *(f"- {each}" for each in self.advice or ["Nothing looks wrong."])])


def percent(share: float | None) -> str | None:
    """Return a share to read."""
    return None if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"
