"""A model that is pruned to one or several sizes: what is found of it once for all of them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.pruning import graph_walk, residual_blocks
from keras_kd.pruning.block_divergence import divergence
from keras_kd.pruning.importance import Importance, first_inputs, measured
from keras_kd.pruning.kept_units import Choices, Kept
from keras_kd.pruning.opened_models import as_one_layer, opened
from keras_kd.pruning.plain_floats import without_adapters


class PreparedModel:
    """A model with its units, blocks and their importance, which are found when they are first needed.

    Neither the weights nor the data may change meanwhile.

    Args:
        model: see `prune`, as all others.
        importance: of units.
        data: inputs.
        protect: names of layers whose units stay.
        head: what the outputs mean.
    """

    def __init__(
        self, model: keras.Model, importance: Importance, data: Any, protect: Sequence[str] = (), head: Any = "auto"
    ) -> None:
        self.model = without_adapters(model)
        self.whole = as_one_layer(self.model) if opened(self.model) is None else self.model
        self._how = importance, data, head
        self._protect = tuple(protect)
        self._shallow: dict[tuple[str, ...], ShallowModel] = {}

    def without(self, blocks: tuple[str, ...]) -> "ShallowModel":
        """Return the model without some residual blocks."""
        if blocks not in self._shallow:
            shallow = residual_blocks.without(self.whole, blocks)
            self._shallow[blocks] = ShallowModel(shallow, blocks, self._protect, self._how)
        return self._shallow[blocks]

    def least_blocks(self, count: int) -> tuple[str, ...]:
        """Return the names of so many residual blocks, without which the outputs differ least, in their order.

        Raises:
            ValueError: there are fewer, or no data to compare outputs on.
        """
        known = residual_blocks.find_blocks(self.whole)
        if not 0 <= count <= len(known):
            raise ValueError(f"Expected at most {len(known)} blocks: {known}. Received: blocks={count}")
        least = sorted(known, key=lambda name: self._worth[name])[:count] if count else []
        return tuple(name for name in known if name in least)

    @functools.cached_property
    def multiplications(self) -> float:
        """Those of the whole model, for one example."""
        return self.without(()).all_kept.multiplications()

    @functools.cached_property
    def examples(self) -> Any:
        """Some inputs as arrays, for files."""
        return first_inputs(self.whole, self._how[1])

    @functools.cached_property
    def _worth(self) -> dict[str, float]:
        _, data, head = self._how
        if data is None:
            raise ValueError(
                "Expected `data`, some hundred inputs, to find the blocks that matter least. Received: None"
            )
        return residual_blocks.by_removal(self.whole, lambda other: divergence(self.whole, other, data, head))


class ShallowModel:
    """A model without some blocks, with its units and their importance.

    Args:
        model: what is left.
        blocks: that were left out.
        protect: names of layers whose units stay.
        how: the importance, the data and the head.
    """

    def __init__(
        self, model: keras.Model, blocks: tuple[str, ...], protect: tuple[str, ...], how: tuple[Any, ...]
    ) -> None:
        self.model, self.blocks = model, blocks
        self.choices = Choices(graph_walk.trace(model), protect)
        self._how = how

    @functools.cached_property
    def importance(self) -> np.ndarray:
        """That of each set of units, by the number that stands for it."""
        return measured(self.model, self.choices, *self._how)

    @property
    def all_kept(self) -> Kept:
        """What is left where no unit is removed."""
        return self.choices.kept(np.array([], int))

    @property
    def parameters(self) -> Callable[[Kept], float]:
        """From what is kept to how many weights that has."""
        return lambda kept: kept.parameters(self.model.weights)
