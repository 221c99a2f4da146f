"""How much a model loses with each unit: by its weights, by its activations, or by a Taylor term of its outputs.

References: Molchanov et al., Importance Estimation for Neural Network Pruning, 2019, arXiv 1906.10771;
Theis et al., Faster Gaze Prediction with Dense Networks and Fisher Pruning, 2018, arXiv 1801.05787.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_kd._internal import batches
from keras_kd._internal.layer_reader import Reader, select
from keras_kd._keras import graph_replay
from keras_kd._types import Tensors
from keras_kd.pruning.channel_trace import WeightAxis
from keras_kd.pruning.kept_units import Choices
from keras_kd.pruning.opened_models import opened

#: Importances that a function of the user's returns: for each unit of some layers, by their names.
ByLayer = Mapping[str, Any]
Importance = str | Callable[[keras.Model], ByLayer]

#: Gradients are taken for so many examples together: few, as each batch gives one square for each unit.
_BATCH = 8

#: Of a unit that was not measured: it stays.
_UNKNOWN = np.inf


def measured(model: keras.Model, choices: Choices, importance: Importance, data: Any, head: Any = "auto") -> np.ndarray:
    """Return the importance of each set of units, by the number that stands for it.

    Args:
        model: the model.
        choices: of its units.
        importance: "magnitude", "activations", "taylor", or a function of the model; see `prune`.
        data: inputs, or batches of them with or without labels; None where they are not needed.
        head: what the outputs mean, for "taylor"; see `teachers.Frozen`.

    Raises:
        ValueError: an unknown name, or no data where they are needed.
    """
    if callable(importance):
        return _by_layer(choices, importance(model))
    if importance == "magnitude":
        return _per_group(choices, _magnitude(choices))
    if importance not in ("activations", "taylor"):
        raise ValueError(
            f'Expected `importance` to be "magnitude", "activations", "taylor" or a function. Received: {importance!r}'
        )
    if data is None:
        raise ValueError(f"Expected `data`, some hundred inputs, for importance={importance!r}. Received: None")
    if importance == "activations":
        return _per_group(choices, _activations(model, choices, data))
    return _taylor(model, choices, data, head)


def inputs(model: keras.Model, data: Any, size: int) -> Iterator[Tensors]:
    """Yield batches of what a model reads.

    Args:
        model: the model.
        data: arrays of the structure of its inputs, (x, y), or batches, as a tf.data.Dataset.
        size: of batches that are cut from arrays.
    """
    if isinstance(data, tuple) and 2 <= len(data) <= 3 and not isinstance(opened(model).input, tuple):
        data = data[0]
    if isinstance(data, np.ndarray) or batches.are_arrays(data):
        found: Any = batches.cut(batches.as_arrays(data), size)
    else:
        found = (x for x, _, _ in batches.of(data, size, labels=False))
    for x in found:
        yield tree.map_structure(ops.convert_to_tensor, select(model, x))


def first_inputs(model: keras.Model, data: Any, examples: int = 300) -> Any:
    """Return some inputs as arrays, or None where there are none."""
    if data is None:
        return None
    found, count = [], 0
    for x in inputs(model, data, examples):
        found.append(tree.map_structure(ops.convert_to_numpy, x))
        count += len(tree.flatten(x)[0])
        if count >= examples:
            break
    return tree.map_structure(lambda *parts: np.concatenate(parts)[:examples], *found)


def _by_layer(choices: Choices, found: ByLayer) -> np.ndarray:
    scores, known = np.zeros(len(choices.roots)), np.zeros(len(choices.roots), bool)
    owners = {axis.owner: axis for axis in choices.made}
    for name, values in found.items():
        if name not in owners or len(values) != len(owners[name].units):
            raise ValueError(
                f"Expected the importance of each unit of a layer. Received {len(values)} for {name!r}. Units: "
                f"{ {owner: len(axis.units) for owner, axis in owners.items()} }"
            )
        roots = choices.roots[owners[name].units]
        np.add.at(scores, roots, np.asarray(values, "float64"))
        known[roots] = True
    return np.where(known, scores, _UNKNOWN)


def _magnitude(choices: Choices) -> np.ndarray:
    """Return the L2 norm of the numbers of each unit in all kernels that make, carry or read it."""
    squares = np.zeros(len(choices.roots))
    for axis in choices.trace.axes.values():
        if axis.ids is not None and len(axis.variable.shape) > 1:
            _add(squares, choices, axis, np.square(ops.convert_to_numpy(axis.variable).astype("float64")))
    return np.sqrt(squares)


def _add(scores: np.ndarray, choices: Choices, axis: WeightAxis, values: np.ndarray) -> None:
    """Add numbers of a weight to those of the units along its axis."""
    others = tuple(place for place in range(values.ndim) if place != axis.axis)
    np.add.at(scores, choices.roots[axis.units], values.sum(axis=others))


def _per_group(choices: Choices, scores: np.ndarray) -> np.ndarray:
    """Return importances as parts of the mean of their group: weights of several layers have several scales."""
    scores = scores.copy()
    for group in choices.groups:
        known = scores[group][np.isfinite(scores[group])]
        scores[group] /= known.mean() if known.size and known.mean() > 0 else 1.0
    return scores


def _activations(model: keras.Model, choices: Choices, data: Any) -> np.ndarray:
    """Return the mean absolute value of each unit where it is read, over examples, positions and readers."""
    total, count = np.zeros(len(choices.roots)), np.zeros(len(choices.roots))
    reads: dict[int, list[Any]] = {}
    for read in choices.trace.reads:
        reads.setdefault(read.call, []).append(read)
    for x in inputs(model, data, 32):
        _replayed(model, x, reads, lambda read, value: _note(total, count, choices.roots[read.ids], value, read.axis))
    return np.where(count > 0, total / np.maximum(count, 1), _UNKNOWN)


def _note(total: np.ndarray, count: np.ndarray, roots: np.ndarray, value: np.ndarray, axis: int) -> None:
    others = tuple(place for place in range(value.ndim) if place != axis % value.ndim)
    np.add.at(total, roots, np.abs(value).sum(axis=others))
    np.add.at(count, roots, value.size // value.shape[axis])


def _replayed(
    model: keras.Model, x: Tensors, reads: dict[int, list[Any]], note: Callable[[Any, np.ndarray], None]
) -> None:
    """Run a model call by call, in the order of its trace, and hand on what is read where units are."""
    calls = iter(range(10**9))

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        nested = opened(operation)
        if nested is not None:
            return graph_replay.replay(nested, args[0], call)
        leaves = tree.flatten((args, kwargs))
        for read in reads.get(next(calls), []):
            note(read, ops.convert_to_numpy(leaves[read.argument]).astype("float64"))
        return operation(*args, **kwargs)

    graph_replay.replay(opened(model), x, call)


def _taylor(model: keras.Model, choices: Choices, data: Any, head: Any) -> np.ndarray:
    """Return the Fisher information of a factor of 1 on each unit, where it is read.

    The first Taylor term of the divergence of a model from itself is 0, and the second is half of
    E[(d log p(y | x) / d factor)**2] with y drawn from the model's own outputs. As the mean of that derivative is 0,
    the square of its sum over a batch is, on average, the sum of the squares over its examples.
    """
    axes = [axis for axis in choices.trace.axes.values() if axis.reads and axis.ids is not None]
    scores = np.zeros(len(choices.roots))
    read = np.zeros(len(choices.roots), bool)
    for axis in axes:
        read[choices.roots[axis.units]] = True
    for derivatives in _derivatives(model, axes, data, head):
        found = np.zeros(len(choices.roots))
        for axis, values in zip(axes, derivatives, strict=True):
            np.add.at(found, choices.roots[axis.units], values)
        scores += np.square(found)
    return np.where(read, scores, _UNKNOWN)


def _derivatives(model: keras.Model, axes: list[WeightAxis], data: Any, head: Any) -> Iterator[list[np.ndarray]]:
    """Yield the derivatives of the sum of log p(y | x) over a batch, with y drawn from the model.

    They are those by a factor on each position of axes that read: the sum of weight * gradient there.
    """
    reader, seed = Reader(model, head=head), keras.random.SeedGenerator(0)
    variables = list({id(axis.variable): axis.variable for axis in axes}.values())
    weights, places = [each.value for each in variables], {id(each): place for place, each in enumerate(variables)}

    @tf.function(reduce_retracing=True)
    def step(x: Tensors) -> list[Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            _, outputs = reader(x, training=False)
            total = sum(_drawn(each, reader.kind(name), seed) for name, each in outputs_once(outputs).items())
        gradients = tape.gradient(total, weights, unconnected_gradients="zero")
        products = [weight * gradient for weight, gradient in zip(weights, gradients, strict=True)]
        return [_along(products[places[id(axis.variable)]], axis.axis) for axis in axes]

    for x in inputs(model, data, _BATCH):
        yield [ops.convert_to_numpy(each).astype("float64") for each in step(x)]


def _along(values: Any, axis: int) -> Any:
    """Return the sums over all other axes."""
    return tf.reduce_sum(tf.cast(values, "float32"), [place for place in range(len(values.shape)) if place != axis])


def outputs_once(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return outputs by name; the one output of a model has two."""
    return {"logits": outputs["logits"]} if "logits" in outputs else outputs


def _drawn(output: Any, kind: str, seed: Any) -> Any:
    """Return a sum whose gradient is that of log p(y | x), with y drawn from the output as a distribution.

    The derivative of log p by logits is y - p, and by values, with a normal distribution around them, y - values.
    """
    logits = ops.cast(output, "float32")
    if kind == "values":
        noise = keras.random.normal(ops.shape(logits), seed=seed)
    elif kind == "sigmoid" or logits.shape[-1] == 1:
        probability = ops.sigmoid(logits)
        noise = ops.cast(keras.random.uniform(ops.shape(logits), seed=seed) < probability, "float32") - probability
    else:
        drawn = ops.argmax(logits + _gumbel(ops.shape(logits), seed), axis=-1)
        noise = ops.one_hot(drawn, logits.shape[-1]) - ops.softmax(logits, axis=-1)
    return ops.sum(ops.stop_gradient(noise) * logits)


def _gumbel(shape: Any, seed: Any) -> Any:
    uniform = keras.random.uniform(shape, 1e-7, 1.0, seed=seed)
    return -ops.log(-ops.log(uniform) + 1e-30)
