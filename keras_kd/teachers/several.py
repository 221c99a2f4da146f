"""What is the same of every teacher that is made of others."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_kd import schedules
from keras_kd._types import Shape, Tensor, Tensors
from keras_kd.teachers.base import Teacher


class Several(Teacher):
    """A teacher of members, each with its own preprocessing, which agree about classes."""

    @property
    def members(self) -> list[Teacher]:
        """The teachers, each once."""
        raise NotImplementedError(f"{type(self).__name__} must define members.")

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Bind every member, and check that they speak of the same classes."""
        for each in self.members:
            each.bind(student, names)
        known = [(each, each.specs()) for each in self.members]
        for name in names:
            shapes = [(each.name, specs[name].shape) for each, specs in known if specs and name in specs]
            check_shapes(name, shapes, self.name)
            _check_kinds(name, self.members, self.name)
        self.built = True  # Keras would run all members once more, to find out

    def specs(self) -> dict[str, Any] | None:
        """Return a member's symbolic tensors, or None where those of none are known."""
        return next((specs for each in self.members if (specs := each.specs()) is not None), None)

    def kind(self, name: str) -> str:
        """Return the kind of the members' output: of several, one that is recognised."""
        kinds = [each.kind(name) for each in self.members]
        return next((kind for kind in kinds if kind not in ("auto", "logits")), kinds[0])

    def student_view(self, x: Tensors) -> Tensors:
        """Return what the first member chooses that has a choice of its own; a plain `x` passes through."""
        choosing = (each for each in self.members if type(each).student_view is not Teacher.student_view)
        first = next(choosing, None)
        return super().student_view(x) if first is None else first.student_view(x)

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return what each of the members reads."""
        return {key: made for each in self.members for key, made in each.views(x).items()}

    def layers_of_student(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return what the members need to see of the student."""
        return tuple(name for each in self.members for name in each.layers_of_student(names))

    def columns(self) -> tuple[str, ...]:
        """Return the columns that the members read."""
        return tuple(dict.fromkeys(name for each in self.members for name in each.columns()))

    def stateful(self) -> list[Teacher]:
        """Return the members that change with the student."""
        return [one for each in self.members for one in each.stateful()]

    def ranges(self) -> list[schedules.Range]:
        """Return the schedules of the members."""
        return [one for each in self.members for one in each.ranges()]

    def tokens(self) -> dict[str, Any] | None:
        """Return what distinguishes the tokens of the first member that has some; all are compared with the student."""
        return next(filter(None, (each.tokens() for each in self.members)), None)

    def cacheable(self, names: tuple[str, ...]) -> bool:
        """Return whether the members stay as they are."""
        return all(each.cacheable(names) for each in self.members)

    def reads_labels(self) -> bool:
        """Return whether a member reads labels."""
        return any(each.reads_labels() for each in self.members)

    def unrecognised(self, names: tuple[str, ...]) -> list[Teacher]:
        """Return the members whose heads are not known."""
        return [one for each in self.members for one in each.unrecognised(names)]

    def check_reachable(self) -> None:
        """Check all members."""
        for each in self.members:
            each.check_reachable()

    def before_fit(self, x: Tensors, verbose: int | str = "auto") -> Tensors:
        """Let the members prepare x, one after the other."""
        return functools.reduce(lambda prepared, each: each.before_fit(prepared, verbose), self.members, x)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return what has to follow `fit` for the members."""
        return [callback for each in self.members for callback in each.callbacks()]

    def after_step(self, student: keras.Model, step: Tensor) -> None:
        """Let every member follow the student."""
        for each in self.members:
            each.after_step(student, step)


def check_shapes(name: str, members: Sequence[tuple[str, Shape]], owner: str) -> None:
    """Refuse members that speak of different classes or in different spaces."""
    if len({tuple(shape)[1:] for _, shape in members}) > 1:
        described = ", ".join(f"{member} {tuple(shape)}" for member, shape in members)
        raise ValueError(
            f"Expected all teachers of {owner!r} to give {name!r} one shape. Received: {described}. Bring them to "
            "the same classes first, or give each teacher a Distiller and a stage of its own."
        )


def _check_kinds(name: str, members: Sequence[Teacher], owner: str) -> None:
    """Refuse values beside logits: an average of the two is neither."""
    known = [each for each in members if type(each).kind is not Teacher.kind]  # a user's may leave it open
    kinds = [each.kind(name) for each in known]
    if "values" in kinds and set(kinds) != {"values"}:
        described = ", ".join(f"{each.name} {kind!r}" for each, kind in zip(known, kinds, strict=True))
        raise ValueError(
            f"Expected all teachers of {owner!r} to give {name!r} one meaning: values, or logits. Received: "
            f'{described}. Wrap each in teachers.Frozen, with head="values" for all or none.'
        )
