"""Rules for attention: heads are units, removed with their part of each projection."""

from typing import Any

import numpy as np
from keras import layers

from keras_kd.pruning.channel_trace import Call, Trace, Work
from keras_kd.pruning.channel_units import Ids
from keras_kd.pruning.rules_kernels import Rule, Uncovered

_PROJECTIONS = ("query", "key", "value", "gate", "attention_output")


def _projections(layer: Any) -> dict[str, Any]:
    """Return the weights of an attention layer, as "query/kernel".

    Raises:
        Uncovered: it has others.
    """
    found = {"/".join(weight.path.split("/")[-2:]): weight for weight in layer.weights}
    known = {f"{name}/{kind}" for name in _PROJECTIONS for kind in ("kernel", "bias")}
    if len(found) != len(layer.weights) or set(found) - known:
        raise Uncovered(f"has the weights {sorted(found)}, of which some are not those of its projections")
    return found


def _inputs(call: Call) -> dict[str, Any]:
    """Return query, value and key of a call of attention of (batch, tokens, channels).

    Raises:
        Uncovered: they have other axes.
    """
    given = {**dict(zip(("query", "value", "key"), call.args[:3], strict=False)), **call.kwargs}
    query, value = given["query"], given["value"]
    key = given.get("key")
    found = {"query": query, "gate": query, "value": value, "key": value if key is None else key}
    if any(len(tensor.shape) != 3 for tensor in found.values()):
        raise Uncovered("attends over other axes than one of tokens")
    return found


def _project(trace: Trace, call: Call, weights: dict[str, Any], heads: dict[str, Ids]) -> dict[str, Any]:
    """Note what the projections read, and their heads; return the inputs."""
    inputs = _inputs(call)
    for name, ids in heads.items():
        if f"{name}/kernel" in weights:
            trace.read(weights[f"{name}/kernel"], 0, inputs[name], -1, call)
            trace.follow(weights[f"{name}/kernel"], 1, ids, call)
            trace.follow(weights.get(f"{name}/bias"), 0, ids, call)
            trace.works(weights[f"{name}/kernel"], inputs[name].shape[1:-1])
    trace.follow(weights["attention_output/kernel"], 0, heads["query"], call, reads=True)
    trace.works(weights["attention_output/kernel"], inputs["query"].shape[1:-1])
    _fix_masked_heads(trace, call, heads["query"])
    width = weights["query/kernel"].shape[2] + weights["value/kernel"].shape[2]
    products = width * (inputs["query"].shape[1] or 1) * (inputs["value"].shape[1] or 1)
    times = products * (1 if heads["query"] is not None else weights["query/kernel"].shape[1])
    trace.work.append(Work(None, times, heads["query"]))
    return inputs


def _fix_masked_heads(trace: Trace, call: Call, heads: Ids) -> None:
    """Keep all heads where a mask differs between them."""
    masks = [each for each in call.tensors if len(each.shape) == 4 and each.shape[1] != 1]
    if masks:
        trace.units.fix(heads, f"a mask of {call.described} differs between its heads")


def _outputs(trace: Trace, call: Call, labels: Ids, heads: Ids) -> None:
    output, *scores = call.outputs
    trace.put(output, (None, None, labels))
    for each in scores:
        trace.put(each, (None, heads, None, None))


def multi_head(trace: Trace, call: Call) -> None:
    """MultiHeadAttention."""
    layer, weights = call.operation, _projections(call.operation)
    heads = trace.make(weights["query/kernel"], 1, call, "heads")
    query = _project(trace, call, weights, dict.fromkeys(("query", "key", "value", "gate"), heads))["query"]
    trace.set_number(layer, "num_heads", heads)
    labels = trace.make(weights["attention_output/kernel"], 2, call)
    trace.follow(weights.get("attention_output/bias"), 0, labels, call)
    _set_output_shape(trace, layer, labels, trace.labels(query)[-1], query.shape[-1])
    _outputs(trace, call, labels, heads)


def _set_output_shape(trace: Trace, layer: Any, labels: Ids, read: Ids, width: int) -> None:
    """Note how wide the output is, where that is no longer the width of the queries."""
    default = layer.get_config()["output_shape"] is None

    def shape(count: Any) -> Any:
        ours, theirs = (width if ids is None else count(ids) for ids in (labels, read))
        return None if default and ours == theirs else (ours,)

    if labels is not None:
        trace.set(layer, "output_shape", shape)


def grouped_query(trace: Trace, call: Call) -> None:
    """GroupQueryAttention: a head of keys and values goes with its heads of queries; the output is as wide as those."""
    layer, weights = call.operation, _projections(call.operation)
    pairs = trace.make(weights["key/kernel"], 1, call, "heads")
    times = weights["query/kernel"].shape[1] // weights["key/kernel"].shape[1]
    heads = pairs if pairs is None else np.repeat(pairs, times)
    query = _project(trace, call, weights, {"query": heads, "gate": heads, "key": pairs, "value": pairs})["query"]
    trace.set_number(layer, "num_query_heads", heads)
    trace.set_number(layer, "num_key_value_heads", pairs)
    labels = trace.labels(query)[-1]
    trace.follow(weights["attention_output/kernel"], 2, labels, call)
    trace.follow(weights.get("attention_output/bias"), 0, labels, call)
    _outputs(trace, call, labels, heads)


#: By the class of a layer.
RULES: dict[type, Rule] = {layers.MultiHeadAttention: multi_head, layers.GroupQueryAttention: grouped_query}
