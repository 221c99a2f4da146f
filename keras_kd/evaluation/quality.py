"""How good models are, and how faithful to a teacher: one pass over the data, all models on each batch.

One pass, because a dataset that shuffles gives another order each time. Sums are kept, not predictions.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_kd._internal import batches, ensemble_logits, soft_targets
from keras_kd._types import Tensors
from keras_kd.evaluation import tasks
from keras_kd.evaluation.classification import Classification
from keras_kd.evaluation.multilabel import MultiLabel
from keras_kd.evaluation.predictors import Predictor
from keras_kd.evaluation.values import Regression
from keras_kd.teachers.base import AnyTeacher

Measures = Classification | MultiLabel | Regression


class Predictions(NamedTuple):
    """The predictions of all models for a batch.

    Attributes:
        x: inputs, (batch, ...).
        logits: logits or values by model, (rows, classes), float64; a row is an example, or a position of one.
        labels: class ids (rows,), or labels (rows, classes).
        weights: (rows,), above 0.
        rows: of all rows of the batch, which these are: those without weight are left out.
        positions: rows of one example.
        start: examples that came before this batch.
    """

    x: Tensors
    logits: dict[str, np.ndarray]
    labels: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    positions: int
    start: int


def measure(
    model: Any,
    data: Any,
    *,
    teacher: AnyTeacher | None = None,
    task: str = "auto",
    top_k: int = 5,
    batch_size: int = 256,
) -> dict[str, float]:
    """Return how good a model is, and how faithful to a teacher, by name.

    All are means over examples (or positions, where a model predicts something for each), weighted by `sample_weight`;
    what has no weight, or is masked, is left out. Probabilities are at T = 1, logarithms natural, sums float64.

    - classification: "accuracy", "top_5_accuracy" (1 where there are no more classes), "nll" (from log_softmax),
      "brier" (sum over the classes, 0 to 2), "f1_macro" (over the classes that are predicted or true, as in
      scikit-learn), "ece" (15 equal bins of the confidence in the predicted class).
    - multi-label: "accuracy" and "brier" (0 to 1) and "nll" (means over the labels), "exact_match", "f1_macro" (over
      the labels that are predicted or true), "f1_micro", "ece" (of all yes-or-no decisions, by the confidence in the
      decision). Yes is a probability above 0.5.
    - regression: "mae", "rmse" (of the mean square over the outputs), "r2" (mean over the outputs).
    - with a teacher: "agreement" (same prediction), "kl_teacher_student" (KL(teacher || student), what distillation
      minimises), "kl_student_teacher", and "agreement_where_teacher_wrong": how often, where the teacher is wrong, the
      student predicts the same (of classes, the same wrong one); NaN if the teacher is never wrong. For regression
      "mae_to_teacher" and "rmse_to_teacher".

    Args:
        model: a model, a layer, a function of x or a `keras_kd.teachers.Teacher`;
            `teachers.Frozen(model, head=...)` for one whose head cannot be recognised.
        data: a tf.data.Dataset or other batches of (x, y) or (x, y, sample_weight), or a tuple of arrays. Labels are
            class ids or one-hot; of the outputs' shape for other tasks.
        teacher: as `model`, or None.
        task: "classification", "multi-label" or "regression"; "auto" reads it off the head and the first labels.
        top_k: k of the top-k accuracy, at least 1.
        batch_size: of arrays; it does not change the numbers.

    Raises:
        TypeError: not a model, or not data.
        ValueError: shapes or labels that do not fit, several outputs, or no examples.

    Example:
        >>> measure(student, (x_test, y_test), teacher=teacher)["agreement"]

    Reference: Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599 (ECE).
    """
    models = {"model": model} if teacher is None else {"model": model, "teacher": teacher}
    measures = stream(models, data, None if teacher is None else "teacher", task, top_k, batch_size)[1]
    return measures["model"].result()


def stream(
    models: dict[str, Any],
    data: Any,
    teacher: str | None,
    task: str,
    top_k: int,
    batch_size: int,
    watch: Callable[[str, Predictions], None] | None = None,
) -> tuple[str, dict[str, Measures]]:
    """Run all models over the data once, and return the task and the measures of each.

    Args:
        models: by name.
        data: see `measure`.
        teacher: which of them the others are compared with, or None.
        task: see `measure`.
        top_k: see `measure`.
        batch_size: see `measure`.
        watch: is given the task and the predictions of each batch.
    """
    if not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"Expected `top_k` to be a whole number, at least 1. Received: top_k={top_k!r}")
    tasks.check(task)
    predictors = {name: Predictor(name, model) for name, model in models.items()}
    measures: dict[str, Measures] = {}
    weight = 0.0
    for found, predictions in _predictions(predictors, data, task, batch_size):
        for name, logits in predictions.logits.items():
            measures.setdefault(name, _measures(found, logits.shape[-1], top_k))
            measures[name].add(logits, predictions.labels, predictions.weights)
            if teacher is not None and name != teacher:
                measures[name].add_teacher(logits, predictions.logits[teacher], predictions.labels, predictions.weights)
        weight += float(np.sum(predictions.weights))
        if watch is not None:
            watch(found, predictions)
    if not weight:
        raise ValueError("Expected at least one example with weight. Received none.")
    return found, measures


def _predictions(
    predictors: dict[str, Predictor], data: Any, task: str, batch_size: int
) -> Iterator[tuple[str, Predictions]]:
    start, size = 0, 0
    for x, y, sample_weight in batches.of(data, batch_size):
        x = soft_targets.inputs(x)
        start, size = start + size, len(tree.flatten(x)[0])
        predicted = {name: predictor(x) for name, predictor in predictors.items()}
        shape = _one_shape({name: each for name, (each, _) in predicted.items()})
        if task == "auto":
            task = tasks.recognise([predictor.teacher.kind("logits") for predictor in predictors.values()], shape, y)
        if start == 0 and task != "regression":
            for predictor in predictors.values():
                predictor.warn_of_probabilities(x)
        masks = [mask for _, mask in predicted.values() if mask is not None]
        labels, weights = tasks.rows(task, shape, y, sample_weight, masks)
        rows = np.flatnonzero(weights > 0)
        logits = {name: _rows(each, task)[rows] for name, (each, _) in predicted.items()}
        yield task, Predictions(x, logits, labels[rows], weights[rows], rows, len(weights) // shape[0], start)


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
    logits = ensemble_logits.averaged(predicted, 1.0, per_label=task == "multi-label")
    array = ops.convert_to_numpy(ops.cast(logits, "float64"))
    return array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array[:, None]


def _measures(task: str, outputs: int, top_k: int) -> Measures:
    if task == "classification":
        return Classification(outputs, top_k)
    return MultiLabel(outputs) if task == "multi-label" else Regression(outputs)
