"""What a term compares the two sides by: functions, layers and losses of Keras, their arguments and schedules."""

import functools
import inspect
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_kd import schedules
from keras_kd._types import LossFunction, Number, Tensor, Tensors

Loss = LossFunction | keras.losses.Loss | keras.layers.Layer

#: The values that an argument of keras_kd's losses may take, by its name, where it is a schedule. "beta" leaves out the
#: ends, where `jensen_shannon` is another loss.
_RANGES: dict[str, tuple[float, float]] = {
    "beta": (1e-6, 1.0 - 1e-6),
    "skew": (0.0, 1.0),
    "power": (schedules.SMALLEST, schedules.LARGEST),
    "delta": (schedules.SMALLEST, schedules.LARGEST),
    "gamma": (schedules.SMALLEST, schedules.LARGEST),
    "similarity_temperature": (schedules.SMALLEST, schedules.LARGEST),
    "margin": (0.0, schedules.LARGEST),
    "threshold": (0.0, 1.0),
    "target_weight": (0.0, schedules.LARGEST),
    "non_target_weight": (0.0, schedules.LARGEST),
}

#: Keras's losses that compare probabilities or labels: on logits they would be silently wrong.
NOT_ON_LOGITS = {
    keras.losses.kl_divergence: "kl_divergence",
    keras.losses.categorical_crossentropy: "kl_divergence",
    keras.losses.sparse_categorical_crossentropy: "kl_divergence",
    keras.losses.categorical_focal_crossentropy: "kl_divergence",
    keras.losses.categorical_generalized_cross_entropy: "kl_divergence",
    keras.losses.categorical_hinge: "kl_divergence",
    keras.losses.poisson: "kl_divergence",
    keras.losses.circle: "kl_divergence",
    keras.losses.ctc: "kl_divergence",
    keras.losses.binary_crossentropy: "binary_kl",
    keras.losses.binary_focal_crossentropy: "binary_kl",
    keras.losses.hinge: "binary_kl",
    keras.losses.squared_hinge: "binary_kl",
    keras.losses.dice: "binary_kl",
    keras.losses.tversky: "binary_kl",
}


def as_loss(loss: Any, arguments: dict[str, Any]) -> Loss:
    """Return a loss that can be called, or raise an error that describes one."""
    if isinstance(loss, str):
        try:
            return keras.losses.get(loss)
        except ValueError:
            raise ValueError(
                f"Expected the name of one of Keras's regression losses, such as 'mean_squared_error'. Received: "
                f"loss={loss!r}. Those of keras_kd are given as functions: keras_kd.losses.kl_divergence."
            ) from None
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(
            "Expected `loss` to be a function of (student, teacher), a layer, a keras.losses.Loss or the name of one. "
            f"Received: {loss!r} of type {type(loss).__name__}"
        )
    if isinstance(loss, (keras.losses.Loss, keras.layers.Layer)) and arguments:
        raise TypeError(
            f"Expected arguments of `loss` only where it is a function. Received: {sorted(arguments)} with the object "
            f"{loss!r}. Give them where the object is made."
        )
    return loss


class Tokens(NamedTuple):
    """What a loss of whole sequences is given in the place of labels.

    Attributes:
        labels: class ids, (batch, tokens), or (rows,).
        counted: False for the tokens that are left out, (batch, tokens), or None.
        advantages: of the tokens, where they are known, or None.
    """

    labels: Tensor | None
    counted: Tensor | None = None
    advantages: Tensor | None = None


def takes_counted(loss: Loss) -> bool:
    """Return whether a loss is of whole sequences, and takes which of their tokens count, by naming that."""
    return takes_labels(loss) and "counted" in _parameters(loss)


def takes_labels(loss: Loss) -> bool:
    """Return whether a loss takes labels, by naming them."""
    return not isinstance(loss, keras.losses.Loss) and "labels" in _parameters(loss)


def _parameters(loss: Loss) -> Mapping[str, Any]:
    return inspect.signature(loss.call if isinstance(loss, keras.layers.Layer) else loss).parameters


def is_plain(loss: Loss) -> bool:
    """Return whether a loss is a function, not an object of Keras, which would read a mask by itself."""
    return not isinstance(loss, (keras.losses.Loss, keras.layers.Layer)) and not _is_of_keras(loss)


def scheduled(loss: Loss, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are schedules: of Keras, or functions in the place of a float."""
    return {name: each for name, each in arguments.items() if _is_schedule(loss, name, each)}


def ranges(loss: Loss, arguments: Mapping[str, Any], term: str) -> list[schedules.Range]:
    """Return the arguments that are schedules, with the values that they may take.

    Args:
        loss: with these arguments.
        arguments: by name.
        term: name of the term that has the loss.
    """
    ours = getattr(unwrapped(loss), "__module__", "").startswith("keras_kd.")
    limits = _RANGES if ours else {}
    anything = (-schedules.LARGEST, schedules.LARGEST)
    return [
        schedules.Range(f"{name!r} of the term {term!r}", each, *limits.get(name, anything))
        for name, each in scheduled(loss, arguments).items()
    ]


def values(
    loss: Loss, student: Tensors, teacher: Tensors, labels: Any, step: Number, arguments: Mapping[str, Any]
) -> Tensor:
    """Return what a loss returns, float32, with its schedules at a step; `labels` may be `Tokens`."""
    if isinstance(loss, keras.losses.Loss):
        return ops.cast(loss.call(teacher, student), "float32")
    now = {name: schedules.at(each, step) for name, each in scheduled(loss, arguments).items()}
    known = labels._asdict() if isinstance(labels, Tokens) else {"labels": labels}
    given = {**arguments, **now, **(known if takes_labels(loss) else {})}
    sides = (teacher, student) if _is_of_keras(loss) else (student, teacher)
    return ops.cast(loss(*sides, **given), "float32")


def check_suits_logits(loss: Loss, name: str) -> None:
    """Refuse a loss of Keras that wants probabilities or labels.

    Args:
        loss: is to be applied to logits.
        name: of what it would read.

    Raises:
        ValueError: the loss of keras_kd that is right.
    """
    function = getattr(loss, "fn", unwrapped(loss))  # Keras's losses that are objects have their function there
    instead = next((instead for each, instead in NOT_ON_LOGITS.items() if each is function), None)
    if instead:
        raise ValueError(
            f"Expected a loss on logits at {name!r}. Keras's {function.__name__} compares probabilities "
            f"or labels: it would be wrong here without a sign of it. Use keras_kd.losses.{instead}."
        )


def _is_of_keras(loss: Loss) -> bool:
    """Return whether a loss is one of Keras's, which take the truth first."""
    function = unwrapped(loss)
    return isinstance(function, types.FunctionType) and vars(keras.losses).get(function.__name__) is function


def unwrapped(loss: Any) -> Any:
    """Return the function of which some arguments are given already, or the loss itself."""
    return loss.func if isinstance(loss, functools.partial) else loss


def _is_schedule(loss: Loss, name: str, value: Any) -> bool:
    """Return whether an argument of a loss is called with the step: a schedule of Keras, or in the place of a float."""
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return True
    parameter = inspect.signature(loss).parameters.get(name) if isinstance(loss, types.FunctionType) else None
    return callable(value) and parameter is not None and isinstance(parameter.default, float)
