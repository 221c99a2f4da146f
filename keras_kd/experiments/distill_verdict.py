"""Whether a teacher was worth it, on examples that nothing was learned from, and what would bring more."""

from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd.experiments import mixed_labels, paired_scores
from keras_kd.experiments.candidate_ranking import Scored, predicted
from keras_kd.experiments.distill_result import Verdict
from keras_kd.experiments.distill_run import Trainer
from keras_kd.experiments.held_out import Parts
from keras_kd.experiments.scoring import teacher_model

#: Training rows, at most, on which the student is compared with its teacher.
_ROWS = 5000

#: By how many standard errors a gain has to grow with the steps.
_SURE = 2.0

#: How much more often a student may agree with its teacher on rows that it has learned from; above, it overfits.
_NEARLY = 0.02


def judged(
    trainer: Trainer, parts: Parts, students: dict[str, keras.Model], rounds: list[list[Scored]]
) -> tuple[Verdict, list[str]]:
    """Return the verdict, and notes on what else there is to know.

    Args:
        trainer: has the teacher, the metric and the loss.
        parts: the data.
        students: "student" and "control", compiled.
        rounds: of the search, of ever longer trainings.
    """
    part = "validation" if parts.test is None else "test"
    x, y = (parts.test or parts.validation)[:2]
    trainer.teacher.bind(students["student"], ("logits",))
    teacher = teacher_model(trainer.teacher, students["student"])
    models = {**students, **({} if teacher is None else {"teacher": teacher})}
    outputs = {name: predicted(model, x) for name, model in models.items()}
    score = paired_scores.of_student(students["student"], (x, y), trainer.metric, trainer.compile_arguments["loss"])
    verdict = _compared(outputs, y, score, 1 if trainer.mode == "max" else -1, part)
    notes = [*_missing_classes(parts, y), *_advice(trainer, models, outputs, verdict), *of_length(rounds, verdict)]
    return verdict, notes


def _compared(outputs: dict[str, np.ndarray], y: Any, score: paired_scores.Score, sign: int, part: str) -> Verdict:
    def compared(rows: Any) -> dict[str, float]:
        of_rows = tree.map_structure(lambda leaf: np.asarray(leaf)[rows], y)
        found = {name: score(of_rows, each[rows]) for name, each in outputs.items()}
        gain, lead = (sign * (found.get(name, np.nan) - found["control"]) for name in ("student", "teacher"))
        return {**found, "gain": gain, "lead": lead, "closed": gain / lead if lead else np.nan}

    count = len(outputs["student"])
    found, again = compared(slice(None)), paired_scores.drawn_again(compared, count)
    has_lead = found["lead"] > 0
    return Verdict(
        student=found["student"],
        control=found["control"],
        teacher=found.get("teacher"),
        gain=found["gain"],
        gain_error=float(np.std(again["gain"], ddof=1)),
        closed=found["closed"] if has_lead else None,
        closed_error=float(np.nanstd(again["closed"], ddof=1)) if has_lead else None,
        examples=count,
        part=part,
    )


def _missing_classes(parts: Parts, y: Any) -> list[str]:
    """Return a note on classes that no labelled row has."""
    there, wanted = (np.asarray(tree.flatten(each)[0]) for each in (parts.train[1], y))
    if there.dtype.kind not in "biu" or there.size != len(there):
        return []
    missing = sorted(set(np.unique(wanted).tolist()) - set(np.unique(there).tolist()))
    if not missing:
        return []
    return [f"No labelled row has the classes {missing}: what the student knows of them, it has from its teacher."]


def _advice(
    trainer: Trainer, models: dict[str, keras.Model], outputs: dict[str, np.ndarray], verdict: Verdict
) -> list[str]:
    """Return what would bring more: it depends on how well the student follows its teacher where it has learned."""
    if "teacher" not in models or verdict.gain <= 0 or not mixed_labels.is_softened(trainer.compile_arguments["loss"]):
        return []
    x = trainer.rows.x
    count = len(tree.flatten(x)[0])
    places = np.random.default_rng(0).permutation(count)[:_ROWS]
    x = tree.map_structure(lambda leaf: None if leaf is None else np.asarray(leaf)[places], x)
    learned = _agreement(*(predicted(models[name], x) for name in ("student", "teacher")))
    others = _agreement(outputs["student"], outputs["teacher"])
    what = f"The student predicts the teacher's class for {learned:.1%} of the rows that it has learned from, and for "
    what += f"{others:.1%} of others. "
    if learned - others <= _NEARLY:
        return [what + "A larger student, or more steps, would follow it further; more rows of this kind hardly would."]
    return [what + "More rows, with labels or without, would let it follow further."]


def of_length(rounds: list[list[Scored]], verdict: Verdict) -> list[str]:
    """Return what longer trainings would bring, where the gain over the control has grown with the steps.

    Args:
        rounds: of the search, each of trainings of as many steps, of which the last two count.
        verdict: has the gain, and its standard error.
    """
    (fewer, earlier), (steps, gain) = [(each[0].steps, _gain(each)) for each in rounds[-2:]]
    if verdict.gain <= 0 or not np.isfinite(earlier) or gain - earlier <= _SURE * verdict.gain_error:
        return []
    return [
        f"The gain on validation data has grown from {earlier:.3g} at {fewer:,} steps to {gain:.3g} at {steps:,}: a "
        "larger `budget` would bring more."
    ]


def _gain(scored: list[Scored]) -> float:
    """Return by how much the best candidate with a teacher is better than the best without."""
    taught, alone = (
        [each.worth for each in scored if each.candidate.is_alone == is_alone] for is_alone in (False, True)
    )
    return max(taught) - max(alone)


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Return the share of examples, or labels, of one class in both."""
    if one.shape[-1] > 1:
        return float(np.mean(one.argmax(-1) == other.argmax(-1)))
    middle = 0.5 if other.min() >= 0.0 and other.max() <= 1.0 else 0.0
    return float(np.mean((one > middle) == (other > middle)))
