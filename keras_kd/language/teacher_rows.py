"""What a teacher gives to an objective that is computed some rows at a time: hidden states, or targets."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_kd._internal import layer_reader, reduction
from keras_kd._internal.ensemble_logits import Mixture
from keras_kd._internal.sparse_targets import SparseTarget, masks_of
from keras_kd._keras import masks
from keras_kd._types import Tensor, Tensors
from keras_kd.language.vocabulary_heads import VocabularyHead


class TeacherRows(NamedTuple):
    """What losses compare with, as rows.

    Attributes:
        tensors: (rows, ...) each, or nothing where no loss compares with a teacher.
        prepared: returns what `targets` takes, of these tensors for a block of rows.
        targets: returns what a loss takes in the place of the teacher's logits.
    """

    tensors: Sequence[Tensor] = ()
    prepared: Callable[..., Sequence[Tensor]] = lambda *tensors: tensors
    targets: Callable[..., Any] = lambda *tensors: tensors[0] if tensors else None


class LiveTeacher:
    """A model that ends in a product with its vocabulary: logits of a block are made of its hidden states.

    Args:
        distiller: whose teacher it is.
        head: of the model.
        reader: of the hidden states, as "logits", and of the layers that terms read.
    """

    def __init__(self, distiller: Any, head: VocabularyHead, reader: layer_reader.Reader) -> None:
        self._distiller = distiller
        self._head = head
        self._reader = reader

    def read(self, x: Tensors, student: dict[str, Tensor], y: Tensors) -> dict[str, Any]:
        """Return what the terms read of the teacher, by name."""
        return self._head.masked_as_output(self._distiller.teacher.read_by(self._reader, x))

    def mask(self, read: Any) -> Tensor | None:
        """Return the mask of what was read as "logits"."""
        return masks.of(read)

    def rows(self, read: Any, mask: Tensor | None) -> TeacherRows:
        """Return its rows, with zeros where `mask` leaves something out."""
        logits = self._head.logits()
        return TeacherRows([as_rows(reduction.blanked(read, mask))], lambda hidden: [logits(hidden)])


class StoredTeacher:
    """Targets that travel with the examples: of all classes, or a few that are named.

    Args:
        distiller: whose teacher it is.
    """

    def __init__(self, distiller: Any) -> None:
        self._distiller = distiller

    def read(self, x: Tensors, student: dict[str, Tensor], y: Tensors) -> dict[str, Any]:
        """Return what the terms read of the teacher, by name."""
        found: dict[str, Any] = self._distiller._read_teacher(x, student, y)
        if isinstance(found.get("logits"), Mixture):
            raise ValueError(
                "Expected targets of one teacher for `fused_head`. Received those of the members of an ensemble. "
                "Compile with fused_head=False."
            )
        return found

    def mask(self, read: Any) -> Tensor | None:
        """Return the mask of what was read as "logits"."""
        return masks.merged(masks.of(read), *masks_of(read))

    def rows(self, read: Any, mask: Tensor | None) -> TeacherRows:
        """Return its rows, with zeros where `mask` leaves something out."""
        if not isinstance(read, SparseTarget):
            return TeacherRows([as_rows(reduction.blanked(read, mask))])

        def named(ids: Tensor, log_probabilities: Tensor, tail: Tensor) -> SparseTarget:
            log_tail = None if read.log_tail is None else tail[:, 0]
            return SparseTarget(ids, log_probabilities, log_tail, read.classes, read.tail)

        return TeacherRows([as_rows(reduction.blanked(each, mask)) for each in read.parts()], targets=named)


def as_rows(tensor: Tensor) -> Tensor:
    """Return a tensor as (rows, width)."""
    return tf.reshape(tensor, (-1, tensor.shape[-1]))
