"""Look at a few batches before `fit`."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd import targets
from keras_kd._types import Tensors
from keras_kd.preflight.cost import Batch, measure
from keras_kd.preflight.judge import guesses, judge, labels_fit
from keras_kd.preflight.report import Report, percent
from keras_kd.preflight.view import View
from keras_kd.teachers.base import taken_for_logits

#: `fit` looks at its teacher where it will take more steps than this, so that the look is cheap, and at so many rows.
_LONG, _LOOKED_AT = 1000, 256

#: So many rows tell probabilities from logits.
_FEW = 8


def check(distiller: Any, x: Any, y: Any = None, batch_size: int = 32, batches: int = 8) -> Report:
    """Look at a few batches before `fit`: is the teacher any good on them, and do the settings suit it?

    Nothing is trained or changed. The commonest mistakes cost hours and raise no error: a teacher that is fed other
    values than it was trained on, or whose classes stand in another order than the labels.

    Args:
        distiller: a compiled Distiller with its teacher.
        x: as for `fit`.
        y: as for `fit`.
        batch_size: of arrays.
        batches: how many to look at; of arrays, rows from everywhere.

    Returns:
        The report; it prints as a short table with advice.

    Raises:
        ValueError: the Distiller is not compiled, or has no teacher; no data.
        TypeError: the data are neither arrays nor a tf.data.Dataset.

    Example:
        >>> print(distiller.check(train))
    """
    if not distiller.compiled or distiller.teacher is None:
        raise ValueError("Expected a compiled Distiller with its teacher: compile it, and assign one, before `check`.")
    seen, count = _look(distiller, x, y, batch_size, max(1, batches))
    if not seen:
        raise ValueError("Expected data to look at. Received none.")
    report = Report(
        examples=sum(targets.count(batch[0]) for batch in seen),
        advice=taken_for_logits(distiller.teacher, seen[0][0], _softened(distiller)),
    )
    view = View(distiller)
    rows = view.read(seen)
    if rows is not None:
        judge(report, rows, view.temperature, view.per_label)
    if rows is None or labels_fit(rows):
        measure(report, distiller, seen, count)
    return report


def warn_of_a_guessing_teacher(distiller: Any, x: Any, y: Any, batch_size: int, epochs: int) -> None:
    """Warn, at the beginning of a long `fit` on arrays, where the teacher is no better than guessing.

    Of a dataset or generator nothing is taken, as that could change what comes after it.
    """
    names = tuple(name for term in distiller.terms for name in term.teacher_names)
    if (
        y is None
        or not _are_arrays((x, y))
        or -(-targets.count(x) // batch_size) * epochs < _LONG
        or not _begins(distiller)
        or not distiller.teacher.constant(names)
    ):
        return
    view = View(distiller)
    rows = view.read(_batches(x, y, targets.count(x), _LOOKED_AT, 1))
    if rows is None or not labels_fit(rows):
        return
    report = Report(examples=len(rows.teacher))
    judge(report, rows, view.temperature, view.per_label)
    if guesses(report):
        warnings.warn(
            f"The teacher is right on {percent(report.teacher_accuracy)} of {report.examples} of these examples, where "
            f"guessing would be on {percent(report.guessing)}. `print(distiller.check(x, y))` says more.",
            stacklevel=3,
        )


def warn_of_probabilities(distiller: Any, x: Any) -> None:
    """Warn, at the beginning of a `fit` on arrays, where a function returns probabilities that are taken for logits.

    Models with a graph are not asked: their last layer can be seen, and a look at a large one is not free.
    """
    if _are_arrays(x) and _begins(distiller):
        ((few, _, _),) = _batches(x, None, targets.count(x), _FEW, 1)
        for warning in taken_for_logits(distiller.teacher, few, _softened(distiller), graphs=False):
            warnings.warn(warning, stacklevel=3)


def _begins(distiller: Any) -> bool:
    """Return whether a Distiller is compiled and has not trained yet, on one device: elsewhere nothing is looked at.

    The strategy is that of the variables: `fit` may be called outside of its scope.
    """
    if not distiller.compiled or distiller.distribute_strategy.num_replicas_in_sync > 1:
        return False
    return int(keras.ops.convert_to_numpy(distiller.optimizer.iterations)) == 0


def _softened(distiller: Any) -> tuple[str, ...]:
    """Return what the softened terms read of the teacher."""
    terms = [term for term in distiller.terms if (distiller._softened(term) if term.soften is None else term.soften)]
    return tuple(name for term in terms for name in term.teacher_names)


def _are_arrays(data: Tensors) -> bool:
    """Return whether data are arrays of one length, at least 1; an optional input may be None."""
    leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
    if not all(isinstance(leaf, (np.ndarray, tf.Tensor)) and len(leaf.shape) > 0 for leaf in leaves):
        return False
    sizes = {len(leaf) for leaf in leaves}
    return len(sizes) == 1 and 0 not in sizes


def _look(distiller: Any, x: Any, y: Any, batch_size: int, batches: int) -> tuple[list[Batch], int | None]:
    """Return a few batches, and how many an epoch has, None where that is not known."""
    if isinstance(x, tf.data.Dataset):
        data = distiller.teacher.before_fit(x)
        count = int(data.cardinality())
        seen = [keras.utils.unpack_x_y_sample_weight(batch) for batch in data.take(batches)]
        return seen, count if count >= 0 else None
    if isinstance(x, (tuple, list)) and y is None and len(x) in (2, 3):
        raise TypeError("Expected arrays as `fit` takes them: check(x, y). Received one tuple of them.")
    if not all(hasattr(leaf, "shape") for leaf in tree.flatten((x, y)) if leaf is not None):
        raise TypeError(f"Expected arrays, or a batched tf.data.Dataset. Received: {type(x).__name__}")
    rows = targets.count(x)
    return _batches(x, y, rows, batch_size, batches), -(-rows // batch_size)


def _batches(x: Tensors, y: Tensors, rows: int, batch_size: int, batches: int) -> list[Batch]:
    """Return batches of rows from everywhere: data are often sorted by class."""
    wanted = min(rows, batch_size * batches)
    chosen = [number * rows // wanted for number in range(wanted)]
    parts = [chosen[start : start + batch_size] for start in range(0, wanted, batch_size)]
    return [(*targets.map_arrays(lambda leaf: _taken(leaf, part), (x, y)), None) for part in parts]  # noqa: B023


def _taken(leaf: Any, places: list[int]) -> Any:
    # An array is not made a tensor as a whole for a few of its rows. Numbers come in the precision that fit gives them.
    rows = tf.convert_to_tensor(leaf[places]) if isinstance(leaf, np.ndarray) else tf.gather(leaf, places)
    return tf.cast(rows, keras.config.floatx()) if rows.dtype.is_floating else rows
