"""Methods on how the examples of a batch are related, in pairs of layers."""

from collections.abc import Sequence

from keras_kd import losses
from keras_kd._types import Schedule
from keras_kd.methods._arguments import Pair, checked
from keras_kd.term import Term


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
    return [Term(losses.pkt, at=pair, weight=weight) for pair in checked(at)]


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
    for pair in checked(at):
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
    return [Term(losses.similarity_preserving, at=pair, weight=weight) for pair in checked(at)]


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
    return [Term(losses.correlation_congruence, at=pair, weight=weight) for pair in checked(at)]


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
        for number, pair in enumerate(checked(at), start=1)
    ]
