"""What a compressed model has to be: how small, how fast, and how good."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_kd.evaluation.measures import quality_measure
from keras_kd.pruning.pruned_sizes import FORMATS

_BYTES, _MILLISECONDS, _DROP = "_bytes", "_milliseconds", "_drop"
_COUNTS = ("parameters", "multiplications")


@dataclasses.dataclass(frozen=True)
class Limits:
    """The target of `compress`.

    Attributes:
        kind: format of the file that is written, a key of `FORMATS`.
        sizes: the most there may be of "bytes", "milliseconds", "parameters" and "multiplications", as far as given.
        drop: how much worse than the teacher's the measure may be; None for no such limit.
        measure: of quality, by its name in `evaluation.measure`.
    """

    kind: str
    sizes: Mapping[str, float]
    drop: float | None
    measure: str

    def budgets(self) -> list[dict[str, Any]]:
        """Return arguments of `prune` for each limit of size."""
        of_files = {"bytes": "file_bytes", "milliseconds": "latency"}
        return [
            {of_files[name]: {self.kind: most}} if name in of_files else {name: most}
            for name, most in self.sizes.items()
        ]

    def lost(self, score: float, of_teacher: float) -> float:
        """Return how much worse a score is than the teacher's."""
        return (of_teacher - score) * direction(self.measure)

    def is_small(self, sizes: Mapping[str, float]) -> bool:
        """Return whether no limit of size is passed."""
        return all(sizes[name] <= most for name, most in self.sizes.items())

    def is_good(self, score: float, of_teacher: float) -> bool:
        """Return whether a score is good enough."""
        return self.drop is None or self.lost(score, of_teacher) <= self.drop


def direction(measure: str) -> int:
    """Return 1 where more of a measure is better, -1 where less is."""
    return quality_measure(measure).better


def limits_of(target: Mapping[str, float], measure: str) -> Limits:
    """Return a target that is checked.

    Args:
        target: see `compress`.
        measure: that is compared where the target names none.

    Raises:
        TypeError: `target` is no dict.
        ValueError: a limit that is not known, or not above 0; files of two formats.
    """
    if not isinstance(target, Mapping):
        raise TypeError(f"Expected `target` to be a dict. Received: {target!r}")
    kinds, sizes, drop = set(), {}, None
    for name, value in target.items():
        kind, what = _split(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"Expected limits above 0. Received: target[{name!r}] = {value!r}")
        if what == "drop":
            measure, drop = kind, float(value)
        else:
            sizes[what] = float(value)
            kinds |= {kind} - {""}
    if not target or len(kinds) > 1:
        raise ValueError(f"Expected a `target` with limits for files of one format. Received: {dict(target)}")
    return Limits(kinds.pop() if kinds else "keras", sizes, drop, measure)


def _split(name: str) -> tuple[str, str]:
    """Return the format or the measure of a limit, and what it limits."""
    for end, what in ((_BYTES, "bytes"), (_MILLISECONDS, "milliseconds")):
        if name.endswith(end) and name.removesuffix(end) in FORMATS:
            return name.removesuffix(end), what
    if name in _COUNTS:
        return "", name
    measure = name.removesuffix(_DROP)
    if name.endswith(_DROP) and _is_measure(measure):
        return measure, "drop"
    raise ValueError(
        f"Expected limits of `target` to be named {', '.join(_COUNTS)}, a format and {_BYTES!r} or {_MILLISECONDS!r}, "
        f"as in 'litert_int8_bytes', or a measure and {_DROP!r}, as in 'accuracy_drop'. Formats are {sorted(FORMATS)}. "
        f"Received: {name!r}"
    )


def _is_measure(name: str) -> bool:
    try:
        return direction(name) != 0
    except (KeyError, IndexError, ValueError):
        return False
