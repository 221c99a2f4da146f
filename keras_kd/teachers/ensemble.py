"""Several teachers as one, and what counts as a teacher."""

import functools
import types
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_kd import schedules
from keras_kd._internal.ensemble_logits import Mixture, of_kind
from keras_kd._internal.sklearn_models import is_estimator
from keras_kd._internal.sparse_targets import expanded_members
from keras_kd._keras import masks
from keras_kd._serialization import serializable
from keras_kd._types import Number, Schedule, Tensor, Tensors
from keras_kd.losses._divergences import label_log_probability
from keras_kd.teachers.base import AnyTeacher, Teacher
from keras_kd.teachers.frozen import Frozen
from keras_kd.teachers.python import Python
from keras_kd.teachers.several import Several, check_shapes

_OVER = ("probabilities", "logits")

#: A weight of 0, as a logarithm that float32 can hold: above the smallest normal number, 1.2e-38, which becomes 0.
_NOTHING = 1e-37


@serializable
class Ensemble(Several):
    """Average the predictions of several teachers.

    Logits are averaged as probabilities at the temperature in use: sum_m w_m softmax(z_m / T). Features and values are
    averaged as they are. A member that changes with the student (`EMA`) is part of the Distiller's checkpoints and
    weights files; after loading a `.keras` file the ensemble has to be assigned again, and a new average starts from
    the student.

    Args:
        teachers: two or more (one is allowed): models, functions or teachers, each with its own preprocessing.
        weights: None for equal ones; one number or schedule per teacher, not negative, taken as shares of their sum; or
            "agreement": for each example, w_m = p_m[y] / sum_j p_j[y], with p_m[y] the probability at T = 1 that
            teacher m gives to the label.
        over: "probabilities"; or "logits", sum_m w_m z_m, another objective: the geometric mean of the probabilities,
            by which a teacher that is sure outvotes the others.

    Raises:
        TypeError: a member is no teacher.
        ValueError: no members; weights of another number, negative or all 0; members whose classes differ.

    Example:
        >>> distiller = Distiller(student=student, teacher=Ensemble([first, second], weights=[2.0, 1.0]))

    Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531.
    """

    def __init__(
        self,
        teachers: Sequence[Any],
        weights: Sequence[Schedule] | str | None = None,
        over: str = "probabilities",
    ) -> None:
        if not isinstance(teachers, (list, tuple)) or not teachers:
            raise ValueError(f"Expected `teachers` to be a list of at least one teacher. Received: {teachers!r}")
        if over not in _OVER:
            raise ValueError(f"Expected `over` to be one of {_OVER}. Received: over={over!r}")
        super().__init__(name="ensemble")
        self.teachers = [as_teacher(each) for each in teachers]
        self.weights_of_teachers = _check_weights(weights, len(teachers))
        self.over = over

    @property
    def members(self) -> list[Teacher]:
        """The teachers."""
        return list(self.teachers)

    def ranges(self) -> list[schedules.Range]:
        """Return the weights, at least 0, and the schedules of the members."""
        weights: Any = self.weights_of_teachers
        own = weights if isinstance(weights, list) else []
        found = [schedules.Range(f"weight {m} of the ensemble", each, 0.0) for m, each in enumerate(own)]
        return [*found, *super().ranges()]

    def cacheable(self, names: tuple[str, ...]) -> bool:
        """Return whether members and weights stay as they are."""
        weights = self.weights_of_teachers
        fixed = weights is None or (isinstance(weights, list) and not any(callable(each) for each in weights))
        return fixed and super().cacheable(names)

    def reads_labels(self) -> bool:
        """Return whether the weights follow from how well the members agree with the labels, or a member reads them."""
        return self.weights_of_teachers == "agreement" or super().reads_labels()

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return averages of values and features, and mixtures of logits."""
        outputs = [each(x, student, labels=labels, step=step) for each in self.teachers]
        common = [name for name in outputs[0] if all(name in one for one in outputs)]
        return {name: self._combined(name, [one[name] for one in outputs], labels, step) for name in common}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        weights: Any = self.weights_of_teachers
        if isinstance(weights, list):
            weights = [schedules.to_config(each, f"weight {m} of the ensemble") for m, each in enumerate(weights)]
        return {
            "teachers": [keras.saving.serialize_keras_object(each) for each in self.teachers],
            "weights": weights,
            "over": self.over,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Ensemble":
        """Make an ensemble from `get_config`'s dict."""
        return cls(**schedules.from_config(config))

    def _combined(self, name: str, members: list[Any], labels: Any, step: Number) -> Tensor | Mixture:
        if any(isinstance(each, Mixture) for each in members):
            raise ValueError(
                f"{self.name!r} has an ensemble among its members. Give one Ensemble all teachers, with their weights."
            )
        members = expanded_members(members)
        shapes = [(each.name, one.shape) for each, one in zip(self.teachers, members, strict=True)]
        check_shapes(name, shapes, self.name)
        members = [_masked(ops.cast(each, "float32"), [each]) for each in members]
        log_weights = self._log_weights(members, labels, step, is_output=self.kind(name) != "values")
        if self.over == "probabilities" and self.kind(name) != "values":
            return of_kind(Mixture(tuple(members), log_weights), self.kind(name))
        shares = ops.exp(log_weights)
        return _masked(sum(_spread(shares[..., m], each) * each for m, each in enumerate(members)), members)

    def _log_weights(self, members: list[Tensor], labels: Any, step: Number, is_output: bool) -> Tensor:
        """Return (members,) or, by agreement, (batch, ..., members) logarithms of weights that add up to 1."""
        weights: Any = self.weights_of_teachers
        if weights == "agreement":
            if labels is None or tree.is_nested(labels) or not is_output:
                raise ValueError(
                    'An Ensemble with weights="agreement" needs one tensor of labels, y, and teachers whose logits are '
                    f"read. Received: y={labels!r}. Give the weights as numbers."
                )
            logarithms = ops.stack([label_log_probability(each, labels) for each in members], axis=-1)
            logarithms = ops.nan_to_num(logarithms)  # of masked positions, which may hold anything
        elif weights is None:
            logarithms = ops.zeros((len(members),), "float32")
        else:
            values = ops.stack([schedules.at(each, step) for each in weights])
            logarithms = ops.log(ops.maximum(values, _NOTHING))
        return ops.log_softmax(logarithms, axis=-1)


def as_teacher(teacher: AnyTeacher) -> Teacher:
    """Return what a user calls a teacher as a `Teacher`.

    A list is an ensemble; an estimator of scikit-learn, or its method `predict_proba`, a `Python` teacher; any model,
    layer or other function is frozen.

    Raises:
        TypeError: it is none of these.
        ValueError: a model that is not built, or an estimator that is not fitted.
    """
    if isinstance(teacher, Teacher):
        return teacher
    model: Any = teacher
    if isinstance(model, (list, tuple)):
        return Ensemble(model)
    is_probabilities = isinstance(model, types.MethodType) and model.__name__ == "predict_proba"
    estimator = model.__self__ if is_probabilities else model
    return Python(estimator) if is_estimator(estimator) else Frozen(model)


def _check_weights(weights: Any, count: int) -> list[Schedule] | str | None:
    if weights is None or weights == "agreement":
        return weights
    if not isinstance(weights, (list, tuple)) or len(weights) != count:
        raise ValueError(
            f'Expected `weights` to be None, "agreement" or one weight for each of {count} teachers. '
            f"Received: weights={weights!r}"
        )
    values = [schedules.finite("weights", one) for each in weights for one in schedules.known(each)]
    if min(values) < 0 or sum(values) == 0:
        raise ValueError(f"Expected `weights` not to be negative, nor all 0. Received: weights={weights!r}")
    return list(weights)


def _spread(share: Tensor, values: Tensor) -> Tensor:
    """Give weights per example the rank of the values; one weight for all has rank 0."""
    missing = len(values.shape) - len(share.shape)
    return ops.reshape(share, (*ops.shape(share), *[1] * missing)) if share.shape else share


def _masked(result: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Put the Keras masks of what a tensor was made of on it: plain operations drop them."""
    found = [masks.of(each) for each in sources]
    given = [mask for mask in found if mask is not None]
    if given:
        masks.put(result, functools.reduce(ops.logical_and, given))
    return result
