"""MixUp, and what it shares with CutMix: partners, shares, and mixed labels."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_kd._internal.batches import Batch
from keras_kd._types import Tensor, Tensors
from keras_kd.augment import changes
from keras_kd.augment.changes import Change, aligned, folded, like, map_leaves, wide

_LABELS = ("mix", "drop")


class Draw(NamedTuple):
    """What is drawn for a batch.

    Attributes:
        partner: of each row, another row, int32, (batch,).
        share: of the row itself, 0 to 1, float32, (batch,).
        own: whether what cannot be averaged is taken from the row itself, (batch,).
    """

    partner: Any
    share: Any
    own: Any


class MixUp(Change):
    """Average each row of a batch with another one, for tables and images.

    x = m a + (1 - m) b, with m from Beta(alpha, alpha), one for each row, and b another row of the batch. What is no
    quantity is not averaged but taken whole from a, with the probability m, or from b: integers, booleans and strings,
    and what `codes` names, all of one row, so that columns that make one choice together stay together. Integers of 8
    bits with three axes or more are images: they are averaged, and rounded. Where either row has NaN, the mixture has.

    A teacher predicts for mixtures as for rows, so that the student learns its function where there are no rows
    ("function matching"). For images and labels without a teacher there is `keras.layers.MixUp`, which draws by a state
    of its own.

    Args:
        alpha: of the Beta distribution, above 0; 1 draws m evenly, small values draw it near 0 or 1.
        codes: columns that are no quantities: their numbers, of the last axis, where x is one array; where it is a
            dict, names of entries.
        labels: "mix": m y_a + (1 - m) y_b, for a loss on probabilities, such as `CategoricalCrossentropy`, or on
            values; with weights, each label counts by its row's weight, and m w_a + (1 - m) w_b is the weight. "drop":
            the result is x alone, and the teacher's term is all that is learned from: compile with `alpha=1.0`.
            `Beside` reads no labels.

    Raises:
        ValueError: `alpha` or `labels` out of range; of `apply`: class ids with labels="mix"; weights that are not one
            for each row; names of `codes` that x does not have.

    Example:
        >>> train = kd.augment.apply(batches, kd.augment.MixUp(codes=[0, 7], labels="drop"), seed=0)

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2017, arXiv 1710.09412. Under a teacher: Beyer
    et al., 2021, arXiv 2106.05237.
    """

    mixes_rows = True

    def __init__(self, alpha: float = 1.0, *, codes: Iterable[int | str] = (), labels: str = "mix") -> None:
        self.alpha = changes.positive("alpha", alpha)
        self.codes = tuple(codes)
        self.labels = check_labels(labels)

    def __call__(self, x: Tensors, seed: Tensor) -> Tensors:
        """Return the mixtures."""
        return self._mixed(x, drawn(x, self.alpha, seed))

    def with_labels(self, x: Tensors, y: Tensors, sample_weight: Tensors, seed: Tensor) -> Batch:
        """Return the mixtures, with mixed labels or none."""
        draw = drawn(x, self.alpha, seed)
        return (self._mixed(x, draw), *mixed_labels(y, sample_weight, draw, self.labels))

    def _mixed(self, x: Any, draw: Draw) -> Tensors:
        names = [each for each in self.codes if isinstance(each, str)]
        columns = [each for each in self.codes if not isinstance(each, str)]
        if not isinstance(x, dict):
            _check_codes(names, [])
            return map_leaves(lambda leaf: _mixed_leaf(leaf, draw, columns), x)
        _check_codes(columns, [])
        _check_codes(names, list(x))
        return {name: _mixed_entry(each, draw, name in names) for name, each in x.items()}


def _check_codes(given: list[Any], known: list[str]) -> None:
    unknown = [each for each in given if each not in known]
    if unknown:
        raise ValueError(
            "Expected `codes` to be numbers of columns where x is one array, and names of its entries where it is a "
            f"dict, of {known}. Received: {unknown}"
        )


def _mixed_entry(entry: Tensors, draw: Draw, whole: bool) -> Tensors:
    return map_leaves(lambda leaf: _mixed_leaf(leaf, draw, [], whole), entry)


def _mixed_leaf(leaf: Any, draw: Draw, columns: list[Any], whole: bool = False) -> Any:
    other = tf.gather(leaf, draw.partner)
    taken = tf.where(aligned(draw.own, leaf), leaf, other)
    if whole or not is_quantity(leaf):
        return taken
    averaged = average(leaf, other, aligned(draw.share, leaf))
    return tf.where(column_mask(leaf, columns), taken, averaged) if columns else averaged


def is_quantity(leaf: Any) -> bool:
    """Return whether an average of a leaf's numbers means something: of floats, and of images of whole numbers."""
    return leaf.dtype.is_floating or (leaf.dtype == tf.uint8 and len(leaf.shape) > 2)


def column_mask(leaf: Any, columns: list[int]) -> Any:
    """Return True for some columns of the last axis.

    Raises:
        ValueError: there are fewer columns.
    """
    size = leaf.shape[-1] if len(leaf.shape) > 1 else 1
    if not all(isinstance(each, int) and 0 <= each < size for each in columns):
        raise ValueError(f"Expected `codes` to be columns from 0 to {size - 1}. Received: codes={columns!r}")
    return tf.constant([number in columns for number in range(size)])


def average(first: Any, second: Any, share: Any) -> Any:
    """Return share * first + (1 - share) * second in the type of the first, never outside of the two."""
    a, b = wide(first), wide(second)
    share = tf.cast(share, a.dtype)
    mixed = share * a + (1.0 - share) * b
    return like(tf.maximum(tf.minimum(mixed, tf.maximum(a, b)), tf.minimum(a, b)), first)


def drawn(x: Tensors, alpha: float, seed: Tensor) -> Draw:
    """Return the partner and the share of each row."""
    rows = changes.count(x)
    share = shares(rows, alpha, folded(seed, 0))
    own = tf.random.stateless_uniform([rows], folded(seed, 1)) < share
    return Draw(partners(rows, folded(seed, 2)), share, own)


def partners(rows: Any, seed: Tensor) -> Any:
    """Return another row for each row, each the partner of one, in a circle that is drawn; a row alone is its own."""
    order = tf.argsort(tf.random.stateless_uniform([rows], seed), stable=True)
    return tf.scatter_nd(order[:, None], tf.roll(order, -1, 0), [rows])


def shares(rows: Any, alpha: float, seed: Tensor) -> Any:
    """Return draws from Beta(alpha, alpha), also where alpha is tiny.

    a / (a + b) of two draws from Gamma(alpha), which underflow to 0: their logarithms do not, where
    Gamma(alpha) = Gamma(alpha + 1) * U**(1 / alpha) (Marsaglia and Tsang, 2000).
    """
    if alpha == 1.0:
        return tf.random.stateless_uniform([rows], seed)
    gammas = tf.random.stateless_gamma([2, rows], folded(seed, 0), alpha + 1.0)
    uniform = 1.0 - tf.random.stateless_uniform([2, rows], folded(seed, 1))  # above 0
    first, second = tf.unstack(tf.math.log(gammas) + tf.math.log(uniform) / alpha)
    return tf.sigmoid(first - second)


def check_labels(labels: str) -> str:
    """Return what happens to labels, or raise an error."""
    if labels not in _LABELS:
        raise ValueError(f"Expected `labels` to be one of {_LABELS}. Received: labels={labels!r}")
    return labels


def mixed_labels(y: Tensors, sample_weight: Any, draw: Draw, labels: str) -> tuple[Tensors, Tensors]:
    """Return labels and weights of mixtures, or None for both."""
    if labels == "drop" or y is None:
        return None, None
    if sample_weight is None:
        return map_leaves(lambda leaf: _mixed_values(leaf, draw, draw.share), y), None
    weight = _checked(sample_weight)
    ours = draw.share * tf.reshape(weight, [-1])
    theirs = (1.0 - draw.share) * tf.gather(tf.reshape(weight, [-1]), draw.partner)
    part = tf.math.divide_no_nan(ours, ours + theirs)
    mixed = map_leaves(lambda leaf: _mixed_values(leaf, draw, part), y)
    return mixed, tf.reshape(ours + theirs, tf.shape(weight))


def _mixed_values(leaf: Any, draw: Draw, share: Any) -> Any:
    if not leaf.dtype.is_floating:
        if len(leaf.shape) < 2 or leaf.shape[-1] == 1:
            raise ValueError(
                "Expected labels that can be averaged, one-hot labels or values of type float: "
                f'keras.utils.to_categorical(y), or y.astype("float32") of values and of labels of 0 and 1. Received: '
                f'{leaf.dtype.name} of the shape {tuple(leaf.shape)}. To learn from the teacher alone: labels="drop".'
            )
        leaf = tf.cast(leaf, tf.float32)
    return average(leaf, tf.gather(leaf, draw.partner), aligned(share, leaf))


def _checked(sample_weight: Any) -> Any:
    if tf.nest.is_nested(sample_weight) or tuple(sample_weight.shape[1:]) not in ((), (1,)):
        raise ValueError(
            "Expected one weight for each row, (batch,), where labels are mixed. Received: "
            f"{tf.nest.map_structure(lambda leaf: tuple(leaf.shape), sample_weight)}"
        )
    return tf.cast(sample_weight, tf.float32)
