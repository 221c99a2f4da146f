"""Whether more of what is logged is better: metrics declare it, losses are minimised, and nothing else is known."""

import contextlib
import math
from typing import Any

import keras

from keras_kd._internal import layer_reader
from keras_kd._keras import compiled

_MODES = ("auto", "min", "max")

#: How Keras's metrics declare it, and what it is called in the arguments of callbacks.
_DECLARED = {"up": "max", "down": "min"}

#: The losses that a Distiller logs beside "loss".
_PARTS = ("student_loss", "distillation_loss")


def direction(model: keras.Model, student: keras.Model, name: str, mode: str = "auto") -> str:
    """Return "max" if more of what a model logs is better, "min" if less is.

    Args:
        model: is compiled; it may not have been trained yet.
        student: whose outputs are measured: the model itself, or a Distiller's student.
        name: in the logs, with or without "val_".
        mode: "max" or "min", which is returned, or "auto".

    Raises:
        ValueError: an unknown `mode`; nothing declares whether more of `name` is better.
    """
    check_mode(mode)
    if mode != "auto":
        return mode
    known = _known(model, student)
    found = known.get(name.removeprefix("val_"))
    if found is None:
        raise ValueError(
            f"Expected a metric that declares whether more of it is better: {sorted(known)}. Received: {name!r} with "
            "mode='auto'. Give mode='max' if more of it is better, mode='min' if less is."
        )
    return found


def check_mode(mode: str) -> None:
    """Refuse an unknown mode."""
    if mode not in _MODES:
        raise ValueError(f"Expected `mode` to be one of {_MODES}. Received: mode={mode!r}")


def worth(value: float, better: str) -> float:
    """Return a number that is larger for what is better; what has diverged is worth nothing.

    Args:
        value: of a metric; NaN compares with nothing, and would be the best where it comes first.
        better: "max" or "min".
    """
    if math.isnan(value):
        return -math.inf
    return value if better == "max" else -value


def metrics_of(model: keras.Model, student: keras.Model) -> dict[str, keras.metrics.Metric]:
    """Return the metrics given to `compile`, by their names in the logs, before any of them has seen data.

    Args:
        model: is compiled.
        student: whose outputs they measure.
    """
    graph = layer_reader.functional(student)
    if graph is not None:
        return compiled.metrics_by_name(model, graph.output)
    with contextlib.suppress(ValueError, TypeError):  # Keras 3.12 has to know the outputs that a dict names
        return compiled.metrics_by_name(model, keras.KerasTensor((None, None)))
    return {}


def _known(model: keras.Model, student: keras.Model) -> dict[str, str]:
    """Return the directions that are known, by name in the logs."""
    graph: Any = layer_reader.functional(student)
    outputs: list[str] = []
    if graph is not None and len(graph.outputs) > 1:
        outputs = [*graph.output_names, *(graph.output if isinstance(graph.output, dict) else ())]
    parts = () if model is student else _PARTS
    losses = dict.fromkeys(("loss", *parts, *(f"{output}_loss" for output in outputs)), "min")
    metrics = {name: compiled.direction(metric) for name, metric in metrics_of(model, student).items()}
    return losses | {name: _DECLARED[each] for name, each in metrics.items() if each in _DECLARED}
