"""Noise for texts: tokens that are left out, and tokens that others stand for."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd._types import Tensor, Tensors
from keras_kd.augment import changes
from keras_kd.augment.changes import Change, folded, like, map_leaves


class TokenNoise(Change):
    """Leave out some tokens of a text, and put others in the place of some.

    What is left moves together, and padding fills the end: length, mask and further entries of one value for each token
    stay right. At least one token that is not special is left of each text that has one. For labels of whole texts;
    those of tokens would not move.

    Args:
        vocabulary_size: how many tokens there are, of which others are drawn evenly.
        drop: probability that a token is left out, 0 to below 1.
        replace: probability that another one stands in the place of a token, 0 to 1.
        special: ids that are left alone, and never drawn: beginning, end, separators, unknown.
        pad: the id of padding, which is at the end.
        tokens: where x is a dict, the entry of the ids.
        padding_mask: where x is a dict, the entry that is 0 or False at padding, if it has one.

    Raises:
        ValueError: probabilities out of range; no token left to draw; of `apply`: no ids, (batch, length), in x.

    Example:
        >>> noise = kd.augment.TokenNoise(30_522, drop=0.1, replace=0.1, special=(101, 102, 103))
        >>> train = kd.augment.apply(batches, kd.augment.Beside(noise), seed=0)

    Reference: Wei and Zou, EDA: Easy Data Augmentation Techniques, 2019, arXiv 1901.11196 (deletion). Under a teacher:
    Tang et al., Distilling Task-Specific Knowledge from BERT into Simple Neural Networks, 2019, arXiv 1903.12136.
    """

    def __init__(
        self,
        vocabulary_size: int,
        drop: float = 0.1,
        replace: float = 0.1,
        *,
        special: Iterable[int] = (),
        pad: int = 0,
        tokens: str = "token_ids",
        padding_mask: str = "padding_mask",
    ) -> None:
        self.drop, self.replace = changes.probability("drop", drop), changes.probability("replace", replace)
        if self.drop == 1.0:
            raise ValueError("Expected `drop` to be below 1, or no text is left. Received: drop=1")
        self.special, self.pad = tuple(special), pad
        self.tokens, self.padding_mask = tokens, padding_mask
        self._drawn_from = np.setdiff1d(np.arange(vocabulary_size), [*self.special, pad])
        if not len(self._drawn_from):
            raise ValueError(
                "Expected tokens that are not special, of which others are drawn. Received: vocabulary_size="
                f"{vocabulary_size}, special={self.special}, pad={pad}"
            )

    def __call__(self, x: Any, seed: Tensor) -> Tensors:
        """Return the texts with noise."""
        x = map_leaves(lambda leaf: leaf, x)
        ids = _ids(x, self.tokens)
        mask = tf.cast(x[self.padding_mask], tf.bool) if isinstance(x, dict) and self.padding_mask in x else True
        ordinary = mask & ~tf.reduce_any(ids[..., None] == tf.constant([*self.special, self.pad], ids.dtype), axis=-1)
        gone = _chance(ids, self.drop, folded(seed, 0)) & ordinary
        gone &= tf.reduce_any(ordinary & ~gone, axis=1, keepdims=True)
        replaced = _chance(ids, self.replace, folded(seed, 1)) & ordinary
        others = tf.random.stateless_uniform(tf.shape(ids), folded(seed, 2), 0, len(self._drawn_from), tf.int32)
        noisy = tf.where(replaced, tf.gather(tf.constant(self._drawn_from, ids.dtype), others), ids)
        if not isinstance(x, dict):
            return _moved(noisy, gone, self.pad)
        moved = {name: _moved(leaf, gone, 0) if _is_of_tokens(leaf, ids) else leaf for name, leaf in x.items()}
        return {**moved, self.tokens: _moved(noisy, gone, self.pad)}


def _ids(x: Any, name: str) -> Any:
    ids: Any = x.get(name) if isinstance(x, dict) else x
    if not tf.is_tensor(ids) or len(ids.shape) != 2 or not ids.dtype.is_integer:
        raise ValueError(f"Expected ids of tokens, (batch, length), as x or as its entry {name!r}. Received: {x!r}")
    return ids


def _is_of_tokens(leaf: Any, ids: Any) -> bool:
    return tf.is_tensor(leaf) and len(leaf.shape) > 1 and leaf.shape[1] == ids.shape[1]


def _chance(ids: Any, probability: float, seed: Tensor) -> Any:
    return tf.random.stateless_uniform(tf.shape(ids), seed) < probability


def _moved(leaf: Any, gone: Any, fill: int) -> Any:
    """Return what is left of each row, in its order, filled up at the end."""
    order = tf.argsort(tf.cast(gone, tf.int32), axis=1, stable=True)
    moved = tf.gather(leaf, order, batch_dims=1)
    ends = tf.gather(gone, order, batch_dims=1)
    ends = tf.reshape(ends, [*tf.unstack(tf.shape(ends)), *[1] * (len(leaf.shape) - 2)])
    return like(tf.where(ends, tf.cast(fill, leaf.dtype), moved), leaf)
