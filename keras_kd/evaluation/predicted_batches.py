"""What models predict for each batch and output, beside its labels and weights: what is measured reads these."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_kd._internal import ensemble_logits, raw_examples
from keras_kd._types import Tensors
from keras_kd.evaluation import tasks
from keras_kd.evaluation.predictors import Predictor

#: One of `tasks.TASKS`, or one for each output.
Task = str | dict[str, str]


class Reading(NamedTuple):
    """How data are read and what is measured; see `measure`."""

    task: Task
    top_k: int
    batch_size: int
    ignore_class: int | None
    text_bytes: int | None = None


class Predictions(NamedTuple):
    """The predictions of all models for an output and a batch.

    Attributes:
        output: its name; "logits" of models with one.
        task: what it is.
        x: inputs, (batch, ...).
        logits: logits or values by model, (rows, classes), float64; a row is an example, or a position of one.
        labels: class ids (rows,), or labels (rows, classes).
        weights: (rows,), above 0.
        rows: of all rows of the batch, which these are: those without weight are left out.
        positions: rows of one example.
        start: examples that came before this batch.
        text_bytes: of the text that the labels stand for, where it is known; else 0.
    """

    output: str
    task: str
    x: Tensors
    logits: dict[str, np.ndarray]
    labels: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    positions: int
    start: int
    text_bytes: int


def predictions_of(
    predictors: dict[str, Predictor], data: Iterable[raw_examples.Labelled], reading: Reading
) -> Iterator[Predictions]:
    """Run all models over batches, and return what they predict, for one output of one batch at a time.

    Args:
        predictors: of the models, by name.
        data: batches of examples.
        reading: how they are read; a task of "auto" is recognised from the first labels.

    Raises:
        ValueError: models with other outputs than one another, or a task for an output that they do not have.
    """
    given = reading.task
    known = {name: tasks.check(each) for name, each in ({"": given} if isinstance(given, str) else given).items()}
    start, size = 0, 0
    for x, read, y, sample_weight, text_bytes in data:
        start, size = start + size, len(tree.flatten(x)[0])
        predicted = {name: predictor(read) for name, predictor in predictors.items()}
        outputs = _common(predicted)
        unknown = [] if isinstance(given, str) else sorted(set(given) - set(outputs))
        if unknown:
            raise ValueError(f"Expected `task` for outputs of the models, {outputs}. Received one for {unknown}.")
        for output, (labels, weights) in _labelled(outputs, y, sample_weight).items():
            of_output = {name: each[output] for name, each in predicted.items()}
            shape = _one_shape({name: each for name, (each, _) in of_output.items()})
            if known.setdefault(output, known.get("", "auto")) == "auto":
                kinds = [predictor.teacher.kind(output) for predictor in predictors.values()]
                known[output] = tasks.recognise(kinds, shape, labels)
            task = known[output]
            if start == 0 and task != "regression":
                for predictor in predictors.values():
                    predictor.warn_of_probabilities(read, output)
            masks = [mask for _, mask in of_output.values() if mask is not None]
            labels, weights = tasks.rows(task, shape, labels, weights, masks, reading.ignore_class)
            rows = np.flatnonzero(weights > 0)
            logits = {name: _rows(each, task)[rows] for name, (each, _) in of_output.items()}
            positions = len(weights) // shape[0]
            yield Predictions(output, task, x, logits, labels[rows], weights[rows], rows, positions, start, text_bytes)


def _common(predicted: dict[str, dict[str, Any]]) -> list[str]:
    """Return the outputs that all models have."""
    found = {name: list(outputs) for name, outputs in predicted.items()}
    if len(set(map(tuple, found.values()))) > 1:
        raise ValueError(f"Expected models with the same outputs. Received: {found}.")
    return next(iter(found.values()))


def _labelled(outputs: list[str], y: Tensors, sample_weight: Tensors) -> dict[str, tuple[Any, Any]]:
    """Return labels and weights by output, of those that have labels."""
    if len(outputs) == 1:
        return {outputs[0]: (y, sample_weight)}
    if not tree.is_nested(y):
        raise ValueError(f"Expected labels for each of the outputs {outputs}, in a dict. Received one array.")
    labels = _by_output(outputs, y)
    is_one = sample_weight is None or not tree.is_nested(sample_weight)
    weights = dict.fromkeys(outputs, sample_weight) if is_one else _by_output(outputs, sample_weight)
    return {name: (labels[name], weights.get(name)) for name in outputs if labels.get(name) is not None}


def _by_output(outputs: list[str], values: Any) -> dict[str, Any]:
    leaves = tree.flatten_with_path(values)
    by_name = {"/".join(map(str, path)): value for path, value in leaves}
    if not isinstance(values, dict) or not by_name.keys() <= set(outputs):
        raise ValueError(
            f"Expected labels and weights in dicts by the names of the outputs, {outputs}. Received: "
            f"{type(values).__name__} with {list(by_name)}."
        )
    return by_name


def _one_shape(predicted: dict[str, Any]) -> tuple[int, ...]:
    shapes = {
        name: tuple((each.logits[0] if isinstance(each, ensemble_logits.Mixture) else each).shape)
        for name, each in predicted.items()
    }
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Expected models with outputs of one shape. Received outputs of shapes {shapes}.")
    shape = next(iter(shapes.values()))
    return shape if len(shape) > 1 else (*shape, 1)


def _rows(predicted: Any, task: str) -> np.ndarray:
    logits = ensemble_logits.averaged(predicted, 1.0, per_label=task in tasks.YES_OR_NO)
    array = ops.convert_to_numpy(ops.cast(logits, "float64"))
    return array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array[:, None]
