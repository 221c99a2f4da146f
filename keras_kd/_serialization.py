"""Registration with Keras that keeps types: Keras's own decorator has none, so that what it decorates loses its own."""

from collections.abc import Callable
from typing import Any, TypeVar

import keras

#: A function or a class, whose type is kept.
_Registered = TypeVar("_Registered", bound=Callable[..., Any])


def serializable(registered: _Registered) -> _Registered:
    """Let Keras save and load a function or a class of this package, as "keras_kd>name"."""
    return keras.saving.register_keras_serializable("keras_kd")(registered)
