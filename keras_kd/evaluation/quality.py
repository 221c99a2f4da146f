"""How good models are, and how faithful to a teacher: one pass over the data, all models on each batch.

One pass, because a dataset that shuffles gives another order each time. Sums are kept, not predictions.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from keras_kd._internal import raw_examples, raw_views
from keras_kd.evaluation import tasks
from keras_kd.evaluation.classification import MOST_CLASSES, Classification
from keras_kd.evaluation.multilabel import MultiLabel
from keras_kd.evaluation.predicted_batches import Predictions, Reading, Task, predictions_of
from keras_kd.evaluation.predictors import Predictor
from keras_kd.evaluation.values import Regression
from keras_kd.teachers.base import AnyTeacher, Teacher
from keras_kd.teachers.ensemble import Ensemble
from keras_kd.teachers.python import Python

Measures = Classification | MultiLabel | Regression

#: By model and output.
Thresholds = dict[tuple[str, str], np.ndarray]


def measure(
    model: Any,
    data: Any,
    *,
    teacher: AnyTeacher | None = None,
    task: Task = "auto",
    top_k: int = 5,
    batch_size: int = 256,
    validation: Any = None,
    ignore_class: int | None = None,
    text_bytes: int | None = None,
) -> dict[str, float]:
    """Return how good a model is, and how faithful to a teacher, by name.

    All are means over examples (or positions, where a model predicts something for each), weighted by `sample_weight`;
    what has no weight, or is masked, is left out. Probabilities are at T = 1, logarithms natural, sums float64.

    - classification: "accuracy", "top_5_accuracy" (1 where there are no more classes), "nll" (from log_softmax),
      "brier" (sum over the classes, 0 to 2), "f1_macro" (over the classes that are predicted or true, as in
      scikit-learn), "ece" (15 equal bins of the confidence in the predicted class).
    - binary (one output) and multi-label: "accuracy" and "brier" (0 to 1) and "nll" (means over the labels), "f1", or
      "exact_match", "f1_macro" (over the labels that are predicted or true) and "f1_micro", "pr_auc" (average
      precision) and "roc_auc" (means over the labels that have a yes and a no), "ece" (of all yes-or-no decisions, by
      the confidence in the decision). Yes is a probability above 0.5. With `validation`, "threshold" is that above
      which yes has the largest F1 there, and "precision_at_threshold", "recall_at_threshold" and "f1_at_threshold" are
      what it gives here; of several labels each has its own, and the mean of F1 is given.
    - language models, and others that choose among more than 100 classes at each position: "perplexity",
      exp(nll), and no "f1_macro". For texts alone "bits_per_byte": -log2 of the probability of the text, for each of
      its bytes in UTF-8, which can be compared where vocabularies differ. Of a model whose vocabulary is not the
      teacher's, it is the only measure.
    - regression: "mae", "rmse" (of the mean square over the outputs), "r2" (mean over the outputs).
    - with a teacher: "agreement" (same prediction), "kl_teacher_student" (KL(teacher || student), what distillation
      minimises), "kl_student_teacher", and "agreement_where_teacher_wrong": how often, where the teacher is wrong, the
      student predicts the same (of classes, the same wrong one); NaN if the teacher is never wrong. For regression
      "mae_to_teacher" and "rmse_to_teacher".

    Args:
        model: a model, a layer, a function of x or a `keras_kd.teachers.Teacher`;
            `teachers.Frozen(model, head=...)` for one whose head cannot be recognised.
        data: a tf.data.Dataset or other batches of (x, y) or (x, y, sample_weight), or a tuple of arrays. Labels are
            class ids or one-hot; of the outputs' shape for other tasks; of a model with several outputs, a dict by
            their names, of those that are to be measured: "box/rmse" and the like are then the names of the measures.
            For language models of KerasHub texts alone, whose tokens are the labels.
        teacher: as `model`, or None.
        task: "classification", "binary", "multi-label" or "regression", or a dict of these by output; "auto" reads it
            off the head and the first labels.
        top_k: k of the top-k accuracy, at least 1.
        batch_size: of arrays; it does not change the numbers.
        validation: other data, as `data`, on which the thresholds of yes-or-no outputs are chosen; None for none.
        ignore_class: class id of labels that do not count, such as -100 or 255, as that of Keras's losses; None for
            none.
        text_bytes: bytes of the text that all labels together stand for, where these are tokens: gives "bits_per_byte".
            Of texts alone it is counted.

    Raises:
        TypeError: not a model, or not data.
        ValueError: shapes, outputs or labels that do not fit, or no examples.

    Example:
        >>> measure(student, (x_test, y_test), teacher=teacher)["agreement"]

    Reference: Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599 (ECE).
    """
    models = {"model": model} if teacher is None else {"model": model, "teacher": teacher}
    reading = Reading(task, top_k, batch_size, ignore_class, text_bytes)
    thresholds = chosen_thresholds({"model": model}, validation, reading)
    found = stream(models, data, reading, None if teacher is None else "teacher", thresholds=thresholds)
    return named({output: each["model"].result() for output, each in found.items()})


def named(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the measures of all outputs, where there are several, by the output and their name."""
    if len(results) == 1:
        return next(iter(results.values()))
    return {f"{output}/{name}": value for output, each in results.items() for name, value in each.items()}


def chosen_thresholds(models: dict[str, Any], validation: Any, reading: Reading) -> Thresholds:
    """Return the thresholds of each model's labels, chosen on data; nothing where there are none, or no such labels."""
    if validation is None:
        return {}
    found = stream(models, validation, reading)
    chosen = {
        (name, output): each.thresholds()
        for output, of_models in found.items()
        for name, each in of_models.items()
        if isinstance(each, MultiLabel)
    }
    if not chosen:
        raise ValueError(
            "Expected `validation` for yes-or-no outputs, whose thresholds it chooses. Received: it with "
            f"{' and '.join(sorted({type(each).__name__.lower() for of in found.values() for each in of.values()}))}."
        )
    return chosen


def stream(
    models: dict[str, Any],
    data: Any,
    reading: Reading,
    teacher: str | None = None,
    watch: Callable[[Predictions], None] | None = None,
    thresholds: Mapping[tuple[str, str], np.ndarray] = MappingProxyType({}),
) -> dict[str, dict[str, Measures]]:
    """Run all models over the data, and return the measures by output and model.

    The data are read once; of texts, once for each vocabulary. Of models whose vocabulary is not that of the teacher,
    or of the first model, only what does not depend on it is measured.

    Args:
        models: by name.
        data: see `measure`.
        reading: how.
        teacher: which of them the others are compared with, or None.
        watch: is given the predictions for each output and batch.
        thresholds: by model and output, of yes-or-no labels, to be measured as well.
    """
    groups = raw_views.by_vocabulary(models)
    first, *others = sorted(groups, key=lambda names: teacher is not None and teacher not in names)
    found = _stream({name: models[name] for name in first}, data, reading, teacher, watch, thresholds)
    for names in others:
        _check_texts(models, first, names, data, found)
        of_others = _stream({name: models[name] for name in names}, data, reading)
        for each in _of_tokens(of_others):
            each.is_comparable = False
        for output, measures in of_others.items():
            found[output].update(measures)
    return found


def _check_texts(
    models: dict[str, Any], first: list[str], names: list[str], data: Any, found: dict[str, dict[str, Measures]]
) -> None:
    """Refuse data that models of another vocabulary cannot read as their own."""
    if isinstance(data, Iterator):
        raise TypeError(
            "Expected texts that can be read again, in an array or a tf.data.Dataset, for models of several "
            f"vocabularies, {first} and {names}. Received: {type(data).__name__}."
        )
    if not any(each.text_bytes for each in _of_tokens(found)):
        raw_views.check_vocabularies(
            next(models[n] for n in first if raw_views.is_per_token(models[n])), models[names[0]]
        )


def _stream(
    models: dict[str, Any],
    data: Any,
    reading: Reading,
    teacher: str | None = None,
    watch: Callable[[Predictions], None] | None = None,
    thresholds: Mapping[tuple[str, str], np.ndarray] = MappingProxyType({}),
) -> dict[str, dict[str, Measures]]:
    """Run models of one vocabulary over the data once; see `stream`."""
    _check(reading)
    predictors = {name: Predictor(name, model) for name, model in models.items()}
    _bind_estimators(models, predictors, reading.task)
    measures: dict[str, dict[str, Measures]] = {}
    weight: dict[str, float] = {}
    examples = raw_examples.labelled(models.values(), data, reading.batch_size)
    for predictions in predictions_of(predictors, examples, reading):
        of_output = measures.setdefault(predictions.output, {})
        for name, logits in predictions.logits.items():
            if name not in of_output:
                chosen = thresholds.get((name, predictions.output))
                of_output[name] = _measures(predictions, logits.shape[-1], reading, chosen)
            of_output[name].add(logits, predictions.labels, predictions.weights)
            if teacher is not None and name != teacher:
                theirs = predictions.logits[teacher]
                of_output[name].add_teacher(logits, theirs, predictions.labels, predictions.weights)
        for each in _of_tokens({predictions.output: of_output}):
            each.text_bytes += predictions.text_bytes
        weight[predictions.output] = weight.get(predictions.output, 0.0) + float(np.sum(predictions.weights))
        if watch is not None:
            watch(predictions)
    if not weight or not all(weight.values()):
        raise ValueError("Expected at least one example with weight. Received none.")
    if reading.text_bytes is not None:
        of_tokens = _of_tokens(measures)
        if len(of_tokens) < sum(map(len, measures.values())):
            raise ValueError("Expected `text_bytes` for language models. Received other models or labels.")
        for each in of_tokens:
            each.text_bytes = reading.text_bytes
    return measures


def _check(reading: Reading) -> None:
    for name in ("top_k", "text_bytes"):
        number = getattr(reading, name)
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"Expected `{name}` to be a whole number, at least 1. Received: {name}={number!r}")


def _of_tokens(measures: dict[str, dict[str, Measures]]) -> list[Classification]:
    """Return the measures of language models."""
    all_of_them = (each for of_output in measures.values() for each in of_output.values())
    return [each for each in all_of_them if isinstance(each, Classification) and each.of_tokens]


def _bind_estimators(models: dict[str, Any], predictors: dict[str, Predictor], task: Task) -> None:
    """Let estimators of two classes predict these or one unit, as the first Keras model does, or as the task is."""
    beside = next((model for model in models.values() if isinstance(model, keras.Model)), None)
    if beside is None and task == "binary":
        beside = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    if beside is not None:
        for estimator in (each for predictor in predictors.values() for each in _of_arrays(predictor.teacher)):
            estimator.bind(beside, ("logits",))


def _of_arrays(teacher: Teacher) -> list[Python]:
    if isinstance(teacher, Ensemble):
        return [one for each in teacher.teachers for one in _of_arrays(each)]
    return [teacher] if isinstance(teacher, Python) else []


def _measures(predictions: Predictions, outputs: int, reading: Reading, thresholds: np.ndarray | None) -> Measures:
    if predictions.task == "classification":
        is_vocabulary = predictions.positions > 1 and (outputs > MOST_CLASSES or reading.text_bytes is not None)
        return Classification(outputs, reading.top_k, is_vocabulary or predictions.text_bytes > 0)
    return MultiLabel(outputs, thresholds) if predictions.task in tasks.YES_OR_NO else Regression(outputs)
