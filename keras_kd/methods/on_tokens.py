"""Methods on the tokens of language models. `on_policy` has those for texts that the student writes."""

from collections.abc import Sequence

from keras_kd import losses
from keras_kd._types import Schedule
from keras_kd.methods._arguments import Pair, checked
from keras_kd.methods.on_logits import kd
from keras_kd.term import Term


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
    hidden = [Term(losses.cosine, at=pair, weight=cosine_weight, bridge="auto") for pair in checked(at)]
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
    return [Term(losses.token_relations, at=pair, weight=weight, heads=heads) for pair in checked(at)]
