"""Numbers that change with the step: temperature, alpha and the weights of terms.

A schedule is a number, or any callable of the optimizer's step that returns one; `keras.optimizers.schedules` are such
callables as they are.
"""

import contextlib
import functools
import math
import numbers
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_kd._serialization import serializable
from keras_kd._types import Schedule, Tensor

#: The smallest and the largest normal float32. A temperature is not smaller, and no number is larger.
SMALLEST = 1.1754944e-38
LARGEST = 3.4028235e38


@serializable
class Ramp(keras.optimizers.schedules.LearningRateSchedule):
    """Go from one value to another in a straight line, and stay there.

    value(step) = start + (end - start) * min((step + 1) / steps, 1). The first step already takes one part of the way,
    so that a warm-up from 0 trains on something from the beginning.

    Args:
        start: the value before the first step.
        end: the value from step `steps - 1` on.
        steps: length of the ramp, in optimizer steps, at least 1.

    Raises:
        ValueError: `steps` is below 1, or `start` or `end` is not a finite number.

    Example:
        >>> float(Ramp(0.0, 1.0, steps=4)(0))
        0.25
    """

    def __init__(self, start: float, end: float, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"Expected `steps` to be at least 1 optimizer step. Received: steps={steps}")
        self.start = finite("start", start)
        self.end = finite("end", end)
        self.steps = steps

    def __call__(self, step: Tensor) -> Tensor:
        """Return the value at an optimizer step (counted from 0)."""
        done = ops.minimum((ops.cast(step, "float32") + 1.0) / self.steps, 1.0)
        return self.start + (self.end - self.start) * done

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"start": self.start, "end": self.end, "steps": self.steps}


@serializable
class Unsaved(keras.optimizers.schedules.LearningRateSchedule):
    """Take the place of a function that a file could not hold, and raise an error when it is needed.

    Args:
        what: what has to be assigned, as in "distiller.alpha".
        named: Keras's configuration of what stood there, by which `custom_objects` may have it; None where it has no
            name.
    """

    def __init__(self, what: str, named: dict[str, Any] | None = None) -> None:
        self.what = what
        self.named = named

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Raise a `ValueError` that names what is missing."""
        raise ValueError(
            f"{self.what} was a function that a file cannot hold, so it has to be assigned again after loading. "
            "Keras's schedules, keras_kd.schedules.Ramp, and functions registered with "
            "keras.saving.register_keras_serializable are saved; those given as `custom_objects` are found by name."
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"what": self.what, "named": self.named}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the function, where `custom_objects` has it; else what raises an error for it."""
        if config.get("named") is not None:
            with contextlib.suppress(TypeError):  # Keras's word for what it does not find
                return keras.saving.deserialize_keras_object(config["named"])
        return cls(**config)


class Range(NamedTuple):
    """A number or a schedule, and the values that it may take.

    Attributes:
        name: as in "alpha", for error messages.
        schedule: the number or schedule.
        low: the smallest value that is allowed.
        high: the largest value that is allowed.
    """

    name: str
    schedule: Schedule
    low: float
    high: float = LARGEST

    @property
    def allowed(self) -> str:
        """The range in words."""
        if self.low == -LARGEST:
            return "finite"
        lowest = "above 0" if self.low == SMALLEST else f"at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}" if self.high < LARGEST else f"{lowest} and finite"

    def check(self) -> None:
        """Raise a `ValueError` where a value that is known before training is out of range."""
        values = (
            [] if isinstance(self.schedule, Unsaved) else [finite(self.name, each) for each in known(self.schedule)]
        )
        if not all(self.low <= each <= self.high for each in values):
            received = described(self.name, self.schedule)
            raise ValueError(f"Expected {self.name} to be {self.allowed}. Received: {received}")


class Adjustable:
    """Hold a number that can be assigned while a compiled function uses it. Neither tracked nor saved by Keras."""

    def __init__(self, value: float) -> None:
        self.value = value
        self._variable = keras.Variable(value, dtype="float32", trainable=False)

    def assign(self, value: float) -> None:
        """Set the number, with effect from the next step on."""
        self.value = value
        self._variable.assign(value)

    def __call__(self, step: Tensor) -> Tensor:
        """Return the number, whatever the step."""
        return ops.convert_to_tensor(self._variable)


def plain(schedule: Schedule) -> Schedule:
    """Return what the user gave: the number for an `Adjustable`, else the schedule itself."""
    return schedule.value if isinstance(schedule, Adjustable) else schedule


def at(schedule: Schedule, step: Any) -> Tensor:
    """Return the float32 value of a number, a variable or a schedule at `step`."""
    return ops.cast(schedule(step) if callable(schedule) else schedule, "float32")


def first(schedule: Schedule) -> float:
    """Return what a schedule gives at the first step: what can be checked of it before training."""
    if not callable(schedule):
        return schedule
    return 1.0 if isinstance(schedule, Unsaved) else float(ops.convert_to_numpy(at(schedule, ops.zeros((), "int32"))))


def is_known(schedule: Schedule) -> bool:
    """Return whether `known` holds the smallest and the largest value of a schedule."""
    return not callable(schedule) or isinstance(schedule, (Adjustable, Ramp))


def known(schedule: Schedule) -> list[float]:
    """Return what can be checked of a schedule before training: its first value, and the last of a `Ramp`."""
    return [first(schedule), *([schedule.end] if isinstance(schedule, Ramp) else [])]


def described(name: str, schedule: Schedule) -> str:
    """Return a schedule as an error message shows it, with those of its values that are known."""
    values = f", with the values {', '.join(f'{each:g}' for each in known(schedule))}" if callable(schedule) else ""
    return f"{name}={schedule!r}{values}"


def finite(name: str, value: float) -> float:
    """Return `value` as a float if it is a finite number, or raise an error that names it."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"Expected `{name}` to be a number. Received: {name}={value!r} of type {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"Expected `{name}` to be finite. Received: {name}={value!r}")
    return float(value)


def to_config(value: Any, what: str) -> object:
    """Return what a file can hold of a number, a function or an object; an `Unsaved` in the place of what it cannot."""
    if callable(value) and not _can_be_saved(value):
        value = Unsaved(what, _named(value))
    return keras.saving.serialize_keras_object(value) if callable(value) else value


def from_config(config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a configuration with its objects made; text is left, as Keras would look it up among custom objects."""
    made = functools.partial(keras.saving.deserialize_keras_object, custom_objects=custom_objects)
    return {key: value if isinstance(value, str) else made(value) for key, value in config.items()}


def _can_be_saved(value: Callable[..., Any]) -> bool:
    if isinstance(value, (keras.optimizers.schedules.LearningRateSchedule, keras.layers.Layer, keras.losses.Loss)):
        return True
    if not isinstance(value, types.FunctionType):
        return keras.saving.get_registered_object(keras.saving.get_registered_name(type(value))) is type(value)
    if _is_lambda(value):
        return False
    with contextlib.suppress(TypeError):  # Keras's word for what it does not find
        return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(value)) is value
    return False


def _is_lambda(value: Callable[..., Any]) -> bool:
    return isinstance(value, types.FunctionType) and value.__name__ == "<lambda>"


def _named(value: Callable[..., Any]) -> dict[str, Any] | None:
    """Return Keras's configuration of what is not registered, by its name alone; None for what has no name.

    Without a module: in Keras's own there may be another function of the name.
    """
    if _is_lambda(value) or not (isinstance(value, types.FunctionType) or hasattr(value, "get_config")):
        return None
    return {**keras.saving.serialize_keras_object(value), "module": None}
