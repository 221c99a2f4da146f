"""The examples of a data set: arrays or a tf.data.Dataset, one by one, and the view of each that a teacher sees.

Batches for `fit` come from `_internal.batches`. A cache counts, compares and augments single examples, in the graph of
a tf.data.Dataset, and cuts batches itself: they begin with any example.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches, soft_targets
from keras_kd._types import Tensor, Tensors
from keras_kd.cache import row_fingerprints

#: Blocks of examples are compared and joined at once; larger examples come in smaller blocks.
_BLOCK_BYTES = 2**20

#: How many examples distinguish one data set from another before any work; every one is compared later.
_PROBED = 4

Augment = Callable[[Tensors, Tensor], Tensors]
Key = str | Callable[..., Tensor]


class Examples:
    """Examples in their order.

    Args:
        data: arrays, as `fit` takes them for x, or a tf.data.Dataset of single examples: x, (x,), (x, y) or
            (x, y, sample_weight).

    Raises:
        TypeError: other data, or data that are joined already.
        ValueError: a dataset that never ends; inputs of several shapes, sparse or ragged ones.
    """

    def __init__(self, data: Any) -> None:
        if isinstance(data, tf.data.Dataset) and soft_targets.are_in(data):
            raise TypeError(
                "Expected a dataset that is not joined yet. Received one whose x carries targets. Several teachers: "
                "cache the ensemble, TeacherCache(path, teacher=[first, second])."
            )
        self._arrays = None if isinstance(data, tf.data.Dataset) else _checked(batches.as_arrays(data))
        self._dataset = data
        self.spec: Any = spec_of(data if self._arrays is None else _first(self._arrays))
        row_fingerprints.check_specs(self.x(self.spec))
        count = int(data.cardinality()) if self._arrays is None else soft_targets.count(self._arrays)
        if count == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "Expected a dataset that ends. Received one that goes on for ever: join it before repeat()."
            )
        if count == 0:
            raise ValueError("Expected at least one example. Received an empty data set.")
        self.count = None if count < 0 else count
        self._probe: list[Tensors] | None = None

    @functools.cached_property
    def dataset(self) -> tf.data.Dataset:
        """The examples one by one. Of arrays it holds a copy, and is made only where it is needed."""
        return self._dataset if self._arrays is None else tf.data.Dataset.from_tensor_slices((self._arrays,))

    @property
    def inputs(self) -> list[list[Any]]:
        """Type and shape of each input, as plain values."""
        return inputs_of(self.x(self.spec))

    @property
    def nbytes(self) -> int:
        """The bytes of one example, as far as its shapes are known."""
        return sum(_nbytes(leaf) for leaf in tf.nest.flatten(self.spec))

    @property
    def is_dense(self) -> bool:
        """Whether y and weights, too, are tensors of one shape in all examples."""
        leaves = [leaf for leaf in tf.nest.flatten(self.spec) if leaf is not None]
        return all(isinstance(leaf, tf.TensorSpec) and leaf.shape.is_fully_defined() for leaf in leaves)

    @property
    def weights_of_positions(self) -> int | None:
        """How many weights an example has, one for each of its positions; None where it has none, or one alone."""
        weights = self.weights(self.spec)
        if not (self.is_dense and isinstance(weights, tf.TensorSpec) and weights.shape.rank == 1):
            return None
        return int(weights.shape[0])

    @property
    def block(self) -> int:
        """How many examples to join at once: one, where y or weights are of several shapes."""
        return max(1, min(256, _BLOCK_BYTES // max(1, self.nbytes))) if self.is_dense else 1

    def seen(self, augment: Augment | None, key: Key | None, view: Tensor) -> tf.data.Dataset:
        """Return (place, element) of each example, its x as the teacher sees it."""
        numbered = self.dataset.enumerate()
        return numbered if augment is None else augmented(numbered, augment, key, view)

    def seen_specs(self, augment: Augment | None, key: Key | None) -> Tensors:
        """Return the specs of x as the teacher sees it."""
        if augment is None:
            return self.x(self.spec)
        return self.x(spec_of(self.seen(augment, key, tf.zeros((), tf.int64)))[1])

    def first(self, augment: Augment | None, key: Key | None) -> list[Tensors]:
        """Return the x of the first examples as the teacher sees them: one small batch, or none of an empty dataset."""
        if augment is None:
            probed = self._probed()
            return [_stacked(probed)] if probed else []
        seen = self.seen(augment, key, tf.zeros((), tf.int64)).map(lambda place, element: (self.x(element),))
        return [x for (x,) in seen.batch(_PROBED).take(1)]

    def batches(self, batch_size: int, start: int, *, whole: bool) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield (places, element) of batches from an example on.

        Args:
            batch_size: examples in a batch.
            start: place of the first.
            whole: whether y and weights are needed, too; those of several shapes make no batch.
        """
        place = start
        for element in self._batched(batch_size, start, whole):
            end = place + soft_targets.count(self.x(element))
            yield np.arange(place, end, dtype=np.int64), element
            place = end

    @staticmethod
    def x(element: Any) -> Tensors:
        """Return the x of an element, without columns that it may carry."""
        return soft_targets.without_targets(_parts(element)[0])

    @staticmethod
    def weights(element: Any) -> Any:
        """Return the weights of an element, (x, y, sample_weight), or None."""
        return element[2] if isinstance(element, tuple) and len(element) == 3 else None

    @staticmethod
    def with_x(element: Any, x: Tensors) -> Any:
        """Return an element with another x, and the columns that it carries.

        Always a tuple, or a `Joined` alone would be taken for x and y.
        """
        first, *others = _parts(element)
        return (soft_targets.with_columns(x, soft_targets.columns(first)), *others)

    def digest(self) -> str:
        """Return a checksum of the first examples."""
        return _digest(self._probed())

    def check_order(self) -> None:
        """Refuse a dataset that begins otherwise when it is read again, where that can be seen in its first examples.

        Raises:
            ValueError: it is shuffled anew each time, or changed at random.
        """
        if self._arrays is not None:
            return
        # In one pass: a new one may begin with the same random numbers.
        twice = [self.x(element) for element in self.dataset.take(_PROBED).repeat(2)]
        half = len(twice) // 2
        self._probe = twice[:half]
        if _digest(self._probe) != _digest(twice[half:]):
            raise ValueError(
                "Expected a dataset that gives the same examples in the same order each time: a cache is joined to it "
                "by position. Received one that begins otherwise when it is read again. Leave shuffle() and random "
                "steps until after `join`, or give the cache `augment`; where only the order changes, a `key`."
            )

    def digest_of_views(self, augment: Augment, views: int) -> str:
        """Return a checksum of the first examples as augmented.

        Raises:
            ValueError: `augment` does not return the same twice.
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
        examples = tf.data.Dataset.from_tensor_slices((_stacked(self._probed()),))
        twice = examples.enumerate().repeat(2)  # in one pass, as in `check_order`
        views = [x for _, (x,) in augmented(twice, augment, None, tf.cast(view, tf.int64)).as_numpy_iterator()]
        return views[: len(views) // 2], views[len(views) // 2 :]

    def _batched(self, batch_size: int, start: int, whole: bool) -> Iterator[Any]:
        if self._arrays is None:
            data = self.dataset if whole or self.is_dense else self.dataset.map(lambda *parts: (self.x(parts),))
            yield from data.skip(start).batch(batch_size).prefetch(tf.data.AUTOTUNE)
            return
        for batch in batches.cut(self._arrays, batch_size, start):  # a dataset would copy each example by itself, twice
            yield (soft_targets.map_arrays(tf.convert_to_tensor, batch),)

    def _probed(self) -> list[Tensors]:
        if self._probe is None:
            few = self.dataset.take(_PROBED) if self._arrays is None else _first(self._arrays)
            self._probe = [self.x(element) for element in few]
        return self._probe


def _parts(element: Any) -> tuple[Any, ...]:
    """Return x, and y and weights where there are any."""
    alone = isinstance(element, soft_targets.Joined) or not isinstance(element, tuple)
    return (element,) if alone else element


def inputs_of(x: Tensors) -> list[list[Any]]:
    """Return type and shape of each tensor, or spec, as plain values."""
    return [["none", []] if leaf is None else [leaf.dtype.name, list(leaf.shape)] for leaf in tree.flatten(x)]


def spec_of(dataset: tf.data.Dataset) -> Any:
    """Return the specs of a dataset's elements, with None for what is None in all of them."""
    nothing = tf.type_spec_from_value(None)
    return tf.nest.map_structure(lambda spec: None if spec == nothing else spec, dataset.element_spec)


def seed(identity: Tensor, view: Tensor) -> Tensor:
    """Return the seed of an example's view, int64, (2,): the cache keeps no other."""
    return tf.stack([identity, view])


def key_of(key: Key, element: Any) -> Tensor:
    """Return the keys of a batch of elements, int64, (batch,).

    Raises:
        ValueError: there is no such key.
    """
    x = Examples.x(element)
    if callable(key):
        found = tf.convert_to_tensor(key(*element) if isinstance(element, tuple) else key(element))
    elif isinstance(x, dict) and key in x:
        found = x[key]
    else:
        offered = f"a dict with {sorted(x)}" if isinstance(x, dict) else type(x).__name__
        raise ValueError(f"Expected an x with the key {key!r}, by which this cache is joined. Received: {offered}")
    found = tf.squeeze(found, axis=1) if found.shape.rank == 2 and found.shape[1] == 1 else found
    if found.shape.rank != 1 or not (found.dtype.is_integer or found.dtype == tf.string):
        raise ValueError(
            f"Expected keys that are integers or strings, (batch,). Received: {found.dtype.name}, {found.shape}"
        )
    return row_fingerprints.identities(found)


def augmented(numbered: tf.data.Dataset, augment: Augment, key: Key | None, view: Tensor) -> tf.data.Dataset:
    """Return (place, element) with an x that is augmented as the teacher sees or saw it."""

    def apply(place: Tensor, element: Any) -> Any:
        identity = place
        if key is not None:
            identity = key_of(key, soft_targets.map_arrays(lambda leaf: leaf[None], element))[0]
        x = augment(Examples.x(element), seed(identity, tf.cast(view, tf.int64)))
        return place, Examples.with_x(element, x)

    try:
        return numbered.map(apply, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise ValueError(
            "Expected `augment(x, seed)` to return the x of one example, with TensorFlow's operations. On an x like "
            f"{inputs_of(Examples.x(numbered.element_spec[1]))} it failed: {str(error).splitlines()[-1].strip()}"
        ) from error


def _checked(data: Any) -> Tensors:
    """Return arrays of x, a list of them as a tuple, or raise an error."""
    if not soft_targets.have_targets(data):
        data = soft_targets.without_targets(data)
    if isinstance(data, tuple) and not isinstance(data, soft_targets.Joined):
        raise TypeError(
            "Expected arrays of x alone: an array, a dict, or a list for a model of several inputs. Received a tuple, "
            "which could be (x, y). With y: tf.data.Dataset.from_tensor_slices((x, y))."
        )
    if isinstance(data, soft_targets.Joined) or not batches.are_arrays(data):
        raise TypeError(
            "Expected arrays of inputs, or a tf.data.Dataset of single examples, which is not joined yet. Received: "
            f"{type(data).__name__}"
        )
    leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
    if len({len(leaf) for leaf in leaves}) > 1:
        raise ValueError(f"Expected arrays of one length. Received: {[tuple(leaf.shape) for leaf in leaves]}")
    return tuple(data) if isinstance(data, list) else data


def _first(arrays: Tensors) -> tf.data.Dataset:
    """Return the first examples of arrays, which distinguish one data set from another."""
    return tf.data.Dataset.from_tensor_slices((soft_targets.map_arrays(lambda leaf: leaf[:_PROBED], arrays),))


def _stacked(examples: list[Tensors]) -> Tensors:
    """Return a batch of examples."""
    return tree.map_structure(lambda *leaves: None if leaves[0] is None else tf.stack(leaves), *examples)


def _nbytes(leaf: Any) -> int:
    if not isinstance(leaf, tf.TensorSpec):
        return 0
    return math.prod(size or 1 for size in leaf.shape or ()) * max(1, leaf.dtype.size or 1)


def _digest(examples: Any) -> str:
    digest = hashlib.sha256()
    for leaf in tree.flatten(examples):
        value = np.asarray(leaf)
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(repr(value.tolist()).encode() if value.dtype == object else value.tobytes())
    return digest.hexdigest()
