"""Names for what is passed around; Keras itself has no types for them."""

from collections.abc import Callable
from typing import Any

#: A tensor, a KerasTensor, an array, or what `keras.ops` takes as one.
Tensor = Any

#: A tensor, or tensors in tuples, lists and dicts.
Tensors = Any

#: Sizes of a tensor, None where one is not known.
Shape = tuple[Any, ...]

#: A number, or a function of the optimizer's step.
Schedule = float | Callable[[Tensor], Tensor]
