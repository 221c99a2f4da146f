"""`prune`: a smaller model of the same kind, with the units that matter most."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd._internal.model_graphs import functional
from keras_kd.pruning import graph_walk, pruned_sizes, unit_budget
from keras_kd.pruning.importance import Importance
from keras_kd.pruning.kept_units import Choices, Kept, savings
from keras_kd.pruning.opened_models import only_layer
from keras_kd.pruning.plain_floats import check_floats
from keras_kd.pruning.prepared_model import PreparedModel, ShallowModel
from keras_kd.pruning.prune_report import PruneReport, Width
from keras_kd.pruning.surgery import smaller
from keras_kd.pruning.unit_budget import Ranking


def prune(
    model: keras.Model,
    *,
    keep: float | None = None,
    parameters: float | None = None,
    multiplications: float | None = None,
    file_bytes: dict[str, float] | None = None,
    latency: dict[str, float] | None = None,
    importance: Importance = "taylor",
    data: Any = None,
    blocks: int | Sequence[str] = (),
    round_to: int = 1,
    protect: Sequence[str] = (),
    head: str | dict[str, str] = "auto",
) -> tuple[keras.Model, PruneReport]:
    """Return a smaller model: without the channels, heads, hidden units and blocks that matter least, and a report.

    What can be removed is read from the model's graph. Channels that are added, multiplied or read by one depthwise
    convolution are removed together; inputs, outputs and what a layer normalises over stay. The result is a plain
    Keras model of the same layers with fewer weights: what it outputs is what the model outputs with zeros where the
    removed units were read. It is a start for `Distiller(student=pruned, teacher=model)`, from which it learns again.

    The units that go first are those with the smallest importance for what one of them saves of the budget; each layer
    keeps one at least. With `keep`, each layer loses the same share instead.

    Args:
        model: a built Functional or Sequential model, nested ones included; it is left as it is. Of one with adapters
            (LoRA), these are merged into the weights, and the pruned model has none; layers that are frozen stay so.
        keep: the share of the units of each layer that stay, above 0, at most 1.
        parameters: how many are left at most; below 1, the share of the model's.
        multiplications: for one example, at most; below 1, the share of the model's.
        file_bytes: of an export in a format, as {"litert_int8": 60_000}; of "keras", "saved_model", "litert",
            "litert_float16", "litert_dynamic", "litert_int8x16", "litert_int8" and "onnx". Each try is converted, which
            takes seconds.
        latency: milliseconds for one example on this machine, in a format, as {"litert": 2.5}, or in Keras itself.
        importance: of a unit, one of

            - "magnitude": the L2 norm of its weights in all kernels that make, carry or read it, as a part of the mean
              of its layer;
            - "activations": the mean absolute value where it is read, as a part of the mean of its layer. Units that
              are in no tensor, such as heads, stay;
            - "taylor": the second Taylor term of the divergence of the outputs from the model's own when a factor on
              what is read of the unit goes from 1 to 0 (its first term is 0, where the model is its own teacher): the
              squared derivative of log p(y | x) by that factor, with y drawn from the model's outputs. It needs no
              labels;
            - a function of the model that returns {"layer": one number for each unit}. Units of other layers stay.
        data: some hundred inputs, for "activations", "taylor", a number of blocks, `file_bytes` and `latency`: arrays,
            (x, y), or batches of them such as a `tf.data.Dataset`.
        blocks: residual blocks to leave out before: their names (see `find_blocks`), or how many; then those
            without which the outputs differ least from the model's.
        round_to: each layer keeps a multiple of so many units, or all; many devices are fastest with multiples of 8.
        protect: names of layers whose units all stay, as "model/layer"; a nested model's name stands for all in it.
        head: what the outputs mean, for "taylor" and a number of blocks: "auto", "logits", "softmax", "sigmoid" or
            "values" (regression), or a dict by the names of the outputs.

    Returns:
        The pruned model, not compiled, and a `PruneReport`.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: it has no graph, or layers that are quantised; not exactly one budget is given, or none that can be
            met: the message names what stays, and why.

    Example:
        >>> pruned, report = kd.prune(teacher, multiplications=0.5, data=x_train[:512])
        >>> distiller = kd.Distiller(student=pruned, teacher=teacher)

    References: Molchanov et al., Importance Estimation for Neural Network Pruning, 2019, arXiv 1906.10771; Fang et al.,
    DepGraph: Towards Any Structural Pruning, 2023, arXiv 2301.12900.
    """
    budgets = dict(
        keep=keep, parameters=parameters, multiplications=multiplications, file_bytes=file_bytes, latency=latency
    )
    _one(budgets, blocks)  # raises before the model is looked at
    prepared = prepare(model, importance, data, protect, head)
    return prune_prepared(prepared, budgets, blocks, round_to)


def prepare(
    model: keras.Model, importance: Importance, data: Any, protect: Sequence[str] = (), head: Any = "auto"
) -> PreparedModel:
    """Return a model to prune to one or several sizes; what is found of it is found once.

    Args:
        model: see `prune`, as all others.
        importance: of units.
        data: inputs.
        protect: names of layers whose units stay.
        head: what the outputs mean.

    Raises:
        TypeError: it is no Keras model.
        ValueError: it has no graph, or layers that are quantised.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a keras.Model to prune. Received: {model!r} of type {type(model).__name__}")
    check_floats(model)
    if functional(model) is None:
        graph_walk.trace(model)  # raises, with what to do
    return PreparedModel(model, importance, data, protect, head)


def prune_prepared(
    prepared: PreparedModel, budgets: dict[str, Any], blocks: int | Sequence[str] = (), round_to: int = 1
) -> tuple[keras.Model, PruneReport]:
    """Return what `prune` returns.

    Args:
        prepared: the model.
        budgets: of `prune`, by their names; one that is not None.
        blocks: see `prune`.
        round_to: see `prune`.
    """
    budget = _one(budgets, blocks)
    if not isinstance(round_to, int) or round_to < 1:
        raise ValueError(f"Expected `round_to` to be a whole number of at least 1. Received: {round_to!r}")
    shallow = prepared.without(prepared.least_blocks(blocks) if isinstance(blocks, int) else tuple(blocks))
    kept = _kept(prepared, shallow, budget, round_to)
    pruned = smaller(shallow.model, kept)
    return (pruned if prepared.whole is prepared.model else only_layer(pruned)), _report(prepared, shallow, kept)


def _one(budgets: dict[str, Any], blocks: Any) -> tuple[str, Any]:
    """Return the one budget; without any, blocks alone are removed."""
    given = {name: value for name, value in budgets.items() if value is not None}
    if not given and blocks:
        return "keep", 1.0
    if len(given) != 1:
        raise ValueError(f"Expected one of {', '.join(budgets)}. Received: {given or 'none'}")
    ((name, value),) = given.items()
    if name == "keep" and not 0 < value <= 1:
        raise ValueError(f"Expected `keep` to be above 0, at most 1. Received: {value!r}")
    if name in ("parameters", "multiplications") and not value > 0:
        raise ValueError(f"Expected `{name}` to be above 0. Received: {value!r}")
    if name in ("file_bytes", "latency"):
        pruned_sizes.check(name, value)
    return name, value


def _kept(prepared: PreparedModel, shallow: ShallowModel, budget: tuple[str, Any], round_to: int) -> Kept:
    """Return what stays of a model's units.

    Args:
        prepared: the model with all blocks; shares are of it.
        shallow: what is pruned, without the blocks that are left out.
        budget: its name and value.
        round_to: see `prune`.
    """
    name, value = budget
    if (name, value) == ("keep", 1):
        return shallow.all_kept
    choices, found = shallow.choices, shallow.importance
    if name == "keep":
        ranking = Ranking(choices, unit_budget.by_share(choices, found), found, round_to)
        return ranking.kept(int(np.searchsorted(ranking.sorted_scores, 1 - value + 1e-9)))
    saved = shallow.parameters if name in ("parameters", "file_bytes") else Kept.multiplications
    scores = unit_budget.by_saving(choices, found, savings(choices, saved))
    ranking = Ranking(choices, scores, found, round_to)
    like = shallow.parameters if name == "file_bytes" else None
    return ranking.until(*_cost(prepared, shallow, name, value), name, like)


def _cost(
    prepared: PreparedModel, shallow: ShallowModel, name: str, value: Any
) -> tuple[Callable[[Kept], float], float]:
    """Return a function from what is kept to its cost, and the most that it may be."""
    if name == "parameters":
        return shallow.parameters, value * prepared.whole.count_params() if value < 1 else value
    if name == "multiplications":
        return Kept.multiplications, value * prepared.multiplications if value < 1 else value
    kind, most = pruned_sizes.check(name, value)
    measure = pruned_sizes.file_bytes if name == "file_bytes" else pruned_sizes.latency
    return lambda kept: measure(smaller(shallow.model, kept), kind, prepared.examples), most


def multiplications(model: keras.Model) -> float:
    """Return the multiplications of a model for one example, as a `PruneReport` counts them."""
    return Choices(graph_walk.trace(model)).kept(np.array([], int)).multiplications()


def _report(prepared: PreparedModel, shallow: ShallowModel, kept: Kept) -> PruneReport:
    choices = kept.choices
    tensors = choices.trace.tensors.items()
    last = [(name, labels[-1]) for name, labels in tensors if labels]
    masks = {name: kept.mask(ids) for name, ids in last if ids is not None}
    return PruneReport(
        widths=tuple(
            Width(axis.owner, np.flatnonzero(kept.mask(axis.units)), len(axis.units)) for axis in choices.made
        ),
        parameters=(prepared.whole.count_params(), int(shallow.parameters(kept))),
        multiplications=(prepared.multiplications, kept.multiplications()),
        blocks=shallow.blocks,
        fixed=choices.fixed(),
        channels={name: (len(mask), np.flatnonzero(mask)) for name, mask in masks.items() if not mask.all()},
        shared=tuple(name for name, _ in tensors),
    )
