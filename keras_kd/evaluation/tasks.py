"""The task of a model, inferred from its head and the labels; and labels and weights as rows."""

from collections.abc import Iterable

import numpy as np
from keras import tree

from keras_kd._types import Tensors

TASKS = ("auto", "classification", "binary", "multi-label", "regression")

#: Those whose outputs are decisions between yes and no, one or several.
YES_OR_NO = ("binary", "multi-label")

_OF_HEADS = {"softmax": "classification", "sigmoid": "multi-label", "values": "regression"}


def check(task: str) -> str:
    """Return `task` if it is one of `TASKS`, or raise an error that lists them."""
    if task not in TASKS:
        raise ValueError(f"Expected `task` to be one of {TASKS}. Received: task={task!r}")
    return task


def recognise(kinds: Iterable[str], outputs: tuple[int, ...], labels: Tensors) -> str:
    """Return the task of models whose heads are `kinds`.

    A head that is recognised decides. For plain logits, the labels decide: class ids or one-hot rows mean
    classification; one logit with 0 and 1 is "binary", other rows of 0 and 1 "multi-label"; other numbers, regression.

    Args:
        kinds: what `heads.recognise` returns for each model.
        outputs: shape of a model's output, (batch, ..., classes).
        labels: a batch of y.

    Raises:
        ValueError: heads of different tasks.
    """
    found = {_OF_HEADS[kind] for kind in kinds if kind in _OF_HEADS}
    if len(found) > 1:
        raise ValueError(f"Expected models of one task. Received heads of {sorted(found)}. Say which with `task`.")
    task = found.pop() if found else _of_labels(outputs, labels)
    return "binary" if task == "multi-label" and outputs[-1] == 1 else task


def _of_labels(outputs: tuple[int, ...], labels: Tensors) -> str:
    """Return the task of logits or values of some shape, as their labels have it."""
    y = np.asarray(labels)
    ids = y.shape == outputs[:-1] or y.shape == (*outputs[:-1], 1)
    if ids and outputs[-1] > 1:
        return "classification"
    if not np.isin(y, (0, 1)).all():
        return "regression"
    return "classification" if outputs[-1] > 1 and np.all(np.sum(y, axis=-1) == 1) else "multi-label"


def rows(
    task: str, outputs: tuple[int, ...], y: Tensors, sample_weight: Tensors, masks: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and weights for each row of outputs (rows, classes): an example, or a position of one.

    Args:
        task: one of `TASKS`, not "auto".
        outputs: shape of the models' outputs, (batch, ..., classes).
        y: labels: class ids, (batch, ...) or (batch, ..., 1), or one-hot; for other tasks as the outputs.
        sample_weight: (batch, ...), or None.
        masks: of the models' outputs, (batch, ...); what one of them masks has no weight.

    Returns:
        Class ids (rows,) or labels (rows, outputs), and weights (rows,), float64.

    Raises:
        ValueError: shapes that do not fit, or labels that the task does not have.
    """
    if tree.is_nested(y) or tree.is_nested(sample_weight):
        raise ValueError(
            "Expected one array of labels and one of weights for models with one output. Received several."
        )
    weights = _weights(outputs, sample_weight, masks)
    labels = np.asarray(y)
    if task == "binary" and outputs[-1] != 1:
        raise ValueError(f"Expected models with one output for binary. Received outputs of the shape {outputs}.")
    if task == "classification":
        return _ids(outputs, labels, weights), weights
    if labels.shape == outputs[:-1] and outputs[-1] == 1:
        labels = labels[..., None]
    if labels.shape != outputs:
        raise ValueError(
            f"Expected labels of the outputs' shape {outputs} for {task}. Received: {labels.shape}. Say which task it "
            "is with `task`."
        )
    labels = labels.reshape(-1, outputs[-1]).astype("float64")
    if task in YES_OR_NO and not np.isin(labels[weights > 0], (0, 1)).all():
        raise ValueError(f'Expected labels of 0 and 1 for {task}. Received others. Is it task="regression"?')
    return labels, weights


def _ids(outputs: tuple[int, ...], labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    classes = outputs[-1]
    if labels.shape == outputs and classes > 1:
        counted = labels.reshape(-1, classes)[weights > 0]
        if not (np.isin(counted, (0, 1)).all() and np.all(counted.sum(axis=-1) == 1)):
            raise ValueError(
                "Expected class ids or one-hot labels for classification. Received rows that are not one-hot: give "
                'task="multi-label" where several classes may be true.'
            )
        return np.argmax(labels, axis=-1).ravel()
    if labels.shape not in (outputs[:-1], (*outputs[:-1], 1)):
        raise ValueError(
            f"Expected class ids of shape {outputs[:-1]}, or one-hot labels of shape {outputs}. Received labels of "
            f"shape {labels.shape}."
        )
    ids = labels.ravel()
    whole = ids.astype("int64")
    fits = (whole == ids) & (whole >= 0) & (whole < classes)
    if not np.all(fits[weights > 0]):
        raise ValueError(
            f"Expected labels from 0 to {classes - 1}, the models' classes. Received: {ids[(weights > 0) & ~fits][0]}. "
            "What is not to count, as by the `ignore_class` of a loss, has a `sample_weight` of 0."
        )
    return np.where(fits, whole, 0)  # what has no weight may be any number, as padding is


def _weights(outputs: tuple[int, ...], sample_weight: Tensors, masks: list[np.ndarray]) -> np.ndarray:
    weights = np.ones(outputs[:-1])
    if sample_weight is not None:
        given = np.asarray(sample_weight, "float64")
        if given.shape not in (outputs[:-1], (*outputs[:-1], 1)):
            raise ValueError(
                f"Expected `sample_weight` of shape {outputs[:-1]}, one for each example or position. Received: "
                f"{given.shape}."
            )
        weights = given.reshape(outputs[:-1])
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("Expected `sample_weight` to be finite and not negative. Received others.")
    for mask in masks:
        weights = weights * mask
    return weights.ravel()
