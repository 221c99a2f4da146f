"""Join the targets to each example, and refuse an example that the teacher has not seen."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd._internal import soft_targets
from keras_kd._internal.soft_targets import Joined
from keras_kd._types import Tensor, Tensors
from keras_kd.cache import row_fingerprints, shards
from keras_kd.cache.elements import Augment, Examples, Key, key_of, spec_of
from keras_kd.cache.key_index import Index
from keras_kd.cache.source import Source
from keras_kd.cache.top_classes import KEPT_BITS

_OTHER = (
    "is not the one that the teacher saw there: it was changed or moved, or is augmented or shuffled before the join. "
    "Join before any random step, and build the cache again if the data have changed."
)


def by_position(source: Source, examples: Examples, augment: Augment | None) -> tf.data.Dataset:
    """Return the examples with their targets, in their order; fails if one side has more than the other."""
    block = examples.block
    check_weights(source, examples)

    def one_pass(view: Tensor) -> tf.data.Dataset:
        elements = examples.seen(augment, None, view).map(_second) if augment else examples.dataset
        elements = elements.batch(block)
        if examples.is_dense:  # else only too many examples are found
            elements = elements.concatenate(tf.data.Dataset.from_tensors(_empty(spec_of(elements))))
        both = tf.data.Dataset.zip(elements, source.records(view, block)).enumerate()
        return both.map(attach, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()

    def attach(number: Tensor, pair: Any) -> Any:
        element, found = pair
        return _attach(source, element, source.decode(found), number * block)

    joined = source.in_passes(one_pass, source.check)
    return _finished(joined.apply(tf.data.experimental.assert_cardinality(source.count)))


def by_key(source: Source, examples: Examples, augment: Augment | None, key: Key) -> tf.data.Dataset:
    """Return the examples with their targets, whatever their order and number, each found by its key."""
    index = Index(source)
    check_weights(source, examples)

    def one_pass(view: Tensor) -> tf.data.Dataset:
        elements = examples.seen(augment, key, view).map(_second) if augment else examples.dataset

        def attach(*parts: Any) -> Any:
            element = parts if isinstance(examples.spec, tuple) or augment else parts[0]
            types = [tf.uint8, tf.int64, tf.int32]
            rows, places, whole = tf.numpy_function(index.find, [key_of(key, element), view], types, stateful=False)
            rows = tf.ensure_shape(rows, [None, source.layout.row_bytes])
            places, whole = tf.ensure_shape(places, [None]), tf.ensure_shape(whole, [None])
            message = f"The cache at {source.folder} has no example of one of these keys: build it for this dataset."
            rows = row_fingerprints.assert_all(places >= 0, [message], rows)
            message = f"A file of the cache at {source.folder} has changed since it was joined. {shards.REMEDY}"
            rows = row_fingerprints.assert_all(tf.equal(row_fingerprints.of_rows(rows), whole), [message], rows)
            return _attach(source, element, rows, places[:1][0])

        blocks = elements.batch(examples.block)
        return blocks.map(attach, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()

    joined = source.in_passes(one_pass, index.load)
    if examples.count is not None:
        joined = joined.apply(tf.data.experimental.assert_cardinality(examples.count))
    return _finished(joined)


def arrays(source: Source, x: Tensors) -> Joined:
    """Return arrays with their targets, each example compared.

    Raises:
        ValueError: other examples than the teacher saw, or another number of them.
    """
    rows = shards.rows_of_view(source.folder, source.manifest, 0, source.count)
    targets, expected, _ = source.layout.unpack_arrays(np.concatenate([np.asarray(each) for each in rows]))
    examples = Examples(x)
    check_weights(source, examples)
    if examples.inputs != source.manifest["inputs"]:
        raise ValueError(
            f"Expected examples of the types and shapes {source.manifest['inputs']}, for which the cache at "
            f"{str(source.folder)!r} was built. Received: {examples.inputs}"
        )
    columns, x = soft_targets.columns(x), soft_targets.without_targets(x)
    x = tuple(x) if isinstance(x, list) else x
    size = examples.count
    if size != source.count:
        raise ValueError(
            f"Expected the {source.count:,} examples that the cache at {str(source.folder)!r} was built for. Received: "
            f"{size:,}"
        )
    block = examples.block
    for start in range(0, size, block):
        part = soft_targets.map_arrays(lambda leaf: tf.convert_to_tensor(leaf[start : start + block]), x)  # noqa: B023
        found = row_fingerprints.fingerprints(part, source.layout.check_bytes).numpy()
        wrong = np.flatnonzero(found != expected[start : start + block])
        if len(wrong):
            raise ValueError(f"Example {start + wrong[0]:,} {_OTHER} The cache: {source.folder}")
    return Joined(x, {**targets, **source.mark}, columns)


def _attach(source: Source, element: Any, rows: Tensor, start: Tensor) -> Any:
    """Return elements of a block with targets, those compared with what the teacher saw."""
    targets, expected, _ = source.layout.unpack(rows)
    x = Examples.x(element)
    found = row_fingerprints.fingerprints(x, source.layout.check_bytes)
    number = f"The dataset has another number of examples than the cache at {source.folder}, {source.count:,}."
    equal = tf.equal(tf.size(found), tf.size(expected))
    expected = row_fingerprints.assert_all(equal, [number, " Build the cache again, in another folder."], expected)
    same = tf.equal(tf.cast(found, tf.int64), tf.cast(expected, tf.int64))
    wrong = start + tf.argmin(tf.cast(tf.concat([same, [True]], 0), tf.int32))
    message = ["Example ", tf.strings.as_string(wrong), f" {_OTHER} The cache: {source.folder}"]
    targets = row_fingerprints.assert_all(same, message, targets)
    for name, parts in targets.items():
        if "kept" in parts:
            targets[name] = _with_kept_positions(source, element, parts, start)
    return Examples.with_x(element, Joined(x, {**targets, **source.mark}))


def check_weights(source: Source, examples: Examples) -> None:
    """Refuse data without the weights by which positions were left out of a cache.

    Raises:
        ValueError: there are none, or of another number of positions.
    """
    of_weights = [field for field in source.layout.fields if field.part == KEPT_BITS]
    counts = {each.shape[0] for each in source.layout.positions if each.name in {field.name for field in of_weights}}
    if counts - {examples.weights_of_positions}:
        raise ValueError(
            f"Expected examples (x, y, sample_weight) with {sorted(counts)[0]} weights each, for the cache at "
            f"{str(source.folder)!r}, which was built without the positions of weight 0. Received: {examples.spec}."
        )


def _with_kept_positions(source: Source, element: Any, parts: Any, start: Tensor) -> Any:
    """Return the parts of a target, and stop where a position counts now that was of weight 0 in the build."""
    kept = parts["kept"]
    left_out = tf.logical_and(tf.not_equal(Examples.weights(element), 0), tf.logical_not(kept))
    left_out = tf.logical_and(left_out, parts["mask"]) if "mask" in parts else left_out
    message = (
        f"Expected weights of 0 where they were 0 when the cache at {source.folder} was built, without these "
        "positions. Received others, from example "
    )
    examples = tf.concat([tf.reduce_any(left_out, axis=-1), [True]], 0)  # which there may be none of
    number = tf.strings.as_string(start + tf.argmax(tf.cast(examples, tf.int32)))
    remedy = " on or later. Build the cache again, in another folder."
    return row_fingerprints.assert_all(tf.logical_not(left_out), [message, number, remedy], parts)


def _second(place: Tensor, element: Any) -> Any:
    return element


def _empty(spec: Any) -> Any:
    """Return a block of no examples."""
    return soft_targets.map_arrays(
        lambda leaf: tf.zeros([0, *(size or 0 for size in leaf.shape[1:])], leaf.dtype), spec
    )


def _finished(joined: tf.data.Dataset) -> tf.data.Dataset:
    """Shard by example instead of by file across workers: files of targets would not fit those of the examples."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return joined.with_options(options)
