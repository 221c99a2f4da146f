"""A student with preprocessing and postprocessing: raw inputs, a chosen kind of output, names of classes."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd._internal import heads, layer_reader
from keras_kd._types import Shape, Tensors

#: Names of the outputs where classes are named: those of TensorFlow Serving's classification requests.
SCORES, CLASSES = "scores", "classes"

#: What can be requested.
_OUTPUTS = (None, "logits", "softmax", "sigmoid")

#: Probability from which the one class of a sigmoid is chosen, if nothing else is requested.
THRESHOLD = 0.5


class Unservable(ValueError):
    """What is requested around a student does not fit it."""


class Served(keras.Model):
    """Prepare the input, run the student, turn its output into what was requested, and name the largest.

    Args:
        student: a built model.
        outputs: None (as the student has it), "logits", "softmax" or "sigmoid".
        preprocessing: from what goes in to what the student takes, or None.
        class_names: one for each class, or None; for one unit the names below and from the threshold.
        threshold: probability from which one unit has its second name.
    """

    def __init__(
        self,
        student: keras.Model,
        outputs: str | None = None,
        preprocessing: Callable[[Any], Tensors] | None = None,
        class_names: tuple[str, ...] | None = None,
        threshold: float = THRESHOLD,
    ) -> None:
        super().__init__(name=student.name, dtype=student.dtype_policy, autocast=False)
        self.student = student
        self.requested = outputs  # a Keras model has `outputs` of its own
        self.preprocessing = preprocessing
        self.class_names = class_names
        self.threshold = threshold
        self.kind = _recognised(student)
        self.head = heads.Head(self.kind, normalized=False)
        self.built = True  # the student is, and Keras would try to build it again

    def call(self, x: Any, training: bool = False) -> Tensors:
        """Return scores as they were requested; where classes have names a dict of `scores` and `classes`.

        Raises:
            ValueError: the student has several outputs, or another number of classes than there are names.
        """
        scores = self._scores(self.student(x if self.preprocessing is None else self.preprocessing(x)))
        if self.class_names is None:
            return scores
        units = units_of(scores.shape)
        _check_units(units, self.name, self.requested or self.kind, self.class_names, self.threshold)
        chosen = tf.cast(single(scores) >= self.cut, "int32") if units == 1 else tf.argmax(scores, axis=-1)
        return {SCORES: scores, CLASSES: tf.gather(tf.constant(self.class_names), chosen)}

    @property
    def cut(self) -> float:
        """The score of the threshold. A head that is not recognised is taken for a logit, as by `heads.Head`."""
        probability = (self.requested or self.kind) == "sigmoid"
        return self.threshold if probability else math.log(self.threshold / (1 - self.threshold))

    def _scores(self, output: Any) -> Any:
        if self.requested is None and self.class_names is None:
            return output
        if not tf.is_tensor(output):
            raise Unservable(
                f"Expected a student with one output, for `outputs` and `class_names`. {self.name!r} has several: "
                f"{sorted(output) if isinstance(output, dict) else len(output)}. Export a model of one of them."
            )
        if self.requested in (None, self.kind):
            return output
        logits = ops.cast(self.head(output), "float32")
        turn: dict[str | None, Any] = {"softmax": ops.softmax, "sigmoid": ops.sigmoid}
        return turn[self.requested](logits) if self.requested in turn else logits

    @property
    def first(self) -> Any:
        """What the input goes into."""
        return self.student if self.preprocessing is None else self.preprocessing

    def around(self, student: keras.Model) -> "Served":
        """Return the same around another copy of the student."""
        return Served(student, self.requested, self.preprocessing, self.class_names, self.threshold)


def serve(
    student: keras.Model,
    outputs: str | None,
    preprocessing: Callable[[Any], Tensors] | None,
    class_names: Sequence[str] | None,
    threshold: float = THRESHOLD,
) -> keras.Model:
    """Return what is exported of a student: itself, or where something is requested a `Served`.

    Raises:
        TypeError: `preprocessing` is no function.
        ValueError: `outputs` is unknown or contradicts the student's head; `class_names` are no different names, or
            not as many as there are classes; `threshold` is none, or has no single unit and names to be used for.
    """
    _check_threshold(threshold, class_names)
    if outputs is None and preprocessing is None and class_names is None:
        return student
    if preprocessing is not None and not callable(preprocessing):
        raise TypeError(
            "Expected `preprocessing` to be a Keras layer, a model or a function from raw inputs to what the student "
            f"takes, as in keras.layers.Rescaling(1 / 255). Received: {preprocessing!r}"
        )
    _check_outputs(student, outputs)
    names = None if class_names is None else _names(class_names)
    graph = layer_reader.functional(student)
    if graph is not None and len(graph.outputs) == 1 and names is not None:  # before any work, where it is known
        kind = outputs or _recognised(student)
        _check_units(units_of(graph.outputs[0].shape), student.name, kind, names, threshold)
    return Served(student, outputs, preprocessing, names, threshold)


def _check_outputs(student: keras.Model, outputs: str | None) -> None:
    if outputs not in _OUTPUTS:
        raise ValueError(f"Expected `outputs` to be one of {_OUTPUTS}. Received: {outputs!r}")
    kind = _recognised(student)
    if {kind, outputs} == {"softmax", "sigmoid"}:
        raise ValueError(
            f"Expected outputs={kind!r} or 'logits': {student.name!r} ends in a {kind}. Received: outputs={outputs!r}"
        )
    graph = layer_reader.functional(student)
    if outputs == "softmax" and graph is not None and graph.outputs[0].shape[-1] == 1:
        raise ValueError(
            f"Expected outputs='sigmoid': {student.name!r} has one output an example, whose softmax is always 1. "
            "Received: outputs='softmax'"
        )


def check_head(served: Served, x: Any) -> None:
    """Warn, or refuse, where a head that is not recognised is taken for logits and looks like probabilities.

    Raises:
        ValueError: names of one unit depend on it, and `outputs` leaves it open.
    """
    if served.kind != "auto" or (served.requested is None and served.class_names is None):
        return
    output = served.student(x if served.preprocessing is None else served.preprocessing(x), training=False)
    logits = np.asarray(output if served.requested is None else served.head(output), "float32")
    if not np.all((logits >= 0) & (logits <= 1)):
        return
    seen = f"The outputs of {served.name!r} are all within 0 and 1, as probabilities are, and are taken for logits"
    if served.requested is not None:
        warnings.warn(f"{seen}. If they are not, end the student in a layer with that activation.", stacklevel=3)
    elif units_of(logits.shape) == 1:
        raise Unservable(
            f"Expected `outputs` beside `class_names`. {seen}: most would have the second name. Pass outputs='sigmoid' "
            "or outputs='logits', whichever the last layer is."
        )


def _check_threshold(threshold: float, class_names: Sequence[str] | None) -> None:
    if not 0 < threshold < 1:
        raise ValueError(f"Expected `threshold` to be a probability between 0 and 1. Received: {threshold!r}")
    if threshold != THRESHOLD and class_names is None:
        raise ValueError(
            "Expected `class_names` beside `threshold`: the names below and from it, as in class_names=('no', 'yes'). "
            f"Received: threshold={threshold!r} and no class_names"
        )


def units_of(shape: Shape) -> int | None:
    """Return the number of classes of outputs of a shape; None where it is free."""
    return 1 if len(shape) == 1 else shape[-1]


def single(scores: Any) -> Any:
    """Return the scores of one unit without an axis of their own."""
    return scores if len(scores.shape) == 1 else scores[..., 0]


def _check_units(units: int | None, student: str, kind: str, names: tuple[str, ...], threshold: float) -> None:
    """Refuse names that the outputs of a student do not choose from."""
    if units is None:
        return
    if units == 1 and kind == "softmax":
        raise Unservable(
            f"Expected several classes for class_names={names!r}: the softmax of the one unit of {student!r} is always "
            "1. Train it with a sigmoid."
        )
    if units == 1 and len(names) != 2:
        raise Unservable(
            f"Expected two class_names for {student!r}, which has one output an example: the name below the threshold "
            f"and the name from it, as in class_names=('no', 'yes'), threshold={THRESHOLD}. "
            f"Received {len(names)} class_names: {names}"
        )
    if units > 1 and len(names) != units:
        raise Unservable(
            f"Expected a name for each of the {units} classes of {student!r}, in their order. "
            f"Received {len(names)} class_names: {names}"
        )
    if units > 1 and threshold != THRESHOLD:
        raise Unservable(
            f"Expected `threshold` for a student with one output an example. {student!r} has {units} classes, of which "
            f"the largest is named. Received: threshold={threshold!r}"
        )


def _names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(class_names)
    strings = not isinstance(class_names, str) and all(isinstance(name, str) for name in names)
    if not strings or not names or len(set(names)) < len(names):
        raise ValueError(
            "Expected `class_names` to be different strings, one for each class, in their order. "
            f"Received: {class_names!r}"
        )
    return names


def _recognised(student: keras.Model) -> str:
    """Return the kind of the head; "auto" for one that is not recognised, which is taken for logits."""
    graph = layer_reader.functional(student)
    return "auto" if graph is None else heads.recognise(graph.outputs[0])
