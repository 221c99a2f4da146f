"""What is known of a model's channels: the units along each axis of its tensors and weights.

The rules for layers and operations write here; costs, importance and surgery read it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd.pruning.channel_units import Ids, Units

#: How many of some positions along an axis stay.
Count = Callable[[np.ndarray], int]

#: The units along each axis of a tensor.
Labels = tuple[Ids, ...]


@dataclasses.dataclass
class WeightAxis:
    """The units along an axis of a weight.

    Attributes:
        variable: the weight.
        axis: its axis, counted from 0.
        ids: a unit for each position, or None where all stay.
        reads: whether the weight multiplies what the units output: with zeros there, nothing reads them.
        makes: whether units begin here: the axis decides how many a layer outputs.
        owner: the layer, as "model/layer", or its part, as "model/layer:heads".
    """

    variable: Any
    axis: int
    ids: Ids
    reads: bool
    makes: bool
    owner: str

    @property
    def units(self) -> np.ndarray:
        """A unit for each position; none where all stay."""
        return np.array([], int) if self.ids is None else self.ids


@dataclasses.dataclass(frozen=True)
class Setting:
    """An argument of a layer that follows from what is kept.

    Attributes:
        key: of the layer's configuration.
        value: (how many of some units are kept) -> the argument.
    """

    key: str
    value: Callable[[Count], Any]


@dataclasses.dataclass(frozen=True)
class Work:
    """Multiplications of a call: of each number of a weight, or, without one, of each unit; without both, of all."""

    variable: Any
    times: float
    ids: Ids = None


@dataclasses.dataclass(frozen=True)
class Read:
    """Where a tensor is read whose axis has units.

    Attributes:
        call: the number of the call.
        argument: which of its flattened arguments.
        axis: of the tensor, from the end.
        ids: a unit for each position.
    """

    call: int
    argument: int
    axis: int
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Call:
    """A layer or operation at one place of a graph.

    Attributes:
        operation: the layer or operation.
        args: positional arguments, symbolic.
        kwargs: arguments by name.
        result: what it returned.
        path: its name, as "model/layer".
        number: how many calls came before.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    path: str
    number: int

    @property
    def leaves(self) -> list[Any]:
        """All arguments, flattened."""
        return tree.flatten((self.args, self.kwargs))

    @property
    def tensors(self) -> list[Any]:
        """The symbolic tensors among the arguments."""
        return [each for each in self.leaves if isinstance(each, keras.KerasTensor)]

    @property
    def values(self) -> list[Any]:
        """The symbolic tensors among the arguments but for the masks that Keras has added."""
        others = {name: each for name, each in self.kwargs.items() if name != "mask"}
        return [each for each in tree.flatten((self.args, others)) if isinstance(each, keras.KerasTensor)]

    @property
    def outputs(self) -> list[Any]:
        """The symbolic tensors that were returned."""
        return [each for each in tree.flatten(self.result) if isinstance(each, keras.KerasTensor)]

    @property
    def described(self) -> str:
        """Name and type, for reports."""
        return f"{self.path!r} ({type(self.operation).__name__})"


class Trace:
    """The units of a model, and what has to change with them.

    Attributes:
        units: all of them.
        axes: what is known of axes of weights, by the identities of the weights and the axes.
        settings: arguments that follow from what is kept, by the identity of a layer.
        operations: from what is kept to what is called in the place of an operation, by its identity.
        work: multiplications.
        reads: where units are read.
        tensors: the units along each axis of a layer's output, by its name.
        paths: names of layers and operations, by their identity.
        layers: these, by their identity.
        whole: layers of several weights of which nothing is known, and why they stay.
        alike: what was found of hidden units, by what layers have in common, see `hidden_units`.
    """

    def __init__(self) -> None:
        self.units = Units()
        self.axes: dict[tuple[int, int], WeightAxis] = {}
        self.settings: dict[int, list[Setting]] = {}
        self.operations: dict[int, Callable[[Count], Callable[[Any], Any]]] = {}
        self.work: list[Work] = []
        self.reads: list[Read] = []
        self.tensors: dict[str, Labels] = {}
        self.paths: dict[int, str] = {}
        self.whole: dict[str, str] = {}
        self.layers: dict[int, Any] = {}
        self.alike: dict[Any, Any] = {}
        self._labels: dict[int, tuple[Any, Labels]] = {}

    def labels(self, tensor: Any) -> Labels:
        """Return the units along each axis of a symbolic tensor."""
        return self._labels[id(tensor)][1] if id(tensor) in self._labels else (None,) * len(tensor.shape)

    def put(self, tensor: Any, labels: Sequence[Ids]) -> None:
        """Note the units along each axis of a symbolic tensor."""
        for ids, size in zip(labels, tensor.shape, strict=True):
            if ids is not None and len(ids) != size:
                raise ValueError(f"Expected a unit for each of {size} positions. Received: {len(ids)}.")
        self._labels[id(tensor)] = tensor, tuple(labels)

    def fix(self, labels: Sequence[Ids], reason: str) -> None:
        """Keep all units along the axes of a tensor."""
        for ids in labels:
            self.units.fix(ids, reason)

    def make(self, variable: Any, axis: int, call: Call, part: str = "") -> Ids:
        """Return the units that begin along an axis of a weight: the same ones in each call of a shared layer.

        Args:
            variable: the weight.
            axis: counted from 0.
            call: where.
            part: what the units are called that are no channels of the layer's output, such as "heads".
        """
        known = self.axes.get((id(variable), axis))
        if known is not None:
            known.makes = known.makes or known.ids is not None
            return known.ids
        size = variable.shape[axis]
        ids = self.units.new(size) if size > 1 else None
        owner = f"{call.path}:{part}" if part else call.path
        self.axes[id(variable), axis] = WeightAxis(variable, axis, ids, False, ids is not None, owner)
        return ids

    def follow(self, variable: Any, axis: int, ids: Ids, call: Call, reads: bool = False) -> None:
        """Note that the positions along an axis of a weight are those of units.

        Args:
            variable: the weight; None for one that a layer does not have.
            axis: counted from 0.
            ids: a unit for each position.
            call: where.
            reads: whether the weight multiplies what the units output.
        """
        if variable is None:
            return
        if ids is not None and len(ids) != variable.shape[axis]:
            raise ValueError(f"Expected {variable.shape[axis]} units for {variable.path}. Received: {len(ids)}.")
        known = self.axes.setdefault((id(variable), axis), WeightAxis(variable, axis, ids, reads, False, call.path))
        known.reads = known.reads or reads
        self.equal([known.ids, ids], f"{call.described} shares weights with a place where all channels stay")

    def read(self, variable: Any, axis: int, tensor: Any, along: int, call: Call, repeat: int = 1) -> None:
        """Note that an axis of a weight multiplies the positions along an axis of a tensor.

        Args:
            variable: the weight.
            axis: of the weight.
            tensor: what is read.
            along: the axis of the tensor.
            call: where.
            repeat: positions of the weight for each of the tensor.
        """
        ids = self.labels(tensor)[along]
        self.follow(variable, axis, ids if ids is None else np.repeat(ids, repeat), call, reads=True)
        self.note_read(tensor, along, call)

    def note_read(self, tensor: Any, along: int, call: Call) -> None:
        """Note where units are read, for what is measured on activations."""
        ids = self.labels(tensor)[along]
        places = [place for place, leaf in enumerate(call.leaves) if leaf is tensor]
        if ids is not None and places:
            self.reads.append(Read(call.number, places[0], along % len(tensor.shape) - len(tensor.shape), ids))

    def equal(self, several: Sequence[Ids], reason: str) -> Ids:
        """Join units that have to be the same ones; where one has none that can be removed, all stay."""
        found = [ids for ids in several if ids is not None]
        for ids in found[1:]:
            self.units.join(found[0], ids)
        if len(found) < len(several):
            for ids in found:
                self.units.fix(ids, reason)
        return found[0] if found else None

    def set(self, layer: Any, key: str, value: Callable[[Count], Any]) -> None:
        """Note an argument that follows from what is kept; once for a layer that is called several times."""
        known = self.settings.setdefault(id(layer), [])
        if all(each.key != key for each in known):
            known.append(Setting(key, value))

    def set_number(self, layer: Any, key: str, ids: Ids) -> None:
        """Note an argument that is the number of some units."""
        if ids is not None:
            self.set(layer, key, lambda count: count(ids))

    def works(self, variable: Any, shape: Sequence[int | None]) -> None:
        """Note that each number of a weight is multiplied once for each position of a shape; of unknown sizes 1."""
        self.work.append(Work(variable, math.prod(size or 1 for size in shape)))
