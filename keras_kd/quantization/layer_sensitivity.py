"""How much a model's outputs change when one of its layers is quantised, and which layers to quantise."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_kd._internal import cloning, number_formats, tables
from keras_kd._keras import layer_tree
from keras_kd._types import Tensors
from keras_kd.quantization import kernel_rounding

#: Bits of the weights in each mode.
_BITS = {"int8": 8, "int4": 4}
MODES = tuple(_BITS)


class LayerCost(NamedTuple):
    """What one layer loses and saves by being quantised alone.

    Attributes:
        layer: path of the layer in the model.
        mode: of Keras's `quantize`.
        saved: bytes of weights that are saved.
        noise: squared change of the model's outputs, relative to their variance; of several outputs the largest.
        simulated: whether the layer is a convolution, which Keras's `quantize` cannot take: its kernels alone are
            rounded, as LiteRT does, to integers with a scale for each output channel.
    """

    layer: str
    mode: str
    saved: int
    noise: float
    simulated: bool = False


class Sensitivity:
    """What `sensitivity` returns: a cost for each layer and mode, which `print` shows as a table.

    Attributes:
        costs: a list of `LayerCost`, the layers in the order of the model.
        left: paths of layers with weights that are not quantised.
        nbytes: of all weights of the model.
    """

    def __init__(self, model: keras.Model, x: Tensors, batch_size: int) -> None:
        self._model, self._x, self._batch_size = model, x, batch_size
        self._names = _names(model)
        self._outputs = self._run(model)
        self.nbytes = _nbytes(model)
        self.costs: list[LayerCost] = []
        self.left: list[str] = []

    def measure(self, modes: Sequence[str]) -> None:
        """Quantise each layer of a copy alone, in each mode."""
        able = {name for mode in modes for name in self._quantizable(mode)}
        weighted = {name: layer for name, layer in self._leaves(self._model).items() if layer.weights}
        rounds = {name for name, layer in weighted.items() if isinstance(layer, kernel_rounding.CONVOLUTIONS)} - able
        self.left = [name for name in weighted if name not in able | rounds]
        cost = {**dict.fromkeys(able, self._quantized_cost), **dict.fromkeys(rounds, self._rounded_cost)}
        self.costs += [cost[name](name, mode) for name in weighted for mode in modes if name in cost]

    def _quantized_cost(self, name: str, mode: str) -> LayerCost:
        changed = self.quantized({name: mode})
        return LayerCost(name, mode, self.nbytes - _nbytes(changed), self.noise(changed))

    def _rounded_cost(self, name: str, mode: str) -> LayerCost:
        changed = cloning.copy_model(self._model)
        layer = self._leaves(changed)[name]
        kernel_rounding.round_kernels(layer, _BITS[mode])
        return LayerCost(name, mode, kernel_rounding.saved(layer, _BITS[mode]), self.noise(changed), simulated=True)

    def plan(self, noise: float) -> dict[str, str]:
        """Return which layers to quantise, and how, so that their costs add up to at most so much.

        What saves most for what it costs comes first. Costs of layers that are quantised together need not add up:
        see what `noise` returns of the model that `quantized` makes. Convolutions are left out.

        Args:
            noise: squared change of the outputs relative to their variance, above 0. 0.01 is a tenth of their
                standard deviation.

        Returns:
            A mode for the path of each layer that is to be quantised.
        """
        if not noise > 0:
            raise ValueError(f"Expected `noise` to be above 0. Received: noise={noise!r}")
        chosen: dict[str, LayerCost] = {}
        spent = 0.0
        costs = [cost for cost in self.costs if not cost.simulated]
        while steps := [step for step in map(_Step.onto(chosen), costs) if step.saved > 0]:
            fitting = [step for step in steps if spent + step.noise <= noise]
            if not fitting:
                break
            best = max(fitting, key=lambda step: step.saved / max(step.noise, 1e-30))
            chosen[best.cost.layer] = best.cost
            spent += best.noise
        return {cost.layer: cost.mode for cost in self.costs if chosen.get(cost.layer) == cost}

    def quantized(self, plan: Mapping[str, str]) -> keras.Model:
        """Return a copy of the model whose layers are quantised as a plan has it.

        Raises:
            ValueError: a path that is none of the model's layers; a mode that a layer does not have.
        """
        copy = cloning.copy_model(self._model)
        leaves = self._leaves(copy)
        unknown = sorted(set(plan) - set(leaves))
        if unknown:
            raise ValueError(f"Expected paths of layers, as in {list(leaves)[:5]}. Received: {unknown}")
        simulated = sorted(set(plan) & {cost.layer for cost in self.costs if cost.simulated})
        if simulated:
            raise ValueError(
                f"Expected layers that Keras can quantise. Received convolutions: {simulated}. LiteRT has them in 8 "
                "bits: see export(quantize='int8')."
            )
        for name, mode in plan.items():
            _quantize(leaves[name], mode)
        missed = [name for name in plan if leaves[name].quantization_mode is None]
        if missed:
            raise ValueError(f"Expected layers that Keras can quantise. Received: {missed}")
        return copy

    def noise(self, model: keras.Model) -> float:
        """Return how far a model's outputs are from the first one's, squared, relative to the variance of these."""
        return max(map(_relative, self._outputs, self._run(model)))

    def _leaves(self, model: keras.Model) -> dict[str, keras.layers.Layer]:
        """Return the layers of the model or of a copy that have none in them, by the paths that the model has."""
        return dict(zip(self._names, _leaf_layers(model), strict=True))

    def _quantizable(self, mode: str) -> list[str]:
        """Return the paths of layers that have a mode."""
        leaves = self._leaves(cloning.copy_model(self._model))
        for layer in leaves.values():
            if layer.quantization_mode is None:
                _quantize(layer, mode)
        return [name for name, layer in leaves.items() if layer.quantization_mode == mode]

    def _run(self, model: keras.Model) -> list[np.ndarray]:
        count = len(tree.flatten(self._x)[0])
        parts = [
            tree.flatten(model(tree.map_structure(lambda x, s=start: x[s : s + self._batch_size], self._x)))
            for start in range(0, count, self._batch_size)
        ]
        return [np.concatenate([np.asarray(each, "float64") for each in part]) for part in zip(*parts, strict=True)]

    def __str__(self) -> str:
        modes = list(dict.fromkeys(cost.mode for cost in self.costs))
        found = {(cost.layer, cost.mode): cost for cost in self.costs}
        rows = [["layer", *(f"{mode}: {what}" for mode in modes for what in ("saved", "noise"))]]
        for name in dict.fromkeys(cost.layer for cost in self.costs):
            costs = [found[name, mode] for mode in modes]
            rows.append([name, *(text for cost in costs for text in _shown(cost))])
        simulated = list(dict.fromkeys(cost.layer for cost in self.costs if cost.simulated))
        notes = {"rounded as in LiteRT, Keras cannot quantise them": simulated, "left as they are": self.left}
        named = [f"{note}: {', '.join(layers)}" for note, layers in notes.items() if layers]
        return "\n".join([*tables.aligned(rows, "<>", rule=True), *named])


def _quantize(layer: keras.layers.Layer, mode: str) -> None:
    """Quantise a layer if it can be; `Model.quantize` takes no filter in Keras 3.12."""
    with contextlib.suppress(NotImplementedError):
        layer.quantize(mode)


class _Step(NamedTuple):
    """What is saved, and lost, when a layer goes from what is chosen for it to another cost."""

    cost: LayerCost
    saved: int
    noise: float

    @classmethod
    def onto(cls, chosen: Mapping[str, LayerCost]) -> Any:
        none = LayerCost("", "", 0, 0.0)
        return lambda cost: cls(
            cost,
            cost.saved - chosen.get(cost.layer, none).saved,
            max(cost.noise - chosen.get(cost.layer, none).noise, 0.0),
        )


def sensitivity(model: keras.Model, x: Tensors, modes: Sequence[str] = MODES, batch_size: int = 256) -> Sensitivity:
    """Measure what each layer of a model costs when it alone is quantised by Keras's `quantize`.

    A copy is made for each layer and mode. Convolutions, which `quantize` cannot take, have their kernels rounded as
    LiteRT does, symmetric with a scale for each output channel; plans and quantised copies leave them as they are.
    What quantised layers lose together is got back by distillation: adapters (`enable_lora`) of the quantised copy
    learn from the model that it came from.

    Args:
        model: a built model whose configuration Keras can write and read. It stays as it is.
        x: real inputs, some hundreds of examples, of the structure that the model takes.
        modes: "int8", of weights and activations, and "int4", of weights alone, or one of them.
        batch_size: examples that are run at a time.

    Returns:
        A `Sensitivity`.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: it is not built, or cannot be copied; no examples; another mode; no layer that can be quantised.

    Example:
        >>> found = sensitivity(student, x_train[:500])
        >>> small = found.quantized(found.plan(noise=0.01))
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a keras.Model. Received: {model!r} of {type(model).__name__}")
    if not model.built:
        raise ValueError(f"Expected a built model. Received: {model.name!r}, which has no weights yet. Call it once.")
    if not modes or not set(modes) <= set(MODES):
        raise ValueError(f"Expected `modes` to be some of {MODES}. Received: modes={modes!r}")
    leaves = tree.flatten(x)
    if not leaves or not all(len(leaf) for leaf in leaves):
        raise ValueError("Expected real inputs, to compare outputs. Received: `x` without examples.")
    found = Sensitivity(model, x, batch_size)
    found.measure(modes)
    if not found.costs:
        raise ValueError(
            "Expected layers that Keras's `quantize` can change, Dense, EinsumDense and Embedding, or convolutions. "
            f"Received: {model.name!r}, whose layers with weights are {found.left}."
        )
    return found


def _leaf_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers in a model that have none in them, in an order that copies have, too."""
    return [layer for layer in layer_tree.all_layers(model) if len(layer_tree.all_layers(layer)) == 1]


def _names(model: keras.Model) -> list[str]:
    """Return the paths of these layers, which copies need not have; of equal paths, later ones are numbered."""
    paths = [layer.path or layer.name for layer in _leaf_layers(model)]
    earlier = [paths[:place].count(path) for place, path in enumerate(paths)]
    return [f"{path}#{1 + count}" if count else path for path, count in zip(paths, earlier, strict=True)]


def _nbytes(model: keras.Model) -> int:
    return sum(int(np.prod(each.shape)) * np.asarray(each).itemsize for each in model.weights)


def _relative(expected: np.ndarray, received: np.ndarray) -> float:
    variance = float(np.mean((expected - expected.mean()) ** 2))
    return float(np.mean((received - expected) ** 2)) / max(variance, 1e-30)


def _shown(cost: LayerCost) -> tuple[str, str]:
    return number_formats.size(cost.saved), f"{cost.noise:.2g}"
