"""Give each example what the teacher has said of it, and refuse one that the teacher has not seen."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd import distribution
from keras_kd._types import Tensor, Tensors
from keras_kd.cache import checks, shards
from keras_kd.cache.build import augmented
from keras_kd.cache.examples import Augment, Examples, Key, key_of
from keras_kd.cache.layout import Layout
from keras_kd.targets import Joined

_OTHER = (
    "is not the one that the teacher saw there: it was changed or moved, or is augmented or shuffled before the join. "
    "Join before any random step, and build the cache again if the data have changed."
)


class Source:
    """The rows of a finished cache.

    Args:
        folder: of the cache.
        manifest: its content.
        view: returns the view that a pass over the data uses, when the pass begins.
    """

    def __init__(self, folder: pathlib.Path, manifest: dict[str, Any], view: Callable[[], int]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.layout = Layout.from_config(manifest["layout"])
        self.count: int = manifest["count"]
        self._view = view
        self._checked: set[int] = set()

    def of_view(self, view: int) -> "Source":
        """Return a source that uses one view in every pass."""
        return Source(self.folder, self.manifest, lambda: view)

    def check(self, view: int) -> None:
        """Compare the files of a view with their checksums, once.

        Raises:
            ValueError: a damaged or missing file.
        """
        if view not in self._checked:
            names = [path.relative_to(self.folder).as_posix() for path in self.paths(view)]
            shards.check(self.folder, {name: self.manifest["files"][name] for name in names})
            self._checked.add(view)

    def view(self) -> tf.data.Dataset:
        """Return the number of the view of this pass, for ever."""
        if self.manifest["views"] == 1:
            return tf.data.Dataset.from_tensors(tf.zeros((), tf.int64)).repeat()

        def ask() -> np.int64:
            with distribution.in_a_graph():
                return np.int64(self._view())

        read = tf.data.Dataset.from_tensors(0).map(
            lambda _: tf.ensure_shape(tf.numpy_function(ask, [], tf.int64, stateful=True), [])
        )
        return read.flat_map(lambda view: tf.data.Dataset.from_tensors(view).repeat())

    def paths(self, view: int) -> list[pathlib.Path]:
        """Return the shards of a view, in their order."""
        numbers = range(-(-self.count // self.manifest["rows_per_shard"]))
        return [shards.shard_path(self.folder, view, number) for number in numbers]

    def rows(self) -> tf.data.Dataset:
        """Return the rows of the view of this pass, in their order; its files are checked as the pass begins."""
        if self.manifest["views"] == 1:
            return shards.read([str(path) for path in self.paths(0)], self.layout.row_bytes)
        count = len(self.paths(0))

        def read(view: Tensor) -> tf.data.Dataset:
            paths = tf.numpy_function(self._checked_paths, [view], tf.string, stateful=True)
            return shards.read(tf.ensure_shape(paths, [count]), self.layout.row_bytes)

        return self.view().take(1).flat_map(read)

    def _checked_paths(self, view: np.ndarray) -> np.ndarray:
        with distribution.in_a_graph():
            self.check(int(view))
        return np.array([str(path).encode() for path in self.paths(int(view))], dtype=object)

    def arrays(self, view: int) -> np.ndarray:
        """Return all rows of a view."""
        return np.concatenate(shards.rows_of_view(self.folder, self.manifest, view, self.count))


def by_position(source: Source, examples: Examples, augment: Augment | None) -> tf.data.Dataset:
    """Return the examples with their targets, in their order; fails at the end if one side has more than the other."""
    block = examples.block
    elements = examples.dataset.batch(block) if augment is None else _augmented(source, examples, augment).batch(block)
    empty = tf.data.Dataset.from_tensors(_empty(elements.element_spec))
    rows = source.rows()
    if block != source.manifest["rows_per_record"]:
        rows = rows.rebatch(block)
    none = tf.data.Dataset.from_tensors(tf.zeros((0, source.layout.row_bytes), tf.uint8)).repeat()
    both = tf.data.Dataset.zip(elements.concatenate(empty), rows.concatenate(none)).enumerate()

    def attach(number: Tensor, pair: Any) -> Any:
        element, found = pair
        here, there = _size(element), tf.shape(found)[0]
        message = f"The dataset has another number of examples than the cache at {source.folder}, {source.count:,}."
        found = checks.insist(tf.equal(here, there), message + " Build the cache again, in another folder.", found)
        return _attach(source, element, found, number * block)

    joined = both.map(attach, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
    return _finished(joined.apply(tf.data.experimental.assert_cardinality(source.count)))


def by_key(source: Source, examples: Examples, augment: Augment | None, key: Key) -> tf.data.Dataset:
    """Return the examples with their targets, whatever their order and number, each found by its key."""
    find = _finder(source, shards.keys(source.folder, source.manifest, source.count))
    if augment is None:
        elements = examples.dataset.batch(examples.block)
    else:
        elements = _augmented(source, examples, augment, key).batch(examples.block)

    def attach(element: Any, view: Tensor) -> Any:
        rows, places = tf.numpy_function(find, [key_of(key, element), view], [tf.uint8, tf.int64], stateful=False)
        rows, places = tf.ensure_shape(rows, [None, source.layout.row_bytes]), tf.ensure_shape(places, [None])
        message = f"The cache at {source.folder} has no example of one of these keys: build it for this dataset."
        rows = checks.insist(tf.reduce_all(places >= 0), message, rows)
        return _attach(source, element, rows, places[:1][0])

    both = tf.data.Dataset.zip(elements, source.view())
    joined = both.map(attach, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
    if examples.count is not None:
        joined = joined.apply(tf.data.experimental.assert_cardinality(examples.count))
    return _finished(joined)


def arrays(source: Source, x: Tensors) -> Joined:
    """Return arrays with their targets, each example compared.

    Raises:
        ValueError: other examples than the teacher saw, or another number of them.
    """
    rows = source.arrays(0)
    said, expected, _ = source.layout.unpack_arrays(rows)
    x = tuple(x) if isinstance(x, list) else x
    size = len(tree.flatten(x)[0])
    if size != source.count:
        raise ValueError(
            f"Expected the {source.count:,} examples that the cache at {str(source.folder)!r} was built for. Received: "
            f"{size:,}"
        )
    block = Examples(x).block
    for start in range(0, size, block):
        part = tree.map_structure(lambda leaf: tf.convert_to_tensor(leaf[start : start + block]), x)  # noqa: B023
        wrong = np.flatnonzero(checks.fingerprints(part).numpy() != expected[start : start + block])
        if len(wrong):
            raise ValueError(f"Example {start + wrong[0]:,} {_OTHER} The cache: {source.folder}")
    return Joined(x, said)


def _attach(source: Source, element: Any, rows: Tensor, start: Tensor) -> Any:
    """Return elements of a block with targets, those compared with what the teacher saw."""
    said, expected, _ = source.layout.unpack(rows)
    x = Examples.x(element)
    same = tf.equal(tf.cast(checks.fingerprints(x), tf.int32), tf.cast(expected, tf.int32))
    wrong = start + tf.argmin(tf.cast(tf.concat([same, [True]], 0), tf.int32))
    message = tf.strings.join(["Example ", tf.strings.as_string(wrong), f" {_OTHER} The cache: {source.folder}"])
    said = checks.insist(same, message, said)
    return Examples.with_x(element, Joined(x, said))


def _augmented(source: Source, examples: Examples, augment: Augment, key: Key | None = None) -> tf.data.Dataset:
    """Return elements whose x is the view of this pass."""

    def apply(numbered: Any, view: Tensor) -> Any:
        place, element = numbered
        return augmented(augment, key, view)(place, element)[1]

    both = tf.data.Dataset.zip(examples.dataset.enumerate(), source.view())
    return both.map(apply, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _finder(source: Source, keys: np.ndarray) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function from keys and a view to rows and their places, -1 for a key that is not there."""
    order = np.argsort(keys)
    ordered = keys[order]
    step = source.manifest["rows_per_record"]
    mapped: dict[int, list[np.ndarray]] = {}

    def find(wanted: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = int(view)
        if number not in mapped:
            with distribution.in_a_graph():
                source.check(number)
            mapped[number] = shards.rows_of_view(source.folder, source.manifest, number, source.count)
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        places = np.where(ordered[at] == wanted, order[at], -1)
        rows = [mapped[number][max(place, 0) // step][max(place, 0) % step] for place in places]
        return np.stack(rows) if rows else np.zeros((0, source.layout.row_bytes), np.uint8), places.astype(np.int64)

    return find


def _empty(spec: Any) -> Any:
    """Return a block of no examples."""
    return tree.map_structure(lambda leaf: tf.zeros([0, *(size or 0 for size in leaf.shape[1:])], leaf.dtype), spec)


def _size(element: Any) -> Tensor:
    return tf.shape(tree.flatten(element)[0])[0]


def _finished(joined: tf.data.Dataset) -> tf.data.Dataset:
    """Let several workers share the examples, not the files: those of the targets alone would not fit to the rest."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return joined.with_options(options)
