"""Which layers can be quantised, and what to report of the others."""

import keras
from keras import activations, layers

from keras_kd.quantization.call_graph import WEIGHTED, Call, Graph, is_linear

#: LiteRT computes these on the integers of their input.
_SAME_RANGE = (
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.ZeroPadding2D,
    layers.Flatten,
    layers.Reshape,
    layers.Dropout,
    layers.Identity,
)
_OWN_RANGE = (
    *WEIGHTED,
    layers.BatchNormalization,
    layers.ReLU,
    layers.Activation,
    layers.Add,
    layers.GlobalAveragePooling2D,
)
_RECTIFIERS = (activations.linear, activations.relu, activations.relu6)
_PROBABILITIES = (activations.softmax, activations.sigmoid)


def is_probability(call: Call) -> bool:
    """Return whether a call ends in a softmax or sigmoid, for which LiteRT has a range of its own."""
    if type(call.layer) in (*WEIGHTED, layers.Activation):
        return call.layer.activation in _PROBABILITIES
    return type(call.layer) is layers.Softmax


def has_own_range(call: Call) -> bool:
    """Return whether the values of a call need a range of their own."""
    if type(call.layer) is layers.Activation and is_linear(call.layer):
        return False
    return type(call.layer) in _OWN_RANGE and not is_probability(call)


def check(graph: Graph, name: str) -> None:
    """Raise an error that lists every layer of a graph that is not covered, or return.

    Raises:
        ValueError: an input that is not of floats; layers that are not covered.
    """
    whole = [tensor.name for tensor in graph.model.inputs if not keras.backend.is_float_dtype(tensor.dtype)]
    if whole:
        raise ValueError(f"Expected {name!r} to take floating-point inputs. These are not: {whole}.")
    problems = [
        f"{call.layer.name!r} ({type(call.layer).__name__}): {problem}"
        for call in graph.calls
        if (problem := _problem(graph, call)) is not None
    ]
    if problems:
        covered = sorted(layer.__name__ for layer in (*_OWN_RANGE, *_SAME_RANGE, layers.Softmax))
        raise ValueError(
            f"Expected {name!r} to be made of layers that can be quantised. These cannot: {'; '.join(problems)}. "
            f"Covered: {', '.join(covered)}. Replace the others before the student is trained."
        )


def _problem(graph: Graph, call: Call) -> str | None:
    layer = call.layer
    if type(layer) not in (*_OWN_RANGE, *_SAME_RANGE, layers.Softmax):
        return "a nested model; put its layers into the student" if isinstance(layer, keras.Model) else "not covered"
    if sum(each.layer is layer for each in graph.calls) > 1:
        return "called more than once, in places whose ranges differ"
    if getattr(layer, "data_format", None) == "channels_first":  # only layers of images have one
        return "channels first; LiteRT has channels last"
    if type(layer) is layers.BatchNormalization:
        return _problem_of_norm(graph, call)
    if type(layer) is layers.Add and len(call.inputs) != 2:
        return f"{len(call.inputs)} inputs; chain layers of two"
    if type(layer) is layers.ReLU and (layer.negative_slope or layer.threshold or layer.max_value not in (None, 6)):
        return "not a plain relu or relu6"
    return _problem_of_activation(graph, call) or _problem_of_kernel(call)


def _problem_of_norm(graph: Graph, call: Call) -> str | None:
    if not any(graph.folded(each) is call.layer for each in graph.calls):
        return "not the only reader of a Dense or convolution without activation, to be folded into it"
    rank = len(call.output.shape)
    return None if call.layer.axis in (-1, rank - 1) else "normalises another axis than the last"


def _problem_of_activation(graph: Graph, call: Call) -> str | None:
    if is_probability(call):
        return None if graph.is_output(call.output) else "probabilities that are not an output"
    if type(call.layer) in (*WEIGHTED, layers.Activation) and call.layer.activation not in _RECTIFIERS:
        return f"the activation {activations.serialize(call.layer.activation)!r} is not covered"
    return None


def _problem_of_kernel(call: Call) -> str | None:
    if type(call.layer) is layers.Dense and len(call.inputs[0].shape) != 2:
        return f"on inputs of shape {call.inputs[0].shape}; only vectors are covered"
    if type(call.layer) is layers.Conv2D and call.layer.groups != 1:
        return f"{call.layer.groups} groups"
    return None
