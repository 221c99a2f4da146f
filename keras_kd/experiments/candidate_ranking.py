"""Which of several trainings is best, where labelled rows are too few to tell.

Of 30 rows, a score has an error of several points, and often all candidates have them right. What the teacher predicts
for rows without labels tells them apart: of those that labels cannot, the one that follows its teacher most closely is
the best.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd._internal import batches
from keras_kd._types import Tensors
from keras_kd.experiments import mixed_labels, paired_scores
from keras_kd.experiments.candidates import Candidate

#: Rows that a student is compared with its teacher on, and outputs that are kept, at most.
ROWS = 2000

#: How often validation rows are drawn again to tell whether two scores differ.
_DRAWS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """A candidate, for how many steps it was trained, and how good it is.

    Attributes:
        worth: of its metric on validation data; more is better.
        loss: of the labels of these.
        nearness: how closely it follows its teacher, more is better, the first number first; none for a control.
        outputs: for some rows of the validation data, see `some_rows`.
    """

    candidate: Candidate
    steps: int
    worth: float
    loss: float = 0.0
    nearness: tuple[float, ...] = ()
    outputs: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))


class Nearness:
    """Measures how closely students follow a teacher, with the loss on labels, but for what the teacher predicts.

    Args:
        teacher: outputs probabilities, or values.
        x: rows.
        loss: on labels.
    """

    def __init__(self, teacher: keras.Model, x: Tensors, loss: Any) -> None:
        self._x = x
        self._targets = predicted(teacher, x)
        self._is_softmax = self._targets.shape[-1] > 1 and mixed_labels.is_exclusive(loss)
        self._loss = mixed_labels.soft(loss)

    def of(self, student: keras.Model) -> tuple[float, ...]:
        """Return the share of rows of one class in both, where there are classes, and the loss, negative."""
        accuracy = [keras.metrics.CategoricalAccuracy(name="same")] if self._is_softmax else []
        student.compile(loss=self._loss, metrics=accuracy)
        found = student.evaluate(batches.dataset((self._x, self._targets), 256), return_dict=True, verbose=0)
        return (*([float(found["same"])] if accuracy else []), -float(found["loss"]))


def some_rows(x: Any, count: int = ROWS) -> Any:
    """Return some rows of arrays, evenly of all."""

    def some(leaf: Any) -> Any:
        return None if leaf is None else np.asarray(leaf)[:: max(1, -(-len(leaf) // count))]

    return tree.map_structure(some, x)


def predicted(model: keras.Model, x: Tensors) -> np.ndarray:
    """Return the outputs of a model for all rows."""
    data = batches.dataset((x,), 256)
    return np.concatenate([keras.ops.convert_to_numpy(model(batch[0], training=False)) for batch in data])


class Ranking:
    """Puts the best first.

    Args:
        y: labels of the rows of the validation data whose outputs were kept.
        score: of outputs.
    """

    def __init__(self, y: Any, score: paired_scores.Score) -> None:
        self._y, self._score = y, score

    def ordered(self, found: Iterable[Scored]) -> list[Scored]:
        """Return the best first.

        Those whose score is within one standard error of the best are equals: of these, the one that follows its
        teacher most closely comes first; of controls, which have none, the one of the least loss on labels.
        """
        found = sorted(found, key=by_labels, reverse=True)
        equals = self._equals(found)
        return sorted(equals, key=_by_teacher, reverse=True) + [each for each in found if each not in equals]

    def _equals(self, found: Sequence[Scored]) -> list[Scored]:
        best, others = found[0], found[1:]
        if not len(best.outputs) or not np.isfinite(best.worth):
            return [each for each in found if each.worth == best.worth]

        def scores(rows: Any) -> dict[str, float]:
            y = tree.map_structure(lambda leaf: np.asarray(leaf)[rows], self._y)
            return {str(number): self._score(y, each.outputs[rows]) for number, each in enumerate(found)}

        drawn = paired_scores.drawn_again(scores, len(best.outputs), _DRAWS)
        errors = [np.std(drawn["0"] - drawn[str(number)], ddof=1) for number in range(1, len(found))]
        near = [each for each, error in zip(others, errors, strict=True) if best.worth - each.worth <= error]
        return [best, *near]


def by_labels(each: Scored) -> tuple[float, float]:
    """Return what candidates are sorted by: the metric, and of equals the loss, on labels."""
    return each.worth, -each.loss


def _by_teacher(each: Scored) -> tuple[tuple[float, ...], float, float]:
    return each.nearness, *(by_labels(each) if each.nearness else (-each.loss, each.worth))
