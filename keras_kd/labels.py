"""Which of the labels and weights given to `fit` are those of the output that a term reads."""

from collections.abc import Iterable

import keras
from keras import ops, tree

from keras_kd import distribution
from keras_kd._types import Tensor, Tensors
from keras_kd.taps import Reader
from keras_kd.terms import Term


def of_output(term: Term, reader: Reader, student: dict[str, Tensor], values: Tensors) -> Tensor | None:
    """Return the part of labels or weights that belongs to the output a term reads.

    Args:
        term: what reads the output.
        reader: of the student.
        student: what was read from the student, by name.
        values: labels or weights as `fit` was given them: one for all outputs, or one for each, in a dict or a list.

    Raises:
        ValueError: one for each output, and the term reads a layer.
    """
    if values is None or not tree.is_nested(values):
        return values
    outputs = reader.outputs(student)
    named = values if isinstance(values, dict) else dict(zip(outputs, values, strict=False))
    name = term.student_names[0]
    if name == "logits" and len(named) == 1:
        return next(iter(named.values()))
    if name not in outputs:
        raise ValueError(
            f"Term {term.name!r} reads the layer {name!r}, so it cannot tell which of the labels or weights given "
            f"for {sorted(named)} are meant. Give one `sample_weight` for all outputs, or read an output."
        )
    return named.get(name)


def for_term(term: Term, reader: Reader, student: dict[str, Tensor], y: Tensors) -> Tensor | None:
    """Return the labels for a term that asks for them, or raise an error that says that there are none."""
    if not term.needs_labels:
        return None
    labels = of_output(term, reader, student, y)
    if labels is None:
        raise ValueError(f"Term {term.name!r} learns from labels as well. Received no labels: pass them as y.")
    return labels


def guarded(loss: Tensor, terms: Iterable[Term], reader: Reader, student: dict[str, Tensor], y: Tensors) -> Tensor:
    """Stop a step before it learns from class ids that the student has no class for."""
    for term in terms:
        labels = for_term(term, reader, student, y)
        if labels is not None and not keras.backend.is_float_dtype(labels.dtype):
            classes = student[term.student_names[0]].shape[-1]
            message = f"Term {term.name!r} expected labels from 0 to {classes - 1}, the student's classes."
            loss = distribution.stop_unless(ops.logical_and(labels >= 0, labels < classes), message, loss)
    return loss
