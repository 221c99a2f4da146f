"""Numbers as people read them."""

import math

_UNITS = ("bytes", "kB", "MB", "GB", "TB")

#: Units that a message or a column of a table may keep to, and the digits behind the point.
_FIXED = {"KiB": (2**10, 0), "MiB": (2**20, 1), "MB": (10**6, 1)}


def count(value: float) -> str:
    """Return 1234567 as "1,234,567"."""
    return f"{value:,.0f}"


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number with a number of digits, 0.84718 as "0.847"; None as a dash."""
    return "-" if value is None else f"{value:.{digits}g}"


def percent(share: float | None, digits: int = 1, sign: str = "") -> str:
    """Return 0.8472 as "84.7 %", with `sign="+"` as "+84.7 %"; None as a dash."""
    return "-" if share is None else f"{100 * share:{sign}.{digits}f} %"


def size(nbytes: float, unit: str | None = None) -> str:
    """Return a number of bytes, in the largest unit of which there is one, or in "KiB", "MiB" or "MB"."""
    if unit is not None:
        divisor, digits = _FIXED[unit]
        return f"{nbytes / divisor:,.{digits}f} {unit}"
    power = min(len(_UNITS) - 1, int(math.log10(max(nbytes, 1)) // 3))
    return f"{nbytes / 1000**power:,.{1 if power else 0}f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def milliseconds(value: float) -> str:
    """Return 1.2345 as "1.23 ms"."""
    return f"{significant(value)} ms"
