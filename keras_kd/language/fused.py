"""Losses of logits that are never all there: computed from hidden states, some rows at a time, with their gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_kd._keras import gradients
from keras_kd._types import Tensor
from keras_kd.language.vocabulary_heads import Product

#: Logits in a block, of which an objective holds several at a time: 16 MiB of float32.
_BLOCK = 2**22

#: Rows in a block, at most: the last one is filled up.
_ROWS = 512

#: Weights in a part of a kernel's gradient, which is added up in place.
_TILE = 2**20

#: Returns the values of each loss, (rows,), for logits (rows, classes) and the rows of what they are compared with.
Losses = Callable[..., Sequence[Tensor]]


def fused(
    hidden: Tensor,
    product: Product,
    losses: Losses,
    others: Sequence[Tensor],
    shares: Tensor,
    weights: Tensor,
    size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a weighted sum of losses over all rows, and the sum of each.

    The gradient is found in the same pass. It reaches `hidden` and the product's weights through the weighted sum; the
    sums of the losses have none.

    Args:
        hidden: hidden states, (rows, width).
        product: turns these into logits.
        losses: see `Losses`; of any number of losses.
        others: further arguments of `losses`, each (rows, ...).
        shares: by which the value of each row and loss is multiplied, (rows, losses), float32; a row whose shares are
            all 0 may hold anything.
        weights: of the losses, (losses,), float32.
        size: rows in a block; None as many as fit.
    """
    size = size or min(max(1, _BLOCK // product.classes), _ROWS)
    counts = tf.reduce_any(tf.not_equal(shares, 0.0), axis=-1, keepdims=True)
    hidden = tf.where(counts, hidden, tf.zeros_like(hidden))  # a share of 0 would not stop a NaN
    rows = [_padded(each, size) for each in (hidden, shares, *others)]
    recorded = gradients.are_recorded()

    @tf.custom_gradient
    def run(hidden: Tensor, kernel: Tensor, *bias: Tensor) -> Any:
        ours = product._replace(kernel=kernel, bias=bias[0] if bias else None)
        blocks = _Blocks(ours, losses, weights, size)
        sums, *slopes = blocks.slopes([hidden, *rows[1:]]) if recorded else [blocks.sums([hidden, *rows[1:]])]

        def gradient(total: Tensor, _: Tensor) -> list[Tensor]:
            found = slopes or blocks.slopes([hidden, *rows[1:]])[1:]
            return [_times(total, each) for each in found]

        return (tf.reduce_sum(weights * sums), sums), gradient

    given = () if product.bias is None else (product.bias,)
    total, sums = run(rows[0], product.kernel, *given)
    return total, tf.stop_gradient(sums)


class _Blocks:
    """Go through all rows, `size` of them at a time."""

    def __init__(self, product: Product, losses: Losses, weights: Tensor, size: int) -> None:
        self.product = product
        self.losses = losses
        self.weights = weights
        self.size = size

    def sums(self, rows: list[Tensor]) -> Tensor:
        """Return the sum of each loss, (losses,)."""

        def body(start: Tensor, sums: Tensor) -> list[Tensor]:
            hidden, shares, *others = self._block(rows, start)
            values = self._values(self.product(hidden), shares, others)
            return [start + self.size, sums + tf.reduce_sum(shares * values, axis=0)]

        return tf.while_loop(self._more(rows), body, [tf.constant(0), tf.zeros_like(self.weights)])[1]

    def slopes(self, rows: list[Tensor]) -> list[Tensor]:
        """Return the sum of each loss, and the gradients for hidden states, kernel and bias."""
        product, in_place = self.product, not gradients.under_xla()
        biases = [] if product.bias is None else [product.bias]
        totals = [
            _zeros(tf.shape(rows[0]), rows[0].dtype),
            _zeros(product.kernel.shape, "float32"),
            *(tf.zeros(each.shape) for each in biases),
        ]

        def body(start: Tensor, sums: Tensor, *totals: Tensor) -> list[Tensor]:
            hidden, shares, *others = self._block(rows, start)
            multiplied = product(hidden)
            with tf.GradientTape() as tape:
                tape.watch(multiplied)
                parts = shares * self._values(multiplied, shares, others)
                total = tf.reduce_sum(self.weights * parts)
            slope = tape.gradient(total, multiplied)
            counts = tf.reduce_any(tf.not_equal(shares, 0.0), axis=-1, keepdims=True)
            slope = tf.where(counts, slope, tf.zeros_like(slope))
            of_hidden = tf.matmul(slope, tf.cast(product.kernel, slope.dtype), transpose_b=not product.by_class)
            places = start + tf.range(self.size)
            found = [
                _put(totals[0], places, tf.cast(of_hidden, totals[0].dtype), in_place),
                self._added(totals[1], tf.cast(hidden, slope.dtype), slope, in_place),
                *(each + tf.reduce_sum(tf.cast(slope, each.dtype), axis=0) for each in totals[2:]),
            ]
            return [start + self.size, sums + tf.reduce_sum(parts, axis=0), *found]

        first = [tf.constant(0), tf.zeros_like(self.weights), *totals]
        sums, *found = tf.while_loop(self._more(rows), body, first, parallel_iterations=1)[1:]
        of_weights = zip(found[1:], (product.kernel, *biases), strict=True)
        return [sums, found[0], *(tf.cast(each, weight.dtype) for each, weight in of_weights)]

    def _values(self, multiplied: Tensor, shares: Tensor, others: list[Tensor]) -> Tensor:
        """Return the values of the losses, (rows, losses), 0 where they do not count."""
        values = tf.stack(self.losses(self.product.logits(multiplied), *others), axis=-1)
        return tf.where(tf.equal(shares, 0.0), tf.zeros_like(values), values)

    def _added(self, total: Tensor, hidden: Tensor, slope: Tensor, in_place: bool) -> Tensor:
        """Return the kernel's gradient with that of a block, added in place, a part of the kernel at a time."""
        left, right = (slope, hidden) if self.product.by_class else (hidden, slope)
        if not in_place:
            return total + tf.cast(tf.matmul(left, right, transpose_a=True), total.dtype)
        count, columns = total.shape
        step = max(1, _TILE // columns)
        for start in range(0, count, step):
            stop = min(start + step, count)
            part = tf.matmul(left[:, start:stop], right, transpose_a=True)
            total = tf.raw_ops.InplaceAdd(x=total, i=tf.range(start, stop), v=tf.cast(part, total.dtype))
        return total

    def _block(self, rows: list[Tensor], start: Tensor) -> list[Tensor]:
        def part(each: Tensor) -> Tensor:
            rest = each.shape[1:]
            return tf.slice(each, [start, *[0] * len(rest)], [self.size, *rest])

        return [part(each) for each in rows]

    def _more(self, rows: list[Tensor]) -> Callable[..., Tensor]:
        count = tf.shape(rows[0])[0]
        return lambda start, *_: start < count


def _times(factor: Tensor, tensor: Tensor) -> Tensor:
    """Return a product; by 1, which a factor mostly is, without a second tensor of this size."""
    return tf.cond(tf.equal(factor, 1.0), lambda: tensor, lambda: tf.cast(factor, tensor.dtype) * tensor)


def _padded(rows: Tensor, size: int) -> Tensor:
    """Return rows with others of 0 behind them, to fill the last block."""
    missing = -tf.shape(rows)[0] % size
    return tf.pad(rows, [[0, missing], *[[0, 0]] * (len(rows.shape) - 1)])


def _zeros(shape: Any, dtype: Any) -> Tensor:
    """Return zeros that may be changed in place: TensorFlow would make a constant of others, for all steps."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)


def _put(whole: Tensor, places: Tensor, part: Tensor, in_place: bool) -> Tensor:
    if in_place:
        return tf.raw_ops.InplaceUpdate(x=whole, i=places, v=part)
    return tf.tensor_scatter_nd_update(whole, places[:, None], part)
