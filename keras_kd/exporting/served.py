"""A student with what a service wants around it: raw inputs before it, a chosen kind of output and names after it."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd import heads, taps
from keras_kd._types import Tensors

#: Names of the outputs where classes are named: those of TensorFlow Serving's classification requests.
SCORES, CLASSES = "scores", "classes"

#: What can be asked for.
_OUTPUTS = (None, "logits", "softmax", "sigmoid")


class Served(keras.Model):
    """Prepare the input, run the student, turn its output into what was asked for, and name the largest.

    Args:
        student: a built model.
        outputs: None (as the student has it), "logits", "softmax" or "sigmoid".
        preprocessing: from what goes in to what the student takes, or None.
        class_names: one for each class, or None.
    """

    def __init__(
        self,
        student: keras.Model,
        outputs: str | None = None,
        preprocessing: Callable[[Any], Tensors] | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(name=student.name, dtype=student.dtype_policy, autocast=False)
        self.student = student
        self.asked = outputs  # a Keras model has `outputs` of its own
        self.preprocessing = preprocessing
        self.class_names = class_names
        self.kind = _recognised(student)
        self.head = heads.Head(self.kind, normalized=False)
        self.built = True  # the student is, and Keras would try to build it again

    def call(self, x: Any, training: bool = False) -> Tensors:
        """Return scores as they were asked for; where classes have names a dict of `scores` and `classes`.

        Raises:
            ValueError: the student has several outputs, or another number of classes than there are names.
        """
        scores = self._scores(self.student(x if self.preprocessing is None else self.preprocessing(x)))
        if self.class_names is None:
            return scores
        if scores.shape[-1] != len(self.class_names):
            raise ValueError(
                f"Expected a name for each of the {scores.shape[-1]} classes of {self.name!r}, in their order. "
                f"Received {len(self.class_names)} class_names: {self.class_names}"
            )
        return {SCORES: scores, CLASSES: tf.gather(tf.constant(self.class_names), tf.argmax(scores, axis=-1))}

    def _scores(self, output: Tensors) -> Tensors:
        if self.asked is None and self.class_names is None:
            return output
        if not tf.is_tensor(output):
            raise ValueError(
                f"Expected a student with one output, for `outputs` and `class_names`. {self.name!r} has several: "
                f"{sorted(output) if isinstance(output, dict) else len(output)}. Export a model of one of them."
            )
        if self.asked in (None, self.kind):
            return output
        logits = ops.cast(self.head(output), "float32")
        turn: dict[str | None, Any] = {"softmax": ops.softmax, "sigmoid": ops.sigmoid}
        return turn[self.asked](logits) if self.asked in turn else logits

    @property
    def first(self) -> Any:
        """What the input goes into."""
        return self.student if self.preprocessing is None else self.preprocessing

    def around(self, student: keras.Model) -> "Served":
        """Return the same around another copy of the student."""
        return Served(student, self.asked, self.preprocessing, self.class_names)


def serve(
    student: keras.Model,
    outputs: str | None,
    preprocessing: Callable[[Any], Tensors] | None,
    class_names: Sequence[str] | None,
) -> keras.Model:
    """Return what is exported of a student: itself, or where something is asked for a `Served`.

    Raises:
        TypeError: `preprocessing` is no function.
        ValueError: `outputs` is unknown or contradicts the student's head; `class_names` are no different names.
    """
    if outputs is None and preprocessing is None and class_names is None:
        return student
    if preprocessing is not None and not callable(preprocessing):
        raise TypeError(
            "Expected `preprocessing` to be a Keras layer, a model or a function from raw inputs to what the student "
            f"takes, as in keras.layers.Rescaling(1 / 255). Received: {preprocessing!r}"
        )
    _check_outputs(student, outputs)
    return Served(student, outputs, preprocessing, None if class_names is None else _names(class_names))


def _check_outputs(student: keras.Model, outputs: str | None) -> None:
    if outputs not in _OUTPUTS:
        raise ValueError(f"Expected `outputs` to be one of {_OUTPUTS}. Received: {outputs!r}")
    kind = _recognised(student)
    if {kind, outputs} == {"softmax", "sigmoid"}:
        raise ValueError(
            f"Expected outputs={kind!r} or 'logits': {student.name!r} ends in a {kind}. Received: outputs={outputs!r}"
        )
    graph = taps.functional(student)
    if outputs == "softmax" and graph is not None and graph.outputs[0].shape[-1] == 1:
        raise ValueError(
            f"Expected outputs='sigmoid': {student.name!r} has one output an example, whose softmax is always 1. "
            "Received: outputs='softmax'"
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
    graph = taps.functional(student)
    return "auto" if graph is None else heads.recognise(graph.outputs[0])


def scores_of(student: keras.Model, outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return what is compared of an artefact's outputs: not the names, which go by its own scores.

    Args:
        student: what was exported.
        outputs: of all batches, each in the order of the interface.

    Raises:
        ValueError: a name is not that of the largest score.
    """
    if not isinstance(student, Served) or student.class_names is None:
        return outputs
    names = np.array([name.encode() for name in student.class_names])
    classes, scores = outputs[0::2], outputs[1::2]  # sorted, as the keys of a dict are
    if not all(np.array_equal(names[np.argmax(b, -1)], a) for a, b in zip(classes, scores, strict=True)):
        raise ValueError("a class that it names is not that of its largest score")
    return scores
