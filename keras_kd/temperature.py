"""The temperature: `T**2 * loss(student / T, teacher / T)`, for all classes, or for those that a teacher names.

Temperature and T**2 are applied here alone.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from keras import ops, tree

from keras_kd import schedules
from keras_kd._internal import ensemble_logits, loss_functions, sparse_targets
from keras_kd._internal.loss_functions import Loss
from keras_kd._internal.sparse_targets import SparseTarget
from keras_kd._types import Number, Schedule, Tensor, Tensors
from keras_kd.losses._divergences import class_ids
from keras_kd.losses._many_values import values_by_rows
from keras_kd.losses._named_classes import named_log_probabilities
from keras_kd.losses._shapes import require_same_shape
from keras_kd.losses.decoupled import decoupled_kl, normalized_kl
from keras_kd.losses.logits import binary_kl, hard_label, kl_divergence, reverse_kl
from keras_kd.losses.mixtures import jensen_shannon, skew_kl, skew_reverse_kl
from keras_kd.losses.sorted_probabilities import universal_logits

#: Losses that take a log-softmax of both sides themselves.
OF_DISTRIBUTIONS = (
    kl_divergence,
    reverse_kl,
    jensen_shannon,
    skew_kl,
    skew_reverse_kl,
    decoupled_kl,
    normalized_kl,
    hard_label,
    universal_logits,
)

#: Losses of which the named classes and the mass of all others are enough, see `sparse_targets`.
_OF_NAMED = (kl_divergence, reverse_kl, jensen_shannon, skew_kl, skew_reverse_kl, hard_label)


class SoftenedLoss(NamedTuple):
    """A loss and all that its values depend on, but for the temperature.

    Attributes:
        loss: as `Term` has it.
        arguments: of the loss, by name.
        transform: what was applied to both sides before, or None.
        term: the name of the term, for errors.
        reads: what the term reads from the student and from the teacher, for errors.
    """

    loss: Loss
    arguments: dict[str, Any]
    transform: Callable[[Tensor], Tensor] | None
    term: str
    reads: tuple[Any, Any]

    def values(self, student: Tensors, teacher: Any, labels: Any, temperature: Number | None, step: Number) -> Tensor:
        """Return `T**2 * loss(student / T, teacher / T)`, or `loss(student, teacher)`, for each example or position.

        Args:
            student: logits or features, (batch, ...), or a tuple of them.
            teacher: the same as `stopped` returns it, or a `SparseTarget` of logits, or several members' logits.
            labels: what the loss takes as labels, or None.
            temperature: T, or None where none applies.
            step: of the optimizer, for arguments of the loss that are schedules.
        """
        at = 1.0 if temperature is None else temperature
        if isinstance(teacher, SparseTarget):
            values = self._sparse_values(student, teacher, labels, at, step)
            return values if temperature is None else at**2 * values
        teacher = ensemble_logits.averaged(teacher, at, self._per_label)
        if temperature is None:
            return self._values(student, teacher, labels, step)
        student, teacher = tree.map_structure(lambda side: side / at, (student, teacher))
        return at**2 * self._values(student, teacher, labels, step)

    @property
    def _per_label(self) -> bool | None:
        """Whether an ensemble is averaged label by label; None where the head of its members decides."""
        return True if self.loss is binary_kl else False if self.loss in OF_DISTRIBUTIONS else None

    def stopped(self, teacher: Any) -> Any:
        """Return what is read from the teacher without a gradient; with all classes where a few are not enough."""
        if self.transform is not None or isinstance(teacher, tuple):
            if isinstance(teacher, SparseTarget) and teacher.tail == "bucket":
                self._check_bucket()
            teacher = sparse_targets.expanded(teacher)
        if isinstance(teacher, SparseTarget):
            return teacher.of_numbers(ops.stop_gradient)
        return tree.map_structure(ops.stop_gradient, teacher)

    def check_tail(self, tail: str | None, temperature: Schedule | None) -> None:
        """Refuse targets whose rest is a bucket where more than its mass at T = 1 is needed.

        Args:
            tail: one of `sparse_targets.TAILS`, or None where all classes are given.
            temperature: T, or None where none applies.

        Raises:
            ValueError: a temperature that is not 1, or may change; another loss, or a transform.
        """
        if tail != "bucket":
            return
        self._check_bucket()
        if temperature is None:
            return
        temperature = schedules.plain(temperature)
        if callable(temperature) or temperature != 1.0:
            raise ValueError(
                f"Expected the temperature of term {self.term!r} to be 1 in all steps, under targets with "
                'tail="bucket": softened, the mass of the classes that they do not name is not known. Received: '
                f"{schedules.described('temperature', temperature)}. Compile with temperature=1.0 or give the term "
                'temperature=1.0; or give Cached(tail="spread"), which takes an even rest for any temperature.'
            )

    def _check_bucket(self) -> None:
        if self.loss in _OF_NAMED and self.transform is None:
            return
        name = getattr(self.loss, "__name__", type(self.loss).__name__)
        raise ValueError(
            f"Expected the term {self.term!r} to have no transform, and one of the losses "
            f'{[each.__name__ for each in _OF_NAMED]}, under targets with tail="bucket": others read each class. '
            f'Received: {name}, transform={self.transform!r}. Give Cached(tail="spread"), which spreads the rest.'
        )

    def _sparse_values(
        self, student: Any, teacher: SparseTarget, labels: Tensor | None, temperature: Number, step: Number
    ) -> Tensor:
        """Return the values of the loss at a temperature, without logits of all classes from the teacher."""
        if teacher.tail == "bucket":
            self._check_bucket()
        if self.loss not in OF_DISTRIBUTIONS:
            return self._values(student / temperature, teacher.dense() / temperature, labels, step)
        if self.loss is not universal_logits:  # which compares other vocabularies
            with self._in_its_name():
                require_same_shape(student, teacher)
        if self.loss in _OF_NAMED and (teacher.tail == "bucket" or self.loss in (kl_divergence, hard_label)):
            return self._named_values(student / temperature, teacher, temperature, step)
        return self._expanded_values(student, teacher, labels, temperature, step)

    def _named_values(self, student: Tensor, teacher: SparseTarget, temperature: Number, step: Number) -> Tensor:
        """Return the values for the named classes and all others as one; of an even rest, with what that leaves out.

        KL(p || q) is that of k + 1 classes, plus the mass of p's rest times the KL of the two rests.
        """
        ours, uneven = named_log_probabilities(student, teacher.parts()[0])
        theirs = teacher.named(temperature)
        if self.loss is hard_label and teacher.log_tail is not None:  # the rest is no class
            theirs = ops.concatenate([theirs[..., :-1], ops.full_like(theirs[..., -1:], -1e30)], axis=-1)
        values = self._values(ours, theirs, None, step)
        if self.loss is hard_label or teacher.log_tail is None or teacher.tail == "bucket":
            return values
        return values + ops.softmax(theirs, axis=-1)[..., -1] * uneven

    def _expanded_values(
        self, student: Tensor, teacher: SparseTarget, labels: Tensor | None, temperature: Number, step: Number
    ) -> Tensor:
        """Return the values for logits of all classes, of a few rows at a time where these are many."""
        loss: Any = inspect.unwrap(self.loss)  # it goes by rows already
        rows = [ops.reshape(each, (-1, each.shape[-1])) for each in (student, *teacher.parts())]
        if labels is not None and loss_functions.takes_labels(self.loss):
            rows.append(ops.reshape(class_ids(labels, student), (-1,)))

        def values(student: Tensor, ids: Tensor, *others: Tensor) -> Tensor:
            dense = sparse_targets.expanded_rows(teacher.classes, ids, *others[:2])
            of_labels = others[2] if loss_functions.takes_labels(self.loss) else None
            sides = (student / temperature, dense / temperature)
            return loss_functions.values(loss, *sides, of_labels, step, self.arguments)

        with self._in_its_name():
            return ops.reshape(values_by_rows(values, rows), ops.shape(student)[:-1])

    def _values(self, student: Tensors, teacher: Tensors, labels: Tensor | None, step: Number) -> Tensor:
        with self._in_its_name():
            return loss_functions.values(self.loss, student, teacher, labels, step, self.arguments)

    @contextlib.contextmanager
    def _in_its_name(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(
                f"Term {self.term!r} reads {self.reads[0]!r} from the student and {self.reads[1]!r} from the teacher. "
                f"{error}"
            ) from error


def check_temperature(temperature: Schedule) -> Schedule:
    """Return a temperature, or raise an error if it is not above 0, as far as a schedule's values are known."""
    values = [schedules.finite("temperature", each) for each in schedules.known(temperature)]
    if min(values) <= 0:
        raise ValueError(
            f"Expected `temperature` to be above 0. Received: {schedules.described('temperature', temperature)}"
        )
    return temperature if callable(temperature) else values[0]
