"""Examples that are written while a model is trained, and may be given to a teacher when they are."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_kd._types import Tensors

#: Returns a teacher's targets, (examples, ...) each, of arrays, (examples, ...).
Targets = Callable[[Tensors], dict[str, Any]]

#: Runs a teacher of each step on x and y.
LiveTeacher = Callable[[Tensors, Tensors], dict[str, Any]]


class WrittenExamples(keras.utils.PyDataset):
    """A data source that writes its examples before an epoch, and keeps some of them for the next."""

    #: What a file has to hold, by name.
    state_names: tuple[str, ...] = ()

    def follow(self, distiller: Any, steps_per_epoch: int | None, validates: bool) -> None:
        """Prepare for the `fit` of a Distiller."""
        raise NotImplementedError

    def callbacks(self, live_teacher: LiveTeacher | None) -> tuple[list[Any], list[Any]]:
        """Return the callbacks of `fit` that come behind all others, and those that come before them."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return that as arrays, or nothing where there is none yet."""
        raise NotImplementedError

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` has returned."""
        raise NotImplementedError

    def join(self, targets: Targets | None) -> None:
        """Let x carry targets, which are made once of each example, when it is written; None: let it carry none."""
        raise NotImplementedError
