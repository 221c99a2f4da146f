"""Select the labels and weights of the output that a term reads, of those given to `fit`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
from keras import ops, tree

from keras_kd._internal import row_choice
from keras_kd._internal.layer_reader import Reader
from keras_kd._keras import compiled, masks, step_errors
from keras_kd._types import Tensor, Tensors
from keras_kd.transforms import FirstClasses

if TYPE_CHECKING:
    from keras_kd.term import Term


class Counted(NamedTuple):
    """What a term counts of a batch, see `Term`.

    Attributes:
        sample_weight: or None.
        counted: False for what the labels, or the mask of another output, leave out; or None.
        counting: how the values become one number.
        rows: where examples are the term's, or None; the others add 0 to a mean over all.
    """

    sample_weight: Tensor | None
    counted: Tensor | None
    counting: compiled.Counting
    rows: Tensor | None = None


def counted(
    term: Term,
    reader: Reader,
    student: dict[str, Tensor],
    y: Tensors,
    sample_weight: Tensors,
    countings: dict[tuple[Any, ...], compiled.Counting],
    columns: dict[str, Any],
) -> Counted:
    """Return what a term counts of a batch.

    Args:
        term: what counts.
        reader: of the student.
        student: what was read from the student, by name.
        y: labels as `fit` was given them, or None.
        sample_weight: as `fit` was given them, or None.
        countings: how the compiled losses count, by the path of their output.
        columns: that the examples carry, by name.

    Raises:
        ValueError: as `of_output`; `sample_weight` of the term names no output; a column that the term reads is
            missing.
    """
    rows = row_choice.chosen(term.rows, columns, term.name)
    return _all_counted(term, reader, student, y, sample_weight, countings)._replace(rows=rows)


def _all_counted(
    term: Term, reader: Reader, student: dict[str, Tensor], y: Tensors, sample_weight: Tensors, countings: Any
) -> Counted:
    """Return what a term counts of all examples."""
    outputs = _outputs(reader, student)
    chosen = term.sample_weight
    if chosen not in (None, "auto", *outputs):
        raise ValueError(
            f"Expected `sample_weight` of the term {term.name!r} to be 'auto', None or one of the student's outputs, "
            f"{outputs}. Received: sample_weight={chosen!r}"
        )
    own = _own_output(term, outputs)
    name = own if chosen in (None, "auto") else chosen
    counting = _by_name(countings, outputs).get(name or (outputs[0] if len(outputs) == 1 else ""), compiled.Counting())
    if chosen is None:
        return Counted(None, None, counting)
    weight = _of_output(term, outputs, name, sample_weight)
    if name is None:  # layers have no labels of their own
        return Counted(weight, None, counting)
    output = student["logits" if len(outputs) == 1 else name]
    labels = _of_output(term, outputs, name, y) if counting.ignored is not None else None
    mask = masks.of(output) if name != own else None  # that of what is read counts by itself
    return Counted(weight, masks.merged(counting.mask(labels, output), mask), counting)


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
    outputs = _outputs(reader, student)
    return _of_output(term, outputs, _own_output(term, outputs), values)


def _outputs(reader: Reader, student: dict[str, Tensor]) -> list[str]:
    """Return the names of the outputs, in their order."""
    outputs = reader.outputs(student)
    return outputs[1:] if outputs[0] == "logits" and len(outputs) > 1 else outputs  # the same output, by its name


def _own_output(term: Term, outputs: list[str]) -> str | None:
    """Return the one output that a term reads, or None."""
    if len(term.student_names) > 1:
        return None
    [name] = ("logits" in term.student_names and outputs[:1]) or term.student_names
    return name if name in outputs else None


def _by_name(countings: dict[tuple[Any, ...], Any], outputs: list[str]) -> dict[str, Any]:
    """Return what belongs to an output by its name; the path is empty, its place in a list, or its keys."""
    named = {}
    for path, counting in countings.items():
        in_list = len(path) == 1 and isinstance(path[0], int)
        named[outputs[path[0] if in_list else 0] if in_list or not path else "/".join(map(str, path))] = counting
    return named


def _of_output(term: Term, outputs: list[str], name: str | None, values: Any) -> Tensor | None:
    if values is None or not tree.is_nested(values):
        return values
    named = _by_output(term, outputs, values)
    if name is None:
        raise ValueError(
            f"Term {term.name!r} reads {' and '.join(map(repr, term.student_names))}, so it cannot decide which of the "
            f"labels or weights given for {sorted(named)} are meant. Name an output, as in Term(..., "
            f"sample_weight={sorted(named)[0]!r}), or None for no weights; or read one output."
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


def for_term(
    term: Term, reader: Reader, student: dict[str, Tensor], y: Tensors, counts: Tensor | None = None
) -> Tensor | None:
    """Return the labels for a term that takes them, 0 where they do not count, or raise an error if there are none."""
    if not term.needs_labels:
        return None
    labels = of_output(term, reader, student, y)
    if labels is None:
        raise ValueError(f"Term {term.name!r} learns from labels as well. Received no labels: pass them as y.")
    if labels.dtype == "bool":
        return ops.cast(labels, "int32")  # TensorFlow does not compare True and False with numbers
    if counts is None or len(counts.shape) < len(labels.shape) - 1:
        return labels
    return ops.where(masks.aligned(counts, labels), labels, ops.zeros_like(labels))


def guarded(loss: Tensor, terms: Iterable[Term], labels: Iterable[Tensor | None], student: dict[str, Tensor]) -> Tensor:
    """Stop a step before it learns from class ids that the student has no class for."""
    for term, ids in zip(terms, labels, strict=True):
        if ids is not None and not keras.backend.is_float_dtype(ids.dtype):
            shape = tuple(student[term.student_names[0]].shape)
            width = shape[-1] if term.bridge is None else term.bridge.compute_output_shape(shape)[-1]
            classes = compared_classes(term, width)
            message = f"Term {term.name!r} expected labels from 0 to {classes - 1}, the student's classes."
            loss = step_errors.stop_unless(ops.logical_and(ids >= 0, ids < classes), message, loss)
    return loss


def compared_classes(term: Term, classes: int) -> int:
    """Return how many of so many classes a term compares, which its labels have to be among."""
    transform = term.transform
    return min(classes, transform.classes) if isinstance(transform, FirstClasses) else classes
