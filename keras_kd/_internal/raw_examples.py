"""Data of raw examples, as `fit`, `evaluate` and `predict` take them, with what each model reads of them.

Models preprocess where a tf.data.Dataset is made: in parallel to the steps, and out of the sight of XLA, which has no
strings. The student's own preprocessing decides about labels and weights, as in the `fit` of a task of KerasHub.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches, raw_views, soft_targets, text_bytes
from keras_kd._internal.batches import Batch
from keras_kd._types import Tensors

#: Keras's, of arrays.
_BATCH_SIZE = 32


class Preparation:
    """Make what the models read of raw examples.

    Args:
        student: is trained.
        teacher: a `Teacher`, or None.
        runs_alone: whether a batch with labels y is evaluated without the teacher.
    """

    def __init__(self, student: Any, teacher: Any, runs_alone: Callable[[Tensors], bool]) -> None:
        self._student = student
        self._teacher = teacher
        self._runs_alone = runs_alone

    def is_needed(self, x: Any) -> bool:
        """Return whether a model preprocesses examples of its own."""
        views = {} if self._teacher is None else self._teacher.views(_first(x))
        return raw_views.preprocessing(self._student) is not None or bool(set(views) - {raw_views.RAW})

    def for_fit(
        self, x: Any, y: Any, batch_size: int | None, arguments: dict[str, Any]
    ) -> tuple[Any, Any, int | None, dict[str, Any]]:
        """Return x, y, batch_size and the further arguments of `fit` for Keras."""
        if not self.is_needed(x):
            self._check(x)
            return x, y, batch_size, arguments
        given = {"validation_split": 0.0, "validation_data": None, "shuffle": True, "sample_weight": None, **arguments}
        split, validation, shuffle = (given.pop(name) for name in ("validation_split", "validation_data", "shuffle"))
        data = (x, y, given.pop("sample_weight"))
        if split and validation is None:
            data, validation = _split(data, split)
        size = given.pop("validation_batch_size", None) or batch_size
        if validation is not None:
            validation = self._dataset(_parts(validation), size, self._runs_alone)
        train = self._dataset(data, batch_size, lambda y: False, shuffle)
        return train, None, None, {**given, "validation_data": validation, "shuffle": False}  # that has been done

    def for_evaluation(self, x: Any, y: Any, sample_weight: Any, batch_size: int | None, predicts: bool) -> Any:
        """Return x, y, sample_weight and batch_size of `evaluate` or `predict` for Keras."""
        if not self.is_needed(x):
            self._check(x)
            return x, y, sample_weight, batch_size
        alone = (lambda y: True) if predicts else self._runs_alone
        return self._dataset((x, y, sample_weight), batch_size, alone), None, None, None

    def of_batch(self, x: Tensors, y: Tensors = None, sample_weight: Tensors = None) -> Batch:
        """Return a batch with what each model reads in the place of x, unless that has happened."""
        if raw_views.are_made(soft_targets.without_targets(x)) or not self.is_needed(x):
            return x, y, sample_weight
        return self._views(x, y, sample_weight, lambda y: False)

    def _dataset(
        self, data: Batch, batch_size: int | None, alone: Callable[[Tensors], bool], shuffle: Any = False
    ) -> tf.data.Dataset:
        """Return batches with what each model reads in the place of x.

        Args:
            data: x, y and sample_weight, as given to Keras.
            batch_size: of arrays.
            alone: whether a batch with labels y is for the student alone.
            shuffle: whether to draw the order of arrays anew in each epoch.
        """
        x, y, sample_weight = data
        if not isinstance(x, tf.data.Dataset):
            return self._prepared(_batched(data, batch_size or _BATCH_SIZE, shuffle), alone)
        if not (y is None and sample_weight is None and batch_size is None):
            raise ValueError(
                "Expected a tf.data.Dataset of batches of (x, y) or (x, y, sample_weight), which holds them all. "
                "Received `y`, `sample_weight` or `batch_size` beside it."
            )
        return self._prepared(x, alone)

    def _prepared(self, dataset: tf.data.Dataset, alone: Callable[[Tensors], bool]) -> tf.data.Dataset:
        @tf.autograph.experimental.do_not_convert  # which takes as long as the preprocessing's own trace
        def of_element(x: Tensors, y: Tensors = None, sample_weight: Tensors = None) -> Any:
            return keras.utils.pack_x_y_sample_weight(*self._views(x, y, sample_weight, alone))

        return dataset.map(of_element, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _views(self, x: Tensors, y: Tensors, sample_weight: Tensors, alone: Callable[[Tensors], bool]) -> Batch:
        """Return a batch with what each model reads in the place of x, in a graph or eagerly."""
        raw = soft_targets.without_targets(x)
        read = raw if self._teacher is None else self._teacher.student_view(x)
        if raw_views.preprocessing(self._student) is not None:
            read, y, sample_weight = raw_views.preprocessed(self._student, read, y, sample_weight)
        raw_views.check_text(self._student, read, "student")
        if raw_views.is_per_token(self._student):
            made: Any = raw_views.Shared(read)
        else:
            reads = {} if alone(y) or self._teacher is None else self._teacher.views(x)
            made = raw_views.Views(read, {key: made_of(raw) for key, made_of in reads.items()})
        return soft_targets.map_inputs(lambda _: made, x), y, sample_weight

    def _check(self, x: Any) -> None:
        """Refuse strings for a student that takes numbers, where it is not chosen in the step what it is fed."""
        first = soft_targets.inputs(_first(x))
        if not isinstance(first, dict) and (isinstance(x, tf.data.Dataset) or batches.are_arrays(x)):
            raw_views.check_text(self._student, first, "student")


class Labelled(NamedTuple):
    """A batch with labels.

    Attributes:
        x: as it was given.
        read: x, or the tokens that all models read.
        y: labels.
        sample_weight: weights, or None.
        text_bytes: of the text that the labels stand for, where a language model's preprocessor has made them; else 0.
    """

    x: Tensors
    read: Tensors
    y: Tensors
    sample_weight: Tensors
    text_bytes: int = 0


def labelled(models: Iterable[Any], data: Any, batch_size: int) -> Iterator[Labelled]:
    """Yield batches with labels; of texts alone, the preprocessor of a language model makes them.

    Args:
        models: all that will read the data.
        data: see `batches.of`.
        batch_size: of arrays.
    """
    tasks = [model for model in models if raw_views.is_per_token(model)]
    for each in tasks[1:]:
        raw_views.check_vocabularies(tasks[0], each)
    data = batches.lists_as_arrays(data)
    data = (data, None) if tasks and (batches.is_array(data) or isinstance(data, dict)) else data
    for x, y, sample_weight in batches.of(data, batch_size, labels=not tasks):
        x = soft_targets.inputs(x)
        if y is None:
            tokens, y, sample_weight = raw_views.preprocessed(tasks[0], x)
            size = text_bytes.of_tokens(raw_views.tokenizer(tasks[0]), x, y, sample_weight)
            yield Labelled(x, raw_views.Shared(tokens), y, sample_weight, size)
        else:
            yield Labelled(x, x, y, sample_weight)


def _first(x: Any) -> Any:
    """Return the specs of x of a dataset; other data pass through."""
    if not isinstance(x, tf.data.Dataset):
        return x
    spec = x.element_spec
    return spec[0] if isinstance(spec, tuple) and not isinstance(spec, soft_targets.Joined) else spec


def _parts(data: Any) -> Batch:
    """Return x, y and sample_weight of `validation_data`."""
    return (data, None, None) if isinstance(data, tf.data.Dataset) else keras.utils.unpack_x_y_sample_weight(data)


def _batched(data: Batch, batch_size: int, shuffle: Any) -> tf.data.Dataset:
    """Return batches of arrays, in an order that is drawn anew in each pass, or in their own."""
    data = _checked(data)
    with tf.device("CPU:0"):
        tensors = soft_targets.map_arrays(_as_tensor, data)
    count = soft_targets.count(tensors[0])
    places = tf.data.Dataset.range(count)
    places = (places.shuffle(count) if shuffle else places).batch(batch_size)

    def chosen(places: tf.Tensor) -> Any:
        rows = soft_targets.map_arrays(lambda leaf: tf.gather(leaf, places), tensors)
        return keras.utils.pack_x_y_sample_weight(*rows)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return places.map(chosen, num_parallel_calls=tf.data.AUTOTUNE).with_options(options)


def _checked(data: Batch) -> Batch:
    """Return arrays, lists of numbers as arrays too, or raise an error."""
    converted: Batch = batches.as_arrays(data)
    if not batches.are_arrays(converted):
        raise TypeError(
            "Expected raw examples as arrays, as lists of strings, or as a tf.data.Dataset of batches, for models that "
            f"preprocess examples of their own. Received: x of type {type(data[0]).__name__}. For data that are "
            "preprocessed already, set the `preprocessor` of the models to None."
        )
    counts = {len(leaf) for leaf in tree.flatten(converted) if leaf is not None}
    if len(counts) > 1:
        raise ValueError(f"Expected as many labels and weights as examples. Received lengths {sorted(counts)}.")
    return converted


def _as_tensor(array: Any) -> tf.Tensor:
    tensor = tf.convert_to_tensor(array)
    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor


def _split(data: Batch, share: float) -> tuple[Batch, Batch]:
    """Return arrays without their last rows, and these, as Keras splits them."""
    data = _checked(data)
    count = soft_targets.count(data[0])
    first = math.floor(count * (1.0 - share))
    if not 0 < first < count:
        raise ValueError(
            f"Expected `validation_split` to leave examples on both sides. Received: validation_split={share!r} of "
            f"{count} examples."
        )
    parts = [soft_targets.map_arrays(lambda leaf: leaf[rows], data) for rows in (slice(first), slice(first, None))]  # noqa: B023
    return parts[0], parts[1]
