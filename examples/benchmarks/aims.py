"""The aims of the benchmarks: how each script prints them, and how run_all.py finds them."""

import dataclasses
import re
from collections.abc import Sequence

#: What was measured, two spaces or more, any columns, its value, and what `at_most` returns.
_AIM = re.compile(r"(?P<what>\S.*?) {2,}(?:.* )?(?P<value>\S+) +at most (?P<limit>\S+): (?P<verdict>met|missed)")


@dataclasses.dataclass(frozen=True)
class Aim:
    """What was measured, under which heading, and the rest as it was printed."""

    heading: str
    what: str
    value: str
    limit: str
    verdict: str


def at_most(value: float, limit: float, form: str = ".2f") -> str:
    """Return the end of a line whose last column is the value of an aim."""
    return f"at most {limit:{form}}: {'met' if value <= limit else 'missed'}"


def found_in(lines: Sequence[str]) -> list[Aim]:
    """Return the aims among the lines that a script has printed; a heading is a line between empty ones."""
    heading, found = "", []
    texts = ["", *(line.strip() for line in lines if not line.startswith("\033")), ""]  # without bars of progress
    for before, text, after in zip(texts, texts[1:], texts[2:], strict=False):
        match = _AIM.fullmatch(text)
        if text and not before and not after:
            heading = "" if match else text
        if match:
            found.append(Aim(heading, **match.groupdict()))
    return found
