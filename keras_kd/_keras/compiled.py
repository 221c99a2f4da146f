"""The loss and the metrics that `compile` has made, and the losses that a model adds by itself."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops, tree

from keras_kd._keras import accumulation, layer_tree, masks, replicas
from keras_kd._types import Tensor, Tensors


def has_loss(model: keras.Model) -> bool:
    """Return whether `compile` was given a loss."""
    return model._compile_loss is not None


class Counting(NamedTuple):
    """How a loss turns the values of examples and positions into one number.

    Attributes:
        reduction: Keras's name of what their sum is divided by.
        ignored: the label of what does not count, or None.
    """

    reduction: str = "sum_over_batch_size"
    ignored: int | None = None

    def mask(self, labels: Tensor | None, output: Tensor) -> Tensor | None:
        """Return where labels count, without an axis that the output has for its classes; None where all do."""
        if self.ignored is None or labels is None:
            return None
        if len(labels.shape) == len(output.shape) and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, -1)
        return ops.not_equal(labels, ops.cast(self.ignored, labels.dtype))

    def share(self, count: Tensor, mask: Tensor | None, sample_weight: Tensor | None) -> Tensor | None:
        """Return what the sum of the values on this replica is divided by, or None where it is not divided.

        Args:
            count: how many values there are, counted or not; or any multiple of it.
            mask: True where they count, or None.
            sample_weight: (batch,), (batch, 1) or of the shape of the values, or None.
        """
        if self.reduction == "sum":
            return None
        counts = None if mask is None else ops.cast(mask, "float32")
        if self.reduction == "mean_with_sample_weight" and sample_weight is not None:
            weights = ops.cast(sample_weight, "float32")
            counts = weights if counts is None else masks.aligned(counts, weights) * masks.aligned(weights, counts)
        return count if counts is None else ops.sum(counts)


def countings(model: Any) -> dict[tuple[Any, ...], Counting]:
    """Return how the loss given to `compile` counts, by the path of each output that has one, once it is built.

    Raises:
        ValueError: a loss that returns one value for each example.
    """
    container = model._compile_loss
    flat = (container._flat_losses or ()) if container is not None else ()
    # Of several losses on one output, Keras takes the first.
    return {each.path: _counting(each.loss) for each in reversed(flat)}


def _counting(loss: Any) -> Counting:
    if loss.reduction in (None, "none"):
        raise ValueError(
            f"Expected a loss that returns one number for a batch. Received: {loss.name!r} with reduction="
            f'{loss.reduction!r}. Leave `reduction` out, or give "sum" or "mean_with_sample_weight".'
        )
    return Counting("sum_over_batch_size" if loss.reduction == "mean" else loss.reduction, ignored_class(loss))


def ignored_class(loss: Any) -> int | None:
    """Return the label that a loss does not count: the `ignore_class` of Keras's sparse categorical cross-entropy."""
    function = getattr(loss, "fn", loss)  # Keras wraps what it is given as a function
    candidates = [getattr(each, "ignore_class", None) for each in (loss, function)]
    candidates.append(getattr(function, "keywords", {}).get("ignore_class"))  # of a functools.partial
    return next((each for each in candidates if each is not None), None)


class CrossEntropy(NamedTuple):
    """A cross-entropy of logits and class ids, as the loss of a model with one output.

    Attributes:
        counting: how its values become one number.
        weight: by which that is multiplied.
    """

    counting: Counting
    weight: float


def cross_entropy_of_ids(model: Any, loss_weights: Any) -> CrossEntropy | None:
    """Return the loss of a model if it is Keras's cross-entropy of logits and class ids, as an object.

    Args:
        model: is compiled.
        loss_weights: as `compile` was given them.
    """
    loss = model.loss
    if type(loss) is not keras.losses.SparseCategoricalCrossentropy or not loss.from_logits:
        return None
    if loss.reduction in (None, "none") or loss.dtype != "float32" or isinstance(loss_weights, dict):
        return None
    [weight] = tree.flatten(1.0 if loss_weights is None else loss_weights)
    return CrossEntropy(_counting(loss), float(weight))


def has_metrics(model: Any) -> bool:
    """Return whether `compile` was given metrics."""
    return model._compile_metrics is not None


class _OnReplica:
    """The loss of an output, weighted by this replica's share of what all replicas count."""

    def __init__(self, loss: Any, path: tuple[Any, ...]) -> None:
        self.inner = loss
        self.part = "/".join(map(str, ("student_loss", *path)))
        self.counting = _counting(loss)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, y: Tensors, y_pred: Tensors, sample_weight: Tensor | None = None) -> Tensor:
        value = self.inner(y, y_pred, sample_weight)
        output: Any = tree.flatten(y_pred)[0]
        mask = masks.merged(self.counting.mask(tree.flatten(y)[0], output), masks.of(output))
        share = self.counting.share(ops.shape(output)[0], mask, sample_weight)
        accumulation.record(self.part, self.counting.share(ops.size(output), mask, sample_weight))
        return value if share is None else replicas.by_share(ops.cast(value, "float32"), share)


def loss(model: Any, y: Tensors, y_pred: Tensors, sample_weight: Tensors) -> Tensor:
    """Return the loss given to `compile`, without regularisation, divided by the number of replicas."""
    container = model._compile_loss
    if replicas.count() > 1 or accumulation.is_counted():
        if not container.built:  # Keras has built it from the first batch
            container.build(y, y_pred)
        container._flat_losses = [
            each if isinstance(each.loss, _OnReplica) else each._replace(loss=_OnReplica(each.loss, each.path))
            for each in container._flat_losses
        ]
    return ops.cast(container(y, y_pred, sample_weight), "float32")


def student_loss(student: Any, x: Tensors, y: Tensors, y_pred: Tensors, weights: Tensors, training: bool) -> Tensor:
    """Return what a model's own `compute_loss` returns, whichever of Keras's signatures it has, in float32."""
    loss = student._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weights, training=training)
    count = ops.shape(tree.flatten(y_pred)[0])[0]
    accumulation.record("student_loss", count)
    return replicas.by_share(ops.cast(loss, "float32"), count)


def regularisation(model: keras.Model) -> Tensor:
    """Return the sum of the model's own losses (regularisers, `add_loss`), divided by the number of replicas."""
    losses = [ops.cast(model._aggregate_additional_loss(loss), "float32") for loss in model.losses]
    return sum(losses, ops.zeros((), "float32"))


def forget_losses(model: keras.Model) -> None:
    """Drop what a forward pass has added to a model's own losses: a teacher is not regularised."""
    model._clear_losses()


def forget(model: Any) -> None:
    """Drop the loss and the metrics of an earlier `compile`: Keras would keep them where the next one gives none."""
    model._compile_loss = None
    model._compile_metrics = None
    model.loss = None


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


def update_loss(model: Any, loss: Tensor, batch_size: Tensor) -> None:
    """Count a batch's loss into the `loss` that is logged."""
    model._loss_tracker.update_state(replicas.undivided(loss), sample_weight=batch_size)


def build_optimizer(model: Any) -> None:
    """Make the optimizer's variables before a step is traced, which would be traced again where it makes them."""
    if model._distribute_strategy is not None or model.optimizer.built:  # under a strategy, Keras has made them
        return
    if model.trainable_variables and all(layer.built for layer in layer_tree.all_layers(model)):
        model.optimizer.build(model.trainable_variables)


def build_loss_and_metrics(model: Any, iterator: Any, output: Tensors, own_loss: bool) -> None:
    """Make the variables of the loss and the metrics given to `compile` before a step is traced, as for the optimizer.

    Args:
        model: whose loss and metrics they are.
        iterator: over the batches; where their shapes are unknown, both are left to the step.
        output: the symbolic outputs of what is measured, or None where they are not known.
        own_loss: whether what is measured has a `compute_loss` of its own: a detector's makes other labels of those
            given, so that nothing is known of what the loss will compare.
    """
    if model._distribute_strategy is not None or output is None:
        return
    y = _symbolic_labels(iterator)
    if y is None:
        return
    loss, metrics = model._compile_loss, model._compile_metrics
    is_known = loss is not None and not loss.built and not own_loss
    if is_known and len(tree.flatten(output)) > 1:  # it logs the loss of each output
        _try_loss(loss, y, output)
    if metrics is not None and not metrics.built:
        metrics.build(y, output)


def _try_loss(loss: Any, y: Tensors, output: Tensors) -> None:
    """Let a loss of several outputs make its variables, or raise an error with the shapes of both sides.

    Raises:
        ValueError: labels of other names, or of shapes that a loss does not take.
    """
    try:
        _Comparison(loss).compute_output_spec(y, output)
    except (KeyError, TypeError, ValueError) as error:
        found: BaseException = error
        while found.__cause__ is not None:
            found = found.__cause__
        shapes = tree.map_structure(lambda each: tuple(each.shape), [y, output])
        raise ValueError(
            "Expected labels for each output, under its name or in its place, of a shape that its loss takes. Received "
            f"labels of the shapes {shapes[0]} for outputs of the shapes {shapes[1]}. {found}"
        ) from error


def _symbolic_labels(iterator: Any) -> Tensors:
    """Return the labels of the batches as symbolic tensors; None where there are none, or their shapes are unknown."""
    if not isinstance(iterator, tf.data.Iterator):
        return None
    _, y, _ = keras.utils.unpack_x_y_sample_weight(iterator.element_spec)
    if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None for spec in tree.flatten(y)):
        return None
    return tree.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), y)


class _Comparison(keras.Operation):
    """A loss, which by itself does not take symbolic tensors."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def call(self, y: Tensors, y_pred: Tensors) -> Tensor:
        return self.loss(y, y_pred)


def container(model: keras.Model) -> keras.metrics.Metric | None:
    """Return the metric that holds those given to `compile`."""
    return model._compile_metrics


def has_unweighted_metrics(model: Any) -> bool:
    """Return whether `compile` was given metrics that see no weights."""
    return has_metrics(model) and bool(model._compile_metrics._user_metrics)


def is_built(metrics: Any) -> bool:
    """Return whether the metrics given to `compile` have seen labels."""
    return metrics.built


def metrics(model: Any, left_out: list[keras.layers.Layer]) -> list[keras.metrics.Metric]:
    """Return the metrics of `compile`, then those of each layer, without those of some layers.

    A model inside another layer may have been compiled for itself. Keras would list its loss and metrics as well, under
    the names of those of this model.
    """
    own = [model._loss_tracker, model._compile_metrics, *(model._compile_loss.metrics if model._compile_loss else ())]
    others = {id(part) for layer in left_out for part in layer_tree.all_layers(layer)}
    layers = [layer for layer in layer_tree.all_layers(model) if id(layer) not in others]
    return [each for each in own if each is not None] + [each for layer in layers for each in layer._metrics]


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


def names(model: keras.Model) -> set[str]:
    """Return the names in the logs that come from `compile`: metrics, and the losses of several outputs."""
    loss, metrics = model._compile_loss, model._compile_metrics
    names = {metric.name for metric in loss.metrics} if loss is not None else set()
    if metrics is None or not metrics.built:
        return names
    of_outputs = [each for each in (*metrics._flat_metrics, *metrics._flat_weighted_metrics) if each]
    prefixes = [f"{each.output_name}_" if each.output_name else "" for each in of_outputs]  # of models with several
    pairs = zip(prefixes, of_outputs, strict=True)
    return names | {prefix + metric.name for prefix, each in pairs for metric in each.metrics}


def declare_direction(metric: keras.metrics.Metric, direction: str) -> None:
    """Let a metric declare "up" or "down": whether more or less of it is better."""
    metric._direction = direction


def direction(metric: keras.metrics.Metric) -> str | None:
    """Return "up" or "down", where a metric declares that more or less of it is better, as most of Keras's do."""
    return getattr(metric, "_direction", None)
