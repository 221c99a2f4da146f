"""Means over seeds, and whether a difference is more than noise. SciPy computes them."""

import importlib
import math
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: of the values.
        low: lower end of the confidence interval by Student's t, None for fewer than 2 values.
        high: upper end.
    """

    mean: float
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """How much a recipe is above the control, over the seeds that both have.

    Attributes:
        mean: of the differences, seed by seed.
        low: lower end of their confidence interval by Student's t, None for fewer than 2 seeds.
        high: upper end.
        p: of the paired t-test, two-sided; None for fewer than 2 seeds, or where no seed differs.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean and its confidence interval by Student's t.

    Args:
        values: one for each seed.
        confidence: in (0, 1).
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return Interval(mean, mean, mean)
    low, high = scipy_stats().t.interval(confidence, len(values) - 1, loc=mean, scale=error)
    return Interval(mean, float(low), float(high))


def paired(values: Sequence[float], control: Sequence[float], confidence: float = 0.95) -> Difference:
    """Compare values with those of a control, seed by seed.

    Args:
        values: one for each seed.
        control: the same seeds in the same order.
        confidence: in (0, 1).
    """
    differences = [float(value) - float(other) for value, other in zip(values, control, strict=True)]
    found = interval(differences, confidence)
    if len(differences) < 2 or not any(differences):
        return Difference(*found, p=None)
    with warnings.catch_warnings():
        # Where all seeds differ by one amount, SciPy warns that it lost precision.
        warnings.simplefilter("ignore", RuntimeWarning)
        p = float(scipy_stats().ttest_rel(values, control).pvalue)
    return Difference(*found, p=None if math.isnan(p) else p)


def scipy_stats() -> ModuleType:
    """Return scipy.stats.

    Raises:
        ImportError: SciPy is not installed.
    """
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise ImportError(
            'The intervals and the test of a benchmark need SciPy: pip install "keras_kd[benchmark]".'
        ) from error
