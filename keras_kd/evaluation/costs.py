"""What a model costs, through each of its files: size, operations, latency, throughput, memory."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from keras import tree

from keras_kd._types import Tensors
from keras_kd.evaluation import generation_costs, memory, model_runners, sizes
from keras_kd.evaluation.model_runners import Runner
from keras_kd.evaluation.predictors import Predictor
from keras_kd.runtimes import timing

#: Share of the timed calls that go to batches; they are means, which need fewer than a p99.
_BATCH_ROUNDS = 5

Export = str | pathlib.Path


@dataclasses.dataclass(frozen=True)
class Cost:
    """What it costs to run a model in one way.

    Attributes:
        runtime: "Keras", "SavedModel", "LiteRT", "ONNX" or "Keras file".
        path: of the export; None in Keras.
        parameters: weights of the model; None for a function.
        flops: operations for one example, a multiplication and an addition being two; see `sizes.flops`.
        file_bytes: of the `.keras` file without optimizer, or of the export.
        p50_ms: median milliseconds for a single example.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        examples_per_second: in batches.
        batch: examples in a batch.
        memory_bytes: the most that loading and answering a batch takes; see `memory.peaks`.
        calls: number of timed calls for a single example.
        tokens_per_second: that a language model generates, see `generation_costs.of`; None of others.
        cache_bytes: what it keeps for one text meanwhile.
    """

    runtime: str
    path: str | None
    parameters: int | None
    flops: int | None
    file_bytes: int | None
    p50_ms: float
    p95_ms: float
    p99_ms: float
    examples_per_second: float
    batch: int
    memory_bytes: int | None
    calls: int
    tokens_per_second: float | None = None
    cache_bytes: int | None = None


def exported(exports: dict[str, Export | list[Export]], models: dict[str, Any]) -> dict[str, list[Runner]]:
    """Return what runs the files or folders that were given by the names of models.

    Raises:
        ValueError: one is no export.
        ImportError: one is for LiteRT or ONNX, and that extra is not installed.
    """
    paths = {name: list(given) if isinstance(given, (list, tuple)) else [given] for name, given in exports.items()}
    return {name: [model_runners.of_export(path, models[name]) for path in given] for name, given in paths.items()}


def measured(
    models: dict[str, Any], exports: dict[str, list[Runner]], x: Tensors, rounds: int, with_memory: bool
) -> dict[str, list[Cost]]:
    """Return the costs of each model, in Keras and through its exports.

    Args:
        models: by name.
        exports: what `exported` has returned.
        x: a batch of inputs.
        rounds: timed calls for a single example.
        with_memory: whether to start processes for the memory.
    """
    predictors = {name: Predictor(name, model) for name, model in models.items()}
    ways = {
        (name, place): runner
        for name, predictor in predictors.items()
        for place, runner in enumerate([model_runners.in_keras(predictor), *exports.get(name, [])])
    }
    one = tree.map_structure(lambda each: each[:1], x)
    single = timing.in_turns({key: way(one) for key, way in ways.items()}, rounds)
    batches = timing.in_turns({key: way(x) for key, way in ways.items()}, max(10, rounds // _BATCH_ROUNDS))
    peaks = memory.peaks({key: (way, models[key[0]]) for key, way in ways.items()}, x) if with_memory else {}
    static = {name: (sizes.parameters(predictor), sizes.flops(predictor, x)) for name, predictor in predictors.items()}
    generated = generation_costs.of(models, x)
    batch = len(tree.flatten(x)[0])
    costs: dict[str, list[Cost]] = {name: [] for name in models}
    for key, way in ways.items():
        name = key[0]
        p50, p95, p99 = 1e3 * np.percentile(single[key], (50, 95, 99))
        size = sizes.file_size(models[name]) if way.path is None else way.size()
        speed = batch / float(np.median(batches[key]))
        path = None if way.path is None else str(way.path)
        costs[name].append(
            Cost(
                way.name, path, *static[name], size, float(p50), float(p95), float(p99), speed, batch, peaks.get(key),
                len(single[key]), **(generated.get(name, {}) if way.path is None else {}),
            )
        )  # fmt: skip
    return costs
