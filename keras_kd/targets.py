"""Targets that exist already, in the form that a Distiller reads: the few classes that a served model returns.

Whole rows of probabilities or logits are given as they are, `keras_kd.Joined(x, {"logits": probabilities})`. NumPy and
pandas read them from files, and put them in the order of x.
"""

from typing import Any

import numpy as np

from keras_kd._internal import soft_targets

#: How far above 1 the probabilities of a row may add up to: those of bfloat16 do by this much.
_ROUNDING = 0.01

#: The logarithm of the smallest normal float32: what a softmax that was rounded to 0 is read as, too, see `heads`.
_LOWEST = float(np.log(np.finfo("float32").tiny))

#: In the place of a class where a row has fewer than k.
_PADDING = -1


def TopK(ids: Any, log_probabilities: Any, classes: int) -> dict[str, np.ndarray]:
    """Return targets of which only the most probable classes are known, as served language models return them.

    With S the classes that a row names::

        p_c = exp(log_probabilities_c)                     for c in S
        p_c = (1 - sum of p over S) / (classes - |S|)      for all others

    as of a `TeacherCache` with `top_k`. What is left is spread evenly because nothing is known of it: that changes no
    mass of a class in S, and at T = 1 little else. At a high temperature, many classes of almost nothing add up: with a
    vocabulary of a hundred thousand, take T = 1, and `teachers.Cached(tail="bucket")`, which compares what is left as
    one class. Probabilities that add up to more than 1 by rounding are divided by
    their sum, and a probability of 0 is taken for 1.2e-38, as that of a softmax.

    Args:
        ids: classes in any order, (batch, k) or (batch, positions, k), integers from 0 to `classes - 1`, each once in a
            row; -1 where a row has fewer than k. A position of -1 alone is masked: nothing is learned there.
        log_probabilities: their natural logarithms at T = 1, of the shape of `ids`; -inf where that is -1.
        classes: how many the student has, at least k; of a language model the size of its vocabulary.

    Returns:
        Arrays by name, (batch, ...) each, for `keras_kd.Joined` under `teachers.Cached`. They are sliced, batched and
        shuffled together; `np.savez(path, **targets)` stores them, and `dict(np.load(path))` has them again.

    Raises:
        TypeError: arrays of anything but numbers, or `ids` that are no integers.
        ValueError: shapes that differ; ids out of range or twice in a row; probabilities or logits in the place of
            log-probabilities; padding that has a probability; an example of padding alone.

    Example:
        >>> targets = TopK([[7, 2]], np.log([[0.5, 0.3]]), classes=10)
        >>> x = kd.Joined(x, {"logits": targets})
        >>> distiller = kd.Distiller(student=student, teacher=kd.teachers.Cached())
    """
    ids, given = _numbers("ids", ids, "iu"), _numbers("log_probabilities", log_probabilities, "fiu")
    _check_shapes(ids, given, classes)
    padding = ids == _PADDING
    _check_ids(ids, padding, classes)
    logarithms = np.where(padding, -np.inf, given.astype("float64"))
    _check_logarithms(given, logarithms, padding)
    mass = np.exp(logarithms).sum(-1)
    others = classes - (~padding).sum(-1)
    rest = np.maximum(1.0 - mass, 0.0) / np.maximum(others, 1)  # of one class that is not named
    with np.errstate(divide="ignore"):
        rest = np.maximum(np.log(rest), _LOWEST)
    logarithms = np.maximum(logarithms - np.log(np.maximum(mass, 1.0))[..., None], _LOWEST)
    targets = soft_targets.of_largest(
        np.where(padding, rest[..., None], logarithms).astype("float32"),
        _with_others_for_padding(ids, padding).astype(soft_targets.index_type(classes)),
        (rest + np.log(max(1, classes - ids.shape[-1]))).astype("float32"),
        classes,
    )
    return targets if ids.ndim == 2 else {**targets, "mask": ~padding.all(-1)}


def _with_others_for_padding(ids: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Return ids with classes in the place of padding that the row does not have: each class has one place."""
    k = ids.shape[-1]
    if not padding.any():
        return ids
    # Of the first k classes, a row with m places of padding has at most k - m, so that m are free.
    rows, places = ids.reshape(-1, k), padding.reshape(-1, k)
    used = np.zeros((len(rows), k + 1), bool)
    np.put_along_axis(used, np.where(places | (rows > k), k, rows), True, axis=-1)
    free = np.argsort(used[:, :k], axis=-1, kind="stable")
    number = np.maximum(np.cumsum(places, axis=-1) - 1, 0)
    return np.where(places, np.take_along_axis(free, number, axis=-1), rows).reshape(ids.shape)


def _numbers(name: str, values: Any, kinds: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        array = np.empty(0, object)
    if array.dtype.kind not in kinds:
        what = "integers" if name == "ids" else "numbers"
        raise TypeError(
            f"Expected `{name}` to be an array of {what}, (batch, k) or (batch, positions, k). Received: "
            f"{type(values).__name__} of {array.dtype}. Make one array of rows by np.stack(rows), and fill rows of "
            "fewer than k classes up, with -1 among the ids and -inf among the log-probabilities."
        )
    return array


def _check_shapes(ids: np.ndarray, given: np.ndarray, classes: Any) -> None:
    if ids.shape != given.shape or ids.ndim < 2 or not ids.size:
        raise ValueError(
            "Expected `ids` and `log_probabilities` of one shape, (batch, k) or (batch, positions, k). Received: "
            f"{ids.shape} and {given.shape}."
        )
    if isinstance(classes, bool) or not isinstance(classes, (int, np.integer)) or classes < max(2, ids.shape[-1]):
        raise ValueError(
            f"Expected `classes` to be the number of the student's classes, at least k = {ids.shape[-1]}. Received: "
            f"classes={classes!r}."
        )


def _check_ids(ids: np.ndarray, padding: np.ndarray, classes: int) -> None:
    outside = ids[((ids < 0) & ~padding) | (ids >= classes)]
    if outside.size:
        raise ValueError(
            f"Expected `ids` from 0 to {classes - 1}, as classes={classes!r}, and {_PADDING} for padding. Received: "
            f"{outside[0]}. The teacher's classes, or its vocabulary, have to be the student's."
        )
    in_order = np.sort(ids, axis=-1)
    twice = in_order[..., 1:][(np.diff(in_order, axis=-1) == 0) & (in_order[..., 1:] != _PADDING)]
    if twice.size:
        raise ValueError(
            f"Expected each class once in a row of `ids`. Received {twice[0]} twice. Fill rows of fewer than k classes "
            f"up with {_PADDING}."
        )
    if ids.ndim == 2 and padding.all(-1).any():
        raise ValueError(
            f"Expected at least one class for each example. Received {_PADDING} alone for example "
            f"{int(np.argmax(padding.all(-1)))}. Leave such examples out of x, y and the targets."
        )


def _check_logarithms(given: np.ndarray, logarithms: np.ndarray, padding: np.ndarray) -> None:
    if np.isnan(logarithms).any():
        raise ValueError("Expected log-probabilities without NaN. Give -inf for a class of probability 0.")
    if np.any(given[padding] > -np.inf):
        raise ValueError(
            f"Expected -inf as the log-probability of padding, the id {_PADDING}. Received: "
            f"{given[padding & (given > -np.inf)][0]!s}. Do the ids count from 0?"
        )
    largest, mass = logarithms.max(), np.exp(np.minimum(logarithms, 1.0)).sum(-1).max()
    if largest > _ROUNDING:
        remedy = (
            "Probabilities are given by their logarithm, np.log(probabilities)."
            if largest <= 1 + _ROUNDING and not np.any(logarithms[~padding] < 0)
            else "Logits are none: subtract the logsumexp over all classes, not only over these."
        )
        raise ValueError(f"Expected log-probabilities, none above 0. Received: {largest:.4g}. {remedy}")
    if mass > 1 + _ROUNDING:
        raise ValueError(
            f"Expected the probabilities of a row to add up to at most 1. Received rows that add up to {mass:.4g}. "
            "Give natural logarithms, at T = 1, over all classes."
        )
