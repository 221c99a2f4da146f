"""Losses of logits that are never all there: computed from hidden states, some rows at a time, with their gradient."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_kd._keras import gradients
from keras_kd._types import Tensor
from keras_kd.language.vocabulary_heads import Product
from keras_kd.losses._many_values import MANY, can_compile

#: Logits in a block at most: 32 MiB of float32, of which an objective holds the student's, the teacher's, a gradient.
_BLOCK = 2**23

#: Rows in a block at most: the last one is filled up.
_ROWS = 512

#: Weights in a part of a kernel's gradient, which is added up in place.
_TILE = 2**20

#: Returns the values of each loss, (rows,), for logits (rows, classes) and the rows of what they are compared with.
Losses = Callable[..., Sequence[Tensor]]

#: Returns what the losses read, each (rows, ...), from the rows of a block of what was given.
Prepare = Callable[..., Sequence[Tensor]]


def fused(
    hidden: Tensor,
    product: Product,
    losses: Losses,
    others: Sequence[Tensor],
    shares: Tensor,
    weights: Tensor,
    prepare: Prepare = lambda *others: others,
    size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a weighted sum of losses over all rows, and the sum of each.

    The gradient is found in the same pass. It reaches `hidden` and the product's weights through the weighted sum; the
    sums of the losses have none.

    In a graph on a processor, XLA compiles the whole loop over large blocks: it keeps the memory of one block for the
    next, and reads and writes the logits a few times, where each of TensorFlow's operations does so.

    Args:
        hidden: hidden states, (rows, width).
        product: turns these into logits.
        losses: see `Losses`; of any number of losses.
        others: further arguments of `losses`, each (rows, ...).
        shares: by which the value of each row and loss is multiplied, (rows, losses), float32; a row whose shares are
            all 0 may hold anything.
        weights: of the losses, (losses,), float32.
        prepare: applied to the `others` of a block before that, as a product of their own.
        size: rows in a block; None as many as fit.
    """
    size = size or _rows_for(product.classes)
    counts = tf.reduce_any(tf.not_equal(shares, 0.0), axis=-1, keepdims=True)
    hidden = tf.where(counts, hidden, tf.zeros_like(hidden))  # a share of 0 would not stop a NaN
    count = tf.shape(hidden)[0]
    missing = blocks_for(count, hidden.shape[0], size) * size - count
    rows = [_padded(each, missing) for each in (hidden, shares, *others)]
    recorded = gradients.are_recorded()

    @tf.custom_gradient
    def run(hidden: Tensor, kernel: Tensor, *bias: Tensor) -> Any:
        ours = product._replace(kernel=kernel, bias=bias[0] if bias else None)
        blocks = _Blocks(ours, losses, weights, prepare, size, count)
        sums, *slopes = blocks.slopes([hidden, *rows[1:]]) if recorded else [blocks.sums([hidden, *rows[1:]])]

        def gradient(total: Tensor, _: Tensor) -> list[Tensor]:
            found = slopes or blocks.slopes([hidden, *rows[1:]])[1:]
            return [_times(total, each) for each in found]

        return (tf.reduce_sum(weights * sums), sums), gradient

    given = () if product.bias is None else (product.bias,)
    total, sums = run(rows[0], product.kernel, *given)
    return total, tf.stop_gradient(sums)


def by_blocks(
    hidden: Tensor,
    product: Product,
    values: Callable[..., Tensor],
    others: Sequence[Tensor],
    prepare: Prepare = lambda *others: others,
    size: int | None = None,
) -> Tensor:
    """Return one value for each row, (rows,), float32, without a gradient.

    Args:
        hidden: hidden states, (rows, width).
        product: turns these into logits.
        values: returns those of a block, of its logits and the `others`.
        others: further arguments of `values`, each (rows, ...).
        prepare: see `fused`.
        size: rows in a block; None as many as fit.
    """
    size = size or _rows_for(product.classes)
    rows = [_padded(each, -tf.shape(hidden)[0] % size) for each in (tf.stop_gradient(hidden), *others)]
    blocks = [tf.reshape(each, (-1, size, *each.shape[1:])) for each in rows]

    def of_block(block: Sequence[Tensor]) -> Tensor:
        states, *compared = block
        return values(product.logits(product(states)), *prepare(*compared))

    signature = tf.TensorSpec((size,), "float32")
    found = tf.map_fn(of_block, tuple(blocks), parallel_iterations=1, fn_output_signature=signature)
    return tf.stop_gradient(tf.reshape(found, (-1,))[: tf.shape(hidden)[0]])


def _rows_for(classes: int) -> int:
    """Return the rows in a block: a power of two, as most batches have a multiple of it, which fill their blocks."""
    rows = min(max(1, _BLOCK // classes), _ROWS)
    return 1 << (rows.bit_length() - 1)


def blocks_for(count: Tensor, known: int | None, size: int) -> Tensor:
    """Return the blocks that hold all rows: where their number is not known, one of few, each of which XLA compiles.

    From eight on, it is a multiple of a power of two that is at most a quarter more. Blocks without rows are skipped.
    """
    blocks = -(-count // size)
    if known is not None:
        return blocks
    step = 2 ** tf.maximum(tf.cast(tf.math.log(tf.cast(blocks, "float32") + 0.5) / math.log(2.0), "int32") - 2, 0)
    return -(-blocks // step) * step


class _Blocks:
    """Go through the first `count` rows, `size` of them at a time."""

    def __init__(
        self, product: Product, losses: Losses, weights: Tensor, prepare: Prepare, size: int, count: Tensor
    ) -> None:
        self.product = product
        self.losses = losses
        self.weights = weights
        self.prepare = prepare
        self.size = size
        self.count = count
        self.compiles = size * product.classes >= MANY and can_compile()
        self.under_xla = self.compiles or gradients.under_xla()

    def sums(self, rows: list[Tensor]) -> Tensor:
        """Return the sum of each loss, (losses,)."""
        return self._run(self._sums, rows)

    def slopes(self, rows: list[Tensor]) -> list[Tensor]:
        """Return the sum of each loss, and the gradients for hidden states, kernel and bias."""
        return list(self._run(self._slopes, rows))

    def _run(self, function: Callable[..., Any], rows: list[Tensor]) -> Any:
        if not self.compiles:
            return function(*rows)
        return tf.function(function, jit_compile=True, autograph=False)(*rows)

    def _sums(self, *rows: Tensor) -> Tensor:
        def body(number: Tensor, sums: Tensor) -> list[Tensor]:
            hidden, *compared = self._block(rows, number)
            return [number + 1, sums + self._value(self.product(hidden), *compared)]

        return tf.while_loop(self._more, body, [tf.constant(0), tf.zeros_like(self.weights)])[1]

    def _slopes(self, *rows: Tensor) -> list[Tensor]:
        product, width = self.product, rows[0].shape[-1]
        biases = [] if product.bias is None else [product.bias]
        of_block = [self.size, width] if product.by_class else [width, self.size]
        totals = [
            _zeros([tf.shape(rows[0])[0] // self.size, *of_block], rows[0].dtype),
            _zeros(product.kernel.shape, "float32"),
            *(tf.zeros(each.shape) for each in biases),
        ]

        def body(number: Tensor, sums: Tensor, *totals: Tensor) -> list[Tensor]:
            hidden, *compared = self._block(rows, number)
            added, slope = self._value_and_slope(product(hidden), *compared)
            found = [
                self._with_block(totals[0], number, tf.cast(self._of_hidden(slope), totals[0].dtype)),
                self._added(totals[1], tf.cast(hidden, slope.dtype), slope),
                *(each + tf.reduce_sum(tf.cast(slope, each.dtype), axis=0) for each in totals[2:]),
            ]
            return [number + 1, sums + added, *found]

        first = [tf.constant(0), tf.zeros_like(self.weights), *totals]
        sums, hidden, *found = tf.while_loop(self._more, body, first, parallel_iterations=1)[1:]
        of_hidden = tf.reshape(hidden if product.by_class else tf.transpose(hidden, (0, 2, 1)), (-1, width))
        of_weights = zip(found, (product.kernel, *biases), strict=True)
        return [sums, of_hidden, *(tf.cast(each, weight.dtype) for each, weight in of_weights)]

    def _value_and_slope(self, multiplied: Tensor, shares: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a block adds to each sum, and the gradient of the objective for its product."""
        with tf.GradientTape() as tape:
            tape.watch(multiplied)
            sums = self._value(multiplied, shares, *others)
            total = tf.reduce_sum(self.weights * sums)
        slope = tape.gradient(total, multiplied)
        counts = tf.reduce_any(tf.not_equal(shares, 0.0), axis=-1, keepdims=True)
        return sums, tf.where(counts, slope, tf.zeros_like(slope))

    def _value(self, multiplied: Tensor, shares: Tensor, *others: Tensor) -> Tensor:
        """Return what a block adds to each sum; rows that do not count add nothing, whatever they hold."""
        values = tf.stack(self.losses(self.product.logits(multiplied), *others), axis=-1)
        return tf.reduce_sum(shares * tf.where(tf.equal(shares, 0.0), tf.zeros_like(values), values), axis=0)

    def _of_hidden(self, slope: Tensor) -> Tensor:
        """Return the gradient for the hidden states of a block, (size, width) by class, else (width, size).

        The kernel stands on the left: on the right, it would be copied as a whole to be read by its columns.
        """
        kernel = tf.cast(self.product.kernel, slope.dtype)
        return tf.matmul(slope, kernel) if self.product.by_class else tf.matmul(kernel, slope, transpose_b=True)

    def _added(self, total: Tensor, hidden: Tensor, slope: Tensor) -> Tensor:
        """Return the kernel's gradient with that of a block; without XLA, it is added in place, part by part."""
        left, right = (slope, hidden) if self.product.by_class else (hidden, slope)
        if self.under_xla:
            return total + tf.cast(tf.matmul(left, right, transpose_a=True), total.dtype)
        count, columns = total.shape
        step = max(1, _TILE // columns)
        for start in range(0, count, step):
            stop = min(start + step, count)
            part = tf.matmul(left[:, start:stop], right, transpose_a=True)
            total = tf.raw_ops.InplaceAdd(x=total, i=tf.range(start, stop), v=tf.cast(part, total.dtype))
        return total

    def _with_block(self, total: Tensor, number: Tensor, part: Tensor) -> Tensor:
        """Return a tensor of blocks, with another one in the place of one of them."""
        if not self.under_xla:
            return tf.raw_ops.InplaceUpdate(x=total, i=[number], v=part[None])
        return tf.tensor_scatter_nd_update(total, [[number]], part[None])

    def _block(self, rows: Sequence[Tensor], number: Tensor) -> list[Tensor]:
        """Return hidden states, shares, and what the losses read, of a block."""

        def part(each: Tensor) -> Tensor:
            rest = each.shape[1:]
            return tf.slice(each, [number * self.size, *[0] * len(rest)], [self.size, *rest])

        hidden, shares, *others = map(part, rows)
        return [hidden, shares, *self.prepare(*others)]

    def _more(self, number: Tensor, *_: Tensor) -> Tensor:
        return number * self.size < self.count


def _times(factor: Tensor, tensor: Tensor) -> Tensor:
    """Return a product; by 1, which a factor mostly is, without a second tensor of this size."""
    return tf.cond(tf.equal(factor, 1.0), lambda: tensor, lambda: tf.cast(factor, tensor.dtype) * tensor)


def _padded(rows: Tensor, missing: Tensor) -> Tensor:
    """Return rows with others of 0 behind them."""
    return tf.pad(rows, [[0, missing], *[[0, 0]] * (len(rows.shape) - 1)])


def _zeros(shape: Any, dtype: Any) -> Tensor:
    """Return zeros that may be changed in place: TensorFlow would make a constant of others, for all steps."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)
