"""Published methods for vision transformers and convolutional networks: `methods` has their names."""

from collections.abc import Sequence

from keras_kd import losses
from keras_kd._types import Schedule
from keras_kd.methods._arguments import Pair, checked
from keras_kd.term import Term


def ofa(
    stages: Sequence[str] = (),
    power: Schedule = 1.5,
    temperature: Schedule | None = 1.0,
    weight: Schedule = 1.0,
    stage_weight: Schedule = 1.0,
) -> list[Term]:
    """Learn the teacher's logits at each stage of the student, whatever the architectures (OFA-KD).

    Compile with alpha=0.5. Features of two architectures have little in common; the logits that a trained head makes of
    each of the student's stages are compared with the teacher's instead. Here a head is the automatic bridge, an
    average over positions and a dense layer; the authors' code has convolutions or transformer blocks before it.

    Args:
        stages: the student's layers that end its stages, vectors, tokens or maps.
        power: of the teacher's probabilities, see `losses.enhanced_target`.
        temperature: T, above 0; None takes the compiled one.
        weight: weight of the term on the student's own logits, not negative.
        stage_weight: weight of each stage's term, not negative.

    Returns:
        A list of one term, and one for each stage with a head of its own.

    Raises:
        TypeError: one name in the place of several.

    Reference: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation,
    2023, arXiv 2310.19444.
    """
    if isinstance(stages, str):
        raise TypeError(
            f"Expected `stages` to be names of the student's layers. Received: {stages!r}; give [{stages!r}]."
        )
    terms = [Term(losses.enhanced_target, temperature=temperature, weight=weight, power=power)]
    for number, stage in enumerate(stages, start=1):
        terms.append(
            Term(
                losses.enhanced_target,
                at=(stage, "logits"),
                bridge="auto",
                soften=True,
                temperature=temperature,
                weight=stage_weight,
                power=power,
                name=f"ofa_{number}",
            )
        )
    return terms


def mgd(at: Sequence[Pair], masked: float = 0.15, over: str = "channels", weight: Schedule = 7e-5) -> list[Term]:
    """Generate the teacher's maps from a part of the student's (MGD). Compile with alpha=0.5.

    The weight is that of the authors' code on ImageNet, of a sum over a map of 7 x 7 x 512: it has 1.2e-3 on CIFAR-100,
    and 5e-7 with `over="positions"` and `masked=0.45` for a detector. With alpha = 0.5, teacher and labels count as 1
    to 1 there, too.

    Args:
        at: pairs of layers that give maps, ("student_layer", "teacher_layer"), at least one; the paper's is the last
            map of both. Tokens of images are read as maps by "encoder:map".
        masked: probability that a part of the student's map is masked in training, 0 to below 1.
        over: what a part is, "channels" or "positions"; see `losses.MaskedGeneration`.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair, each with a bridge and a generator of its own.

    Raises:
        ValueError: no pairs.

    Reference: Yang et al., Masked Generative Distillation, 2022, arXiv 2205.01529.
    """
    return [
        Term(
            losses.MaskedGeneration(masked=masked, over=over),
            at=(ours, theirs),
            weight=weight,
            bridge="auto",
            name=f"mgd_{number}",
        )
        for number, (ours, theirs) in enumerate(checked(at), start=1)
    ]


#: 3e-5 of a sum over 196 tokens of 384 channels, as a weight of their mean.
_SHALLOW = 3e-5 * 196 * 384


def vitkd(
    shallow: Sequence[Pair],
    deep: Pair,
    masked: float = 0.5,
    shallow_weight: Schedule = _SHALLOW,
    weight: Schedule = 3e-6,
) -> list[Term]:
    """Mimic a vision transformer's first blocks, and generate the tokens of its last one (ViTKD).

    Compile with alpha=0.5. The tokens of the first blocks are compared one by one, behind a projection where widths
    differ; those of the last one are generated where the student's are masked. The paper adds this to the logits' own
    distillation.

    Args:
        shallow: pairs of blocks, ("student_block", "teacher_block"), at least one; the paper has the first two of both.
        deep: the last block of both. Tokens of images are read as maps, without the token of the class, by "block:map",
            which `suggest_pairs` writes.
        masked: share of the student's tokens that are masked in training, above 0 and below 1.
        shallow_weight: weight of each term of the first blocks, of a mean over tokens and channels, not negative. The
            authors' code has 3e-5 of a sum, there of 196 tokens of 384 channels.
        weight: weight of the last block's term, of a sum over tokens and channels, not negative.

    Returns:
        A list of one term per pair of first blocks, and one for the last block.

    Raises:
        ValueError: no pairs; `masked` out of range.

    Example:
        >>> shallow = [("block_1:map", "block_1:map"), ("block_2:map", "block_2:map")]
        >>> terms = kd.methods.kd() + kd.methods.vitkd(shallow, deep=("block_12:map", "block_12:map"))

    Reference: Yang et al., ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation, 2022, arXiv 2209.02432;
    its weights are those of the authors' code.
    """
    first = [
        Term(losses.squared_error, at=pair, weight=shallow_weight, bridge="auto", name=f"vitkd_{number}")
        for number, pair in enumerate(checked(shallow), start=1)
    ]
    [last] = checked([deep])
    generated = losses.MaskedTokenGeneration(masked=masked)
    return [*first, Term(generated, at=last, weight=weight, bridge="auto", name="vitkd_deep")]


def vkd(at: Sequence[Pair], weight: Schedule = 1.0) -> list[Term]:
    """Follow the teacher's standardised features through an orthogonal projection (VkD). Compile with alpha=0.5.

    The projection keeps angles and lengths, so that what the teacher knows is learned by the student and not by its
    bridge. The paper adds this to plain distillation of the logits: `methods.kd(temperature=1.0) + methods.vkd(at)`.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one: vectors, or tokens and maps, which are
            averaged over positions on both sides. The paper pairs the last ones.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair, each with a bridge of its own.

    Reference: Miles, Elezi and Deng, VkD: Improving Knowledge Distillation using Orthogonal Projections, 2024,
    arXiv 2403.06213; the weight is that of the authors' code.
    """
    return [Term(losses.standardized_huber, at=pair, weight=weight, bridge="orthogonal") for pair in checked(at)]
