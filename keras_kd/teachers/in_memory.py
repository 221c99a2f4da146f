"""A teacher that runs once for each example."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches, soft_targets, sparse_targets, teacher_fingerprints
from keras_kd._internal.ensemble_logits import of_kind
from keras_kd._internal.log import info
from keras_kd._internal.number_formats import size
from keras_kd._internal.written_examples import WrittenExamples
from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor, Tensors
from keras_kd.teachers.base import AnyTeacher, Teacher, check_cacheable, encoded
from keras_kd.teachers.ensemble import as_teacher


@serializable
class InMemory(Teacher):
    """Run a teacher over the arrays given to `fit` once, before the first epoch, and keep its targets in memory.

    Training is that of the live teacher, without its cost in every epoch. A later `fit` on the same arrays runs nothing
    again. Of `language.Rollouts`, the rows of an epoch are given to the teacher when they are written, and those that
    are used again are not. For datasets, for more than fits into memory, and for augmented inputs there is
    `keras_kd.TeacherCache`.

    Args:
        teacher: a model, a function or a teacher that does not change, or a list of these.
        batch_size: examples that the teacher sees at a time.
        top_k: how many classes to keep of each logits with a softmax, with the mass of all others. None: all.
        tail: how the classes are read that are not kept, "spread" or "bucket", see `teachers.Cached`.

    Raises:
        TypeError: `teacher` is no teacher.
        ValueError: one that changes with the student or reads it; an unknown tail, a `top_k` that is not from 1 to the
            number of classes, or one without a softmax; in `fit`: x is neither an array nor a DataFrame.

    Example:
        >>> distiller = Distiller(student=student, teacher=InMemory(teacher))
    """

    def __init__(
        self, teacher: AnyTeacher, batch_size: int = 256, top_k: int | None = None, tail: str = "spread"
    ) -> None:
        super().__init__(name="in_memory")
        self.teacher = as_teacher(teacher)
        self.batch_size, self.top_k = batch_size, top_k
        self._tail = sparse_targets.check_tail(tail)
        self._run: Any = None
        self._names: tuple[str, ...] = ()
        self._digest = ""
        self._memory: dict[str, soft_targets.Parts] = {}

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Bind the teacher, and refuse one whose targets are not its own."""
        check_cacheable(self.teacher, names)
        self.teacher.bind(student, names)
        self.built, self._run = True, None
        if set(names) != set(self._names):
            self._digest = ""
        self._names = tuple(dict.fromkeys(names))
        sparse_targets.check_top_k(self.top_k, {name: self.kind(name) for name in self._names}, self.specs())
        if self.top_k is not None:
            sparse_targets.check_named(self.top_k, {name: self.teacher.named(name) for name in self._names})

    def cacheable(self, names: tuple[str, ...]) -> bool:
        """Return whether the targets of the teacher can be kept elsewhere, too."""
        return self.teacher.cacheable(names)

    def specs(self) -> dict[str, Any] | None:
        """Return the teacher's symbolic tensors."""
        return self.teacher.specs()

    def kind(self, name: str) -> str:
        """Return the kind of the teacher's output."""
        return self.teacher.kind(name)

    def tail(self, name: str) -> str | None:
        """Return how classes are read that are not kept; None where all are."""
        if self.top_k is None:
            return self.teacher.tail(name)
        return None if self.kind(name) == "values" else self._tail

    def named(self, name: str) -> int | None:
        """Return how many classes are kept; None for all."""
        return self.teacher.named(name) if self.top_k is None or self.kind(name) == "values" else self.top_k

    def columns(self) -> tuple[str, ...]:
        """Return the columns that the teacher reads."""
        return self.teacher.columns()

    def check_reachable(self) -> None:
        """Check the teacher."""
        self.teacher.check_reachable()

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return what the teacher reads, where it has to run: not of examples with targets."""
        return {} if soft_targets.have_targets(x) else self.teacher.views(x)

    def unrecognised(self, names: tuple[str, ...]) -> list[Teacher]:
        """Return itself where a head in the teacher is not known: the targets in memory cost nothing to look at."""
        return [self] if self.teacher.unrecognised(names) else []

    def before_fit(self, x: Tensors, verbose: int | str = "auto") -> Tensors:
        """Join the targets to the arrays; the teacher runs first where these are not the arrays of the last `fit`."""
        if isinstance(x, tf.data.Dataset) and soft_targets.are_in(x):
            return x  # of arrays that were joined before, by a pipeline of stages
        if isinstance(x, WrittenExamples):
            x.join(self.targets)
            return x
        x = batches.as_arrays(self.teacher.before_fit(x, verbose))
        if soft_targets.have_targets(x):
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
        read = self._read_of(x)
        given = [leaf for leaf in tree.flatten(read) if leaf is not None]  # an optional input may be None
        kinds = [self.teacher.kind(name) for name in self._names]  # which may depend on the student
        of_teacher = teacher_fingerprints.of_teacher(self.teacher)
        digest = "".join([teacher_fingerprints.of_arrays(given), *of_teacher.values(), *kinds])
        if digest != self._digest:
            self._memory, self._digest = self.targets(read, verbose), digest
        return soft_targets.with_targets(x, self._memory)

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return the targets in `x`, or, for examples that were not in `fit`'s arrays, run the teacher."""
        if soft_targets.have_targets(x):
            found = x.targets
        elif self.top_k is None:
            return self.teacher(x, student, labels=labels, step=step)
        else:
            found = self._encoded(x)
        return {
            name: of_kind(soft_targets.decode(parts, self.tail(name)), self.kind(name)) for name, parts in found.items()
        }

    def targets(self, x: Tensors, verbose: int | str = 0) -> dict[str, soft_targets.Parts]:
        """Run the teacher over arrays, and return what is kept of its predictions, (examples, ...) each.

        Args:
            x: arrays, (examples, ...), as `before_fit` prepares them.
            verbose: as in `keras.Model.fit`.
        """
        count = soft_targets.count(x)
        run = self._function(x)
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

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        kept = {"batch_size": self.batch_size, "top_k": self.top_k, "tail": self._tail}
        return {"teacher": keras.saving.serialize_keras_object(self.teacher), **kept}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InMemory":
        """Make a teacher from `get_config`'s dict; its memory is empty."""
        return cls(**{**config, "teacher": keras.saving.deserialize_keras_object(config["teacher"])})

    def _read_of(self, x: Tensors) -> Tensors:
        """Return arrays with those of their columns that the teacher reads."""
        held = soft_targets.columns(x)
        columns = {name: np.asarray(held[name]) for name in self.columns() if name in held}
        return soft_targets.with_columns(soft_targets.without_targets(x), columns)

    def _encoded(self, x: Tensors) -> dict[str, soft_targets.Parts]:
        return encoded(self.teacher, x, self._names, self.top_k)

    def _function(self, x: Tensors) -> Any:
        """Return the function that runs the teacher on batches as those of `x`, traced once."""
        spec = soft_targets.map_arrays(lambda leaf: tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype), x)
        known = None if self._run is None else self._run[0]
        if known != spec:
            # As a concrete function, or TensorFlow warns of several teachers in a process.
            self._run = spec, tf.function(self._encoded, autograph=False).get_concrete_function(spec)
        return self._run[1]
