"""One short function per published method: its terms, with the paper's defaults.

    distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.dkd())
    distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.kd() + kd.methods.fitnets(pairs))

A method is a list of terms, so methods are added with `+`. Its weights are the paper's, for the `alpha` that its
docstring names: with alpha = 0.5, teacher and labels count as 1 to 1, times the weight. Where a method has its own
temperature, it goes before the compiled one; `temperature=None` takes the compiled one.

Feature methods take pairs of layers, [("student_layer", "teacher_layer"), ...]; `suggest_pairs` finds some.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_kd import bridges, losses, pairs, schedules, transforms
from keras_kd._types import Schedule
from keras_kd.terms import Term

Pair = tuple[str, str]

suggest_pairs = pairs.suggest_pairs


def kd(temperature: Schedule | None = 4.0, weight: Schedule = 1.0) -> list[Term]:
    """Knowledge distillation: softened probabilities. Compile with alpha=0.9. Hinton et al., 2015, arXiv 1503.02531."""
    return [Term(losses.kl_divergence, temperature=temperature, weight=weight)]


def standardized(temperature: Schedule | None = 2.0, weight: Schedule = 10.0) -> list[Term]:
    """KD on standardised logits. Compile with alpha=0.9: 9 to 0.1, as in Sun et al., 2024, arXiv 2403.01427."""
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
    """Decoupled KD; the paper warms up for 20 epochs. Compile with alpha=0.5. Zhao et al., 2022, arXiv 2203.08679."""
    term = Term(
        losses.decoupled_kl,
        temperature=temperature,
        weight=_warm_up(weight, warmup_steps),
        target_weight=target_weight,
        non_target_weight=non_target_weight,
    )
    return [term]


def dist(inter_weight: Schedule = 2.0, intra_weight: Schedule = 2.0, temperature: Schedule | None = 4.0) -> list[Term]:
    """DIST, relations of classes; T=1 on ImageNet. Compile with alpha=0.5. Huang et al., 2022, arXiv 2205.10536."""
    return [
        Term(losses.inter_class_relation, temperature=temperature, weight=inter_weight),
        Term(losses.intra_class_relation, temperature=temperature, weight=intra_weight),
    ]


def nkd(non_target_weight: float = 1.5, temperature: Schedule | None = 1.0, weight: Schedule = 1.0) -> list[Term]:
    """Normalised KD. Compile with alpha=0.5. Yang et al., 2023, arXiv 2303.13005."""
    return [
        Term(losses.normalized_kl, temperature=temperature, weight=weight, non_target_weight=non_target_weight),
    ]


def multi_level(temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0), weight: float = 1.0) -> list[Term]:
    """Multi-level logits: KD and two correlations at each temperature. Compile with alpha=0.5. Jin et al., CVPR 2023.

    The paper has T**2 on the divergence only, so the correlations are divided by the T**2 of their term. Its weak and
    strong views are the dataset's: a live teacher sees what the student sees.
    """
    terms = []
    for temperature in temperatures:
        for loss in (losses.kl_divergence, losses.class_correlation, losses.batch_correlation):
            share = weight if loss is losses.kl_divergence else weight / temperature**2
            name = f"{loss.__name__}_t{temperature:g}".replace(".", "_")
            terms.append(Term(loss, temperature=temperature, weight=share, name=name))
    return terms


def ttm(power: float = 0.1, weighted: bool = False, weight: Schedule = 1.0) -> list[Term]:
    """Transformed teacher matching. Compile with alpha=0.5. Zheng and Yang, 2024, arXiv 2402.11148."""
    return [Term(losses.transformed_teacher, soften=False, weight=weight, power=power, weighted=weighted)]


def multi_label(temperature: Schedule | None = 1.0, weight: Schedule = 1.0) -> list[Term]:
    """KD for yes-or-no and multi-label outputs: one binary divergence per label. Compile with alpha=0.5."""
    return [Term(losses.binary_kl, temperature=temperature, weight=weight)]


def regression(weight: Schedule = 1.0, at: str = "logits") -> list[Term]:
    """Reproduce the teacher's values. Compile with alpha=0.5. Ba and Caruana, 2014, arXiv 1312.6184."""
    return [Term(losses.squared_error, at=at, soften=False, weight=weight)]


def fitnets(at: Sequence[Pair], weight: Schedule = 100.0) -> list[Term]:
    """Hints through a trained projection. Compile with alpha=0.5. Romero et al., 2014, arXiv 1412.6550."""
    return [Term(losses.squared_error, at=pair, weight=weight, bridge="auto") for pair in _checked(at)]


def attention_transfer(at: Sequence[Pair], weight: Schedule = 1000.0) -> list[Term]:
    """Attention maps at each stage. Compile with alpha=0.5. Zagoruyko and Komodakis, 2016, arXiv 1612.03928."""
    return [Term(losses.attention_transfer, at=pair, weight=weight) for pair in _checked(at)]


def nst(at: Sequence[Pair], weight: Schedule = 50.0) -> list[Term]:
    """Neuron selectivity transfer. Compile with alpha=0.5. Huang and Wang, 2017, arXiv 1707.01219."""
    return [Term(losses.nst, at=pair, weight=weight) for pair in _checked(at)]


def fsp(at: Sequence[Pair], weight: Schedule = 50.0) -> list[Term]:
    """Flow between consecutive stages of equal widths. Compile with alpha=0.5. Yim et al., CVPR 2017."""
    stages = _checked(at)
    if len(stages) < 2:
        raise ValueError(f"Expected at least two pairs of layers: a flow goes from one to the next. Received: {at!r}")
    return [
        Term(losses.fsp, at=((first[0], last[0]), (first[1], last[1])), weight=weight, name=f"fsp_{number}")
        for number, (first, last) in enumerate(zip(stages, stages[1:], strict=False), start=1)
    ]


def vid(at: Sequence[Pair], weight: Schedule = 1.0) -> list[Term]:
    """Variational information, with trained variances. Compile with alpha=0.5. Ahn et al., 2019, arXiv 1904.05835."""
    return [
        Term(losses.VariationalInformation(), at=pair, weight=weight, bridge="auto", name=f"vid_{number}")
        for number, pair in enumerate(_checked(at), start=1)
    ]


def cwd(at: Sequence[Pair], temperature: Schedule | None = 4.0, weight: Schedule = 3.0) -> list[Term]:
    """Channel-wise divergence, for dense prediction. Compile with alpha=0.5. Shu et al., 2020, arXiv 2011.13256."""
    arguments: dict[str, Any] = {"soften": True, "temperature": temperature, "weight": weight, "bridge": "auto"}
    return [Term(losses.channel_wise, at=pair, **arguments) for pair in _checked(at)]


def pkt(at: Sequence[Pair], weight: Schedule = 30000.0) -> list[Term]:
    """Neighbour probabilities of the last features. Compile with alpha=0.5. Passalis and Tefas, 2018, 1803.10837."""
    return [Term(losses.pkt, at=pair, weight=weight) for pair in _checked(at)]


def rkd(at: Sequence[Pair], distance_weight: Schedule = 25.0, angle_weight: Schedule = 50.0) -> list[Term]:
    """Distances and angles between examples. Compile with alpha=0.5. Park et al., 2019, arXiv 1904.05068."""
    terms = []
    for pair in _checked(at):
        terms.append(Term(losses.rkd_distance, at=pair, weight=distance_weight))
        terms.append(Term(losses.rkd_angle, at=pair, weight=angle_weight))
    return terms


def similarity_preserving(at: Sequence[Pair], weight: Schedule = 3000.0) -> list[Term]:
    """Similarities within the batch. Compile with alpha=0.5. Tung and Mori, 2019, arXiv 1907.09682."""
    return [Term(losses.similarity_preserving, at=pair, weight=weight) for pair in _checked(at)]


def correlation(at: Sequence[Pair], weight: Schedule = 1.0) -> list[Term]:
    """Correlation congruence. Compile with alpha=0.5. Peng et al., 2019, arXiv 1904.01802.

    The paper gives no weight for this form; the 0.02 that is often quoted belongs to another one.
    """
    return [Term(losses.correlation_congruence, at=pair, weight=weight) for pair in _checked(at)]


def crd(
    at: Sequence[Pair], dimension: int = 128, temperature: float = 0.07, memory: int = 4096, weight: Schedule = 0.8
) -> list[Term]:
    """Contrastive representations with a memory bank. Compile with alpha=0.5. Tian et al., 2019, arXiv 1910.10699."""
    return [
        Term(
            losses.ContrastiveMemory(dimension=dimension, temperature=temperature, memory=memory),
            at=pair,
            weight=weight,
            name=f"crd_{number}",
        )
        for number, pair in enumerate(_checked(at), start=1)
    ]


def review(
    at: Sequence[Pair], teacher: keras.Model, weight: float = 1.0, width: int = 64, warmup_steps: int = 1
) -> list[Term]:
    """Knowledge review: stages fused from deep to shallow; weight 0.6 to 8. Compile with alpha=0.5. Chen et al., 2021.

    Args:
        at: pairs of layers, shallow first.
        teacher: the teacher, whose shapes the fusion takes on.
        weight: weight after the warm-up.
        width: channels inside the fusion.
        warmup_steps: steps from 0 to `weight`; the paper takes 20 epochs. arXiv 2104.09044.
    """
    stages = _checked(at)
    shapes = [pairs.layer_shapes(teacher, "teacher")[name] for _, name in stages]
    fusion = bridges.ReviewFusion(
        channels=tuple(shape[-1] for shape in shapes), sizes=tuple(shape[1:3] for shape in shapes), width=width
    )
    ours, theirs = zip(*stages, strict=True)
    return [
        Term(
            losses.review,
            at=(ours, theirs),
            weight=_warm_up(weight, warmup_steps),
            bridge=fusion,
            name="review",
        )
    ]


def sim(teacher_layer: str, weight: Schedule = 1.0, projection: str = "sim_projection") -> list[Term]:
    """Features for the teacher's classifier (SimKD). Compile with alpha=1. Chen et al., 2022, arXiv 2203.14001.

    The student is made by `bridges.with_teacher_classifier`.
    """
    return [Term(losses.squared_error, at=(projection, teacher_layer), weight=weight, name="sim")]


def _warm_up(weight: float, steps: int) -> Schedule:
    return weight if steps <= 1 else schedules.Ramp(0.0, weight, steps)


def _checked(at: Sequence[Pair]) -> list[Pair]:
    stages = list(at)
    if not stages or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in stages):
        raise ValueError(
            "Expected pairs of layers, [('student_layer', 'teacher_layer'), ...]; methods.suggest_pairs(student, "
            f"teacher) finds some. Received: {at!r}"
        )
    return [(ours, theirs) for ours, theirs in stages]
