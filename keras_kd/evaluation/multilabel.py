"""Measures of models that make several yes-or-no decisions, or one.

Yes is a logit above 0. What is averaged over rows is first averaged over the labels of a row, as Keras does.
"""

import numpy as np

from keras_kd.evaluation.accumulators import Calibration, Counts, WeightedMeans
from keras_kd.evaluation.classification import relative_entropy
from keras_kd.evaluation.ranking import Scores


class MultiLabel:
    """Sums over the batches for one model, from logits (rows, labels) and 0 or 1, (rows, labels).

    Args:
        labels: their number.
        thresholds: logits above which yes is said, one for each label, to be measured beside 0; or None.
    """

    def __init__(self, labels: int, thresholds: np.ndarray | None = None) -> None:
        self.counts, self.calibration = Counts(labels), Calibration()
        self._means, self._scores = WeightedMeans(), Scores(labels)
        self._thresholds = thresholds
        self._at_thresholds = Counts(labels)

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
        self.counts.add_decisions(predicted, truth, weights)
        self._scores.add(logits, truth, weights)
        if self._thresholds is not None:
            self._at_thresholds.add_decisions(logits > self._thresholds, truth, weights)

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

    def thresholds(self) -> np.ndarray:
        """Return the logit above which yes has the largest F1, for each label; 0 for one that is never true."""
        found = [each.threshold() if each.right[-1] else 0.0 for each in self._scores.ranked()]
        return np.array(found or [0.0] * len(self.counts.true))

    def result(self) -> dict[str, float]:
        """Return the measures by name."""
        means = self._means.result()
        own = {name: means.pop(name) for name in ("accuracy", "exact_match", "nll", "brier")}
        f1 = {"f1_macro": self.counts.f1_macro(), "f1_micro": self.counts.f1_micro()}
        if len(self.counts.true) == 1:
            del own["exact_match"]  # it is the accuracy
            f1 = {"f1": self.counts.f1_micro()}
        return {**own, **f1, **self._areas(), **self._of_thresholds(), "ece": self.calibration.error(), **means}

    def _areas(self) -> dict[str, float]:
        """Return the areas under the curves, means over the labels that have both a yes and a no."""
        ranked = self._scores.ranked()
        found = [(each.pr_auc(), each.roc_auc()) for each in ranked]
        both = [pair for pair in found if not np.isnan(pair).any()]
        means = np.mean(both, axis=0) if both else (float("nan"), float("nan"))
        return {"pr_auc": float(means[0]), "roc_auc": float(means[1])} if ranked else {}

    def _of_thresholds(self) -> dict[str, float]:
        if self._thresholds is None:
            return {}
        counts = self._at_thresholds
        if len(counts.true) > 1:
            return {"f1_at_threshold": counts.f1_macro()}
        right, predicted, true = (float(each[0]) for each in (counts.right, counts.predicted, counts.true))
        return {
            "threshold": float(np.exp(log_sigmoid(self._thresholds[0]))),
            "precision_at_threshold": right / predicted if predicted else float("nan"),
            "recall_at_threshold": right / true if true else float("nan"),
            "f1_at_threshold": counts.f1_micro(),
        }


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logarithm of the probability of yes, exact for extreme logits, float64."""
    return -np.logaddexp(0.0, -np.asarray(logits, "float64"))


def binary_kl(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the mean over the labels of KL(first || second) in nats, for each row of logits."""
    predictions = [np.stack([log_sigmoid(side), log_sigmoid(-side)], axis=-1) for side in (first, second)]
    return np.mean(relative_entropy(*predictions), axis=-1)
