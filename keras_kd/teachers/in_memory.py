"""A teacher that runs once for each example."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches, soft_targets, teacher_fingerprints
from keras_kd._internal.ensemble_logits import of_kind
from keras_kd._internal.log import info
from keras_kd._internal.number_formats import size
from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor, Tensors
from keras_kd.teachers.base import AnyTeacher, Teacher, check_cacheable, encoded
from keras_kd.teachers.ensemble import as_teacher


@serializable
class InMemory(Teacher):
    """Run a teacher over the arrays given to `fit` once, before the first epoch, and keep its targets in memory.

    Training is that of the live teacher, without its cost in every epoch. A later `fit` on the same arrays runs nothing
    again. For datasets, for more than fits into memory, and for augmented inputs there is `keras_kd.TeacherCache`.

    Args:
        teacher: a model, a function or a teacher that does not change, or a list of these.
        batch_size: examples that the teacher sees at a time.

    Raises:
        TypeError: `teacher` is no teacher.
        ValueError: one that changes with the student or reads it; in `fit`: x is neither an array nor a DataFrame.

    Example:
        >>> distiller = Distiller(student=student, teacher=InMemory(teacher))
    """

    def __init__(self, teacher: AnyTeacher, batch_size: int = 256) -> None:
        super().__init__(name="in_memory")
        self.teacher = as_teacher(teacher)
        self.batch_size = batch_size
        self._names: tuple[str, ...] = ()
        self._digest = ""
        self._memory: dict[str, soft_targets.Parts] = {}

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Bind the teacher, and refuse one whose targets are not its own."""
        check_cacheable(self.teacher, names)
        self.teacher.bind(student, names)
        self.built = True
        if set(names) != set(self._names):
            self._digest = ""
        self._names = tuple(dict.fromkeys(names))

    def cacheable(self, names: tuple[str, ...]) -> bool:
        """Return whether the targets of the teacher can be kept elsewhere, too."""
        return self.teacher.cacheable(names)

    def specs(self) -> dict[str, Any] | None:
        """Return the teacher's symbolic tensors."""
        return self.teacher.specs()

    def kind(self, name: str) -> str:
        """Return the kind of the teacher's output."""
        return self.teacher.kind(name)

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return what the teacher reads, where it has to run: not of examples with targets."""
        return {} if isinstance(x, soft_targets.Joined) else self.teacher.views(x)

    def unrecognised(self, names: tuple[str, ...]) -> list[Teacher]:
        """Return itself where a head in the teacher is not known: the targets in memory cost nothing to look at."""
        return [self] if self.teacher.unrecognised(names) else []

    def before_fit(self, x: Tensors, verbose: int | str = "auto") -> Tensors:
        """Join the targets to the arrays; the teacher runs first where these are not the arrays of the last `fit`."""
        if isinstance(x, tf.data.Dataset) and soft_targets.are_in(x):
            return x  # of arrays that were joined before, by a pipeline of stages
        x = batches.as_arrays(self.teacher.before_fit(x, verbose))
        if isinstance(x, soft_targets.Joined):
            raise ValueError(
                "Expected arrays without targets. Received ones that another teacher has joined: keep a whole "
                "ensemble at once, InMemory([first, second])."
            )
        if not batches.are_arrays(x):
            raise ValueError(
                "Expected arrays, whose examples are the same in every epoch, under teachers.InMemory. Received: "
                f"x of type {type(x).__name__}, which may order or augment them anew. Join the targets to a dataset "
                "with keras_kd.TeacherCache, or let the teacher run live."
            )
        given = [leaf for leaf in tree.flatten(x) if leaf is not None]  # an optional input may be None
        kinds = [self.teacher.kind(name) for name in self._names]  # which may depend on the student
        of_teacher = teacher_fingerprints.of_teacher(self.teacher)
        digest = "".join([teacher_fingerprints.of_arrays(given), *of_teacher.values(), *kinds])
        if digest != self._digest:
            self._memory, self._digest = self._run(x, soft_targets.count(x), verbose), digest
        return soft_targets.Joined(x, self._memory)

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return the targets in `x`, or, for examples that were not in `fit`'s arrays, run the teacher."""
        if not isinstance(x, soft_targets.Joined):
            return self.teacher(x, student, labels=labels, step=step)
        return {name: of_kind(soft_targets.decode(parts), self.kind(name)) for name, parts in x.targets.items()}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"teacher": keras.saving.serialize_keras_object(self.teacher), "batch_size": self.batch_size}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InMemory":
        """Make a teacher from `get_config`'s dict; its memory is empty."""
        return cls(**{**config, "teacher": keras.saving.deserialize_keras_object(config["teacher"])})

    def _run(self, x: Tensors, count: int, verbose: int | str) -> dict[str, soft_targets.Parts]:
        spec = soft_targets.map_arrays(lambda leaf: tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype), x)
        function = tf.function(lambda batch: encoded(self.teacher, batch, self._names), autograph=False)
        run = function.get_concrete_function(spec)  # or TensorFlow warns of several teachers in a process
        progress = keras.utils.Progbar(count, unit_name="example", verbose=1 if verbose == "auto" else verbose)
        memory: Any = None
        done = 0
        for batch in batches.cut(x, self.batch_size):
            predicted = tree.map_structure(np.asarray, run(soft_targets.map_arrays(tf.convert_to_tensor, batch)))
            if memory is None:
                memory = tree.map_structure(lambda part: np.empty((count, *part.shape[1:]), part.dtype), predicted)
                if verbose:
                    room = size(soft_targets.nbytes(memory), "MB")
                    info(f"Keeping the teacher's targets: {count:,} examples, {room} of memory")
            start, done = done, done + soft_targets.count(batch)
            for whole, part in zip(tree.flatten(memory), tree.flatten(predicted), strict=True):
                whole[start:done] = part
            progress.update(done)
        return memory
