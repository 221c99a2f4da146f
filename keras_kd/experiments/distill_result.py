"""What `distill` found: a student, how it was trained, and whether its teacher was worth it."""

import dataclasses

import keras

from keras_kd._internal.tables import aligned
from keras_kd.experiments.candidate_ranking import Scored
from keras_kd.experiments.candidates import Candidate


@dataclasses.dataclass
class Verdict:
    """How a student compares with its teacher, and with what it reaches alone.

    Attributes:
        student: its score.
        control: of the best control: the student alone, or alone with changed rows.
        teacher: of the teacher; None for one without logits of its own.
        gain: how much better the student is than the control; more is better, whatever the metric.
        gain_error: the standard error of that, over the examples.
        closed: share of the teacher's lead over the control that is closed; None where there is no lead.
        closed_error: the standard error of that, over the examples.
        examples: how many there are.
        part: "test", or "validation", on which the student was chosen.
    """

    student: float
    control: float
    teacher: float | None
    gain: float
    gain_error: float
    closed: float | None
    closed_error: float | None
    examples: int
    part: str


@dataclasses.dataclass
class Distilled:
    """A student and how it was found; it prints as a report.

    Attributes:
        student: the trained student, or the better control where no teacher helped.
        candidate: how it was trained.
        steps: for how many steps.
        metric: what was compared.
        mode: "max" or "min".
        rounds: candidates and their scores on validation data in each round, the best first.
        levers: what each lever of the candidate brought on validation data, in a training of the round before the last;
            more is better.
        verdict: see `Verdict`.
        notes: what else there is to know, sentences.
        code: Python that trains this student again, of `student`, `teacher`, `x`, `y`, `unlabelled`, `loss`, and of
            `terms` and `changes` where these were given.
    """

    student: keras.Model
    candidate: Candidate
    steps: int
    metric: str
    mode: str
    rounds: list[list[Scored]]
    levers: dict[str, float]
    verdict: Verdict
    notes: list[str]
    code: str

    @property
    def pays(self) -> bool:
        """Whether the student has learned from the teacher, and is no control."""
        return self.candidate.teacher

    def __str__(self) -> str:
        sign = 1 if self.mode == "max" else -1
        rows = [["last round, on validation data", self.metric]]
        rows += [[str(each.candidate), f"{sign * each.worth:.4f}"] for each in self.rounds[-1]]
        chosen = f"Chosen: {self.candidate}, {self.steps:,} steps."
        parts = ["\n".join(aligned(rows, "<>")), chosen, self.sentence()]
        if self.levers:
            brought = ", ".join(f"{name.replace('_', ' ')} {gain:+.4f}" for name, gain in self.levers.items())
            parts.append(f"What each lever brought, in {self.rounds[-2][0].steps:,} steps: {brought}.")
        return "\n\n".join([*parts, *self.notes, self.code])

    def sentence(self) -> str:
        """Return what came out of it, in a sentence or two."""
        found = self.verdict
        said = f"On {found.examples:,} {found.part} examples, {self.metric} is {found.control:.4f} of the student alone"
        if found.teacher is not None:
            said += f" and {found.teacher:.4f} of the teacher"
        said += ", which has no lead that could be closed." if found.closed is None else "."
        if not self.pays:
            return f"Distillation does not pay here: the better control is returned. {said}"
        closed = "" if found.closed is None else f", {found.closed:.0%} ± {found.closed_error:.0%} of the lead"
        gain = f"The distilled student has {found.student:.4f}, {found.gain:+.4f} ± {found.gain_error:.4f}{closed}."
        doubt = " That is within its standard error: more examples would tell." if self._in_doubt() else ""
        return f"{said} {gain}{doubt}"

    def _in_doubt(self) -> bool:
        return abs(self.verdict.gain) <= self.verdict.gain_error


def code_of(candidate: Candidate, steps: int, data: list[str], terms: str, seed: int) -> str:
    """Return Python that trains a student as a candidate describes.

    Args:
        candidate: how.
        steps: of the training.
        data: lines that make `train`, and labels that can be mixed where that is needed.
        terms: an expression for the terms.
        seed: of dropout and the like.
    """
    rate = f"keras.optimizers.schedules.CosineDecay({candidate.learning_rate:g}, {steps})"
    lines = [*data]
    name, numbers = "student", ""
    if candidate.teacher:
        name, numbers = "distiller", f", temperature={candidate.temperature:g}, alpha={candidate.alpha:g}"
        made = f"kd.Distiller(student=student, teacher=teacher, terms=kd.augment.on_all_rows({terms}))"
        lines.append(f"distiller = {made}")
    lines.append(f"{name}.compile(keras.optimizers.Adam({rate}), loss{numbers})")
    lines.append(f"keras.utils.set_random_seed({seed})")
    lines.append(f"{name}.fit(train, steps_per_epoch={steps}, epochs=1, shuffle=False)")
    return "\n".join(lines)
