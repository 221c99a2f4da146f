"""Compare models: quality and fidelity in one pass, then what each costs."""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches
from keras_kd.evaluation import costs, tasks
from keras_kd.evaluation.comparison_result import Comparison
from keras_kd.evaluation.disagreements import DisagreementCollector
from keras_kd.evaluation.quality import Measures, Predictions, stream
from keras_kd.evaluation.values import Regression
from keras_kd.runtimes import timing


def compare(
    models: dict[str, Any],
    data: Any,
    *,
    teacher: str | None = "teacher",
    task: str = "auto",
    exports: dict[str, Any] | None = None,
    histories: dict[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    top_k: int = 5,
    batch_size: int = 256,
    rounds: int = 200,
    memory: bool = True,
    worst: int = 8,
    verbose: int = 0,
) -> Comparison:
    """Compare models on the same data: how good, how faithful to the teacher, how large and how fast.

    The data are read once, all models on each batch; what is kept are sums, tables of classes by classes (up to 100
    classes) and the few examples on which student and teacher disagree most. Latency and throughput are measured on the
    first batch, in turns, after a warm-up; memory in a process of its own for each model, which takes some seconds.

    Args:
        models: by the names that the tables show; see `quality.measure` for what may be a model.
        data: see `quality.measure`.
        teacher: name of the model that the others are compared with; None for no such comparison.
        task: see `quality.measure`.
        exports: by name, the folder of a SavedModel, or a .tflite, .onnx or .keras file, as `export` writes them, or a
            list of these: the costs are measured through each as well. Quality is that of the model itself. The memory
            of a .keras file with classes of a script or notebook cannot be measured.
        histories: by name, what `fit` returned, or its `history`: for learning curves.
        class_names: names of the classes or labels, in their order.
        top_k: see `quality.measure`.
        batch_size: of arrays; throughput is measured in batches of this size, or as the dataset has them.
        rounds: timed calls with a single example, at least 10; 0 leaves all costs out.
        memory: whether to measure the peak memory.
        worst: how many examples to keep for each student.
        verbose: 1 shows a progress bar.

    Returns:
        A `Comparison`: print it, or `.to_html("comparison.html")`.

    Raises:
        TypeError: not a model, or not data.
        ValueError: names that are not among the models, or what `quality.measure` refuses.
        ImportError: an export to LiteRT or ONNX, and the extra `litert` or `onnx` is not installed.

    Example:
        >>> comparison = kd.compare({"teacher": teacher, "alone": alone, "distilled": distilled}, (x_test, y_test))
        >>> print(comparison)
        >>> comparison.to_html("comparison.html")
    """
    exports, histories = exports or {}, histories or {}
    _check(models, teacher, {"exports": exports, "histories": histories})
    ways = costs.exported(exports, models)
    rounds = rounds and timing.check(rounds)
    evidence = DisagreementCollector(teacher, worst)
    with _progress(evidence, batches.count(data, batch_size), verbose) as watch:
        task, measures = stream(models, data, teacher, tasks.check(task), top_k, batch_size, watch)
    classes = _of_classes(measures, class_names)
    return Comparison(
        task=task,
        teacher=teacher,
        examples=evidence.examples,
        quality={name: each.result() for name, each in measures.items()},
        costs=costs.measured(models, ways, _first(evidence.first, batch_size), rounds, memory) if rounds else {},
        **classes,
        confusions=evidence.confusions,
        disagreements=evidence.disagreements,
        histories={name: _history(each) for name, each in histories.items()},
        machine=_machine(),
    )


@contextlib.contextmanager
def _progress(
    evidence: DisagreementCollector, total: int | None, verbose: int
) -> Iterator[Callable[[str, Predictions], None]]:
    """Return a function that looks at each batch; with `verbose`, it shows a bar."""
    if not verbose:
        yield evidence.watch
        return
    bar = keras.utils.Progbar(total, unit_name="batch")

    def watch(task: str, predictions: Predictions) -> None:
        evidence.watch(task, predictions)
        bar.update(evidence.batches, finalize=False)

    yield watch
    bar.update(evidence.batches, finalize=True)


def _check(models: dict[str, Any], teacher: str | None, named: dict[str, dict[str, Any]]) -> None:
    if not isinstance(models, dict) or not models:
        raise TypeError(f'Expected models by name, as {{"teacher": model, ...}}. Received: {type(models).__name__}')
    if teacher is not None and teacher not in models:
        raise ValueError(
            f"Expected a model named {teacher!r}, with which the others are compared. Received: {list(models)}. Name "
            "another with `teacher`, or None for no such comparison."
        )
    for argument, given in named.items():
        unknown = sorted(set(given) - set(models))
        if unknown:
            raise ValueError(f"Expected `{argument}` by names of models, {list(models)}. Received: {unknown}")


def _first(x: Any, batch_size: int) -> Any:
    return tree.map_structure(lambda each: each[:batch_size], x)


def _of_classes(measures: dict[str, Measures], class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return the measures of a comparison by class."""
    judged = {name: each for name, each in measures.items() if not isinstance(each, Regression)}
    if not judged:
        nothing: dict[str, Any] = {"recall": {}, "f1": {}, "calibration": {}}
        return {**nothing, "class_names": [], "support": np.zeros(0)}
    support = next(iter(judged.values())).counts.true
    names = [str(name) for name in (range(len(support)) if class_names is None else class_names)]
    if len(names) != len(support):
        raise ValueError(f"Expected {len(support)} `class_names`, one for each class. Received: {len(names)}")
    return {
        "class_names": names,
        "support": support,
        "recall": {name: each.counts.recall() for name, each in judged.items()},
        "f1": {name: each.counts.f1() for name, each in judged.items()},
        "calibration": {name: each.calibration.bins() for name, each in judged.items()},
    }


def _history(given: Any) -> dict[str, list[float]]:
    logs = given if isinstance(given, dict) else given.history
    return {name: [float(value) for value in np.ravel(values)] for name, values in logs.items()}


def _machine() -> str:
    devices = [device.device_type for device in tf.config.list_logical_devices()]
    accelerators = [device for device in devices if device != "CPU"]
    where = f"{len(accelerators)} x {accelerators[0]}" if accelerators else f"{os.cpu_count()} processor cores"
    return f"{where}, {platform.machine()}, TensorFlow {tf.__version__}, Keras {keras.__version__}"
