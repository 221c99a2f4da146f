"""What plots need beside numbers: confusions, and the examples on which student and teacher disagree most.

Of the models' outputs, only this is kept: one table of classes by classes for each model where the classes are few,
and a few examples with their inputs for each student.
"""

import dataclasses
from typing import Any

import numpy as np
from keras import tree

from keras_kd.evaluation.classification import MOST_CLASSES, kl_divergence, log_softmax
from keras_kd.evaluation.multilabel import binary_kl, log_sigmoid
from keras_kd.evaluation.predicted_batches import Predictions


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """An example on which a student is far from its teacher.

    Attributes:
        index: its number in the data, in the order in which they came.
        distance: KL(teacher || student) in nats; for regression the mean absolute difference.
        label: class id, or the labels or values.
        student: the student's output: probabilities, or values.
        teacher: the teacher's output.
        x: the example's inputs.
    """

    index: int
    distance: float
    label: Any
    student: np.ndarray
    teacher: np.ndarray
    x: Any


class DisagreementCollector:
    """Collects from the batches of one pass.

    Args:
        teacher: name of the teacher, or None.
        worst: how many disagreements to keep for each student.
    """

    def __init__(self, teacher: str | None, worst: int) -> None:
        self.confusions: dict[str, np.ndarray] = {}
        self.disagreements: dict[str, list[Disagreement]] = {}
        self.examples, self.batches = 0, 0
        self.first: Any = None
        self._teacher, self._worst = teacher, worst

    def watch(self, predictions: Predictions) -> None:
        """Look at a batch."""
        if self.first is None:
            self.first = tree.map_structure(np.asarray, predictions.x)
        if predictions.task == "classification":
            self._add_confusions(predictions)
        if self._teacher is not None and self._worst:
            for name in [each for each in predictions.logits if each != self._teacher]:
                self._add_disagreements(predictions.task, name, predictions)
        self.examples = predictions.start + len(tree.flatten(predictions.x)[0])
        self.batches += 1

    def _add_confusions(self, predictions: Predictions) -> None:
        for name, logits in predictions.logits.items():
            classes = logits.shape[-1]
            if classes > MOST_CLASSES:
                return
            pairs = predictions.labels * classes + np.argmax(logits, axis=-1)
            counted = np.bincount(pairs, predictions.weights, classes**2).reshape(classes, classes)
            self.confusions[name] = self.confusions.get(name, 0.0) + counted

    def _add_disagreements(self, task: str, name: str, predictions: Predictions) -> None:
        student, teacher = predictions.logits[name], predictions.logits[self._teacher or ""]
        distances = _distance(task, student, teacher)
        positions = predictions.positions
        for row in np.argsort(-distances, kind="stable")[: self._worst]:
            place = int(predictions.rows[row]) // positions
            found = Disagreement(
                index=predictions.start + place,
                distance=float(distances[row]),
                label=predictions.labels[row],
                student=_probabilities(task, student[row]),
                teacher=_probabilities(task, teacher[row]),
                x=tree.map_structure(lambda each: np.array(each[place]), predictions.x),  # noqa: B023
            )
            self.disagreements.setdefault(name, []).append(found)
        kept = sorted(self.disagreements.get(name, []), key=lambda each: -each.distance)
        self.disagreements[name] = kept[: self._worst]


def _distance(task: str, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    if task == "regression":
        return np.mean(np.abs(student - teacher), axis=-1)
    return kl_divergence(teacher, student) if task == "classification" else binary_kl(teacher, student)


def _probabilities(task: str, predicted: np.ndarray) -> np.ndarray:
    if task == "regression":
        return predicted
    return np.exp(log_softmax(predicted) if task == "classification" else log_sigmoid(predicted))
