"""The examples of a data set: arrays or a tf.data.Dataset, one by one, and the view of each that a teacher sees."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd import targets
from keras_kd._types import Tensor, Tensors
from keras_kd.cache import checks

#: Blocks of examples are compared and joined at once; larger examples come in smaller blocks.
_BLOCK_BYTES = 2**20

#: How many examples tell one data set from another before any work; every one is compared later.
_PROBED = 4

Augment = Callable[[Tensors, Tensor], Tensors]
Key = str | Callable[..., Tensor]


class Examples:
    """Examples in their order.

    Args:
        data: arrays, as `fit` takes them for x, or a tf.data.Dataset of single examples: x, (x,), (x, y) or
            (x, y, sample_weight).

    Raises:
        TypeError: other data.
        ValueError: a dataset that never ends; inputs of several shapes, sparse or ragged ones.
    """

    def __init__(self, data: Any) -> None:
        self.dataset = _as_dataset(data)
        self.spec: Any = self.dataset.element_spec
        checks.check_specs(self.x(self.spec))
        count = int(self.dataset.cardinality())
        if count == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "Expected a dataset that ends. Received one that goes on for ever: join it before repeat()."
            )
        if count == 0:
            raise ValueError("Expected at least one example. Received an empty data set.")
        self.count = None if count < 0 else count
        self._probe: list[Tensors] | None = None

    @property
    def inputs(self) -> list[list[Any]]:
        """Type and shape of each input, as plain values."""
        return [[leaf.dtype.name, list(leaf.shape)] for leaf in tree.flatten(self.x(self.spec))]

    @property
    def nbytes(self) -> int:
        """The bytes of one example, as far as its shapes are known."""
        return sum(_nbytes(leaf) for leaf in tree.flatten(self.spec))

    @property
    def block(self) -> int:
        """How many examples to join at once: one, where y or weights are of several shapes."""
        dense = all(isinstance(leaf, tf.TensorSpec) and None not in leaf.shape for leaf in tree.flatten(self.spec))
        return max(1, min(256, _BLOCK_BYTES // max(1, self.nbytes))) if dense else 1

    @staticmethod
    def x(element: Any) -> Tensors:
        """Return the x of an element."""
        return element[0] if isinstance(element, tuple) else element

    @staticmethod
    def with_x(element: Any, x: Tensors) -> Any:
        """Return an element with another x; always a tuple, or a `Joined` alone would be taken for x and y."""
        return (x, *element[1:]) if isinstance(element, tuple) else (x,)

    def digest(self) -> str:
        """Return a checksum of the first examples."""
        return _digest(self._probed())

    def digest_of_views(self, augment: Augment, views: int) -> str:
        """Return a checksum of the first examples as augmented.

        Raises:
            ValueError: `augment` does not say the same twice.
        """
        twice = [self._augmented_twice(augment, view) for view in range(min(views, 2))]
        seen, again = ([both[half] for both in twice] for half in range(2))
        if _digest(seen) != _digest(again):
            raise ValueError(
                "Expected `augment(x, seed)` to return the same for the same x and seed. It does not: use stateless "
                "random operations with `seed`, such as tf.image.stateless_random_crop."
            )
        return _digest(seen)

    def _augmented_twice(self, augment: Augment, view: int) -> tuple[list[Tensors], list[Tensors]]:
        examples = tf.data.Dataset.from_tensor_slices(
            tree.map_structure(lambda *leaves: tf.stack(leaves), *self._probed())
        )
        twice = examples.enumerate().repeat(2)  # in one pass: a new one may begin with the same random numbers
        views = list(twice.map(lambda place, x: augment(x, seed(place, tf.cast(view, tf.int64)))).as_numpy_iterator())
        return views[: len(views) // 2], views[len(views) // 2 :]

    def _probed(self) -> list[Tensors]:
        if self._probe is None:
            self._probe = [self.x(element) for element in self.dataset.take(_PROBED)]
        return self._probe


def seed(identity: Tensor, view: Tensor) -> Tensor:
    """Return the seed of an example's view, int64, (2,): the cache keeps no other."""
    return tf.stack([identity, view])


def key_of(key: Key, element: Any) -> Tensor:
    """Return the keys of a batch of elements, int64, (batch,).

    Raises:
        ValueError: there is no such key.
    """
    if callable(key):
        return checks.identities(tf.convert_to_tensor(key(*element) if isinstance(element, tuple) else key(element)))
    x = Examples.x(element)
    if not isinstance(x, dict) or key not in x:
        offered = sorted(x) if isinstance(x, dict) else x
        raise ValueError(f"Expected an x with the key {key!r}, by which this cache is joined. Received: {offered}")
    return checks.identities(x[key])


def is_array(value: Any) -> bool:
    """Return whether a value is an array or a tensor."""
    return isinstance(value, (np.ndarray, tf.Tensor))


def _as_dataset(data: Any) -> tf.data.Dataset:
    if isinstance(data, tf.data.Dataset):
        return data
    leaves = tree.flatten(data)
    if isinstance(data, targets.Joined) or not leaves or not all(is_array(leaf) for leaf in leaves):
        raise TypeError(
            "Expected arrays of inputs, or a tf.data.Dataset of single examples, which is not joined yet. Received: "
            f"{type(data).__name__}"
        )
    if len({len(leaf) for leaf in leaves}) > 1:
        raise ValueError(f"Expected arrays of one length. Received: {[tuple(leaf.shape) for leaf in leaves]}")
    return tf.data.Dataset.from_tensor_slices((tuple(data) if isinstance(data, list) else data,))


def _nbytes(leaf: Any) -> int:
    if not isinstance(leaf, tf.TensorSpec):
        return 0
    return math.prod(size or 1 for size in leaf.shape) * max(1, leaf.dtype.size or 1)


def _digest(examples: Any) -> str:
    digest = hashlib.sha256()
    for leaf in tree.flatten(examples):
        value = np.asarray(leaf)
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(repr(value.tolist()).encode() if value.dtype == object else value.tobytes())
    return digest.hexdigest()
