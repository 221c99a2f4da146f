"""The optimizers of the papers, which differ from Keras's of the same name."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_kd_examples")
class CoupledSGD(keras.optimizers.SGD):
    """SGD with weight decay as PyTorch has it: an L2 penalty on all weights, which goes through the momentum.

    v = momentum * v - learning_rate * (gradient + l2 * w), then w = w + v. Keras's `weight_decay` is another one: it
    subtracts learning_rate * weight_decay * w beside the momentum. PyTorch multiplies v by the learning rate when it is
    used, which is the same but for some ten steps after the learning rate has changed.

    Args:
        learning_rate: a number or a schedule.
        l2: the weight decay; it applies to biases and to the weights of normalisation, too.
        momentum: 0 to 1.
    """

    def __init__(self, learning_rate: Any = 0.05, l2: float = 5e-4, momentum: float = 0.9) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum)
        self.l2 = l2

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change one variable."""
        penalty = ops.cast(self.l2, variable.dtype) * ops.convert_to_tensor(variable)
        super().update_step(ops.cast(gradient, variable.dtype) + penalty, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        return {"learning_rate": config["learning_rate"], "l2": self.l2, "momentum": self.momentum}


@keras.saving.register_keras_serializable("keras_kd_examples")
class BertAdam(keras.optimizers.AdamW):
    """AdamW that leaves biases and layer normalisation without weight decay, as BERT is fine-tuned."""

    def __init__(self, learning_rate: Any = 5e-5, weight_decay: float = 0.01) -> None:
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, epsilon=1e-6, global_clipnorm=1.0)
        self.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        return {name: config[name] for name in ("learning_rate", "weight_decay")}


@keras.saving.register_keras_serializable("keras_kd_examples")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Go up from 0 in the first steps, and down to 0 in all others, in straight lines.

    Args:
        peak: the largest learning rate.
        steps: of the training.
        warmup: share of the steps in which it goes up.
    """

    def __init__(self, peak: float, steps: int, warmup: float = 0.1) -> None:
        self.peak = peak
        self.steps = steps
        self.warmup = warmup

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step, from 0 on."""
        done, rising = ops.cast(step, "float32"), max(1.0, self.warmup * self.steps)
        falling = (self.steps - done) / max(1.0, self.steps - rising)
        return self.peak * ops.maximum(0.0, ops.minimum(done / rising, falling))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


def steps_down(rate: float, steps: int, epochs: tuple[int, ...], factor: float = 0.1) -> Any:
    """Return a learning rate that is multiplied by a factor after each of some epochs.

    Args:
        rate: of the first epochs.
        steps: of an epoch.
        epochs: after how many of them it changes.
        factor: what it is multiplied by.
    """
    values = [rate * factor**count for count in range(len(epochs) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay([epoch * steps - 1 for epoch in epochs], values)
