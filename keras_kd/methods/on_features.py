"""Methods on pairs of layers: what is learned from features and from maps."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_kd import bridges, losses
from keras_kd._internal import layer_reader
from keras_kd._types import Schedule
from keras_kd.methods._arguments import Pair, checked, warm_up
from keras_kd.term import Term


def fitnets(at: Sequence[Pair], weight: Schedule = 100.0) -> list[Term]:
    """Reproduce the teacher's features through a trained projection (hints). Compile with alpha=0.5.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair, each with a bridge of its own.

    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, 2014, arXiv 1412.6550.
    """
    return [Term(losses.squared_error, at=pair, weight=weight, bridge="auto") for pair in checked(at)]


def attention_transfer(at: Sequence[Pair], weight: Schedule = 1000.0) -> list[Term]:
    """Look where the teacher looks, at each stage (AT). Compile with alpha=0.5.

    Args:
        at: pairs of layers that give maps, (batch, height, width, channels), of any sizes; at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair.

    Reference: Zagoruyko and Komodakis, Paying More Attention to Attention, 2016, arXiv 1612.03928.
    """
    return [Term(losses.attention_transfer, at=pair, weight=weight) for pair in checked(at)]


def nst(at: Sequence[Pair], weight: Schedule = 50.0) -> list[Term]:
    """Match which neurons fire where (neuron selectivity transfer). Compile with alpha=0.5.

    Args:
        at: pairs of layers that give maps, (batch, height, width, channels), of any sizes; at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair.

    Reference: Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017,
    arXiv 1707.01219.
    """
    return [Term(losses.nst, at=pair, weight=weight) for pair in checked(at)]


def fsp(at: Sequence[Pair], weight: Schedule = 50.0) -> list[Term]:
    """Match the flow between consecutive stages. Compile with alpha=0.5.

    Args:
        at: pairs of layers that give maps, at least two, shallow first; a pair has one number of channels.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair of layers and the next one.

    Raises:
        ValueError: fewer than two pairs.

    Reference: Yim et al., A Gift from Knowledge Distillation, CVPR 2017.
    """
    stages = checked(at)
    if len(stages) < 2:
        raise ValueError(f"Expected at least two pairs of layers: a flow goes from one to the next. Received: {at!r}")
    return [
        Term(losses.fsp, at=((first[0], last[0]), (first[1], last[1])), weight=weight, name=f"fsp_{number}")
        for number, (first, last) in enumerate(zip(stages, stages[1:], strict=False), start=1)
    ]


def vid(at: Sequence[Pair], weight: Schedule = 1.0) -> list[Term]:
    """Predict the teacher's features with a trained variance per channel (VID). Compile with alpha=0.5.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair, each with a bridge and variances of its own.

    Reference: Ahn et al., Variational Information Distillation for Knowledge Transfer, 2019, arXiv 1904.05835.
    """
    return [
        Term(losses.VariationalInformation(), at=pair, weight=weight, bridge="auto", name=f"vid_{number}")
        for number, pair in enumerate(checked(at), start=1)
    ]


def cwd(at: Sequence[Pair], temperature: Schedule | None = 4.0, weight: Schedule = 3.0) -> list[Term]:
    """Match where each channel is active, for dense prediction (CWD). Compile with alpha=0.5.

    Args:
        at: pairs of layers that give maps, (batch, ..., channels), at least one; bridges make the shapes meet.
        temperature: T, above 0; None takes the compiled one.
        weight: weight of each term, not negative.

    Returns:
        A list of one softened term per pair.

    Reference: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, 2020, arXiv 2011.13256.
    """
    arguments: dict[str, Any] = {"soften": True, "temperature": temperature, "weight": weight, "bridge": "auto"}
    return [Term(losses.channel_wise, at=pair, **arguments) for pair in checked(at)]


def review(
    at: Sequence[Pair], teacher: keras.Model, weight: float = 1.0, width: int = 64, warmup_steps: int = 1
) -> list[Term]:
    """Match stages that are fused from deep to shallow (ReviewKD). Compile with alpha=0.5.

    Args:
        at: pairs of layers that give maps, shallow first; pooled features are the last, a map of one cell, as in the
            authors' code, ("pooled:map", "pooled:map"). Tokens of images are read as maps in the same way.
        teacher: the teacher, whose shapes the fusion takes on.
        weight: weight after the warm-up, not negative; 0.6 to 8 in the paper.
        width: channels inside the fusion, at least 1.
        warmup_steps: steps from 0 to `weight`; 1 for none. The paper takes 20 epochs.

    Returns:
        A list of one term over all stages, whose bridge is the fusion.

    Reference: Chen et al., Distilling Knowledge via Knowledge Review, 2021, arXiv 2104.09044.
    """
    stages = checked(at)
    _, read = layer_reader.layer_outputs(teacher, tuple(theirs for _, theirs in stages), "teacher")
    shapes = [tensor.shape for tensor in read]
    fusion = bridges.ReviewFusion(
        channels=tuple(shape[-1] for shape in shapes), sizes=tuple(shape[1:3] for shape in shapes), width=width
    )
    ours, theirs = zip(*stages, strict=True)
    return [
        Term(
            losses.review,
            at=(ours, theirs),
            weight=warm_up(weight, warmup_steps),
            bridge=fusion,
            name="review",
        )
    ]


def sim(teacher_layer: str, weight: Schedule = 1.0, projection: str = "sim_projection") -> list[Term]:
    """Learn features for the teacher's classifier, which the student reuses (SimKD). Compile with alpha=1.

    The student is made by `bridges.with_teacher_classifier`.

    Args:
        teacher_layer: the layer that the teacher's classifier reads.
        weight: weight of the term, not negative.
        projection: the student's layer that ends in the teacher's width.

    Returns:
        A list of one term.

    Reference: Chen et al., Knowledge Distillation with the Reused Teacher Classifier, 2022, arXiv 2203.14001.
    """
    return [Term(losses.squared_error, at=(projection, teacher_layer), weight=weight, name="sim")]
