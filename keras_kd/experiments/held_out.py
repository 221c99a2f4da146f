"""The data of `distill` as arrays: what is held out, and what nothing can be learned from."""

from typing import Any, NamedTuple

import numpy as np
from keras import tree

from keras_kd._internal import batches
from keras_kd._types import Tensors
from keras_kd.experiments.data_splits import Part

#: With fewer rows, nothing can be chosen: a standard error of an accuracy is 11 points.
_LEAST = 20

#: One in ten rows without labels is held out, but about 2,000 of them at most.
_TENTH, _COMPARED = 10, 2000


class Parts(NamedTuple):
    """The data, as arrays.

    Attributes:
        train: rows with labels, (x, y) or (x, y, sample_weight).
        validation: the same, to choose on.
        test: the same, to judge on, or None.
        unlabelled: x of rows without labels to train on, or None.
        compared: x of such rows that nothing is trained on, to compare students with their teacher, or None.
        every: n, where each n-th row is one of these; None where there are none.
    """

    train: tuple[Any, ...]
    validation: tuple[Any, ...]
    test: tuple[Any, ...] | None
    unlabelled: Tensors
    compared: Tensors = None
    every: int | None = None

    @property
    def has_quantities(self) -> bool:
        """Whether an average of two rows means something: not of token ids."""
        found = leaves(self.train[0])
        return any(leaf.dtype.kind == "f" or (leaf.dtype == "uint8" and leaf.ndim > 2) for leaf in found)


def parts_of(train: Any, validation: Any, test: Any, unlabelled: Tensors, seed: int) -> Parts:
    """Return the data that `distill` was given, see there.

    Raises:
        ValueError: see `held_out` and `check_rows`.
        TypeError: data that are no arrays.
    """
    chosen_on = validation if isinstance(validation, float) else _arrays("validation", validation)
    kept, compared, every = apart(None if unlabelled is None else batches.as_arrays(unlabelled))
    found = Parts(
        *held_out(_arrays("train", train), chosen_on, seed),
        None if test is None else _arrays("test", test),
        kept,
        compared,
        every,
    )
    check_rows(found)
    return found


def held_out(train: tuple[Any, ...], validation: Any, seed: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return rows to train on, and rows to choose on.

    Args:
        train: arrays (x, y) or (x, y, sample_weight).
        validation: the same; or a share of the rows, taken evenly of all classes where labels are class ids.
        seed: of the rows that are taken.

    Raises:
        ValueError: a share out of range; fewer than 20 rows to choose on.
    """
    if not isinstance(validation, float):
        _check_count(len(tree.flatten(validation[1])[0]), "")
        return train, validation
    if not 0.0 < validation < 1.0:
        raise ValueError(
            f"Expected `validation` to be arrays or a share, above 0 and below 1. Received: {validation!r}"
        )
    labels = np.asarray(tree.flatten(train[1])[0])
    count = len(labels)
    _check_count(round(count * validation), f", {validation:g} of {count:,}")
    random = np.random.default_rng(seed).permutation(count)
    is_class = labels.dtype.kind in "biu" and labels.size == count
    order = random[np.argsort(labels.reshape(count)[random], kind="stable")] if is_class else random
    taken = np.zeros(count, bool)
    number = round(count * validation)
    taken[order[((np.arange(number) + 0.5) * count / number).astype(int)]] = True
    return _part(train, ~taken), _part(train, taken)


def apart(unlabelled: Tensors) -> tuple[Tensors, Tensors, int | None]:
    """Return rows to train on, rows that nothing is trained on, and n, where each n-th row is one of the latter.

    A tenth, but about 2,000 rows at most; none of less than 200, of which a tenth would tell little.
    """
    count = len(leaves(unlabelled)[0]) if unlabelled is not None else 0
    if count < _TENTH * _LEAST:
        return unlabelled, None, None
    every = max(_TENTH, count // _COMPARED)
    chosen = np.arange(count) % every == every - 1
    return _part(unlabelled, ~chosen), _part(unlabelled, chosen), every


def joined(x: Tensors, more: Tensors) -> Tensors:
    """Return rows, and others, which may be None, behind them."""
    if more is None:
        return x
    return tree.map_structure(lambda one, other: np.concatenate([one, other]), x, more)


def leaves(part: Any) -> list[np.ndarray]:
    """Return the arrays of a part of the data; none where there is no such part."""
    return [np.asarray(leaf) for leaf in tree.flatten(part) if leaf is not None]


def check_rows(parts: Parts) -> None:
    """Refuse numbers that no loss can be computed of.

    Raises:
        ValueError: NaN or infinite numbers, with where they are.
    """
    for name, part in parts._asdict().items():
        for array in leaves(part) if name != "every" else []:
            bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros(0, bool)
            if bad.any():
                bad = bad.reshape(len(bad), -1)
                columns = np.flatnonzero(bad.any(axis=0)).tolist()
                where = f", in the columns {columns[:10]}" if bad.shape[1] > 1 else ""
                raise ValueError(
                    f"Expected finite numbers in `{name}`. Received NaN or infinite ones in "
                    f"{bad.any(axis=1).sum():,} rows{where}. Fill them in or leave them out."
                )


def _check_count(count: int, of: str) -> None:
    if count < _LEAST:
        raise ValueError(
            f"Expected at least {_LEAST} rows to choose on. Received: {count}{of}. Give more rows with labels, or "
            "`validation`."
        )


def _part(data: Any, rows: np.ndarray) -> Any:
    return tree.map_structure(lambda leaf: None if leaf is None else np.asarray(leaf)[rows], data)


def _arrays(name: str, data: Any) -> tuple[Any, ...]:
    if not Part(name, data, 1).is_arrays:
        raise TypeError(
            f"Expected `{name}` to be arrays (x, y) or (x, y, sample_weight). Received: {type(data).__name__}"
        )
    return tuple(batches.as_arrays(tuple(data)))
