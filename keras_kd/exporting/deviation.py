"""How far the outputs of an artefact are from the student's, and how far they may be.

Each example (or position) has an allowance of its own: one that is far larger than the others has large errors and may
have them; the others may not. Whether classes agree as often as they should follows from how near the student's own
scores are to one another.
"""

import dataclasses

import numpy as np

#: Part of the examples whose outputs have to be ordinary: the largest twentieth does not set the scale.
_ORDINARY = 0.95

#: What sums of float16 numbers may be off, in proportion to their size.
_HALF = 2e-3

#: Errors that follow from the size of hidden values, which is unknown, are at most this part of the scale.
_HIDDEN = 0.1


#: How far two scores may usually come nearer to each other, as a part of what the worst example may differ.
_USUAL = 1 / 8


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What may differ.

    Attributes:
        of_scale: part of an output's scale.
        rounding: of the student's own numbers, in proportion to them; 0 for float32.
        resolution: least difference that is allowed, for probabilities.
    """

    of_scale: float
    rounding: float = 0.0
    resolution: float = 0.0


@dataclasses.dataclass(frozen=True)
class Deviation:
    """One output of an artefact beside the student's.

    Attributes:
        difference: in the example that is nearest to what it may differ, or furthest beyond.
        allowed: what that example may differ.
        positions: number of examples and positions that have a class; 0 where there are no classes.
        disagreements: of these, those of another class than the student's.
        tolerated: largest number of disagreements.
    """

    difference: float
    allowed: float
    positions: int
    disagreements: int
    tolerated: float

    @property
    def ratio(self) -> float:
        """Difference in units of what is allowed."""
        return self.difference / self.allowed if self.allowed else (self.difference and np.inf)


def measure(
    expected: list[np.ndarray], received: list[np.ndarray], tolerance: Tolerance, cut: float | None = None
) -> Deviation:
    """Compare one output.

    With c the median of all the student's values, an example's size is the largest |value - c| of its row, and the
    scale of an output the 95th percentile of all sizes; where that is 0, that of the largest |value|; where that is 0,
    too, the median of the sizes that are not. An example may differ by

        of_scale * max(its size, scale) + p * (its largest |value|) + min(p, scale / 10)

    with p = max(min(of_scale, 2e-3), rounding): the last two are for the rounding of floating-point sums.

    That is for the worst of a thousand examples, of which some are beyond the ranges of integers. Usually two scores
    come nearer to each other by less than an eighth of it. Of m classes whose scores are that near to the largest, each
    may become the largest, with the same chance: 1 - 1 / m changes are expected at most. Two standard deviations are
    added to the sum over examples.

    Args:
        expected: the student's values, in batches of any shape, (..., classes), none of which is empty.
        received: the artefact's, of the same shapes.
        tolerance: what may differ.
        cut: where there is one class beside "none": the score from which it is chosen.
    """
    difference = np.concatenate([_largest(_distance(*pair)) for pair in zip(expected, received, strict=True)])
    usual = _allowed(expected, tolerance)
    allowed = np.maximum(usual, tolerance.resolution)
    ratio = np.divide(difference, allowed, out=np.where(difference == 0, 0.0, np.inf), where=allowed > 0)
    worst = int(np.argmax(ratio))  # the first NaN where there is one
    same, chances = _changes(expected, received, _USUAL * usual, cut)
    return Deviation(
        difference=float(difference[worst]),
        allowed=float(allowed[worst]),
        positions=len(same),
        disagreements=int(np.sum(~same)),
        tolerated=float(np.sum(chances) + 2 * np.sqrt(np.sum(chances * (1 - chances)))),
    )


def classes(scores: np.ndarray, cut: float | None) -> np.ndarray | None:
    """Return the class of each row of scores, (..., classes), or None where there are no classes."""
    if cut is not None:
        return (scores[..., 0] if scores.ndim > 1 else scores) >= cut
    return np.argmax(scores, axis=-1) if scores.ndim > 1 and scores.shape[-1] > 1 else None


def _allowed(expected: list[np.ndarray], tolerance: Tolerance) -> np.ndarray:
    """Return what each row may differ. Infinite scores, as of classes that are masked, have no part in a scale."""
    center = np.median(np.concatenate([each[np.isfinite(each)] for each in expected] or [np.zeros(1)]))
    size, magnitude = (
        np.concatenate([_largest(np.where(np.isfinite(each), np.abs(each - by), 0.0)) for each in expected])
        for by in (center, 0.0)
    )
    scale = _ordinary(size) or _ordinary(magnitude) or float(np.median(size[size > 0])) if np.any(magnitude) else 0.0
    precision = max(min(tolerance.of_scale, _HALF), tolerance.rounding)
    return tolerance.of_scale * np.maximum(size, scale) + precision * magnitude + min(precision, _HIDDEN * scale)


def _ordinary(values: np.ndarray) -> float:
    return float(np.quantile(values, _ORDINARY, method="lower"))


def _changes(
    expected: list[np.ndarray], received: list[np.ndarray], window: np.ndarray, cut: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each row with a class, whether the class is the same, and the share of changes to be expected."""
    same: list[np.ndarray] = [np.zeros(0, bool)]
    near: list[np.ndarray] = [np.ones(0)]
    for ours, theirs in zip(expected, received, strict=True):
        rows = _rows(ours)
        width, window = window[: len(rows)], window[len(rows) :]
        chosen, others = classes(ours, cut), classes(theirs, cut)
        if chosen is None or others is None:  # both, as their shapes are the same
            continue
        same.append(np.ravel(chosen == others))
        if cut is None:
            near.append(np.sum(rows >= np.max(rows, axis=-1, keepdims=True) - width[:, None], axis=-1))
        else:
            near.append(1 + (np.abs(rows[:, 0] - cut) <= width))
    return np.concatenate(same), 1 - 1 / np.concatenate(near)


def _distance(expected: np.ndarray, received: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # inf - inf
        return np.where(expected == received, 0.0, np.abs(expected - received))


def _largest(values: np.ndarray) -> np.ndarray:
    return np.max(_rows(values), axis=-1)


def _rows(values: np.ndarray) -> np.ndarray:
    return np.reshape(values, (-1, values.shape[-1] if values.ndim > 1 else 1))
