"""Measures of models that choose one of several classes.

The macro F1 is computed from counts and not by Keras's `F1Score`, which counts classes that never appear as 0 and adds
an epsilon, nor by scikit-learn, which needs all predictions at once; tests hold it against scikit-learn.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_kd.evaluation.accumulators import Calibration, Counts, WeightedMeans

#: With more classes than this, a table of them could not be read.
MOST_CLASSES = 100


class Classification:
    """Sums over the batches for one model, from logits (rows, classes) and class ids (rows,).

    Args:
        classes: their number.
        top_k: k of the top-k accuracy.
        of_tokens: whether the classes are a vocabulary: they have a perplexity, and are not looked at one by one.
    """

    def __init__(self, classes: int, top_k: int, of_tokens: bool = False) -> None:
        self.top_k, self.of_tokens = top_k, of_tokens
        #: Of the text that tokens stand for; 0 where it is not known.
        self.text_bytes = 0
        #: Whether the classes are those of the other models.
        self.is_comparable = True
        self.counts, self.calibration = Counts(classes), Calibration()
        self._means = WeightedMeans()

    def add(self, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> None:
        """Add a batch."""
        logarithms = log_softmax(logits)
        predicted = np.argmax(logits, axis=-1)
        correct = predicted == labels
        probabilities = np.exp(logarithms)
        off = probabilities.copy()
        off[np.arange(len(labels)), labels] -= 1.0
        values = {
            "accuracy": correct,
            f"top_{self.top_k}_accuracy": _in_top(logits, labels, self.top_k),
            "nll": -np.take_along_axis(logarithms, labels[:, None], axis=-1)[:, 0],
            "brier": np.sum(np.square(off), axis=-1),
        }
        for name, value in values.items():
            self._means.add(name, value, weights)
        self.calibration.add(np.max(probabilities, axis=-1), correct, weights)
        classes = len(self.counts.true)
        self.counts.right += np.bincount(labels[correct], weights[correct], classes)
        self.counts.predicted += np.bincount(predicted, weights, classes)
        self.counts.true += np.bincount(labels, weights, classes)

    def add_teacher(
        self, logits: np.ndarray, teacher_logits: np.ndarray, labels: np.ndarray, weights: np.ndarray
    ) -> None:
        """Add how a batch compares with the teacher's outputs."""
        predicted, teachers = np.argmax(logits, axis=-1), np.argmax(teacher_logits, axis=-1)
        self._means.add("agreement", predicted == teachers, weights)
        self._means.add("kl_teacher_student", kl_divergence(teacher_logits, logits), weights)
        self._means.add("kl_student_teacher", kl_divergence(logits, teacher_logits), weights)
        wrong = teachers != labels
        self._means.add("agreement_where_teacher_wrong", (predicted == teachers)[wrong], weights[wrong])

    def result(self) -> dict[str, float]:
        """Return the measures by name."""
        means = self._means.result()
        quality = [name for name in means if not name.startswith(("agreement", "kl_"))]
        own = {name: means.pop(name) for name in quality}
        if not self.is_comparable:
            return self._by_byte(own["nll"])
        of_text = {"perplexity": float(np.exp(own["nll"])), **self._by_byte(own["nll"])}
        special = of_text if self.of_tokens else {"f1_macro": self.counts.f1_macro()}
        return {**own, **special, "ece": self.calibration.error(), **means}

    def _by_byte(self, nll: float) -> dict[str, float]:
        bits = nll * float(np.sum(self.counts.true)) / math.log(2.0)
        return {"bits_per_byte": bits / self.text_bytes} if self.text_bytes else {}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return logarithms of probabilities, exact for extreme logits, float64."""
    return ops.convert_to_numpy(ops.log_softmax(ops.convert_to_tensor(logits, "float64"), axis=-1))


def kl_divergence(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return KL(first || second) in nats for each row of logits."""
    return relative_entropy(log_softmax(first), log_softmax(second))


def relative_entropy(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return sum p (log p - log q) over the last axis of log p and log q; what p holds impossible adds nothing."""
    possible = np.isfinite(first)
    gaps = np.subtract(first, second, out=np.zeros_like(first), where=possible)
    return np.sum(np.multiply(np.exp(first), gaps, out=gaps, where=possible), axis=-1)


def _in_top(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    k = min(k, logits.shape[-1])
    return ops.convert_to_numpy(keras.metrics.sparse_top_k_categorical_accuracy(labels, logits.astype("float32"), k=k))
