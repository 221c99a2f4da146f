"""Look at a few batches before `fit`."""

import functools
import itertools
import warnings
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches, heads, soft_targets
from keras_kd._internal.batches import Batch
from keras_kd._internal.number_formats import percent
from keras_kd._types import Tensor, Tensors
from keras_kd.objective import Objective
from keras_kd.preflight.batch_outputs import View
from keras_kd.preflight.check_report import Report
from keras_kd.preflight.epoch_cost import measure
from keras_kd.preflight.likely_losses import advise
from keras_kd.preflight.teacher_quality import guesses, judge, labels_fit
from keras_kd.teachers.base import taken_for_logits

#: `fit` looks at its teacher where it will take more steps than this, so that the look is cheap, and at so many rows.
_LONG, _LOOKED_AT = 1000, 256

#: Rows that are enough to distinguish probabilities from logits.
_FEW = 32


def check(
    distiller: Any,
    x: Any,
    y: Any = None,
    batch_size: int = 32,
    batches: int = 8,
    sample_weight: Any = None,
    epochs: int | None = None,
) -> Report:
    """Look at a few batches before `fit`: is the teacher any good on them, and do the settings suit it?

    Nothing is trained or changed. The commonest mistakes cost hours and raise no error: a teacher that is fed other
    values than it was trained on, or whose classes stand in another order than the labels; a mask that is dropped on
    the way, a term that moves no weight, a run too short for its temperature.

    Args:
        distiller: a compiled Distiller with its teacher.
        x: as for `fit`.
        y: as for `fit`.
        batch_size: of arrays.
        batches: how many to look at; of arrays, rows from everywhere.
        sample_weight: as for `fit`. Examples and positions of weight 0, and masked ones, do not count.
        epochs: as for `fit`; None leaves out whether the run is long enough for its temperature.

    Returns:
        The report; it prints as a short table with advice.

    Raises:
        ValueError: the Distiller is not compiled, or has no teacher; no data.
        TypeError: the data are neither arrays, DataFrames nor a tf.data.Dataset.

    Example:
        >>> print(distiller.check(train))
    """
    if not distiller.compiled or distiller.teacher is None:
        raise ValueError("Expected a compiled Distiller with its teacher: compile it, and assign one, before `check`.")
    seen, count = _look(distiller, x, y, sample_weight, batch_size, max(1, batches))
    seen = [distiller._preparation.of_batch(*batch) for batch in seen]
    if not seen:
        raise ValueError("Expected data to look at. Received none.")
    report = Report(
        examples=sum(soft_targets.count(batch[0]) for batch in seen),
        advice=_doubts(distiller, seen[0][0]),
    )
    view = View(distiller)
    rows = view.read(seen)
    if rows is not None:
        judge(report, rows, view.temperature, view.per_label)
    if rows is None or labels_fit(rows):
        advise(report, distiller, seen, None if epochs is None or count is None else epochs * count)
        measure(report, distiller, seen, count)
    return report


def warn_of_a_guessing_teacher(
    distiller: Any, x: Any, y: Any, sample_weight: Any, batch_size: int, epochs: int
) -> None:
    """Warn, at the beginning of a long `fit` on arrays, where the teacher is no better than guessing.

    Of a dataset or generator nothing is taken, as that could change what comes after it.
    """
    data = (x, y) if sample_weight is None else (x, y, sample_weight)
    rows_of_data = soft_targets.count(x) if _are_rows(data) else 0
    names = tuple(name for term in distiller.terms for name in term.teacher_names)
    if (
        y is None
        or -(-rows_of_data // batch_size) * epochs < _LONG
        or not _begins(distiller)
        or not distiller.teacher.cacheable(names)
        or distiller._untracked.fused is not None  # the logits of all these examples would not fit
    ):
        return
    view = View(distiller)
    few = _sample((x, y, sample_weight), _LOOKED_AT)
    rows = view.read([distiller._preparation.of_batch(*batch) for batch in few])
    if rows is None or not labels_fit(rows):
        return
    report = Report(examples=len(rows.teacher))
    judge(report, rows, view.temperature, view.per_label)
    if guesses(report):
        warnings.warn(
            f"The teacher is right on {percent(report.teacher_accuracy)} of {report.rows} of these examples, where "
            f"guessing would be on {percent(report.guessing)}. See `print(distiller.check(x, y))`.",
            stacklevel=3,
        )


def warn_of_probabilities(distiller: Any, x: Any) -> bool:
    """Warn, at the beginning of a `fit` on arrays, where probabilities are taken for logits.

    Returns:
        Whether x are arrays. Of other data, `look_at_first_batch` sees what the first step is given.
    """
    if not _are_rows(x) or distiller._preparation.is_needed(x):
        return False
    if _begins(distiller):
        ((few, _, _),) = _sample((batches.as_arrays(x), None, None), _FEW)
        for warning in _doubts(distiller, few):
            warnings.warn(warning, stacklevel=3)
    return True


def look_at_first_batch(distiller: Any, iterator: Any) -> Any:
    """Warn, before the first step on a dataset or generator, where probabilities are taken for logits.

    The batches of the first step are taken from the iterator and given back: no data are read twice.

    Args:
        distiller: about to take its first step.
        iterator: what the step is about to read.

    Returns:
        The iterator that the step is to read instead, of the same batches and of the same specification.
    """
    if not isinstance(iterator, tf.data.Iterator) or not _begins(distiller) or not _may_doubt(distiller):
        return iterator
    batches = list(itertools.islice(iterator, distiller.steps_per_execution))
    if not batches:
        return iterator
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batches[0])
    plain = all(isinstance(leaf, tf.Tensor) and leaf.shape.rank for leaf in tree.flatten(x))  # others have no rows
    few = tree.map_structure(lambda leaf: leaf[:_FEW], x) if plain else x
    for warning in _doubts(distiller, few):
        warnings.warn(warning, stacklevel=2)
    return iter(_again(batches, iterator.element_spec))


def _again(batches: list[Any], spec: Any) -> tf.data.Dataset:
    """Return a dataset of batches whose specification is that of where they come from: a step is not traced anew."""

    def as_before(*batch: Any) -> Any:  # tf.data passes the parts of a plain tuple one by one
        return tf.nest.map_structure(_with_unknown_sizes, batch if type(spec) is tuple else batch[0], spec)

    datasets = [tf.data.Dataset.from_tensors(batch).map(as_before) for batch in batches]
    return functools.reduce(lambda some, more: some.concatenate(more), datasets)


def _with_unknown_sizes(value: Any, spec: Any) -> Any:
    """Return a tensor whose size is only known as far as `spec` knows it; of other values nothing is changed."""
    if not isinstance(value, tf.Tensor) or not isinstance(spec, tf.TensorSpec):
        return value
    return tf.compat.v1.placeholder_with_default(value, spec.shape)


def _doubts(distiller: Any, x: Tensors) -> list[str]:
    """Return a warning for each model whose outputs look like probabilities and are taken for logits."""
    ours, theirs = _softened(distiller)
    found = taken_for_logits(distiller.teacher, x, theirs)
    if distiller.student.built and distiller._untracked.reader.in_doubt(ours):
        _, outputs = distiller._read_student(x, training=False)
        kind = next(filter(None, (heads.resembles(outputs[name]) for name in ours if name in outputs)), None)
        if kind is not None:
            found.append(
                "The outputs of the student look like probabilities, and are taken for logits: all are from 0 to 1. "
                f'Give their head, Distiller(student_head="{kind}"); student_head="logits" where they are logits.'
            )
    return found


def _may_doubt(distiller: Any) -> bool:
    if distiller.teacher is None:
        return False
    ours, theirs = _softened(distiller)
    return distiller._untracked.reader.in_doubt(ours) or bool(distiller.teacher.unrecognised(theirs))


def _begins(distiller: Any) -> bool:
    """Return whether a Distiller is compiled and has not trained yet, on one device: elsewhere nothing is looked at.

    The strategy is that of the variables: `fit` may be called outside of its scope.
    """
    if not distiller.compiled or distiller.distribute_strategy.num_replicas_in_sync > 1:
        return False
    return int(keras.ops.convert_to_numpy(distiller.optimizer.iterations)) == 0


def _softened(distiller: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the softened terms read of the student, and of the teacher."""
    terms = [
        term for term in distiller.terms if (Objective(distiller).softens(term) if term.soften is None else term.soften)
    ]
    return (
        tuple(name for term in terms for name in term.student_names),
        tuple(name for term in terms for name in term.teacher_names),
    )


def _are_rows(data: Tensors) -> bool:
    """Return whether data are arrays of one length, at least 1."""
    if not batches.are_arrays(data):
        return False
    shapes = [leaf.shape for leaf in tree.flatten(data) if leaf is not None]
    return all(map(len, shapes)) and len({shape[0] for shape in shapes}) == 1 and shapes[0][0] > 0


def _look(
    distiller: Any, x: Any, y: Any, sample_weight: Any, batch_size: int, number: int
) -> tuple[list[Batch], int | None]:
    """Return a few batches, and how many an epoch has, None where that is not known."""
    if isinstance(x, tf.data.Dataset):
        data = distiller.teacher.before_fit(x)
        return list(batches.of(data.take(number), batch_size, labels=False)), batches.count(data, batch_size)
    if isinstance(x, (tuple, list)) and y is None and len(x) in (2, 3):
        raise TypeError("Expected arrays as `fit` takes them: check(x, y). Received one tuple of them.")
    data = batches.as_arrays((x, y, sample_weight))
    leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise TypeError(f"Expected arrays, or a batched tf.data.Dataset. Received: {type(x).__name__}")
    return _sample(data, batch_size, number), batches.count(data, batch_size)


def _sample(data: Batch, batch_size: int, number: int = 1) -> list[Batch]:
    """Return batches of rows from everywhere, as tensors; numbers come in the precision that `fit` gives them."""
    return [soft_targets.map_arrays(_as_tensor, each) for each in batches.from_everywhere(data, batch_size, number)]


def _as_tensor(rows: Any) -> Tensor:
    rows = tf.convert_to_tensor(rows)
    return tf.cast(rows, keras.config.floatx()) if rows.dtype.is_floating else rows
