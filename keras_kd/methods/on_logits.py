"""Methods on logits: what is learned from the classes that the teacher predicts, and its values."""

from collections.abc import Sequence

from keras_kd import losses, transforms
from keras_kd._internal.term_names import At
from keras_kd._types import Schedule
from keras_kd.methods._arguments import warm_up
from keras_kd.term import Term


def kd(temperature: Schedule | None = 4.0, weight: Schedule = 1.0) -> list[Term]:
    """Match the teacher's softened probabilities (KD). Compile with alpha=0.9.

    Args:
        temperature: T, above 0; None takes the compiled one.
        weight: weight of the term, not negative.

    Returns:
        A list of one term.

    Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531.
    """
    return [Term(losses.kl_divergence, temperature=temperature, weight=weight)]


def standardized(temperature: Schedule | None = 2.0, weight: Schedule = 10.0) -> list[Term]:
    """Match softened probabilities of standardised logits: their shape, not their scale. Compile with alpha=0.9.

    Args:
        temperature: T, above 0; None takes the compiled one.
        weight: weight of the term, not negative; with alpha = 0.9, 10 is the paper's 9 against 0.1.

    Returns:
        A list of one term.

    Reference: Sun et al., Logit Standardization in Knowledge Distillation, 2024, arXiv 2403.01427.
    """
    term = Term(
        losses.kl_divergence,
        transform=transforms.standardize,
        temperature=temperature,
        weight=weight,
        name="standardized_kl",
    )
    return [term]


def dkd(
    target_weight: float = 1.0,
    non_target_weight: float = 8.0,
    temperature: Schedule | None = 4.0,
    weight: float = 1.0,
    warmup_steps: int = 1,
) -> list[Term]:
    """Weigh the label and the other classes apart (DKD). Compile with alpha=0.5.

    Args:
        target_weight: of the label against the rest, not negative; alpha in the paper.
        non_target_weight: of the other classes, not negative; beta in the paper, 2 to 8 on CIFAR-100, 0.5 on ImageNet.
        temperature: T, above 0; None takes the compiled one.
        weight: weight after the warm-up, not negative.
        warmup_steps: steps from 0 to `weight`; 1 for none. The paper takes 20 epochs.

    Returns:
        A list of one term.

    Reference: Zhao et al., Decoupled Knowledge Distillation, 2022, arXiv 2203.08679.
    """
    term = Term(
        losses.decoupled_kl,
        temperature=temperature,
        weight=warm_up(weight, warmup_steps),
        target_weight=target_weight,
        non_target_weight=non_target_weight,
    )
    return [term]


def dist(inter_weight: Schedule = 2.0, intra_weight: Schedule = 2.0, temperature: Schedule | None = 4.0) -> list[Term]:
    """Match relations of classes and of examples (DIST). Compile with alpha=0.5.

    Args:
        inter_weight: weight of the relations within an example, not negative; beta in the paper.
        intra_weight: weight of the relations within a class, not negative; gamma in the paper.
        temperature: T, above 0; 1 in the paper on ImageNet. None takes the compiled one.

    Returns:
        A list of two terms, of each example and of the batch; sample weights do not apply to the second.

    Reference: Huang et al., Knowledge Distillation from A Stronger Teacher, 2022, arXiv 2205.10536.
    """
    return [
        Term(losses.inter_class_relation, temperature=temperature, weight=inter_weight),
        Term(losses.intra_class_relation, temperature=temperature, weight=intra_weight),
    ]


def nkd(non_target_weight: float = 1.5, temperature: Schedule | None = 1.0, weight: Schedule = 1.0) -> list[Term]:
    """Match the label as the teacher believes it, and the other classes renormalised (NKD). Compile with alpha=0.5.

    Args:
        non_target_weight: weight of the other classes, not negative; gamma in the paper.
        temperature: T, above 0; None takes the compiled one.
        weight: weight of the term, not negative.

    Returns:
        A list of one term.

    Reference: Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, 2023, arXiv 2303.13005.
    """
    return [
        Term(losses.normalized_kl, temperature=temperature, weight=weight, non_target_weight=non_target_weight),
    ]


def multi_level(temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0), weight: float = 1.0) -> list[Term]:
    """Match probabilities, classes and examples at several temperatures (MLKD). Compile with alpha=0.5.

    The paper has T**2 on the divergence only, so the correlations are divided by the T**2 of their term. Its weak and
    strong views are the dataset's: a live teacher sees what the student sees.

    Args:
        temperatures: each above 0 and different.
        weight: weight of each divergence, not negative.

    Returns:
        A list of three terms per temperature, a divergence, a correlation of classes and one of examples.

    Reference: Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.
    """
    terms = []
    for temperature in temperatures:
        for loss in (losses.kl_divergence, losses.class_correlation, losses.batch_correlation):
            share = weight if loss is losses.kl_divergence else weight / temperature**2
            name = f"{loss.__name__}_t{temperature:g}".replace(".", "_")
            terms.append(Term(loss, temperature=temperature, weight=share, name=name))
    return terms


def ttm(power: float = 0.1, weighted: bool = False, weight: Schedule = 1.0) -> list[Term]:
    """Soften the teacher only, by a power of its probabilities (TTM). Compile with alpha=0.5.

    Args:
        power: of the teacher's probabilities, above 0; 1 / power is the teacher's temperature.
        weighted: whether examples count by the teacher's doubt (WTTM).
        weight: weight of the term, not negative.

    Returns:
        A list of one term, to which no temperature applies.

    Reference: Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, 2024, arXiv 2402.11148.
    """
    return [Term(losses.transformed_teacher, soften=False, weight=weight, power=power, weighted=weighted)]


def deit(at: At = "logits", weight: Schedule = 1.0) -> list[Term]:
    """Learn the class that the teacher predicts, in a head of its own (DeiT). Compile with alpha=0.5.

    Args:
        at: ("teacher_head", "logits"): the student's layer that is the head for the teacher, see
            `bridges.AveragedHeads`, and the teacher's output. "logits" for a student with one head.
        weight: weight of the term, not negative.

    Returns:
        A list of one term, to which no temperature applies.

    Reference: Touvron et al., Training Data-Efficient Image Transformers & Distillation Through Attention, 2021,
    arXiv 2012.12877.
    """
    return [Term(losses.hard_label, at=at, soften=False, weight=weight)]


def multi_label(temperature: Schedule | None = 1.0, weight: Schedule = 1.0) -> list[Term]:
    """Match each label's probability, for yes-or-no and multi-label outputs. Compile with alpha=0.5.

    Args:
        temperature: T, above 0; None takes the compiled one.
        weight: weight of the term, not negative.

    Returns:
        A list of one term.

    Reference: the objective of Hinton et al., 2015, arXiv 1503.02531, for each label a distribution over two classes.
    """
    return [Term(losses.binary_kl, temperature=temperature, weight=weight)]


def regression(weight: Schedule = 1.0, at: str = "logits") -> list[Term]:
    """Reproduce the teacher's values. Compile with alpha=0.5.

    Args:
        weight: weight of the term, not negative.
        at: name of the output; "logits" in a model with one.

    Returns:
        A list of one term, to which no temperature applies.

    Reference: Ba and Caruana, Do Deep Nets Really Need to be Deep?, 2014, arXiv 1312.6184.
    """
    return [Term(losses.squared_error, at=at, soften=False, weight=weight)]
