"""What was removed from a model, what it saves, and what stays for which reason."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_kd._internal import tables


@dataclasses.dataclass(frozen=True)
class Width:
    """The units of a layer.

    Attributes:
        layer: its name, as "model/layer", or, for units that are no channels of its output, of a part of it, as
            "model/layer:heads".
        units: the numbers of those that it has left, in their order.
        before: how many it had.
    """

    layer: str
    units: np.ndarray
    before: int

    @property
    def kept(self) -> int:
        """How many units are left."""
        return len(self.units)


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What `prune` has done.

    Attributes:
        widths: of the layers that make units.
        parameters: before and after.
        multiplications: before and after, for one example: those of kernels and of heads of attention, with a length of
            1 along axes that the model leaves free.
        blocks: that were left out.
        fixed: for each layer of which all units stay, why.
        channels: for each layer whose output has fewer channels, how many it had, and the numbers of those that are
            left, in their order.
        shared: the layers that both models have.
    """

    widths: tuple[Width, ...]
    parameters: tuple[int, int]
    multiplications: tuple[float, float]
    blocks: tuple[str, ...]
    fixed: Mapping[str, str]
    channels: Mapping[str, tuple[int, np.ndarray]]
    shared: tuple[str, ...]

    def after(self, earlier: "PruneReport") -> "PruneReport":
        """Return a report of two rounds, of which this one is the second: from the first model to the last."""
        before = {each.layer: each for each in earlier.widths}
        gone = {name: each for name, each in earlier.channels.items() if name in self.shared}
        return dataclasses.replace(
            self,
            widths=tuple(_since(before.get(each.layer), each) for each in self.widths),
            parameters=(earlier.parameters[0], self.parameters[1]),
            multiplications=(earlier.multiplications[0], self.multiplications[1]),
            blocks=(*earlier.blocks, *self.blocks),
            channels={**self.channels, **{name: self._again(name, *each) for name, each in gone.items()}},
        )

    def _again(self, name: str, before: int, numbers: np.ndarray) -> tuple[int, np.ndarray]:
        return before, numbers[self.channels[name][1]] if name in self.channels else numbers

    def __str__(self) -> str:
        rows = [[each.layer, str(each.before), str(each.kept)] for each in self.widths if each.kept < each.before]
        rows += [["parameters", *(f"{number:,}" for number in self.parameters)]]
        rows += [["multiplications", *(f"{number:,.0f}" for number in self.multiplications)]]
        lines = tables.aligned([["", "before", "after"], *rows], "<>", rule=True)
        lines += [f"without the blocks {', '.join(self.blocks)}"] if self.blocks else []
        lines += [f"{name}: all units stay, as {reason}" for name, reason in self.fixed.items()]
        return "\n".join(lines)


def _since(earlier: Width | None, width: Width) -> Width:
    if earlier is None:
        return width
    return dataclasses.replace(width, units=earlier.units[width.units], before=earlier.before)
