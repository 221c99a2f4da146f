"""One short function per published method: its terms, with the paper's defaults.

They go into a Distiller::

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

from keras_kd import bridges, layer_matching, losses, schedules, transforms
from keras_kd._internal.term_names import At
from keras_kd._types import Schedule
from keras_kd.on_policy import distillm2 as distillm2
from keras_kd.on_policy import minillm as minillm
from keras_kd.term import Term

Pair = tuple[str, str]

suggest_pairs = layer_matching.suggest_pairs


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
        weight=_warm_up(weight, warmup_steps),
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


def universal_logits(
    top_k: int | None = None, temperature: Schedule | None = 1.0, weight: Schedule = 1.5
) -> list[Term]:
    """Match sorted probabilities, for a teacher with classes or a vocabulary of its own (ULD). Compile with alpha=0.5.

    Positions are compared as they come: those of other tokens are to be aligned before.

    Args:
        top_k: how many of the largest probabilities are compared; None for all, as in the paper.
        temperature: T, above 0; None takes the compiled one.
        weight: weight of the term, not negative; lambda in the paper.

    Returns:
        A list of one term.

    Reference: Boizard et al., Towards Cross-Tokenizer Distillation, 2024, arXiv 2402.12030.
    """
    return [Term(losses.universal_logits, temperature=temperature, weight=weight, top_k=top_k)]


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


def gkd(beta: Schedule = 0.5, temperature: Schedule | None = 1.0, weight: Schedule = 1.0) -> list[Term]:
    """Go between the forward and the reverse divergence of tokens (GKD). Compile with alpha=1.

    Args:
        beta: 0 is the forward divergence, which covers what the teacher may write, 1 the reverse one, which keeps to
            what it is likely to write; see `losses.jensen_shannon`.
        temperature: of both models.
        weight: weight of the term, not negative.

    Returns:
        A list of one term.

    Reference: Agarwal et al., On-Policy Distillation of Language Models, 2023, arXiv 2306.13649.
    """
    return [Term(losses.jensen_shannon, temperature=temperature, weight=weight, beta=beta)]


def distillm(
    skew: Schedule = 0.1, reverse: bool = True, temperature: Schedule | None = 1.0, weight: Schedule = 1.0
) -> list[Term]:
    """Bound the divergence of tokens by mixing the two distributions (DistiLLM). Compile with alpha=1.

    Args:
        skew: share of the one distribution in the other, 0 to 1.
        reverse: whether the student is compared with a mixture, as for the paper's best results
            (`losses.skew_reverse_kl`), or the teacher (`losses.skew_kl`).
        temperature: of both models.
        weight: weight of the term, not negative.

    Returns:
        A list of one term.

    Reference: Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, 2024, arXiv 2402.03898.
    """
    loss = losses.skew_reverse_kl if reverse else losses.skew_kl
    return [Term(loss, temperature=temperature, weight=weight, skew=skew)]


def distilbert(
    at: Sequence[Pair], temperature: Schedule | None = 2.0, weight: Schedule = 5.0, cosine_weight: Schedule = 1.0
) -> list[Term]:
    """Match the tokens that are predicted, and the direction of hidden states (DistilBERT).

    Compile with alpha=0.5 and `loss_weights=2.0`, as the paper's code weighs the loss of masked tokens.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"); the paper's is the last one of both models, which have
            one width.
        temperature: of the predicted tokens.
        weight: of these, not negative.
        cosine_weight: of each pair of hidden states.

    Returns:
        A list of one term, and one for each pair, with a bridge where widths differ.

    Reference: Sanh et al., DistilBERT, a Distilled Version of BERT, 2019, arXiv 1910.01108.
    """
    hidden = [Term(losses.cosine, at=pair, weight=cosine_weight, bridge="auto") for pair in _checked(at)]
    return [*kd(temperature, weight), *hidden]


def minilm(at: Sequence[Pair], heads: int = 12, weight: Schedule = 1.0) -> list[Term]:
    """Match how queries, keys and values of one attention layer are related (MiniLM). Compile with alpha=1.

    Args:
        at: pairs of what a layer of each model makes of its tokens: of `keras.layers.MultiHeadAttention`
            [("attention:query", "teacher_attention:query"), ("attention:key", ...), ("attention:value", ...)], of a
            model of other layers those that make them. The paper's are of the student's last layer and of the last, or
            one of the last, of the teacher.
        heads: parts in which the vectors are related; divides both widths. More than the models have is finer.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair.

    Reference: Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers, 2020, arXiv 2012.15828.
    """
    return [Term(losses.token_relations, at=pair, weight=weight, heads=heads) for pair in _checked(at)]


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


def fitnets(at: Sequence[Pair], weight: Schedule = 100.0) -> list[Term]:
    """Reproduce the teacher's features through a trained projection (hints). Compile with alpha=0.5.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair, each with a bridge of its own.

    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, 2014, arXiv 1412.6550.
    """
    return [Term(losses.squared_error, at=pair, weight=weight, bridge="auto") for pair in _checked(at)]


def attention_transfer(at: Sequence[Pair], weight: Schedule = 1000.0) -> list[Term]:
    """Look where the teacher looks, at each stage (AT). Compile with alpha=0.5.

    Args:
        at: pairs of layers that give maps, (batch, height, width, channels), of any sizes; at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair.

    Reference: Zagoruyko and Komodakis, Paying More Attention to Attention, 2016, arXiv 1612.03928.
    """
    return [Term(losses.attention_transfer, at=pair, weight=weight) for pair in _checked(at)]


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
    return [Term(losses.nst, at=pair, weight=weight) for pair in _checked(at)]


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
    stages = _checked(at)
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
        for number, pair in enumerate(_checked(at), start=1)
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
    return [Term(losses.channel_wise, at=pair, **arguments) for pair in _checked(at)]


def pkt(at: Sequence[Pair], weight: Schedule = 30000.0) -> list[Term]:
    """Match which examples are neighbours, in the last features (PKT). Compile with alpha=0.5.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair.

    Reference: Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, 2018,
    arXiv 1803.10837.
    """
    return [Term(losses.pkt, at=pair, weight=weight) for pair in _checked(at)]


def rkd(at: Sequence[Pair], distance_weight: Schedule = 25.0, angle_weight: Schedule = 50.0) -> list[Term]:
    """Match distances and angles between the examples of a batch (RKD). Compile with alpha=0.5.

    Sample weights do not apply. The time for the angles grows with the cube of the batch.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        distance_weight: weight of the distances, not negative.
        angle_weight: weight of the angles, not negative.

    Returns:
        A list of two terms per pair.

    Reference: Park et al., Relational Knowledge Distillation, 2019, arXiv 1904.05068.
    """
    terms = []
    for pair in _checked(at):
        terms.append(Term(losses.rkd_distance, at=pair, weight=distance_weight))
        terms.append(Term(losses.rkd_angle, at=pair, weight=angle_weight))
    return terms


def similarity_preserving(at: Sequence[Pair], weight: Schedule = 3000.0) -> list[Term]:
    """Match how similar the examples of a batch are (SP). Compile with alpha=0.5.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair.

    Reference: Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019, arXiv 1907.09682.
    """
    return [Term(losses.similarity_preserving, at=pair, weight=weight) for pair in _checked(at)]


def correlation(at: Sequence[Pair], weight: Schedule = 1.0) -> list[Term]:
    """Match the Gaussian similarities of the examples of a batch (CC). Compile with alpha=0.5.

    The paper gives no weight for this form; the 0.02 that is often quoted belongs to another one.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair.

    Reference: Peng et al., Correlation Congruence for Knowledge Distillation, 2019, arXiv 1904.01802.
    """
    return [Term(losses.correlation_congruence, at=pair, weight=weight) for pair in _checked(at)]


def crd(
    at: Sequence[Pair], dimension: int = 128, temperature: float = 0.07, memory: int = 4096, weight: Schedule = 0.8
) -> list[Term]:
    """Tell examples apart as the teacher does, with a memory bank (CRD). Compile with alpha=0.5.

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        dimension: width of the trained embeddings, at least 1.
        temperature: of the similarities, above 0, not of the logits.
        memory: how many of the teacher's embeddings are kept, at least one batch; 0 for the batch alone. Augmented data
            want less than an epoch: see `losses.ContrastiveMemory`.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair, each with embeddings and a bank of its own.

    Reference: Tian, Krishnan and Isola, Contrastive Representation Distillation, 2019, arXiv 1910.10699.
    """
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
    """Match stages that are fused from deep to shallow (ReviewKD). Compile with alpha=0.5.

    Args:
        at: pairs of layers that give maps, shallow first.
        teacher: the teacher, whose shapes the fusion takes on.
        weight: weight after the warm-up, not negative; 0.6 to 8 in the paper.
        width: channels inside the fusion, at least 1.
        warmup_steps: steps from 0 to `weight`; 1 for none. The paper takes 20 epochs.

    Returns:
        A list of one term over all stages, whose bridge is the fusion.

    Reference: Chen et al., Distilling Knowledge via Knowledge Review, 2021, arXiv 2104.09044.
    """
    stages = _checked(at)
    shapes = [layer_matching.layer_shapes(teacher, "teacher")[name] for _, name in stages]
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
