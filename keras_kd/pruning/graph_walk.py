"""Follow the channels of a model through its graph, and the graphs of the models in it."""

from typing import Any

import keras
from keras import layers, tree

from keras_kd._keras import graph_replay, tensor_origin
from keras_kd.pruning import hidden_units, rules_attention, rules_kernels, rules_recurrent, rules_shapes, rules_tested
from keras_kd.pruning.channel_trace import Call, Trace
from keras_kd.pruning.opened_models import opened
from keras_kd.pruning.rules_kernels import Rule, Uncovered

_RULES: dict[type, Rule] = {
    **rules_kernels.RULES,
    **rules_attention.RULES,
    **rules_recurrent.RULES,
    **rules_shapes.RULES,
}

#: Layers whose statistics would be others with fewer channels.
_NORMALISING = (layers.LayerNormalization, layers.UnitNormalization) + (
    (layers.RMSNormalization,) if hasattr(layers, "RMSNormalization") else ()
)

#: What a class may define without computing something else than the class that it extends.
_HARMLESS = ("__init__", "get_config", "from_config")


def trace(model: keras.Model) -> Trace:
    """Return the units of a model.

    Args:
        model: a built Functional or Sequential model.

    Raises:
        ValueError: it has no graph, or layers that share weights.
    """
    graph = opened(model)
    if graph is None:
        raise ValueError(
            f"Expected a built Functional or Sequential model, whose graph shows what reads each channel. Received: "
            f"{model!r}, a subclassed or unbuilt one. Build it as keras.Model(inputs, outputs) of its layers."
        )
    walk = _Walk()
    outputs = walk.through(graph, graph.input, "")
    for tensor in tree.flatten(outputs):
        walk.trace.fix(walk.trace.labels(tensor), "the model returns them")
    _check_not_shared(walk.trace)
    return walk.trace


def _check_not_shared(found: Trace) -> None:
    """Refuse weights that several layers have: made again from their configurations, each would have its own."""
    owners: dict[int, str] = {}
    for key, layer in found.layers.items():
        for weight in getattr(layer, "weights", ()):  # an operation that is no layer has none
            other = owners.setdefault(id(weight), found.paths[key])
            if other != found.paths[key]:
                raise ValueError(
                    f"Expected layers with weights of their own. {other!r} and {found.paths[key]!r} share "
                    f"{weight.path!r}. Call one layer in both places."
                )


class _Walk:
    """Apply the rules to each call of a graph, in order."""

    def __init__(self) -> None:
        self.trace = Trace()
        self._calls = 0

    def through(self, graph: Any, inputs: Any, prefix: str) -> Any:
        """Return the symbolic outputs of a graph that is called again on its own layers, as nothing is computed."""

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            nested = opened(operation)
            if nested is not None:
                return self.through(nested, args[0], f"{prefix}{operation.name}/")
            result = operation(*args, **kwargs)
            self._apply(Call(operation, args, kwargs, result, prefix + operation.name, self._calls))
            self._calls += 1
            return result

        return graph_replay.replay(graph, inputs, call)

    def _apply(self, call: Call) -> None:
        self.trace.paths.setdefault(id(call.operation), call.path)
        self.trace.layers.setdefault(id(call.operation), call.operation)
        rule = _rule(call.operation)
        try:
            if rule is None:
                raise Uncovered(_unknown(call.operation))
            rule(self.trace, call)
        except Uncovered as reason:
            self._keep(call, str(reason))
        if isinstance(call.result, keras.KerasTensor):
            self.trace.tensors[call.path] = self.trace.labels(call.result)

    def _keep(self, call: Call, reason: str) -> None:
        """Keep all that enters and leaves a layer, and look for units inside of it."""
        for tensor in call.tensors:
            self.trace.fix(self.trace.labels(tensor), f"{call.described} {reason}")
        weights = call.operation.weights if isinstance(call.operation, keras.Layer) else []
        known = [axis for axis in self.trace.axes.values() if any(axis.variable is weight for weight in weights)]
        self.trace.fix([axis.ids for axis in known], f"{call.described} {reason}")
        before = len(self.trace.units)
        if weights and not known:
            hidden_units.add(self.trace, call)
        if len(self.trace.units) == before and any(len(weight.shape) > 1 for weight in weights):
            self.trace.whole[call.path] = f"{call.described} {reason}"


def _rule(operation: Any) -> Rule | None:
    if isinstance(operation, tensor_origin.operation_of(_reshape)):
        return rules_shapes.reshape_operation
    if isinstance(operation, tensor_origin.operation_of(_concatenate)):
        return rules_shapes.concatenate
    for kind in type(operation).__mro__:
        if kind in _RULES:
            return _RULES[kind]
        if any(callable(each) for name, each in vars(kind).items() if name not in _HARMLESS):
            break  # it computes something else, or may
    is_layer = isinstance(operation, keras.Layer)
    return None if is_layer and operation.weights else rules_tested.passes


def _unknown(operation: Any) -> str:
    if isinstance(operation, _NORMALISING):
        return "normalises over them: with fewer channels, its statistics are others"
    return "is a layer without a rule: what enters and leaves it stays"


def _reshape(x: Any) -> Any:
    return keras.ops.reshape(x, (2,))


def _concatenate(x: Any) -> Any:
    return keras.ops.concatenate([x, x])
