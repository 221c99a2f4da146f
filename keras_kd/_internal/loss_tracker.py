"""The averages over an epoch of the parts of the objective, as a Distiller logs them."""

import keras
from keras import ops

from keras_kd._keras import replicas
from keras_kd._types import Tensor


class LossTracker(keras.metrics.Metric):
    """Means of several numbers, with one variable: a metric for each would take a small student's step 1 or 2 % longer.

    Args:
        names: of the numbers.
        name: of the metric.
    """

    def __init__(self, names: list[str], name: str = "parts") -> None:
        super().__init__(name=name)
        self.names = names
        self._sums = self.add_variable((len(names) + 1,), "zeros", name="sums")  # the last is that of the weights

    def update_state(self, values: dict[str, Tensor], sample_weight: Tensor) -> None:
        """Add a batch.

        Args:
            values: scalars by name, divided by the number of replicas as Keras's losses are; a missing one counts as 0.
            sample_weight: a scalar.
        """
        row = ops.stack([ops.cast(values.get(name, 0.0), self.dtype) for name in self.names])
        row = ops.append(replicas.undivided(row), 1.0)
        self._sums.assign_add(row * ops.cast(sample_weight, self.dtype))

    def result(self) -> dict[str, Tensor]:
        """Return the means by name."""
        means = ops.divide_no_nan(self._sums[:-1], self._sums[-1])
        return dict(zip(self.names, ops.unstack(means, len(self.names)), strict=True))
