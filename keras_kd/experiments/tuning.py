"""`tune`: which temperature, alpha, method and weights? KerasTuner searches.

What is not among these four is searched with a `keras_tuner.HyperModel` that builds a Distiller, like any other model.
"""

import contextlib
import importlib
import io
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
from keras import tree

from keras_kd._internal import metric_directions
from keras_kd._internal.files import replace
from keras_kd._internal.log import info, quiet
from keras_kd._keras import tuner_records
from keras_kd.experiments import search_folders
from keras_kd.experiments.benchmark_run import Student, check_teacher, first_metric, fresh_student
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.scoring import better
from keras_kd.experiments.search_space import check_space
from keras_kd.experiments.tune_result import Trial, TuneResult
from keras_kd.experiments.tuner_trials import Search, completed
from keras_kd.teachers.base import AnyTeacher

_TUNERS = {"random": "RandomSearch", "bayesian": "BayesianOptimization", "hyperband": "Hyperband"}

#: By how much Hyperband cuts the number of candidates from round to round.
_FACTOR = 3

#: Shares of examples that are right, whose standard error follows from their number.
_SHARES = (
    keras.metrics.Accuracy,
    keras.metrics.BinaryAccuracy,
    keras.metrics.CategoricalAccuracy,
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.TopKCategoricalAccuracy,
    keras.metrics.SparseTopKCategoricalAccuracy,
)


def tune(
    student: Student,
    teacher: AnyTeacher,
    train: Any,
    validation: Any,
    space: Mapping[str, Any] | None = None,
    *,
    folder: Any,
    compile_arguments: dict[str, Any],
    tuner: str = "random",
    trials: int = 20,
    epochs: int = 10,
    batch_size: int = 32,
    metric: str | None = None,
    mode: str = "auto",
    seed: int = 0,
    verbose: int = 1,
) -> TuneResult:
    """Search for the best temperature, alpha, method and weights on validation data.

    All trials start from the same weights and take the same batches in the same order. A teacher that does not change
    runs once for all of them, where `train` is arrays and the terms read its logits.

    Each trial is kept in `folder` as it ends. Stopped or killed at any moment, the same call goes on; with more
    `trials`, it adds to them. A folder of another search is refused.

    Args:
        student: a model, which gives its architecture and what its layers were adapted to, or a function that builds
            one.
        teacher: as for `Distiller`.
        train: as for `benchmark`.
        validation: as for `benchmark`.
        space: what to search: "temperature" and "alpha", each a range (low, high), a list of choices, or one number;
            "method", a dict from names to terms or to functions of (student, teacher) that return terms; "weights", a
            dict from names of terms to ranges or lists. Temperatures and weights are drawn by their logarithm. None:
            {"temperature": (1.0, 16.0), "alpha": (0.1, 1.0)}.
        folder: where to keep the trials.
        compile_arguments: "optimizer", "loss", "metrics" and whatever else, as for `Distiller.compile`.
        tuner: "random", "bayesian" or "hyperband"; the last gives many trials a few epochs, and the best of them more.
        trials: how many; Hyperband decides for itself.
        epochs: of each trial, at most.
        batch_size: of arrays.
        metric: what is compared; None for the first of the metrics, or "loss" where there are none.
        mode: "max" or "min": whether more or less of the metric is better; "auto": as the metric declares, "min" for
            losses.
        seed: of the weights, the order of the data, and the search.
        verbose: 1 for a line after each trial, with the time that is left; 0 for silence.

    Returns:
        The best settings and their student, and all trials; it prints as a table.

    Raises:
        ValueError: a space or a tuner that is not known; a metric that does not declare its direction, with
            `mode="auto"`; a folder of another search.
        ImportError: the extra `tune` is not installed.

    Example:
        >>> space = {"temperature": (1.0, 16.0), "method": {"kd": kd.methods.kd(None), "dkd": kd.methods.dkd()}}
        >>> result = kd.tune(student, teacher, (x, y), (x_val, y_val), space, folder="runs/tune", compile_arguments=...)
        >>> result.best, result.student
    """
    keras_tuner = _keras_tuner()
    if tuner not in _TUNERS:
        raise ValueError(f"Expected `tuner` to be one of {sorted(_TUNERS)}. Received: tuner={tuner!r}")
    space = check_space({"temperature": (1.0, 16.0), "alpha": (0.1, 1.0)} if space is None else dict(space))
    metric = first_metric(compile_arguments) if metric is None else metric
    metric_directions.check_mode(mode)
    parts = {"train": Part("train", train, batch_size), "validation": Part("validation", validation, batch_size)}
    for part in parts.values():
        part.check_order()
    total = epochs * math.log(max(epochs, 3), _FACTOR) ** 2 if tuner == "hyperband" else float(trials * epochs)
    check_teacher(teacher)
    judged = fresh_student(student, seed, "student")
    direction = better(judged, compile_arguments, metric, mode)
    search = Search(
        student, teacher, parts, space, compile_arguments, seed, f"val_{metric}", epochs, total, bool(verbose)
    )
    search_folders.claim(
        pathlib.Path(folder), {**search.describe(), "tuner": tuner, "epochs": epochs, "mode": direction}
    )
    with quiet(not verbose), tuner_records.written_with(replace):
        limits = {"max_epochs": epochs, "factor": _FACTOR} if tuner == "hyperband" else {"max_trials": trials}
        tuning = _tuning(keras_tuner, tuner, search, direction, folder, limits)
        search.go_on_from(tuning)
        ordered = _searched(tuning, epochs, direction)
        best = tuning.load_model(ordered[0]).student
    found = [_trial(each, epochs) for each in ordered]
    is_share = isinstance(metric_directions.metrics_of(judged, judged).get(metric), _SHARES)
    noise = _noise(found[0].score, parts["validation"]) if is_share else None
    return TuneResult(found[0].settings, best, found, metric, noise)


def _tuning(keras_tuner: Any, tuner: str, search: Search, direction: str, folder: Any, limits: dict[str, int]) -> Any:
    """Return KerasTuner's own object for a search, with the trials that are kept."""
    with contextlib.redirect_stdout(io.StringIO()):  # KerasTuner prints where it reads from
        return getattr(keras_tuner, _TUNERS[tuner])(
            search.as_hypermodel(keras_tuner),
            objective=keras_tuner.Objective(search.objective, direction),
            directory=str(folder),
            project_name="trials",
            seed=search.seed,
            **limits,
        )


def _searched(tuning: Any, epochs: int, direction: str) -> list[Any]:
    """Search to the end, and return the records of the trials, the best first."""
    folder = str(tuning.directory)
    try:
        tuning.search(epochs=epochs, verbose=0)
    except KeyboardInterrupt:
        info(f"Stopped. The trials that are finished are kept in {folder!r}; the same call goes on.")
        raise
    ordered = sorted(
        completed(tuning), key=lambda trial: (-metric_directions.worth(trial.score, direction), trial.trial_id)
    )
    if not ordered:
        raise ValueError(f"Expected a trial that ends. None did; see the messages in {folder!r}.")
    return ordered


def _trial(record: Any, epochs: int) -> Trial:
    """Return what KerasTuner has on record of a trial."""
    values = dict(record.hyperparameters.values)
    plain = {name: value for name, value in values.items() if not name.startswith("tuner/")}
    return Trial(plain, float(record.score), values.get("tuner/epochs", epochs))


def _noise(score: float, validation: Part) -> float:
    """Return the standard error of an accuracy: sqrt(p (1 - p) / n)."""
    count = sum(len(tree.flatten(batch)[0]) for batch in validation.batches())
    return math.sqrt(max(0.0, score * (1 - score)) / count)


def _keras_tuner() -> Any:
    try:
        return importlib.import_module("keras_tuner")
    except ImportError as error:
        raise ImportError('Searching needs KerasTuner: pip install "keras_kd[tune]".') from error
