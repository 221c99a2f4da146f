"""What plots need and no number tells: confusions, and the examples on which student and teacher disagree most.

Of all that the models say, only this is kept: one table of classes by classes for each model where the classes are few,
and a few examples with their inputs for each student.
"""

import dataclasses
from typing import Any

import numpy as np
from keras import tree

from keras_kd.evaluation.classification import kl_divergence, log_softmax
from keras_kd.evaluation.multilabel import binary_kl, log_sigmoid
from keras_kd.evaluation.quality import Answers

#: With more classes than this, nobody could read the table.
MOST_CLASSES = 100


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """An example on which a student is far from its teacher.

    Attributes:
        index: its number in the data, in the order in which they came.
        distance: KL(teacher || student) in nats; for regression the mean absolute difference.
        label: class id, or the labels or values.
        student: what the student says: probabilities, or values.
        teacher: what the teacher says.
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

    def watch(self, task: str, answers: Answers) -> None:
        """Look at a batch."""
        if self.first is None:
            self.first = tree.map_structure(np.asarray, answers.x)
        if task == "classification":
            self._add_confusions(answers)
        if self._teacher is not None and self._worst:
            for name in [each for each in answers.logits if each != self._teacher]:
                self._add_disagreements(task, name, answers)
        self.examples = answers.start + len(tree.flatten(answers.x)[0])
        self.batches += 1

    def _add_confusions(self, answers: Answers) -> None:
        for name, logits in answers.logits.items():
            classes = logits.shape[-1]
            if classes > MOST_CLASSES:
                return
            pairs = answers.labels * classes + np.argmax(logits, axis=-1)
            counted = np.bincount(pairs, answers.weights, classes**2).reshape(classes, classes)
            self.confusions[name] = self.confusions.get(name, 0.0) + counted

    def _add_disagreements(self, task: str, name: str, answers: Answers) -> None:
        student, teacher = answers.logits[name], answers.logits[self._teacher or ""]
        distances = _distance(task, student, teacher)
        positions = answers.positions
        for row in np.argsort(-distances, kind="stable")[: self._worst]:
            place = int(answers.rows[row]) // positions
            found = Disagreement(
                index=answers.start + place,
                distance=float(distances[row]),
                label=answers.labels[row],
                student=_probabilities(task, student[row]),
                teacher=_probabilities(task, teacher[row]),
                x=tree.map_structure(lambda each: np.array(each[place]), answers.x),  # noqa: B023
            )
            self.disagreements.setdefault(name, []).append(found)
        kept = sorted(self.disagreements.get(name, []), key=lambda each: -each.distance)
        self.disagreements[name] = kept[: self._worst]


def _distance(task: str, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    if task == "regression":
        return np.mean(np.abs(student - teacher), axis=-1)
    return kl_divergence(teacher, student) if task == "classification" else binary_kl(teacher, student)


def _probabilities(task: str, said: np.ndarray) -> np.ndarray:
    if task == "regression":
        return said
    return np.exp(log_softmax(said) if task == "classification" else log_sigmoid(said))
