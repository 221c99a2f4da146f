"""The k most probable classes of a row and their probabilities, in few bits.

The five most probable are stored in their order, each by its number and a byte for how far its logarithm is below the
largest. The others are stored as a set: their numbers in ascending order, in the code of Elias and Fano (1974), which
takes 2 bits a class more than log2(classes / k), and their logarithms in 6 bits for up to 32 classes, 3 for up to 64,
4 for more, between that of the fifth and the smallest. The probability of all other classes is a number of its own, by
its log-odds in steps of 1/1024.

With 151,936 classes a row takes 28 bytes for k = 8, 59 for 20, 112 for 50 and 495 for 256. On distributions as language
models have them, sure and unsure ones, the KL of the k + 1 masses to those that are read back is 2e-6, 6e-6, 1e-3 and
1e-3 nats in the mean, and a probability is off by at most 0.002, 0.002, 0.02 and 0.01.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

#: How many classes are stored in their order.
_IN_ORDER = 5

#: Bits of the logarithm of each other class, by the largest k.
_BITS, _BITS_OF_MANY = ((32, 6), (64, 3)), 4

#: Steps of the distance between the largest and the smallest logarithm, in one byte, and of the log-odds, in two.
_RANGE_STEPS, _ODDS_STEPS, _MOST_ODDS = 8.0, 1024.0, 31.0


class PackedClasses(NamedTuple):
    """The code of the k most probable of some classes.

    Attributes:
        k: how many are kept.
        classes: of how many.
    """

    k: int
    classes: int

    @property
    def nbytes(self) -> int:
        """The bytes of a row."""
        return self._head + -(-self._tail_bits // 8)

    def encode(self, ids: tf.Tensor, log_probabilities: tf.Tensor, log_tail: tf.Tensor | None) -> tf.Tensor:
        """Return rows of bytes, uint8, (rows, nbytes).

        Args:
            ids: the most probable classes in descending order, (rows, k).
            log_probabilities: of these, (rows, k).
            log_tail: the logarithm of the probability of all others, (rows,), or None where there are none.
        """
        ids, first = tf.cast(ids, tf.int32), self._first
        distances = log_probabilities[:, :1] - log_probabilities
        reach = tf.clip_by_value(tf.math.ceil(distances[:, -1:] * _RANGE_STEPS), 1.0, 255.0)
        scale = reach / _RANGE_STEPS
        in_order = tf.round(255.0 * tf.sqrt(tf.clip_by_value(distances[:, 1:first] / scale, 0.0, 1.0)))
        octets = [tf.cast(each, tf.uint8) for each in (reach, in_order)]
        if log_tail is not None:
            octets.append(_two_bytes(_log_odds(log_tail) * _ODDS_STEPS))
        bits = [_bits(ids[:, :first], self._id_bits)]
        if self._others:
            order = tf.argsort(ids[:, first:], axis=-1)
            others, distances = (tf.gather(each[:, first:], order, batch_dims=1) for each in (ids, distances))
            low, high = self._low_bits, tf.bitwise.right_shift(others, self._low_bits)
            base = self._distances(scale, in_order)[:, -1:]
            shares = (distances - base) / tf.maximum(scale - base, 1e-6)
            codes = tf.round((2**self._bits_of_others - 1) * tf.clip_by_value(shares, 0.0, 1.0))
            places = high + tf.range(self._others)
            unary = tf.reduce_max(tf.one_hot(places, self._unary_bits, dtype=tf.uint8), axis=1)
            bits += [_bits(others, low), _bits(tf.cast(codes, tf.int32), self._bits_of_others), unary]
        return tf.concat([*octets, _packed(tf.concat(bits, axis=-1))], axis=-1)

    def decode(self, octets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """Return ids, int32, (rows, k), and logarithms of probabilities, (rows, k) and (rows,), float32.

        The first five are in their order, the others in that of their numbers.

        Args:
            octets: what `encode` has returned.
        """
        first, others = self._first, self._others
        scale = tf.cast(octets[:, :1], tf.float32) / _RANGE_STEPS
        distances = self._distances(scale, tf.cast(octets[:, 1:first], tf.float32))
        start = 8 * self._head
        ids = _numbers_at(octets, start, first, self._id_bits)
        start += first * self._id_bits
        if others:
            low = _numbers_at(octets, start, others, self._low_bits)
            start += others * self._low_bits
            codes = _numbers_at(octets, start, others, self._bits_of_others)
            start += others * self._bits_of_others
            places = tf.reshape(tf.where(_bits_at(octets, start, self._unary_bits))[:, 1], [-1, others])
            high = tf.cast(places, tf.int32) - tf.range(others)
            ids = tf.concat([ids, tf.bitwise.left_shift(high, self._low_bits) + low], axis=-1)
            base = distances[:, -1:]
            step = (scale - base) / (2**self._bits_of_others - 1)
            distances = tf.concat([distances, base + step * tf.cast(codes, tf.float32)], axis=-1)
        logarithms = tf.nn.log_softmax(-distances)
        if self.k == self.classes:
            return ids, logarithms, None
        odds = tf.cast(tf.bitcast(octets[:, first : first + 2], tf.int16), tf.float32) / _ODDS_STEPS
        return ids, logarithms - tf.nn.softplus(odds)[:, None], -tf.nn.softplus(-odds)

    @property
    def _first(self) -> int:
        return min(_IN_ORDER, self.k)

    @property
    def _others(self) -> int:
        return self.k - self._first

    @property
    def _id_bits(self) -> int:
        return max(1, math.ceil(math.log2(self.classes)))

    @property
    def _low_bits(self) -> int:
        return max(0, math.floor(math.log2(self.classes / self._others)))

    @property
    def _unary_bits(self) -> int:
        return self._others + ((self.classes - 1) >> self._low_bits) + 1

    @property
    def _bits_of_others(self) -> int:
        return next((bits for most, bits in _BITS if self.k <= most), _BITS_OF_MANY)

    @property
    def _head(self) -> int:
        """Whole bytes: the reach, the distances of those in order, the log-odds of the rest."""
        return self._first + (2 if self.k < self.classes else 0)

    @property
    def _tail_bits(self) -> int:
        bits = self._first * self._id_bits
        if self._others:
            bits += self._others * (self._low_bits + self._bits_of_others) + self._unary_bits
        return bits

    def _distances(self, scale: tf.Tensor, in_order: tf.Tensor) -> tf.Tensor:
        """Return how far the logarithms of the first are below the largest, (rows, first): finer for the larger."""
        return tf.concat([tf.zeros_like(scale), scale * tf.square(in_order / 255.0)], axis=-1)


def _log_odds(log_p: tf.Tensor) -> tf.Tensor:
    """Return log(p / (1 - p)), (rows, 1), cut where one of the two is nothing."""
    odds = log_p - tf.math.log(-tf.math.expm1(tf.minimum(log_p, -1e-7)))
    return tf.clip_by_value(odds, -_MOST_ODDS, _MOST_ODDS)[:, None]


def _two_bytes(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.bitcast(tf.cast(tf.round(values), tf.int16), tf.uint8), [-1, 2])


def _bits(values: tf.Tensor, width: int) -> tf.Tensor:
    """Return the bits of numbers, (rows, n), the lowest first, as uint8, (rows, n * width)."""
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(values[..., None], tf.range(width)), 1)
    return tf.cast(tf.reshape(bits, [tf.shape(values)[0], values.shape[-1] * width]), tf.uint8)


def _packed(bits: tf.Tensor) -> tf.Tensor:
    bits = tf.pad(bits, [[0, 0], [0, -bits.shape[-1] % 8]])
    weights = tf.constant([1 << place for place in range(8)], tf.uint8)
    return tf.reduce_sum(tf.reshape(bits, [-1, bits.shape[-1] // 8, 8]) * weights, axis=-1)


def _numbers_at(octets: tf.Tensor, start: int, count: int, width: int) -> tf.Tensor:
    """Return numbers of `width` bits each from the bit `start` on, int32, (rows, count), each read as 4 bytes."""
    if not width:
        return tf.zeros([tf.shape(octets)[0], count], tf.int32)
    places = start + width * np.arange(count)
    around = np.minimum(places[:, None] // 8 + np.arange(4), octets.shape[-1] - 1)
    found = tf.cast(tf.gather(octets, around.ravel(), axis=1), tf.int32)
    shifted = tf.bitwise.left_shift(tf.reshape(found, [-1, count, 4]), 8 * tf.range(4))
    whole = tf.bitwise.right_shift(tf.reduce_sum(shifted, axis=-1), tf.constant(places % 8, tf.int32))
    return tf.bitwise.bitwise_and(whole, (1 << width) - 1)


def _bits_at(octets: tf.Tensor, start: int, count: int) -> tf.Tensor:
    """Return bits from the bit `start` on, (rows, count), of bool."""
    shifted = tf.bitwise.right_shift(octets[:, start // 8 :, None], tf.constant(list(range(8)), tf.uint8))
    bits = tf.bitwise.bitwise_and(shifted, tf.constant(1, tf.uint8))
    bits = tf.reshape(bits, [-1, (octets.shape[-1] - start // 8) * 8])
    return tf.cast(bits[:, start % 8 : start % 8 + count], tf.bool)
