"""What Keras and TensorFlow keep to themselves and the Distiller needs. The only user of their internals."""

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_kd._types import Tensor, Tensors

try:
    from tensorflow.python.framework.ops import gradient_registry
except ImportError:  # a later TensorFlow: memory is not freed, all else works
    gradient_registry = None

#: Around a message, to find it again in what TensorFlow says.
MARK = "[keras_kd] "


def undivided(loss: Tensor) -> Tensor:
    """Return a loss as it is logged: Keras divides losses by the number of replicas, and sums their gradients."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss if replicas == 1 else loss * replicas


def total(count: Tensor) -> Tensor:
    """Return the sum of a number over all replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return count
    return context.all_reduce(tf.distribute.ReduceOp.SUM, count)


def by_share(mean: Tensor, count: Tensor) -> Tensor:
    """Let a mean over this replica's examples count by their number.

    Keras gives every replica the same weight. The last batch of a data set is rarely shared evenly, masks never are,
    and a replica may have no example at all.

    Args:
        mean: over `count` examples or positions, divided by the number of replicas as Keras does.
        count: how many there are on this replica.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return mean
    count = ops.cast(count, "float32")
    share = count * replicas / ops.maximum(total(count), 1.0)
    return ops.where(count > 0, mean, 0.0) * share


def batch_share(x: Tensors) -> Tensor:
    """Return how many examples of the whole batch a replica stands for in what is logged: an equal part."""
    size = ops.shape(next(leaf for leaf in tree.flatten(x) if leaf is not None))[0]  # an optional input may be None
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return size if replicas == 1 else total(ops.cast(size, "float32")) / replicas


def assign_all(variables: list[Any], values: list[Tensor]) -> None:
    """Assign values that are the same on all replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return

    def assign(strategy: tf.distribute.Strategy, *pairs: Any) -> None:
        for variable, value in zip(pairs[::2], pairs[1::2], strict=True):
            strategy.extended.update(variable, lambda own, new: own.assign(new), args=(value,))

    pairs = [each for variable, value in zip(variables, values, strict=True) for each in (variable.value, value)]
    context.merge_call(assign, args=tuple(pairs))


def build_under_strategy(model: Any, iterator: Any, data_batch: Any) -> None:
    """Do what Keras's `_maybe_symbolic_build` does, with the first replica's part of the first batch.

    Keras takes the mean of all parts, which fails for parts of several sizes, for strings, and among several machines.
    """
    if model._distribute_strategy is None:
        return
    strategy = model.distribute_strategy
    if iterator is not None:
        batches = next(each for _, _, each in iterator)
        data_batch = tree.map_structure(lambda part: strategy.experimental_local_results(part)[0], next(batches))
    with strategy.scope():
        model._symbolic_build(data_batch=data_batch)


def build_optimizer(model: Any) -> None:
    """Make the optimizer's variables before a step is traced, which would be traced again where it makes them."""
    if model._distribute_strategy is not None or model.optimizer.built:  # under a strategy, Keras has made them
        return
    if model.trainable_variables and all(layer.built for layer in all_layers(model)):
        model.optimizer.build(model.trainable_variables)


def build_metrics(model: Any, iterator: Any, output: Tensors) -> None:
    """Make the variables of the metrics given to `compile` before a step is traced, as for the optimizer.

    Args:
        model: whose metrics they are.
        iterator: over the batches; what does not say their shapes leaves the metrics to the step.
        output: the symbolic outputs of what is measured, or None where they are not known.
    """
    metrics = model._compile_metrics
    if model._distribute_strategy is not None or metrics is None or metrics.built:
        return
    if output is None or not isinstance(iterator, tf.data.Iterator):
        return
    _, y, _ = keras.utils.unpack_x_y_sample_weight(iterator.element_spec)
    specs = tree.flatten(y)
    if y is not None and all(isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None for spec in specs):
        metrics.build(tree.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), y), output)


def iterators_per_epoch(data: tf.data.Dataset) -> int:
    """Return how many iterators Keras makes of a dataset in each epoch of `fit`.

    One that it reads. Where it knows the number of batches, it does not wait for the end, and makes another one, which
    it drops.
    """
    return 1 if data.cardinality() == tf.data.UNKNOWN_CARDINALITY else 2


def with_axis(results: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give scalars an axis among several machines, where Keras takes the mean along the first."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not several_machines(strategy):
        return results
    return {name: ops.reshape(value, (1,)) for name, value in results.items()}


def several_machines(strategy: tf.distribute.Strategy) -> bool:
    """Return whether a strategy spans several machines."""
    return strategy.extended._in_multi_worker_mode()


def gather(x: Tensor) -> Tensor:
    """Return the rows of all replicas, in one order everywhere; on one device, `x`."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_gather(x, axis=0)


def has_compiled_loss(model: keras.Model) -> bool:
    """Return whether `compile` was given a loss."""
    return model._compile_loss is not None


def compiled_loss(model: Any, y: Tensors, y_pred: Tensors, sample_weight: Tensors) -> Tensor:
    """Return the loss given to `compile`, without regularisation, divided by the number of replicas."""
    first = tree.flatten(y_pred)[0]
    mask = getattr(first, "_keras_mask", None)  # only where a layer has set one
    count = ops.shape(first)[0] if mask is None else ops.sum(ops.cast(mask, "float32"))
    return by_share(ops.cast(model._compile_loss(y, y_pred, sample_weight), "float32"), count)


def check_supported(model: Any) -> None:
    """Refuse what Keras and TensorFlow cannot do on several replicas, before they fail inside.

    Raises:
        ValueError: gradient accumulation, several steps per execution, or XLA on processors, under a strategy.
    """
    strategy = model.distribute_strategy
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return
    on_processors = all("CPU" in device for device in strategy.extended.worker_devices)
    refused = {
        "gradient_accumulation_steps": (model.optimizer.gradient_accumulation_steps or 1) > 1,
        "steps_per_execution": model.steps_per_execution > 1,
        "jit_compile": bool(model.jit_compile) and on_processors,
    }
    for name in (name for name, given in refused.items() if given):
        raise ValueError(
            f"Expected `{name}` to be left out under {type(strategy).__name__} with {strategy.num_replicas_in_sync} "
            f"replicas{' on processors' if name == 'jit_compile' else ''}: Keras cannot do it there. Train on one "
            "device, or leave it out."
        )


def forget_compiled(model: Any) -> None:
    """Drop the loss and the metrics of an earlier `compile`: Keras would keep them where the next one gives none."""
    model._compile_loss = None
    model._compile_metrics = None
    model.loss = None


def regularisation(model: keras.Model) -> Tensor:
    """Return the sum of the model's own losses (regularisers, `add_loss`), divided by the number of replicas."""
    losses = [ops.cast(model._aggregate_additional_loss(loss), "float32") for loss in model.losses]
    return sum(losses, ops.zeros((), "float32"))


def forget_losses(model: keras.Model) -> None:
    """Drop what a forward pass has added to a model's own losses: a teacher is not regularised."""
    model._clear_losses()


def update_loss(model: Any, loss: Tensor, batch_size: Tensor) -> None:
    """Count a batch's loss into the `loss` that is logged."""
    model._loss_tracker.update_state(undivided(loss), sample_weight=batch_size)


def compiled_metrics(model: keras.Model) -> keras.metrics.Metric | None:
    """Return the metric that holds those given to `compile`."""
    return model._compile_metrics


def metrics_by_name(model: Any, output: Tensors) -> dict[str, keras.metrics.Metric]:
    """Return the metrics given to `compile`, by their names in the logs.

    Args:
        model: is compiled.
        output: its symbolic outputs.
    """
    given = model._compile_metrics
    if given is None:
        return {}
    if not given.built:  # a twin, as the data may yet decide which accuracy "accuracy" is
        given = type(given)(given._user_metrics, given._user_weighted_metrics, output_names=given.output_names)
        given.build(output, output)
    found: dict[str, keras.metrics.Metric] = {}
    for each in filter(None, (*given._flat_metrics, *given._flat_weighted_metrics)):
        for metric in each.metrics:
            found.setdefault(f"{each.output_name}_{metric.name}" if each.output_name else metric.name, metric)
    return found


def declared(metric: keras.metrics.Metric) -> str | None:
    """Return "up" or "down", where a metric declares that more or less of it is better, as most of Keras's do."""
    return getattr(metric, "_direction", None)


def is_built(metrics: Any) -> bool:
    """Return whether the metrics given to `compile` have seen labels."""
    return metrics.built


def compiled_names(model: keras.Model) -> set[str]:
    """Return the names in the logs that come from `compile`: metrics, and the losses of several outputs."""
    loss, metrics = model._compile_loss, model._compile_metrics
    names = {metric.name for metric in loss.metrics} if loss is not None else set()
    if metrics is None or not metrics.built:
        return names
    of_outputs = [each for each in (*metrics._flat_metrics, *metrics._flat_weighted_metrics) if each]
    prefixes = [f"{each.output_name}_" if each.output_name else "" for each in of_outputs]  # of models with several
    pairs = zip(prefixes, of_outputs, strict=True)
    return names | {prefix + metric.name for prefix, each in pairs for metric in each.metrics}


def metrics(model: Any, left_out: list[keras.layers.Layer]) -> list[keras.metrics.Metric]:
    """Return the metrics of `compile`, then those of each layer, without those of some layers.

    A model inside another layer may have been compiled for itself. Keras would list its loss and metrics as well, under
    the names of those of this model.
    """
    own = [model._loss_tracker, model._compile_metrics, *(model._compile_loss.metrics if model._compile_loss else ())]
    others = {id(part) for layer in left_out for part in all_layers(layer)}
    layers = [layer for layer in all_layers(model) if id(layer) not in others]
    return [each for each in own if each is not None] + [each for layer in layers for each in layer._metrics]


@contextlib.contextmanager
def lent(model: Any, student: Any) -> Iterator[Any]:
    """Give the student, for a while, what `compile` has given the model: a step of its own looks for it there."""
    names = ("optimizer", "loss", "compiled", "_compile_loss", "_compile_metrics", "_loss_tracker")
    before = {name: vars(student)[name] for name in names if name in vars(student)}
    try:
        vars(student).update({name: vars(model)[name] for name in names})  # without Keras's tracker
        yield student
    finally:
        for name in names:
            vars(student).pop(name)
        vars(student).update(before)


def student_loss(student: Any, x: Tensors, y: Tensors, y_pred: Tensors, weights: Tensors, training: bool) -> Tensor:
    """Return what a model's own `compute_loss` returns, whichever of Keras's signatures it has, in float32."""
    loss = student._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weights, training=training)
    return by_share(ops.cast(loss, "float32"), ops.shape(tree.flatten(y_pred)[0])[0])


def clip_together(optimizer: Any, gradients: list[Tensor]) -> list[Tensor]:
    """Clip what the gradients of all replicas sum to, where the optimizer clips.

    Keras clips the part of each replica before it sums them. Each part is replaced by an equal share of the clipped
    sum, which is below the limit of every one of Keras's three ways to clip.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    clipping = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    if replicas == 1 or not (clipping.clipnorm or clipping.global_clipnorm or clipping.clipvalue):
        return gradients
    places = [place for place, gradient in enumerate(gradients) if gradient is not None]
    context = tf.distribute.get_replica_context()
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [gradients[place] for place in places])
    scale = optimizer.scale_loss(ops.ones((), "float32"))
    scaled = [ops.divide(each, ops.cast(scale, each.dtype)) for each in summed]
    shared = [ops.multiply(each, ops.cast(scale / replicas, each.dtype)) for each in clipping._clip_gradients(scaled)]
    found = dict(zip(places, shared, strict=True))
    return [found.get(place) for place in range(len(gradients))]


def unless_stopped(model: Any, loss: Tensor, gradients: list[Tensor]) -> list[Tensor]:
    """Return gradients, of 0 where the loss is NaN under XLA, which drops what would have raised an error."""
    if not model.jit_compile:
        return gradients
    stopped = ops.isnan(loss)
    present = [each for each in gradients if each is not None]
    kept = iter(
        tf.nest.map_structure(lambda x: tf.where(stopped, tf.zeros_like(x), x), present, expand_composites=True)
    )
    return [None if each is None else next(kept) for each in gradients]


def stop_unless(condition: Tensor, message: str, loss: Tensor, *values: Tensor) -> Tensor:
    """Return the loss, and stop the step with `message`, followed by some values, unless all of `condition` holds.

    XLA drops every check of a graph. There the loss becomes NaN; see `unless_stopped` for the gradients.
    """
    holds = ops.all(condition)
    if tf.executing_eagerly():
        if not holds:
            raise ValueError(" ".join([message, *(str(np.asarray(each)) for each in values)]))
        return loss
    # `tf.debugging.Assert` would put a branch around this, which costs more than the check.
    with tf.control_dependencies([tf.raw_ops.Assert(condition=holds, data=[MARK + message, *values, MARK])]):
        return loss + ops.where(holds, 0.0, float("nan"))  # added, not chosen: that costs no operation for gradients


def with_callbacks(given: Any, more: list[keras.callbacks.Callback]) -> Any:
    """Return the callbacks given to `fit`, in any of its forms, and some more."""
    if not more:
        return given
    if isinstance(given, keras.callbacks.CallbackList):
        given.callbacks.extend(more)
        return given
    return [*tree.flatten(given or []), *more]


@contextlib.contextmanager
def in_a_graph() -> Iterator[None]:
    """Mark a `ValueError` of Python code that a graph calls, so that `with_value_errors` finds it again."""
    try:
        yield
    except ValueError as error:
        raise ValueError(MARK + str(error) + MARK) from None


@contextlib.contextmanager
def freed_with(owner: Any) -> Iterator[None]:
    """Let the graphs that are made meanwhile be freed when `owner` is gone, and free those of owners that are.

    TensorFlow never frees a graph in which a gradient of its own was defined, as every Keras optimizer does: the
    registry of gradients holds it, and with it the weights that the graph reads.
    """
    if gradient_registry is None:
        yield
        return
    known = len(gradient_registry.list())
    try:
        yield
    finally:
        names = gradient_registry.list()
        if len(names) > known:
            new = list(itertools.islice(reversed(names), len(names) - known))
            _forget_the_gone()
            _registered.append((weakref.ref(owner), new))


#: Who has registered which gradients. Looked through at times: a finalizer would swallow Ctrl-C.
_registered: list[tuple[weakref.ref, list[str]]] = []


def _forget_the_gone() -> None:
    for entry in [entry for entry in _registered if entry[0]() is None]:
        _registered.remove(entry)
        for name in entry[1]:
            gradient_registry._registry.pop(name, None)


def with_value_errors(model: Any, function: Any, first: Callable[[Any], Any]) -> Callable:
    """Raise what `stop_unless` has found as a `ValueError`, which TensorFlow has no way to raise in a graph.

    Args:
        model: whose step it is.
        function: Keras's function of an iterator, which takes a step.
        first: is called with the iterator before the first step, and returns the one that this step is to read.
    """
    begun = False

    def guarded(iterator: Any) -> Any:
        nonlocal begun
        if not begun:
            iterator = first(iterator)
            begun = True
        try:
            with freed_with(model):
                return function(iterator)
        except tf.errors.InvalidArgumentError as error:
            if MARK not in str(error):
                raise
            raise ValueError(_message(str(error))) from None

    return guarded


def _message(error: str) -> str:
    """Return what stands between two marks in TensorFlow's message, without what it puts between several values."""
    found = error.split(MARK)[1].replace("] [", " ").removesuffix(" [")
    return found.replace("\\'", "'")


@contextlib.contextmanager
def in_own_words() -> Iterator[None]:
    """Raise what a layer of ours refuses in its own words: Keras puts others around them, about shapes and calls."""
    try:
        yield
    except ValueError as error:
        found: BaseException = error
        while found.__cause__ is None and isinstance(found.__context__, ValueError):  # Keras raises its own from None
            found = found.__context__
        raise found from found.__cause__


def supports_jit(layer: keras.layers.Layer) -> bool:
    """Return whether a layer and all layers in it can be compiled with XLA."""
    return all(part.supports_jit for part in all_layers(layer))


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a layer and all layers in it."""
    return list(layer._flatten_layers())


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """Return what the random layers in a layer draw from."""
    return [generator for part in all_layers(layer) for generator in part._seed_generators]
