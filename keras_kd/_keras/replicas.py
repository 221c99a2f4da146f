"""How Keras and TensorFlow run a model on several replicas, and what makes their numbers those of one."""

from typing import Any

import tensorflow as tf
from keras import ops, tree

from keras_kd._keras import accumulation
from keras_kd._types import Tensor, Tensors


def count() -> int:
    """Return the number of replicas of the strategy in use."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def are_several(model: Any) -> bool:
    """Return whether a model is trained on several replicas."""
    return model.distribute_strategy is not None and model.distribute_strategy.num_replicas_in_sync > 1


def undivided(loss: Tensor) -> Tensor:
    """Return a loss as it is logged: Keras divides losses by the number of replicas, and sums their gradients."""
    return loss if count() == 1 else loss * count()


def total(number: Tensor) -> Tensor:
    """Return the sum of a number over all replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return number
    return context.all_reduce(tf.distribute.ReduceOp.SUM, number)


def by_share(mean: Tensor, share: Tensor) -> Tensor:
    """Weight the mean over this replica's examples by their share of all.

    Keras gives every replica the same weight. The last batch of a data set is rarely shared evenly, masks never are,
    and a replica may have no example at all.

    Args:
        mean: over examples or positions, divided by the number of replicas as Keras does.
        share: what their sum was divided by on this replica: their number, or the sum of their weights.
    """
    if count() == 1:
        return mean
    share = ops.cast(share, "float32")
    return ops.where(share > 0, mean, 0.0) * ops.divide_no_nan(share * count(), total(share))


def batch_share(x: Tensors) -> Tensor:
    """Return how many examples of the whole batch a replica counts for in what is logged: an equal part."""
    size = ops.shape(next(leaf for leaf in tree.flatten(x) if leaf is not None))[0]  # an optional input may be None
    return size if count() == 1 else total(ops.cast(size, "float32")) / count()


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


def gather(x: Tensor) -> Tensor:
    """Return the rows of all replicas, in one order everywhere; on one device, `x`."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_gather(x, axis=0)


def several_machines(strategy: tf.distribute.Strategy) -> bool:
    """Return whether a strategy spans several machines."""
    return strategy.extended._in_multi_worker_mode()


def with_axis(results: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give scalars an axis among several machines, where Keras takes the mean along the first."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not several_machines(strategy):
        return results
    return {name: ops.reshape(value, (1,)) for name, value in results.items()}


def check_supported(model: Any) -> None:
    """Refuse what Keras and TensorFlow cannot do on several replicas, before they fail inside.

    Raises:
        ValueError: gradient accumulation, several steps per execution, or XLA on processors, under a strategy.
    """
    if not are_several(model):
        return
    strategy = model.distribute_strategy
    on_processors = all("CPU" in device for device in strategy.extended.worker_devices)
    refused = {
        "gradient_accumulation_steps": accumulation.steps(model.optimizer) > 1,
        "steps_per_execution": model.steps_per_execution > 1,
        "jit_compile": bool(model.jit_compile) and on_processors,
    }
    for name in (name for name, given in refused.items() if given):
        raise ValueError(
            f"Expected `{name}` to be left out under {type(strategy).__name__} with {strategy.num_replicas_in_sync} "
            f"replicas{' on processors' if name == 'jit_compile' else ''}: Keras cannot do it there. Train on one "
            "device, or leave it out."
        )


def build_model(model: Any, iterator: Any, data_batch: Any) -> None:
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


def clip_together(optimizer: Any, gradients: list[Tensor | None]) -> list[Tensor | None]:
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
