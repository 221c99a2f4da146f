"""Measures of models that predict numbers."""

import numpy as np

from keras_kd.evaluation.accumulators import WeightedMeans


class Regression:
    """Sums over the batches for one model, from values (rows, outputs) and true values (rows, outputs).

    Args:
        outputs: numbers that the model predicts for a row.
    """

    def __init__(self, outputs: int) -> None:
        self._means = WeightedMeans()
        self._weight = 0.0
        self._error, self._center, self._spread = np.zeros(outputs), np.zeros(outputs), np.zeros(outputs)

    def add(self, values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> None:
        """Add a batch."""
        difference = values - labels
        self._means.add("mae", np.mean(np.abs(difference), axis=-1), weights)
        self._means.add("mse", np.mean(np.square(difference), axis=-1), weights)
        self._error += weights @ np.square(difference)
        self._add_spread(labels, weights)

    def _add_spread(self, labels: np.ndarray, weights: np.ndarray) -> None:
        """Add to mean and sum of squares about it: a sum of plain squares would cancel where the mean is large.

        Reference: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm, 1979.
        """
        weight = float(np.sum(weights))
        if not weight:
            return
        center = weights @ labels / weight
        total, shift = self._weight + weight, center - self._center
        self._spread += weights @ np.square(labels - center) + np.square(shift) * self._weight * weight / total
        self._center += shift * weight / total
        self._weight = total

    def add_teacher(self, values: np.ndarray, teacher: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> None:
        """Add how a batch compares with the teacher's outputs."""
        self._means.add("mae_to_teacher", np.mean(np.abs(values - teacher), axis=-1), weights)
        self._means.add("mse_to_teacher", np.mean(np.square(values - teacher), axis=-1), weights)

    def result(self) -> dict[str, float]:
        """Return the measures by name; R2 is the mean over the outputs, of a constant one 1 if it is met, else 0."""
        means = self._means.result()
        result = {"mae": means["mae"], "rmse": float(np.sqrt(means["mse"])), "r2": self._r2()}
        if "mae_to_teacher" in means:
            rmse = float(np.sqrt(means["mse_to_teacher"]))
            result |= {"mae_to_teacher": means["mae_to_teacher"], "rmse_to_teacher": rmse}
        return result

    def _r2(self) -> float:
        constant = self._spread == 0
        shares = np.divide(self._error, self._spread, out=np.zeros_like(self._error), where=~constant)
        return float(np.mean(np.where(constant, self._error == 0, 1.0 - shares)))
