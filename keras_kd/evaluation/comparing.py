"""Compare models: quality and fidelity in one pass, then what each costs."""

import os
import platform
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches
from keras_kd.evaluation import costs
from keras_kd.evaluation.comparison_result import Comparison
from keras_kd.evaluation.disagreements import DisagreementCollector
from keras_kd.evaluation.predicted_batches import Predictions, Reading, Task
from keras_kd.evaluation.quality import Measures, chosen_thresholds, named, stream
from keras_kd.evaluation.values import Regression
from keras_kd.runtimes import timing


def compare(
    models: dict[str, Any],
    data: Any,
    *,
    teacher: str | None = "teacher",
    task: Task = "auto",
    exports: dict[str, Any] | None = None,
    histories: dict[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    top_k: int = 5,
    batch_size: int = 256,
    validation: Any = None,
    ignore_class: int | None = None,
    text_bytes: int | None = None,
    rounds: int = 200,
    memory: bool = True,
    worst: int = 8,
    verbose: int = 0,
) -> Comparison:
    """Compare models on the same data: how good, how faithful to the teacher, how large and how fast.

    The data are read once, all models on each batch; what is kept are sums, tables of classes by classes (up to 100
    classes) and the few examples on which student and teacher disagree most. Latency and throughput are measured on the
    first batch, in turns, after a warm-up; memory in a process of its own for each model, which takes some seconds.
    Language models of KerasHub on texts alone are read in their own tokens, compared with the teacher where the
    vocabulary is the same, and continue the first quarter of each text of the first batch.

    Args:
        models: by the names that the tables show; see `quality.measure` for what may be a model.
        data: see `quality.measure`.
        teacher: name of the model that the others are compared with; None for no such comparison.
        task: see `quality.measure`.
        exports: by name, the folder of a SavedModel, or a .tflite, .onnx or .keras file, as `export` writes them, or a
            list of these: the costs are measured through each as well. Quality is that of the model itself. The memory
            of a .keras file with classes of a script or notebook cannot be measured.
        histories: by name, what `fit` returned, or its `history`: for learning curves.
        class_names: names of the classes or labels of models with one output, in their order.
        top_k: see `quality.measure`.
        batch_size: of arrays; throughput is measured in batches of this size, or as the dataset has them.
        validation: see `quality.measure`: where a threshold is chosen for each model of yes-or-no outputs.
        ignore_class: see `quality.measure`.
        text_bytes: see `quality.measure`; for the bits a byte of language models on tokens.
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
    evidence = _Evidence(teacher, worst, class_names, batches.count(data, batch_size) if verbose else None, verbose)
    reading = Reading(task, top_k, batch_size, ignore_class, text_bytes)
    thresholds = chosen_thresholds(models, validation, reading)
    found = stream(models, data, reading, teacher, evidence.watch, thresholds)
    evidence.close()
    shared: dict[str, Any] = {
        "teacher": teacher,
        "costs": costs.measured(models, ways, _first(evidence.x, batch_size), rounds, memory) if rounds else {},
        "histories": {name: _history(each) for name, each in histories.items()},
        "machine": _machine(),
    }
    if len(found) == 1:
        ((output, measures),) = found.items()
        return _of_output(measures, class_names, evidence, output, **shared)
    return _of_outputs(found, evidence, **shared)


def _of_output(
    measures: dict[str, Measures], class_names: Sequence[str] | None, evidence: "_Evidence", output: str, **shared: Any
) -> Comparison:
    collected = evidence.of[output]
    return Comparison(
        task=evidence.tasks[output],
        examples=collected.examples,
        quality={name: each.result() for name, each in measures.items()},
        **_of_classes(measures, class_names),
        confusions=collected.confusions,
        disagreements=collected.disagreements,
        **shared,
    )


def _of_outputs(found: dict[str, dict[str, Measures]], evidence: "_Evidence", **shared: Any) -> Comparison:
    alone = {**shared, "costs": {}, "histories": {}}
    outputs = {name: _of_output(measures, None, evidence, name, **alone) for name, measures in found.items()}
    models = next(iter(outputs.values())).quality
    return Comparison(
        task="several outputs",
        examples=next(iter(outputs.values())).examples,
        quality={model: named({name: each.quality[model] for name, each in outputs.items()}) for model in models},
        **_without_classes(),
        confusions={},
        disagreements={},
        outputs=outputs,
        **shared,
    )


class _Evidence:
    """What is collected for each output in the pass over the data, which a bar shows if `verbose`."""

    def __init__(
        self, teacher: str | None, worst: int, class_names: Sequence[str] | None, total: int | None, verbose: int
    ) -> None:
        self.of: dict[str, DisagreementCollector] = {}
        self.tasks: dict[str, str] = {}
        self._arguments = (teacher, worst)
        self._class_names = class_names
        self._bar = keras.utils.Progbar(total, unit_name="batch") if verbose else None

    @property
    def x(self) -> Any:
        """The inputs of the first batch."""
        return next(iter(self.of.values())).first

    def watch(self, predictions: Predictions) -> None:
        """Look at the predictions for an output and a batch."""
        if predictions.output not in self.of:
            _check_class_names(self._class_names, predictions)
        collector = self.of.setdefault(predictions.output, DisagreementCollector(*self._arguments))
        collector.watch(predictions)
        self.tasks[predictions.output] = predictions.task
        if self._bar is not None:
            self._bar.update(collector.batches, finalize=False)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.update(next(iter(self.of.values())).batches, finalize=True)


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


def _check_class_names(class_names: Sequence[str] | None, predictions: Predictions) -> None:
    if class_names is None:
        return
    if predictions.output != "logits":
        raise ValueError("Expected `class_names` for models with one output. Received models with several.")
    classes = next(iter(predictions.logits.values())).shape[-1]
    if len(class_names) != classes and predictions.task != "regression":
        raise ValueError(f"Expected {classes} `class_names`, one for each class. Received: {len(class_names)}")


def _first(x: Any, batch_size: int) -> Any:
    return tree.map_structure(lambda each: each[:batch_size], x)


def _of_classes(measures: dict[str, Measures], class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return the measures of a comparison by class."""
    judged = {name: each for name, each in measures.items() if not isinstance(each, Regression)}
    if class_names is None and any(getattr(each, "of_tokens", False) for each in judged.values()):
        judged = {}
    if not judged:
        return _without_classes()
    support = next(iter(judged.values())).counts.true
    return {
        "class_names": [str(name) for name in (range(len(support)) if class_names is None else class_names)],
        "support": support,
        "recall": {name: each.counts.recall() for name, each in judged.items()},
        "f1": {name: each.counts.f1() for name, each in judged.items()},
        "calibration": {name: each.calibration.bins() for name, each in judged.items()},
    }


def _without_classes() -> dict[str, Any]:
    return {"class_names": [], "support": np.zeros(0), "recall": {}, "f1": {}, "calibration": {}}


def _history(given: Any) -> dict[str, list[float]]:
    logs = given if isinstance(given, dict) else given.history
    return {name: [float(value) for value in np.ravel(values)] for name, values in logs.items()}


def _machine() -> str:
    devices = [device.device_type for device in tf.config.list_logical_devices()]
    accelerators = [device for device in devices if device != "CPU"]
    where = f"{len(accelerators)} x {accelerators[0]}" if accelerators else f"{os.cpu_count()} processor cores"
    return f"{where}, {platform.machine()}, TensorFlow {tf.__version__}, Keras {keras.__version__}"
