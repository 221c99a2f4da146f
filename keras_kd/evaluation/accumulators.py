"""What is kept of a stream of batches: sums in float64, so that any split into batches gives the same numbers."""

import numpy as np

#: Equal-width bins of confidence over (0, 1], as in Guo et al., On Calibration of Modern Neural Networks, 2017.
BINS = 15


class WeightedMeans:
    """Weighted means of named values."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, name: str, values: np.ndarray, weights: np.ndarray) -> None:
        """Add a batch: one value and one weight for each row."""
        self._sums[name] = self._sums.get(name, 0.0) + float(np.sum(np.asarray(values, "float64") * weights))
        self._weights[name] = self._weights.get(name, 0.0) + float(np.sum(weights))

    def result(self) -> dict[str, float]:
        """Return each mean; NaN where nothing has any weight."""
        return {name: _ratio(total, self._weights[name]) for name, total in self._sums.items()}


class Calibration:
    """Confidence against accuracy, in bins: (0, 1/15], (1/15, 2/15], ... (14/15, 1]."""

    def __init__(self) -> None:
        self.weight, self.confidence, self.correct = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)

    def add(self, confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray) -> None:
        """Add a batch: how confident the model was, and whether it was right, for each row."""
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        self.weight += np.bincount(bins, weights, BINS)
        self.confidence += np.bincount(bins, weights * confidence, BINS)
        self.correct += np.bincount(bins, weights * correct, BINS)

    def error(self) -> float:
        """Return the expected calibration error: sum_b share_b |accuracy_b - confidence_b|."""
        return _ratio(float(np.sum(np.abs(self.correct - self.confidence))), float(np.sum(self.weight)))

    def bins(self) -> list[tuple[float, float, float]]:
        """Return (mean confidence, accuracy, share of the weight) of the bins that are not empty."""
        full = self.weight > 0
        weight = self.weight[full]
        columns = self.confidence[full] / weight, self.correct[full] / weight, weight / np.sum(weight)
        return [(float(a), float(b), float(c)) for a, b, c in zip(*columns, strict=True)]


class Counts:
    """How often each class was right, predicted and true.

    Args:
        classes: their number.
    """

    def __init__(self, classes: int) -> None:
        self.right, self.predicted, self.true = np.zeros(classes), np.zeros(classes), np.zeros(classes)

    def add_decisions(self, predicted: np.ndarray, true: np.ndarray, weights: np.ndarray) -> None:
        """Add rows of yes or no for each class, (rows, classes) each, and their weights, (rows,)."""
        self.right += weights @ (predicted & true)
        self.predicted += weights @ predicted
        self.true += weights @ true

    def recall(self) -> np.ndarray:
        """Return, by class, the share of its examples that was found; NaN for a class without examples."""
        return _ratios(self.right, self.true, np.nan)

    def f1(self) -> np.ndarray:
        """Return 2 right / (predicted + true) by class; NaN for a class that is neither predicted nor true."""
        return _ratios(2 * self.right, self.predicted + self.true, np.nan)

    def f1_macro(self) -> float:
        """Return the mean of F1 over the classes that are predicted or true, as scikit-learn takes it from labels."""
        f1 = self.f1()[self.predicted + self.true > 0]
        return float(np.mean(f1)) if f1.size else float("nan")

    def f1_micro(self) -> float:
        """Return F1 of all yes-or-no decisions together; 0 where none is yes, neither true nor predicted."""
        total = float(np.sum(self.predicted) + np.sum(self.true))
        return 2 * float(np.sum(self.right)) / total if total else 0.0


def _ratio(total: float, weight: float) -> float:
    return total / weight if weight else float("nan")


def _ratios(totals: np.ndarray, weights: np.ndarray, empty: float) -> np.ndarray:
    return np.divide(totals, weights, out=np.full(len(totals), empty), where=weights > 0)
