"""Run the graph of a model again, one call at a time."""

from collections.abc import Callable
from typing import Any

from keras_kd._types import Tensors


def replay(graph: Any, inputs: Tensors, call: Callable[..., Any]) -> Tensors:
    """Return what a graph makes of inputs, where each of its calls goes through a function.

    Args:
        graph: a Functional model.
        inputs: tensors or arrays, of the structure of `graph.input`.
        call: (layer or operation, *arguments) -> outputs, in place of calling it; in an order in which all can run.
    """
    return graph._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=call)
