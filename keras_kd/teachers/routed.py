"""Several teachers, of which each example asks one."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd._internal import row_choice, soft_targets
from keras_kd._internal.ensemble_logits import Mixture
from keras_kd._internal.row_routes import Routes
from keras_kd._internal.sparse_targets import SparseTarget, expanded
from keras_kd._keras import masks, step_errors
from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor, Tensors
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.ensemble import as_teacher
from keras_kd.teachers.several import Several, check_shapes


@serializable
class Routed(Several):
    """Let each example learn from the teacher that it names: one for German, one for code, one for all else.

    With r the whole number in a column of the examples, `target_i = teachers[r_i](x_i)`. The column travels with the
    rows, see `keras_kd.Joined`; `language.Rollouts` has "origin", and columns of its prompts.

    Each teacher runs on its rows alone; one that has none in a batch reads one row, which does not count. Under XLA,
    whose shapes are fixed, each runs on all rows, with the same result. To average teachers, see `Ensemble`.

    Args:
        teachers: models, functions or teachers, by the numbers in the column, at least one. They share the classes and
            what their outputs mean, and a teacher may stand under several numbers.
        column: name of the column.

    Raises:
        TypeError: a member is no teacher.
        ValueError: no members, or a key that is no whole number; members whose classes or heads differ; an `Ensemble`
            as a member, unless it averages logits. In a step: examples without the column, or with another number.

    Example:
        >>> teacher = Routed({0: german, 1: code}, column="teacher")
        >>> distiller = Distiller(student=student, teacher=teacher)
        >>> distiller.fit(Joined(x, columns={"teacher": numbers}), y)
    """

    def __init__(self, teachers: dict[int, Any], column: str) -> None:
        super().__init__(name="routed")
        _check_numbers(teachers)
        if not isinstance(column, str) or not column:
            raise ValueError(f"Expected `column` to be the name of a column. Received: column={column!r}")
        made = {id(each): as_teacher(each) for each in teachers.values()}
        self.teachers = {int(number): made[id(each)] for number, each in teachers.items()}
        self.column = column

    @property
    def members(self) -> list[Teacher]:
        """The teachers, each once."""
        return list({id(each): each for each in self.teachers.values()}.values())

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Bind every member, and check that their targets have one form."""
        super().bind(student, names)
        for name in names:
            forms = {each.name: (each.kind(name), each.tail(name)) for each in self.members}
            kinds, tails = map(set, zip(*forms.values(), strict=True))
            if {"softmax", "sigmoid"} <= kinds or ("bucket" in tails and len(tails) > 1):
                raise ValueError(
                    f"Expected all teachers of {self.name!r} to share the head of {name!r}, and how classes are read "
                    f"that are not named. Received (head, tail): {forms}."
                )

    def columns(self) -> tuple[str, ...]:
        """Return the column, and those that the members read."""
        return tuple(dict.fromkeys((self.column, *super().columns())))

    def tail(self, name: str) -> str | None:
        """Return how all members read classes that they do not name; None where one names all."""
        tails = {each.tail(name) for each in self.members}
        return tails.pop() if len(tails) == 1 else None

    def named(self, name: str) -> int | None:
        """Return how many classes all members name, at most; None where one gives all."""
        named = [count for each in self.members if (count := each.named(name)) is not None]
        return min(named) if len(named) == len(self.members) else None

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return each row's targets, by its teacher."""
        held = row_choice.column(soft_targets.columns(x), self.column, f"The teacher {self.name!r}")
        numbers = ops.cast(held, "int64")
        belongs = ops.stack([self._are_of(each, numbers) for each in self.members], axis=-1)
        routes = Routes(ops.argmax(ops.cast(belongs, "int32"), axis=-1), len(self.members))
        batch = (x, student, labels)
        given = [routes.given(batch, place) for place in range(len(self.members))]
        outputs = [
            each(own, seen, labels=y, step=step) for each, (own, seen, y) in zip(self.members, given, strict=True)
        ]
        known = self._check(numbers, ops.any(belongs, axis=-1))
        common = [name for name in outputs[0] if all(name in one for one in outputs)]
        return {name: self._joined(name, [one[name] for one in outputs], routes, known) for name in common}

    def routes(self, numbers: np.ndarray) -> list[tuple[Teacher, tuple[int, ...]]]:
        """Return each teacher with the numbers under which it stands.

        Args:
            numbers: of some examples, (examples,).

        Raises:
            ValueError: one of these is no teacher's.
        """
        wrong = np.setdiff1d(numbers, list(self.teachers))
        if len(wrong):
            raise ValueError(f"{self._expected()} {wrong[0]}")
        return [(each, self._numbers(each)) for each in self.members]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; a teacher that has stood there before as the number that it has there."""
        first = {id(each): number for number, each in reversed(self.teachers.items())}
        held = {
            str(number): keras.saving.serialize_keras_object(each) if first[id(each)] == number else first[id(each)]
            for number, each in self.teachers.items()
        }
        return {"teachers": held, "column": self.column}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Routed":
        """Make a teacher from `get_config`'s dict."""
        held: dict[int, Any] = {}
        for number, each in config["teachers"].items():
            held[int(number)] = held[each] if isinstance(each, int) else keras.saving.deserialize_keras_object(each)
        return cls(held, config["column"])

    def _are_of(self, member: Teacher, numbers: Tensor) -> Tensor:
        """Return where a column has a number of a member's, (batch,)."""
        own = ops.convert_to_tensor(self._numbers(member), numbers.dtype)
        return ops.any(numbers[:, None] == own, axis=-1)

    def _numbers(self, member: Teacher) -> tuple[int, ...]:
        return tuple(number for number, each in self.teachers.items() if each is member)

    def _expected(self) -> str:
        return f"Expected the column {self.column!r} to hold numbers of teachers, {sorted(self.teachers)}. Received:"

    def _check(self, numbers: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function that returns a tensor, once it is checked that all rows have a teacher."""
        wrong = tf.reduce_max(tf.where(known, numbers.dtype.min, numbers))
        return lambda tensor: step_errors.stop_unless(known, self._expected(), tensor, wrong)

    def _joined(self, name: str, outputs: list[Any], routes: Routes, known: Callable[[Tensor], Tensor]) -> Any:
        """Return what the members predict for their rows as what one predicts for all."""
        _check_joinable(name, self.members, outputs)
        shapes = [(each.name, one.shape) for each, one in zip(self.members, outputs, strict=True)]
        check_shapes(name, shapes, self.name)
        forms = {_form(each) for each in outputs}
        if len(forms) > 1:
            outputs = [expanded(each) for each in outputs]
        parts = [_parts(each) for each in outputs]
        joined = {part: routes.joined([each[part] for each in parts]) for part in parts[0]}
        joined["numbers"] = known(joined["numbers"])
        mask = _mask(outputs, routes)
        found = _of_parts(joined, outputs[0])
        if mask is not None:
            masks.put(found, mask)
        return found


def _check_numbers(teachers: Any) -> None:
    whole = isinstance(teachers, dict) and all(
        isinstance(number, (int, np.integer)) and not isinstance(number, bool) for number in teachers
    )
    if not whole or not teachers:
        raise ValueError(
            "Expected `teachers` to be a dict from whole numbers, which the column holds, to teachers. Received: "
            f"{teachers!r}"
        )


def _check_joinable(name: str, members: list[Teacher], outputs: list[Any]) -> None:
    for member, output in zip(members, outputs, strict=True):
        if isinstance(output, Mixture):
            raise ValueError(
                f"Expected teachers with one prediction for each example. {member.name!r} has several under {name!r}, "
                'which are averaged at a temperature. Give Ensemble(teachers, over="logits"), or one of its teachers.'
            )
    if len({_form(each) for each in outputs}) > 1 and any(_form(each)[-1] == "bucket" for each in outputs):
        raise ValueError(
            f'Expected teachers that name as many classes under {name!r}, with tail="bucket". Received: '
            f'{[_form(each)[0] for each in outputs]}. Give all of them one `top_k`, or tail="spread".'
        )


def _form(output: Any) -> tuple[Any, ...]:
    """Return what has to be equal for targets to be joined part by part: how many classes are named, and the rest."""
    if isinstance(output, SparseTarget):
        return (int(output.ids.shape[-1]), output.log_tail is None, output.tail)
    return (None, None, None)


def _parts(output: Any) -> dict[str, Tensor]:
    if not isinstance(output, SparseTarget):
        return {"numbers": ops.cast(output, "float32")}
    tail = {} if output.log_tail is None else {"log_tail": output.log_tail}
    return {"numbers": output.log_probabilities, "ids": ops.cast(output.ids, "int32"), **tail}


def _of_parts(parts: dict[str, Tensor], like: Any) -> Any:
    if not isinstance(like, SparseTarget):
        return parts["numbers"]
    return SparseTarget(parts["ids"], parts["numbers"], parts.get("log_tail"), like.classes, like.tail)


def _mask(outputs: list[Any], routes: Routes) -> Tensor | None:
    """Return the masks of the members as one, or None where no member has any."""
    found = [masks.of(each) for each in outputs]
    like = next((mask for mask in found if mask is not None), None)
    if like is None:
        return None
    numbers = [_parts(each)["numbers"] for each in outputs]
    shapes = [ops.shape(each)[: len(like.shape)] for each in numbers]
    whole = [
        ops.ones(shape, "bool") if mask is None else ops.cast(mask, "bool")
        for mask, shape in zip(found, shapes, strict=True)
    ]
    return routes.joined(whole)
