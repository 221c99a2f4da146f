"""The aims of the benchmarks: how each script prints them, and how run_all.py finds them."""

import dataclasses
import re
from collections.abc import Iterable

#: A line of a table: what, any columns, the value and what `at_most` returns, with two spaces or more after what.
_LINE = re.compile(r"^(?P<what>\S.*?) {2,}(?:.* )?(?P<value>\S+) +at most (?P<limit>\S+): (?P<verdict>met|missed)$")


@dataclasses.dataclass(frozen=True)
class Aim:
    """What was measured, as it was printed."""

    what: str
    value: str
    limit: str
    verdict: str


def at_most(value: float, limit: float, form: str = ".2f") -> str:
    """Return the end of a line whose last column is the value of an aim."""
    return f"at most {limit:{form}}: {'met' if value <= limit else 'missed'}"


def found_in(lines: Iterable[str]) -> list[Aim]:
    """Return the aims that a script has printed."""
    return [Aim(**match.groupdict()) for match in map(_LINE.match, (line.rstrip() for line in lines)) if match]
