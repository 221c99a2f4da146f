"""Whole numbers of each prompt and of each given example, which the rows that come from them carry."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from keras_kd._internal import soft_targets, teacher_fingerprints
from keras_kd._types import Tensors
from keras_kd.language.completion_examples import Examples
from keras_kd.language.rollout_rows import ORIGIN, Rows


class RowColumns:
    """Columns of rows, by the number of their prompt or example.

    Args:
        given: by name, one whole number for each prompt, or None.
        prompts: how many there are.
        data: given examples, whose x has the same columns, or None.

    Raises:
        ValueError: a column that has not one whole number for each, or is named as that of the origins; other columns
            of prompts than of examples.
    """

    def __init__(self, given: Mapping[str, Any] | None, prompts: int, data: Examples | None) -> None:
        self._values = {name: _checked(name, each, prompts, "prompt") for name, each in (given or {}).items()}
        if data is not None:
            x, y = data[:2]
            _check_data(x, list(self._values))
            held, count = soft_targets.columns(x), len(y)
            for name, values in self._values.items():
                numbers = _checked(name, held[name], count, "example of `data`")
                self._values[name] = np.concatenate([values, numbers])

    @property
    def digest(self) -> str:
        """Identifies the names and numbers."""
        return teacher_fingerprints.of_arrays([np.array(list(self._values)), *self._values.values()])

    def of(self, rows: Rows, names: Collection[str]) -> dict[str, Any]:
        """Return those of the named columns that rows have, (rows,) each."""
        known = {ORIGIN: rows.origin.astype("int32")}
        known |= {name: self.at(name, rows.source) for name in self._values if name in names}
        return {name: values for name, values in known.items() if name in names}

    def at(self, name: str, sources: np.ndarray) -> np.ndarray:
        """Return a column of the prompts and examples with some numbers.

        Raises:
            ValueError: there is no such column.
        """
        if name not in self._values:
            raise ValueError(
                f"Expected a column {name!r} of the prompts, by which the teacher that writes is chosen. Received: "
                f"{sorted(self._values)}. Give columns={{{name!r}: numbers}}, a number for each prompt."
            )
        return self._values[name][sources]


def _checked(name: str, given: Any, count: int, owner: str) -> np.ndarray:
    values = np.asarray(given)
    if name == ORIGIN or values.shape != (count,) or values.dtype.kind not in "iu":
        raise ValueError(
            f"Expected `columns` of a whole number for each {owner}, ({count},), with other names than {ORIGIN!r}. "
            f"Received: {name!r}, {values.dtype.name}, {values.shape}."
        )
    return values


def _check_data(x: Tensors, names: list[str]) -> None:
    if soft_targets.have_targets(x):
        raise ValueError("Expected `data` without targets, as no other row has any. Received: x with targets.")
    if set(soft_targets.columns(x)) != set(names):
        raise ValueError(
            f"Expected `data` with the columns of the prompts, {sorted(names)}. Received: "
            f"{sorted(soft_targets.columns(x))}. Give its x as keras_kd.Joined(x, columns=...), and the prompts' as "
            "`columns`."
        )
