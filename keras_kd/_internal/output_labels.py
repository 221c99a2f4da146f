"""Select the labels and weights of the output that a term reads, of those given to `fit`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import keras
from keras import ops, tree

from keras_kd._internal.layer_reader import Reader
from keras_kd._keras import step_errors
from keras_kd._types import Tensor, Tensors

if TYPE_CHECKING:
    from keras_kd.term import Term


def of_output(term: Term, reader: Reader, student: dict[str, Tensor], values: Any) -> Tensor | None:
    """Return the part of labels or weights that belongs to the output a term reads.

    Args:
        term: what reads the output.
        reader: of the student.
        student: what was read from the student, by name.
        values: labels or weights as `fit` was given them: one for all outputs, or one for each, in a dict or a list.

    Returns:
        A tensor, or None where there is none for this output.

    Raises:
        ValueError: one for each output, and the term reads a layer or several outputs; another number of them than
            there are outputs; names of no output.
    """
    if values is None or not tree.is_nested(values):
        return values
    outputs = reader.outputs(student)
    outputs = outputs[1:] if outputs[0] == "logits" and len(outputs) > 1 else outputs  # the same output, by its name
    named = _by_output(term, outputs, values)
    name = outputs[0] if term.student_names == ("logits",) else term.student_names[0]
    if name not in outputs or len(term.student_names) > 1:
        raise ValueError(
            f"Term {term.name!r} reads {' and '.join(map(repr, term.student_names))}, so it cannot decide which of the "
            f"labels or weights given for {sorted(named)} are meant. Give one `sample_weight` for all outputs, or read "
            "one output."
        )
    if name not in named and not named.keys() <= set(outputs):
        raise ValueError(
            f"Expected labels or weights for outputs of the student, {outputs}. Received them for {sorted(named)}: "
            f"none for {name!r}, which the term {term.name!r} reads. Name them after the outputs."
        )
    return named.get(name)


def _by_output(term: Term, outputs: list[str], values: Tensors) -> dict[str, Tensor]:
    """Return labels or weights by the name of their output: a list has the order of the outputs."""
    leaves = tree.flatten_with_path(values)
    if len(leaves) == len(outputs) == 1:
        return {outputs[0]: leaves[0][1]}
    if isinstance(values, dict):
        return {"/".join(str(part) for part in path): value for path, value in leaves}
    if len(leaves) != len(outputs):
        raise ValueError(
            f"Expected labels or weights for each of the student's {len(outputs)} outputs, {outputs}. Received "
            f"{len(leaves)}, so that the term {term.name!r} cannot choose its own. Give them in a dict, by the "
            "names of the outputs."
        )
    return dict(zip(outputs, (value for _, value in leaves), strict=True))


def for_term(term: Term, reader: Reader, student: dict[str, Tensor], y: Tensors) -> Tensor | None:
    """Return the labels for a term that takes them, or raise an error if there are none."""
    if not term.needs_labels:
        return None
    labels = of_output(term, reader, student, y)
    if labels is None:
        raise ValueError(f"Term {term.name!r} learns from labels as well. Received no labels: pass them as y.")
    # TensorFlow does not compare True and False with numbers.
    return ops.cast(labels, "int32") if labels.dtype == "bool" else labels


def guarded(loss: Tensor, terms: Iterable[Term], reader: Reader, student: dict[str, Tensor], y: Tensors) -> Tensor:
    """Stop a step before it learns from class ids that the student has no class for."""
    for term in terms:
        labels = for_term(term, reader, student, y)
        if labels is not None and not keras.backend.is_float_dtype(labels.dtype):
            classes = student[term.student_names[0]].shape[-1]
            message = f"Term {term.name!r} expected labels from 0 to {classes - 1}, the student's classes."
            loss = step_errors.stop_unless(ops.logical_and(labels >= 0, labels < classes), message, loss)
    return loss
