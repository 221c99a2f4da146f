"""The interface of every teacher."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_kd import schedules
from keras_kd._internal import ensemble_logits, heads, raw_views, soft_targets
from keras_kd._internal.sklearn_models import Estimator
from keras_kd._internal.sparse_targets import SparseTarget
from keras_kd._keras import step_errors
from keras_kd._types import Number, Tensor, Tensors

_Member = keras.layers.Layer | Callable[[Tensors], Tensors] | Estimator

#: A teacher as users give it: a `Teacher`; a model, a layer or a function of a batch; an estimator of scikit-learn;
#: a list of these, an ensemble.
AnyTeacher = _Member | Sequence[_Member]


class Teacher(keras.layers.Layer):
    """Predict what the student should learn: a dict from the names that the terms read to tensors.

    A teacher decides about nothing else: not the temperature, not the loss, not the gradient, which `Term` stops.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name, autocast=False)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Predict in inference mode, whatever is called on the way: models, functions, `preprocess`.

        Some of Keras's layers, the random ones among them, are in training mode unless they are called with
        `training=False`.
        """
        if type(self).views is Teacher.views:  # it reads raw examples, and knows of no other views
            args = (soft_targets.map_inputs(lambda x: raw_views.of_teacher(x, raw_views.RAW), args[0]), *args[1:])
        with step_errors.in_own_words():
            return super().__call__(*args, **{"training": False, **kwargs})

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Learn, once, which student is taught and which names the terms read from this teacher.

        Args:
            student: the model that is trained.
            names: "logits", outputs and layers, as in `Term(at=...)`.

        Raises:
            ValueError: this teacher cannot teach this student, or does not offer a name.
        """

    def specs(self) -> dict[str, Any] | None:
        """Return symbolic tensors for the names bound, or None where they are not known before data are seen."""
        return None

    def student_view(self, x: Tensors) -> Tensors:
        """Return what the student is fed of `x`, without targets that it may carry; a plain `x` passes through."""
        return soft_targets.inputs(x)

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return how that is made of raw examples which this teacher reads, by the key under which `call` finds it.

        It is made with the data, outside of the step, where a model preprocesses examples of its own. A teacher reads
        them as they are, unless it overrides this.

        Args:
            x: what is given to `fit`, or a batch of it.
        """
        return {raw_views.RAW: lambda raw: raw}

    def check_reachable(self) -> None:
        """Raise an error where what this teacher needs outside of the process does not answer, before any work."""
        return

    def before_fit(self, x: Tensors, verbose: int | str = "auto") -> Tensors:
        """Return the x that `fit` reads in place of the one that it was given; `verbose` is that of `fit`."""
        return x

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return what has to follow `fit`."""
        return []

    def kind(self, name: str) -> str:
        """Return the head of the output under a bound name (see `teachers.Frozen`); a layer's features are "values"."""
        return "auto"

    def layers_of_student(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return which outputs and layers of the student this teacher needs to see, to offer `names`."""
        return ()

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns of examples that this teacher reads, see `keras_kd.Joined`."""
        return ()

    def stateful(self) -> list["Teacher"]:
        """Return the teachers in this one that change with the student: files hold these, and no others."""
        return []

    def ranges(self) -> list[schedules.Range]:
        """Return the schedules of this teacher, with the values that they may take: the Distiller checks each step."""
        return []

    def cacheable(self, names: tuple[str, ...]) -> bool:
        """Return whether the targets of an example under some names are the same in every epoch, and so can be kept."""
        return not self.stateful() and not self.layers_of_student(names)

    def reads_labels(self) -> bool:
        """Return whether what is predicted for an example depends on its label."""
        return False

    def unrecognised(self, names: tuple[str, ...]) -> list["Teacher"]:
        """Return the teachers in this one whose outputs are taken for logits because their head is unknown."""
        return []

    def tokens(self) -> dict[str, Any] | None:
        """Return what distinguishes the tokens of a language model from others, see `raw_views.tokens_of`, or None."""
        return None

    def tail(self, name: str) -> str | None:
        """Return how classes are read that the targets under a name leave out, see `teachers.Cached`; None for none."""
        return None

    def named(self, name: str) -> int | None:
        """Return how many classes the targets under a name give at most; None for all."""
        return None

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return the targets for a batch.

        Args:
            x: the batch's inputs, as the dataset has them.
            student: the student's outputs for this batch, by name.
            labels: the batch's y, or None.
            step: the optimizer's step.

        Returns:
            A dict from each name that was bound to a tensor, to an `ensemble_logits.Mixture` of several teachers'
            logits, or to a `sparse_targets.SparseTarget` of a few classes.
        """
        raise NotImplementedError(f"{type(self).__name__} must define call(x, student, labels, step).")

    def after_step(self, student: keras.Model, step: Tensor) -> None:
        """Follow the student, after each of its steps; `step` is their number."""
        return


def taken_for_logits(teacher: Teacher, x: Tensors, names: tuple[str, ...]) -> list[str]:
    """Return a warning for each teacher of unknown head whose outputs look like probabilities.

    Args:
        teacher: one, or an ensemble, whose members are looked at one by one.
        x: a few examples.
        names: what is read of it.
    """
    found = []
    for each in teacher.unrecognised(names):
        outputs = each(x, {})
        kinds = [
            heads.resembles(one)
            for name in names
            if name in outputs and not isinstance(outputs[name], SparseTarget)  # which has logarithms
            for one in ensemble_logits.members(outputs[name])
        ]
        kind = next(filter(None, kinds), None)
        if kind is not None:
            found.append(
                f"The outputs of {each.name!r} look like probabilities, and are taken for logits: all are from 0 to 1. "
                f'Give their head, head="{kind}", as in teachers.Frozen(teacher, head="{kind}"); head="logits" where '
                "they are logits."
            )
    return found


def check_cacheable(teacher: Teacher, names: tuple[str, ...]) -> None:
    """Refuse a teacher whose targets depend on more than the inputs: they cannot be kept."""
    if not teacher.cacheable(names):
        raise ValueError(
            f"Expected a teacher that predicts the same for an example in every epoch. {teacher.name!r} depends on the "
            "student, the labels, the step or targets that are there already, or masks other tokens each time: let it "
            "run live."
        )


def encoded(
    teacher: Teacher, x: Tensors, names: tuple[str, ...], top_k: int | None = None, dtype: str = "float32"
) -> dict[str, soft_targets.Parts]:
    """Run a teacher on a batch, and return its outputs under some names as parts to be kept, see `soft_targets.encode`.

    Raises:
        ValueError: the teacher does not offer a name.
    """
    outputs = teacher(x, {})
    missing = [name for name in names if name not in outputs]
    if missing:
        raise ValueError(
            f"Expected {missing[0]!r} to be an output or a layer of the teacher. It offers {sorted(outputs)}."
        )
    return {name: soft_targets.encode(outputs[name], teacher.kind(name), top_k, dtype) for name in names}
