"""Rows without labels beside rows with labels, in every batch of one `fit`."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_kd._internal import batches, soft_targets, unlabelled_rows
from keras_kd._types import Tensors
from keras_kd.augment.changes import folded, map_leaves
from keras_kd.augment.rows import extended
from keras_kd.term import Term


def with_unlabelled(
    labelled: Any, unlabelled: Any, batch_size: int = 64, share: float = 0.5, seed: int = 0
) -> tf.data.Dataset:
    """Put rows without labels beside rows with labels, in every batch.

    For terms with `sample_weight=None`, the objective of a batch of b rows, l of them with labels, is

        alpha * 1/b sum_all term_i  +  (1 - alpha) * 1/l sum_labelled loss_i

    Each part has its own denominator: rows with labels have the weight b / l, times their own where they have one, all
    others the weight 0 and a label of 0. That holds for each loss of Keras that is a mean, not for reduction="sum".
    The student alone, `student.fit`, learns from the rows with labels as if there were no others.

    Args:
        labelled: (x, y) or (x, y, sample_weight), arrays or dicts and tuples of them; or a tf.data.Dataset of single
            examples of that form, of a known number.
        unlabelled: x, arrays in the structure of the labelled x; or a tf.data.Dataset of single examples, x or
            (x, ...), of which the rest is left out.
        batch_size: rows in a batch, of both kinds together.
        share: of them, how many have no label, above 0 and below 1.
        seed: of the order of arrays, another one in each epoch; datasets are in their own.

    Returns:
        A dataset of batches (x, y, sample_weight), all of one size. An epoch ends when all rows of either kind were
        seen; the kind of which there is less begins anew.

    Raises:
        TypeError: `labelled` is no tuple and no dataset; x of sparse or ragged tensors.
        ValueError: a `share` that leaves no row of one kind; x of other names, types or shapes; a dataset of an unknown
            number of examples, or of batches. Of `Distiller.fit`: terms that would leave out the rows without labels.

    Warns:
        UserWarning: of `Distiller.fit`: `metrics` see no weights, `weighted_metrics` do.

    Example:
        >>> train = kd.augment.with_unlabelled((few_x, few_y), more_x, batch_size=128, share=0.75)
        >>> terms = [kd.Term(kd.losses.kl_divergence, sample_weight=None)]
        >>> distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    """
    ours, others = _labelled(labelled), _unlabelled(unlabelled)
    _check_same(_x(_spec(ours)), _x(_spec(others)))
    rest = _rows_of(batch_size, share)
    steps = max(-(-_count(ours) // (batch_size - rest)), -(-_count(others) // rest))
    parts = (_batches(ours, batch_size - rest, steps, seed), _batches(others, rest, steps, seed + 1))

    @tf.autograph.experimental.do_not_convert
    def joined(given: Any, more: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(given)
        return extended(x, y, sample_weight, _x(more))

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    both = tf.data.Dataset.zip(*parts).map(joined, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    both = both.prefetch(tf.data.AUTOTUNE).apply(tf.data.experimental.assert_cardinality(steps))
    return unlabelled_rows.mark(both.with_options(options))


def on_all_rows(terms: Iterable[Term]) -> list[Term]:
    """Let terms count rows without labels, too: set `sample_weight=None` of those that read no labels.

    Args:
        terms: as a function of `keras_kd.methods` returns them, before a Distiller has them.

    Returns:
        The same terms, in a list.

    Example:
        >>> terms = kd.augment.on_all_rows(kd.methods.kd())
    """
    found = list(terms)
    for each in found:
        each.sample_weight = each.sample_weight if each.needs_labels else None
    return found


def _labelled(data: Any) -> Any:
    if isinstance(data, tf.data.Dataset):
        given = data.element_spec
        is_pair = isinstance(given, tuple) and not isinstance(given, soft_targets.Joined) and len(given) in (2, 3)
    else:
        is_pair = isinstance(data, tuple) and not isinstance(data, soft_targets.Joined) and len(data) in (2, 3)
    if not is_pair:
        raise TypeError(
            "Expected rows with labels as a tuple (x, y) or (x, y, sample_weight), or as a tf.data.Dataset of such "
            f"examples. Received: {type(data).__name__}"
        )
    return data if isinstance(data, tf.data.Dataset) else _as_tensors(data)


def _unlabelled(data: Any) -> Any:
    return data if isinstance(data, tf.data.Dataset) else _as_tensors((data,))


def _as_tensors(data: tuple[Any, ...]) -> Any:
    """Return arrays as tensors, floats as Keras makes them."""
    arrays = batches.as_arrays(tuple(tuple(each) if isinstance(each, list) else each for each in data))
    with tf.device("CPU:0"):
        tensors = map_leaves(
            lambda leaf: tf.cast(leaf, keras.config.floatx()) if leaf.dtype.is_floating else leaf, arrays
        )
    sizes = {len(leaf) for leaf in tf.nest.flatten(tensors) if leaf is not None}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"Expected arrays of one length, at least 1. Received: lengths {sorted(sizes)}")
    return tensors


def _spec(data: Any) -> Any:
    """Return the specs of single examples."""
    if isinstance(data, tf.data.Dataset):
        return data.element_spec
    return soft_targets.map_arrays(lambda leaf: tf.TensorSpec(leaf.shape[1:], leaf.dtype), data)


def _x(element: Any) -> Tensors:
    return element[0] if isinstance(element, tuple) and not isinstance(element, soft_targets.Joined) else element


def _count(data: Any) -> int:
    if not isinstance(data, tf.data.Dataset):
        return soft_targets.count(data[0])
    found = int(data.cardinality())
    if found < 1:
        raise ValueError(
            "Expected a dataset of a known number of examples, at least 1. Received one of "
            f"{ {-1: 'infinitely many', -2: 'an unknown number'}.get(found, found) }: leave out repeat(), or give the "
            "number, dataset.apply(tf.data.experimental.assert_cardinality(n))."
        )
    return found


def _check_same(ours: Any, others: Any) -> None:
    """Refuse inputs of two kinds that do not make one batch."""
    for spec in tf.nest.flatten([ours, others]):
        if spec is not None and not isinstance(spec, tf.TensorSpec):
            raise TypeError(f"Expected dense inputs. Received: {spec}. Make sparse and ragged inputs dense.")
    try:
        tf.nest.assert_same_structure(ours, others)
        same = all(
            a == b or (a.dtype == b.dtype and a.shape == b.shape)
            for a, b in zip(*map(tf.nest.flatten, (ours, others)), strict=True)
        )
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(
            "Expected rows without labels that look like those with labels, with the same names, types and shapes. "
            f"Received: {others} beside {ours}."
        )


def _rows_of(batch_size: Any, share: Any) -> int:
    """Return how many rows of a batch have no label."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 2:
        raise ValueError(f"Expected `batch_size` to be a whole number from 2 on. Received: batch_size={batch_size!r}")
    rest = round(batch_size * share) if 0.0 < share < 1.0 else 0
    if not 0 < rest < batch_size:
        raise ValueError(
            "Expected `share` to be above 0 and below 1, and to leave at least one row of either kind in a batch. "
            f"Received: share={share!r}, batch_size={batch_size}"
        )
    return rest


def _batches(data: Any, batch_size: int, steps: int, seed: int) -> tf.data.Dataset:
    """Return `steps` batches: of arrays in an order that is drawn anew in each pass, of a dataset in its own.

    What is read ahead ends with the epoch: else it would decide how often a dataset that is shuffled has begun, and so
    which order comes next.
    """
    if isinstance(data, tf.data.Dataset):
        return data.repeat().take(steps * batch_size).batch(batch_size, drop_remainder=True)

    @tf.autograph.experimental.do_not_convert
    def chosen(places: Any) -> Any:
        return map_leaves(lambda leaf: tf.gather(leaf, places), data)

    places = _places(_count(data), steps * batch_size, seed).batch(batch_size, drop_remainder=True)
    return places.map(chosen, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _places(count: int, wanted: int, seed: int) -> tf.data.Dataset:
    """Return `wanted` places of rows, all of them before one comes again, in orders that follow from seed and epoch."""
    epochs = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True).take(1)

    def of_pass(number: Any, seed: Any) -> tf.data.Dataset:
        rows = tf.range(count, dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(rows, folded(seed, number))
        return tf.data.Dataset.from_tensor_slices(order)

    @tf.autograph.experimental.do_not_convert
    def of_epoch(seed: Any) -> tf.data.Dataset:
        passes = tf.data.Dataset.range(-(-wanted // count))
        return passes.flat_map(lambda number: of_pass(number, seed)).take(wanted)

    return epochs.flat_map(of_epoch)
