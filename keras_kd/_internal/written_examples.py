"""Examples that are written while a model is trained, and may be given to a teacher when they are."""

from collections.abc import Callable
from typing import Any

import keras

from keras_kd._types import Tensors

#: Returns a teacher's targets, (examples, ...) each, of arrays, (examples, ...).
Targets = Callable[[Tensors], dict[str, Any]]


class WrittenExamples(keras.utils.PyDataset):
    """A data source that writes its examples before an epoch, and keeps some of them for the next."""

    def join(self, targets: Targets | None) -> None:
        """Let x carry targets, which are made once of each example, when it is written; None: let it carry none."""
        raise NotImplementedError
