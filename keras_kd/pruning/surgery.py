"""Make the smaller model: from the configurations of the layers, with what is kept of their weights."""

import types
from typing import Any

import keras
from keras import tree

from keras_kd._internal import cloning, lora_adapters
from keras_kd._keras import graph_replay, layer_tree, tensor_origin
from keras_kd.pruning.channel_trace import Trace
from keras_kd.pruning.kept_units import Kept
from keras_kd.pruning.opened_models import opened
from keras_kd.pruning.rules_recurrent import INNER


def smaller(model: keras.Model, kept: Kept) -> keras.Model:
    """Return a model of what is kept, with the same names, what is kept of the weights, and the state.

    It shares no variable with the first. Adapters (LoRA) are merged into the weights that they adapt.

    Args:
        model: a built Functional or Sequential model.
        kept: what stays of its units.

    Raises:
        ValueError: a layer cannot be made from its configuration.
    """
    known: dict[str, Any] = {}
    for layer in layer_tree.all_layers(model):
        known |= {type(layer).__name__: type(layer)}
        known |= {each.__name__: each for each in vars(layer).values() if isinstance(each, types.FunctionType)}
    surgery = _Surgery(kept)
    with cloning.explained(model, "make again"), keras.saving.custom_object_scope(known):
        result = surgery.model(model, opened(model).input)
        surgery.carry()
    return result


class _Surgery:
    """Make each layer once, however often it is called."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._made: dict[int, tuple[Any, Any]] = {}

    def model(self, model: keras.Model, given: Any) -> keras.Model:
        """Return the counterpart of a model.

        Args:
            model: the model.
            given: what it is called with, which may have fewer channels.
        """
        graph = opened(model)
        inputs = tree.pack_sequence_as(graph.input, list(map(_input, graph.inputs, tree.flatten(given))))
        outputs = graph_replay.replay(graph, inputs, self._call)
        if isinstance(model, keras.Sequential):
            made = [self._made[id(layer)][1] for layer in model.layers]
            result = keras.Sequential([tree.flatten(inputs)[0], *made], name=model.name)
        else:
            result = keras.Model(inputs, outputs, name=model.name)
        if not model.trainable:  # layers have flags of their own, which this would set, too
            result.trainable = False
        return result

    def _call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        trace = self._kept.choices.trace
        if id(operation) in trace.operations:
            return trace.operations[id(operation)](self._kept.count)(*args)
        if not isinstance(operation, keras.Layer):
            return operation(*args, **kwargs)
        if id(operation) not in self._made:
            self._made[id(operation)] = operation, self._counterpart(operation, args)
        return self._made[id(operation)][1](*args, **kwargs)

    def _counterpart(self, layer: Any, args: tuple[Any, ...]) -> Any:
        if opened(layer) is not None:
            return self.model(layer, args[0])
        config = self._configuration(layer)
        if type(layer) is keras.layers.Lambda and not {"output_shape", "mask"} & set(config):
            others = {key: config[key] for key in ("name", "trainable", "dtype")} | {"arguments": layer.arguments}
            return keras.layers.Lambda(layer.function, **others)  # as it is: a function may have no configuration
        return type(layer).from_config(config)

    def _configuration(self, layer: Any) -> dict[str, Any]:
        """Return a layer's configuration, with the numbers of what is kept."""
        config = {key: value for key, value in layer.get_config().items() if key not in lora_adapters.ARGUMENTS}
        trace: Trace = self._kept.choices.trace
        for setting in trace.settings.get(id(layer), []):
            value = setting.value(self._kept.count)
            if value != setting.value(len):
                config[setting.key] = value
        for key, attribute in INNER.get(type(layer), {}).items():
            inner = {name: value for name, value in config[key].items() if name != "build_config"}  # of other sizes
            config[key] = {**inner, "config": self._configuration(getattr(layer, attribute))}
        return config

    def carry(self) -> None:
        """Give the new layers what is kept of the weights, and the state, of those that they were made of."""
        for layer, twin in self._made.values():
            if opened(layer) is None:
                sliced = any(self._kept.positions(weight) for weight in layer.weights)
                cloning.carry_state(layer, twin, variables=not sliced)
                if lora_adapters.count(layer):
                    cloning.carry_saved(layer, twin)
                else:
                    _carry_weights(layer, twin, self._kept)


def _input(tensor: Any, given: Any) -> Any:
    """Return an input like that of a model, of the sizes of what it is called with, as far as it has fixed ones."""
    layer = tensor_origin.producer(tensor)[0]
    shape = [None if size is None else other for size, other in zip(tensor.shape, given.shape, strict=True)]
    return type(layer).from_config({**layer.get_config(), "batch_shape": shape}).output


def _carry_weights(layer: Any, twin: Any, kept: Kept) -> None:
    if len(layer.weights) != len(twin.weights):
        raise ValueError(f"{layer.name!r} has {len(layer.weights)} weights, and made again {len(twin.weights)}.")
    for weight, other in zip(layer.weights, twin.weights, strict=True):
        values = kept.values(weight, keras.ops.convert_to_numpy(weight))
        if tuple(values.shape) != tuple(other.shape):
            raise ValueError(f"{weight.path!r} has shape {tuple(other.shape)}, and {tuple(values.shape)} were kept.")
        other.assign(values)
