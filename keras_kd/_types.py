"""Types of what is passed around. Keras and TensorFlow ship none for tensors: what they return is not checked."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar


class Tensor(Protocol):
    """A tensor, a KerasTensor or an array: numbers of one dtype in a shape, with the arithmetic of NumPy."""

    @property
    def shape(self) -> Any:
        """Sizes of the axes, None where one is not known."""

    @property
    def dtype(self) -> Any:
        """The dtype of the numbers."""

    def __getitem__(self, index: Any, /) -> Any: ...
    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __rsub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __rtruediv__(self, other: Any, /) -> Any: ...
    def __pow__(self, other: Any, /) -> Any: ...
    def __neg__(self) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...
    def __gt__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...


#: A tensor, or tensors in tuples, lists and dicts; None where one of them is not given.
if TYPE_CHECKING:
    Tensors: TypeAlias = Tensor | Sequence["Tensors"] | Mapping[str, "Tensors"] | None
else:  # `typing.get_type_hints` looks for a name in quotes in the module of the function, not here
    Tensors = Tensor | Sequence[Any] | Mapping[str, Any] | None

#: A tree of tensors, or of anything else, whose structure is kept.
Tree = TypeVar("Tree")

#: A scalar, of Python or as a tensor.
Number: TypeAlias = Tensor | float


class LossFunction(Protocol):
    """A loss: a function of what the student and the teacher output, and perhaps of more, as labels and numbers."""

    def __call__(self, student: Any, teacher: Any, /, *args: Any, **kwargs: Any) -> Tensor: ...


#: Sizes of a tensor, None where one is not known.
Shape = tuple[Any, ...]

#: A number, or a function of the optimizer's step.
Schedule = float | Callable[[Tensor], Number]
