"""Datasets in which some rows have no label: a weight of 0 leaves these out of the labels' part, and of nothing else.

The labels' part is sum_i w_i loss_i / rows. Where the weights of the rows with labels are scaled by rows / labelled, it
is the mean over them; a term with `sample_weight=None` is the mean over all rows. One that counts by the weights would
leave out what was to be learned from, without a sign of it: which datasets have such rows is therefore noted, and
`Distiller.fit` compares its terms with it.
"""

import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_kd._keras import compiled, datasets

_MARKED: "weakref.WeakSet[tf.data.Dataset]" = weakref.WeakSet()


def mark(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Note that some rows of a dataset have a label that means nothing, and the weight 0; return the dataset."""
    _MARKED.add(dataset)
    return dataset


def are_in(data: Any) -> bool:
    """Return whether data are a dataset with such rows, whatever was done to it since it was marked."""
    return isinstance(data, tf.data.Dataset) and any(each in _MARKED for each in datasets.sources(data))


def check(distiller: Any, data: Any) -> None:
    """Refuse terms that do not count what they should of data with rows without labels.

    Args:
        distiller: compiled.
        data: x as `fit` takes it.

    Raises:
        ValueError: a term that reads no labels and counts the rows with labels alone, or one that reads them and counts
            all rows; a teacher that reads them.

    Warns:
        UserWarning: metrics that do not see the weights.
    """
    if not are_in(data):
        return
    _check_terms(distiller.terms)
    if distiller.teacher is not None and distiller.teacher.reads_labels():
        raise ValueError(
            f"Expected a teacher that reads no labels, as some rows have none. Received: {distiller.teacher.name!r}, "
            "weighted by agreement with the labels. Give its weights as numbers."
        )
    if compiled.has_unweighted_metrics(distiller):
        warnings.warn(
            "Some rows of the data have no label, and the `metrics` given to `compile` count them as if they had: of "
            "the training's values, read none of these. Give `weighted_metrics`, which leave them out.",
            stacklevel=3,
        )


def _check_terms(terms: Iterable[Any]) -> None:
    for term in terms:
        given = f"Received: the term {term.name!r} with sample_weight={term.sample_weight!r}."
        if term.needs_labels and term.sample_weight is None:
            raise ValueError(
                f'Expected sample_weight="auto" of a term that reads labels, as some rows have none. {given}'
            )
        if not term.needs_labels and term.sample_weight is not None:
            raise ValueError(
                "Expected terms that count the rows without labels, too: terms=[kd.Term(loss, sample_weight=None)], or "
                f"kd.augment.on_all_rows(terms) of those that a method returns. {given}"
            )
