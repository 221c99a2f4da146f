"""Rules for recurrent layers, and for layers around layers."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_kd.pruning import rules_kernels
from keras_kd.pruning.channel_trace import Call, Labels, Trace
from keras_kd.pruning.channel_units import Ids
from keras_kd.pruning.rules_kernels import Rule, Uncovered

#: How many kernels lie side by side, one for each gate.
_GATES = {layers.LSTM: 4, layers.GRU: 3, layers.SimpleRNN: 1}


def recurrent(trace: Trace, call: Call) -> None:
    """LSTM, GRU, SimpleRNN: a unit is a column of each gate, and a row of the recurrent kernel."""
    ids = _cell(trace, call)
    for output in call.outputs:
        trace.put(output, (*(None,) * (len(output.shape) - 1), ids))


def _cell(trace: Trace, call: Call) -> Ids:
    layer, gates, (x, *states) = call.operation, _GATES[type(call.operation)], call.values
    if layer.stateful:
        raise Uncovered("keeps its state between batches")
    found = rules_kernels.weights(layer, "kernel", "recurrent_kernel", "bias")
    kernel, back, bias = found["kernel"], found["recurrent_kernel"], found["bias"]
    trace.read(kernel, 0, x, -1, call)
    ids = trace.make(back, 0, call)
    trace.follow(back, 0, ids, call, reads=True)
    several = ids if ids is None else np.tile(ids, gates)
    trace.follow(kernel, 1, several, call)
    trace.follow(back, 1, several, call)
    if bias is not None:
        trace.follow(bias, len(bias.shape) - 1, several, call)
    for activation in (layer.activation, getattr(layer, "recurrent_activation", layer.activation)):
        rules_kernels.made(trace, call, ids, activation)
    for state in [each for each in states if len(each.shape) == 2 and each.shape[-1] == layer.units]:
        trace.equal([ids, trace.labels(state)[-1]], f"{call.described} begins with a state whose units all stay")
    trace.set_number(layer, "units", ids)
    for weight in (kernel, back):
        trace.works(weight, x.shape[1:2])
    return ids


def bidirectional(trace: Trace, call: Call) -> None:
    """Bidirectional around one of them: as many units in both directions, which go in pairs."""
    layer = call.operation
    inner = [layer.forward_layer, layer.backward_layer]
    if any(type(each) not in _GATES or each.return_state for each in inner) or len(call.values) != 1:
        raise Uncovered("holds other layers than recurrent ones without states")
    if layer.merge_mode is None:
        raise Uncovered("returns two outputs")
    both = [_cell(trace, dataclasses.replace(call, operation=each, path=f"{call.path}/{each.name}")) for each in inner]
    # Keras takes the output of the forward direction for half of both, whatever the backward one has.
    ids = trace.equal(both, f"{call.described} has another direction whose units all stay")
    if layer.merge_mode == "concat" and ids is not None:
        ids = np.tile(ids, 2)
    (output,) = call.outputs
    trace.put(output, (*(None,) * (len(output.shape) - 1), ids))


def time_distributed(trace: Trace, call: Call) -> None:
    """TimeDistributed around a layer with a rule: the rule, one axis further."""
    inner, (x, *others) = call.operation.layer, call.values
    rule = rules_kernels.RULES.get(type(inner))
    if rule is None or others:
        raise Uncovered("holds a layer without a rule")
    one = keras.KerasTensor((x.shape[0], *x.shape[2:]), x.dtype)
    out = keras.KerasTensor((call.result.shape[0], *call.result.shape[2:]), call.result.dtype)
    labels = trace.labels(x)
    trace.fix(labels[1:2], f"{call.described} runs over them")
    trace.put(one, (None, *labels[2:]))
    rule(trace, dataclasses.replace(call, operation=inner, args=(one,), kwargs={}, result=out))
    trace.put(call.result, _later(trace.labels(out)))


def _later(labels: Labels) -> Labels:
    return (None, None, *labels[1:])


#: By the class of a layer.
RULES: dict[type, Rule] = {
    **dict.fromkeys(_GATES, recurrent),
    layers.Bidirectional: bidirectional,
    layers.TimeDistributed: time_distributed,
}

#: Under which keys of its configuration a layer around layers has theirs.
INNER: dict[type, dict[str, Any]] = {
    layers.Bidirectional: {"layer": "forward_layer", "backward_layer": "backward_layer"},
    layers.TimeDistributed: {"layer": "layer"},
}
