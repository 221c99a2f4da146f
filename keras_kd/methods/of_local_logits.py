"""A method for the logits of parts of an image."""

from keras_kd import losses
from keras_kd._types import Schedule
from keras_kd.methods._arguments import Pair
from keras_kd.term import Term


def sdd(
    complementary_weight: Schedule = 2.0,
    temperature: Schedule | None = 4.0,
    weight: Schedule = 1.0,
    at: Pair = ("local_logits", "local_logits"),
) -> list[Term]:
    """Learn the teacher's logits in each part of the image, most where they differ from the whole image's (SDD).

    Compile with alpha=0.9, as in the authors' code. Student and teacher are those that `methods.with_local_logits`
    returns for both classifiers. Parts are divided by the teacher's own classes, so that no labels are needed;
    `losses.scale_decoupled_kl` has what the authors' code does. The whole image is one of the parts.

    Args:
        complementary_weight: of parts where the teacher's class is not the whole image's, not negative; beta in the
            paper.
        temperature: T, above 0; None takes the compiled one.
        weight: weight of the term, not negative.
        at: the layers with the logits of all parts.

    Returns:
        A list of one term.

    Example:
        >>> student, teacher = (kd.methods.with_local_logits(model) for model in (small, large))
        >>> distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.sdd())
        >>> distiller.compile("adam", loss, alpha=0.9)
        >>> distiller.fit(x, y)
        >>> small.save("student.keras")  # its layers are those that were trained

    Reference: Wei, Luo and Luo, Scale Decoupled Distillation, 2024, arXiv 2403.13512.
    """
    term = Term(
        losses.scale_decoupled_kl,
        at=at,
        weight=weight,
        temperature=temperature,
        soften=True,
        name="sdd",
        complementary_weight=complementary_weight,
    )
    return [term]
