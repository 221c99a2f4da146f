"""The student's own moving average as its teacher."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_kd import schedules
from keras_kd._internal import layer_reader
from keras_kd._internal.cloning import copy_model
from keras_kd._keras import compiled, replicas
from keras_kd._serialization import serializable
from keras_kd._types import Number, Schedule, Tensor, Tensors
from keras_kd.teachers.base import Teacher


@serializable
class EMA(Teacher):
    """Teach the student with the moving average of its own weights (mean teacher).

    After each step: teacher = decay * teacher + (1 - decay) * student, for all weights and statistics, from a copy of
    the student on. The average is part of the Distiller's files, and goes on from there. It is `ema.model`, a plain
    Keras model that is often better than the student: evaluate both.

    Args:
        decay: 0 (a copy of the student) to 1 (the student as it was); a number or a schedule. About
            1 / (1 - decay) steps are averaged.
        head: what the student's outputs mean, see `teachers.Frozen`.

    Raises:
        ValueError: `decay` outside 0 to 1; a student that is not built, that Keras cannot copy, or that is another one
            than before, with other weights.

    Example:
        >>> distiller = Distiller(student=student, teacher=EMA(decay=0.99))
        >>> distiller.teacher.model.evaluate(x, y)  # after fit; compile it first

    Reference: Tarvainen and Valpola, Mean teachers are better role models, 2017, arXiv 1703.01780.
    """

    def __init__(self, decay: Schedule = 0.999, head: str | dict[str, str] = "auto") -> None:
        values = [schedules.finite("decay", each) for each in schedules.known(decay)]
        if not (min(values) >= 0 and max(values) <= 1):
            raise ValueError(f"Expected `decay` to be from 0 to 1. Received: {schedules.described('decay', decay)}")
        super().__init__(name="ema")
        self.decay = decay
        self.head = head
        self.model: Any = None

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Copy the student, unless this has happened before, and prepare the layers to be read."""
        if not student.built:
            raise ValueError(
                f"Expected a student that is built, to copy it. {student.name!r} has no weights yet: "
                "call it on a batch."
            )
        if self.model is None:
            self.model = copy_model(student)
            self.model.trainable = False
        theirs, ours = ([variable.shape for variable in each.variables] for each in (student, self.model))
        if theirs != ours:
            raise ValueError(
                f"Expected one EMA for each student. This one averages {self.model.name!r}, whose weights have other "
                f"shapes than those of {student.name!r}. Make another: EMA(decay)."
            )
        self._reader = layer_reader.Reader(self.model, names, self.head, owner="teacher")
        self.built = True

    def specs(self) -> dict[str, Any] | None:
        """Return the average's symbolic outputs and layers, or None for a model without a graph."""
        return self._reader.specs

    def kind(self, name: str) -> str:
        """Return the head of an output; a layer's features are "values". Before a student is known, "auto"."""
        return "auto" if self.model is None else self._reader.kind(name)

    def unrecognised(self, names: tuple[str, ...]) -> list[Teacher]:
        """Return itself, unless the heads are known, or plain layers of weights end the model."""
        return [self] if self._reader.in_doubt(names) else []

    def ranges(self) -> list[schedules.Range]:
        """Return the decay, from 0 to 1."""
        decay = self.decay
        if not schedules.is_known(decay):
            decay = self._decay_after
        return [schedules.Range("the decay of the EMA", decay, 0.0, 1.0)]

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return nothing: the average reads what the student reads."""
        return {}

    def stateful(self) -> list[Teacher]:
        """Return itself."""
        return [self]

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Run the average on `x`."""
        outputs = self._reader(self.student_view(x), training=False)[1]
        compiled.forget_losses(self.model)
        return outputs

    def after_step(self, student: keras.Model, step: Tensor) -> None:
        """Move the average towards the student."""
        decay = schedules.at(self.decay, step)
        averages, values = [], []
        for average, current in zip(self.model.variables, student.variables, strict=True):
            if keras.backend.is_float_dtype(average.dtype):  # not the counters of random numbers
                share = ops.cast(decay, average.dtype)
                averages.append(average)
                values.append(share * average + (1 - share) * ops.cast(current, average.dtype))
        replicas.assign_all(averages, values)

    def _decay_after(self, step: Tensor) -> Tensor:
        """Return the decay that `after_step` will use at the end of a step: it is given the number of the next one."""
        return schedules.at(self.decay, step + 1)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"decay": schedules.to_config(self.decay, "ema.decay"), "head": self.head}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EMA":
        """Make a teacher from `get_config`'s dict; its weights are restored with the Distiller's."""
        return cls(**schedules.from_config(config))
