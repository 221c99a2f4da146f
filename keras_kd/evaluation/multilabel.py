"""Measures of models that make several yes-or-no decisions, or one.

Yes is a logit above 0. What is averaged over rows is first averaged over the labels of a row, as Keras does.
"""

import numpy as np

from keras_kd.evaluation.accumulators import Calibration, Counts, WeightedMeans
from keras_kd.evaluation.classification import relative_entropy


class MultiLabel:
    """Sums over the batches for one model, from logits (rows, labels) and 0 or 1, (rows, labels).

    Args:
        labels: their number.
    """

    def __init__(self, labels: int) -> None:
        self.counts, self.calibration = Counts(labels), Calibration()
        self._means = WeightedMeans()

    def add(self, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> None:
        """Add a batch."""
        truth, predicted = labels > 0.5, logits > 0
        correct = predicted == truth
        log_yes, log_no = log_sigmoid(logits), log_sigmoid(-logits)
        self._means.add("accuracy", np.mean(correct, axis=-1), weights)
        self._means.add("exact_match", np.all(correct, axis=-1), weights)
        self._means.add("nll", -np.mean(np.where(truth, log_yes, log_no), axis=-1), weights)
        self._means.add("brier", np.mean(np.square(np.exp(log_yes) - truth), axis=-1), weights)
        each = np.repeat(weights, logits.shape[-1])
        self.calibration.add(np.exp(np.maximum(log_yes, log_no)).ravel(), correct.ravel(), each)
        self.counts.right += weights @ (predicted & truth)
        self.counts.predicted += weights @ predicted
        self.counts.true += weights @ truth

    def add_teacher(
        self, logits: np.ndarray, teacher_logits: np.ndarray, labels: np.ndarray, weights: np.ndarray
    ) -> None:
        """Add how a batch compares with the teacher's outputs."""
        same = (logits > 0) == (teacher_logits > 0)
        self._means.add("agreement", np.mean(same, axis=-1), weights)
        self._means.add("kl_teacher_student", binary_kl(teacher_logits, logits), weights)
        self._means.add("kl_student_teacher", binary_kl(logits, teacher_logits), weights)
        wrong = (teacher_logits > 0) != (labels > 0.5)
        self._means.add(
            "agreement_where_teacher_wrong", same[wrong], np.broadcast_to(weights[:, None], wrong.shape)[wrong]
        )

    def result(self) -> dict[str, float]:
        """Return the measures by name."""
        means = self._means.result()
        own = {name: means.pop(name) for name in ("accuracy", "exact_match", "nll", "brier")}
        f1 = {"f1_macro": self.counts.f1_macro(), "f1_micro": self.counts.f1_micro()}
        return {**own, **f1, "ece": self.calibration.error(), **means}


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logarithm of the probability of yes, exact for extreme logits, float64."""
    return -np.logaddexp(0.0, -np.asarray(logits, "float64"))


def binary_kl(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the mean over the labels of KL(first || second) in nats, for each row of logits."""
    predictions = [np.stack([log_sigmoid(side), log_sigmoid(-side)], axis=-1) for side in (first, second)]
    return np.mean(relative_entropy(*predictions), axis=-1)
