"""How Keras's loops call a step, what they call beside it, and how often they read the data."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import tree


def fast_function(model: Any, step: Callable[[Any], Any], function: Any) -> Callable[[Any], Any]:
    """Return a function of an iterator that takes a step and returns its logs, as Keras's does, in less time.

    Keras's hashes the structure of the data and packs the logs into an optional, in each step: a small student spends
    a tenth of its time there. Here, what was traced is looked up once for each iterator.

    Args:
        model: whose step it is; compiled.
        step: of a batch: `train_step` or `test_step`.
        function: Keras's, of an iterator. It is called for all but one step at a time on one device.
    """
    if model.run_eagerly or model.steps_per_execution > 1:
        return function
    on_batch = tf.function(step, jit_compile=model.jit_compile, reduce_retracing=True, autograph=False)
    of_spec: dict[tf.TypeSpec, Any] = {}
    latest: tuple[Callable[[], Any], Callable[[Any], Any]] = (lambda: None, function)

    def on_iterators(spec: tf.TypeSpec) -> Any:
        def on_handle(handle: tf.Tensor) -> Any:
            batch = tf.nest.pack_sequence_as(spec, [handle], expand_composites=True).get_next()
            return on_batch(tree.map_structure(_without_optional, batch))

        return tf.function(on_handle, autograph=False)

    def prepared(iterator: tf.data.Iterator) -> Callable[[Any], Any]:
        if not _on_one_device(model) or tf.config.functions_run_eagerly():
            return function
        spec = tf.type_spec_from_value(iterator)
        if spec not in of_spec:
            of_spec[spec] = on_iterators(spec)
        traced = of_spec[spec].get_concrete_function(_handle(iterator))
        return lambda iterator: traced(_handle(iterator))

    def call(iterator: Any) -> Any:
        nonlocal latest
        if not isinstance(iterator, tf.data.Iterator):
            return function(iterator)
        if latest[0]() is not iterator:
            latest = weakref.ref(iterator), prepared(iterator)  # an iterator that is kept would keep its buffers
        return latest[1](iterator)

    return call


def _handle(iterator: tf.data.Iterator) -> tf.Tensor:
    """Return the tensor by which TensorFlow knows an iterator."""
    [handle] = tf.nest.flatten(iterator, expand_composites=True)
    return handle


def _without_optional(leaf: Any) -> Any:
    """Return None for the optional that Keras puts in its place among what is not given."""
    return None if isinstance(leaf, tf.experimental.Optional) else leaf


def _on_one_device(model: Any) -> bool:
    return not tf.distribute.has_strategy() and model.distribute_strategy is tf.distribute.get_strategy()


def with_callbacks(
    given: Any, more: list[keras.callbacks.Callback], before: Sequence[keras.callbacks.Callback] = ()
) -> Any:
    """Return the callbacks given to `fit`, in any of its forms, with some more behind them, and some before them."""
    if isinstance(given, keras.callbacks.CallbackList):
        given.callbacks[:] = [*before, *given.callbacks, *more]
        return given
    return [*before, *tree.flatten(given or []), *more] if before or more else given


def iterators_per_epoch(data: tf.data.Dataset) -> int:
    """Return how many iterators Keras makes of a dataset in each epoch of `fit`.

    One that it reads. Where it knows the number of batches, it does not wait for the end, and makes another one, which
    it drops.
    """
    return 1 if data.cardinality() == tf.data.UNKNOWN_CARDINALITY else 2
