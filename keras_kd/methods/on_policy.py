"""Published methods on texts that are written while the student learns.

Each row is compared by where it is from, which a column of `keras_kd.Joined` tells: `language.Rollouts` carry it.
"""

from collections.abc import Sequence

from keras_kd import losses
from keras_kd._types import Schedule
from keras_kd.losses._sequences import sequence_reverse_kl
from keras_kd.term import Term

#: The column, and its values in `language.Rollouts`.
_COLUMN, _STUDENT, _OTHERS = "origin", (0,), (1, 2)


def distillm2(
    skew: Schedule = 0.1,
    reverse_weight: Schedule = 1.0,
    weight: Schedule = 1.0,
    temperature: Schedule | None = 1.0,
    student_rows: Sequence[int] = _STUDENT,
    teacher_rows: Sequence[int] = _OTHERS,
    column: str = _COLUMN,
) -> list[Term]:
    """Raise what the teacher writes, and lower what the student writes by itself (DistiLLM-2). Compile with alpha=1.

    The teacher's texts are compared by `losses.skew_kl`, the student's by `losses.skew_reverse_kl`. Both terms are
    divided by the tokens of all rows: as many of each kind weigh the same. The paper also adapts `skew` to each text,
    which is left out here, as it is by default in the authors' code; a schedule of the step can take its place. So may
    those of the weights, of which that code has `schedules.Ramp(1.0, 1.5, n)` on the student's texts and
    `schedules.Ramp(1.0, 0.5, n)` on the teacher's, with n a half of all steps; by default, they stay at 1.

    Args:
        skew: share of the one distribution in the other, 0 to 1.
        reverse_weight: weight of the term on the student's texts, not negative. The paper lets it grow.
        weight: weight of the term on the teacher's texts, not negative.
        temperature: of both models.
        student_rows: values of the column that are texts of the student.
        teacher_rows: values of the column that are texts of the teacher, or given ones.
        column: tells where a row is from; see `keras_kd.Joined`.

    Returns:
        A list of two terms.

    Reference: Ko et al., DistiLLM-2: A Contrastive Approach Boosts the Distillation of LLMs, 2025, arXiv 2503.07067.
    """
    forward = Term(losses.skew_kl, weight=weight, temperature=temperature, rows={column: teacher_rows}, skew=skew)
    backward = Term(
        losses.skew_reverse_kl,
        weight=reverse_weight,
        temperature=temperature,
        rows={column: student_rows},
        skew=skew,
    )
    return [forward, backward]


def minillm(normalized: bool = True, weight: Schedule = 1.0) -> list[Term]:
    """Make the texts that the student writes likely under the teacher, as a whole (MiniLLM). Compile with alpha=1.

    Only the student's rows of `language.Rollouts` are learned from, which it has to have written as it is: `every=1`,
    or as many as the optimizer accumulates gradients over, at a temperature of 1; `fit` refuses others.
    `teacher_mix=0.2` draws them from both models, as the paper does, which also learns from rows of an older student by
    a clipped ratio of its probabilities, and adds the cross-entropy of a corpus; neither is done here.

    Args:
        normalized: whether what a token leads to is a mean, see `language.sequence_reverse_kl`.
        weight: weight of the term, not negative.

    Returns:
        A list of one term.

    Reference: Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, 2023, arXiv 2306.08543.
    """
    rows = {_COLUMN: _STUDENT}
    return [Term(sequence_reverse_kl, weight=weight, temperature=1.0, rows=rows, normalized=normalized)]
