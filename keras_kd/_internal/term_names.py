"""What a term reads on each side, and how it is named in the logs."""

import re
from collections.abc import Sequence
from typing import Any

from keras_kd._internal.loss_functions import Loss, unwrapped

#: What a term reads on one side: one name, or several.
Names = str | tuple[str, ...]

At = str | tuple[Names, Names] | dict[str, Names]

#: What TensorFlow takes for the scope of a layer that is in no other.
_NAMES = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.>-]*")


def as_tuple(names: Any) -> tuple[str, ...]:
    return tuple(names) if isinstance(names, (tuple, list)) else (names,)


def as_names(names: str | Sequence[str]) -> str | tuple[str, ...]:
    return names if isinstance(names, str) else tuple(names)


def pair(at: At) -> tuple[Names, Names]:
    """Return the names on the student's side and on the teacher's."""
    if isinstance(at, str):
        return at, at
    given: Any = at
    if isinstance(at, dict) and at.keys() == {"student", "teacher"}:
        given = (at["student"], at["teacher"])
    sides = [as_tuple(side) for side in given] if isinstance(given, (tuple, list)) else []
    if len(sides) != 2 or not all(side and all(isinstance(name, str) for name in side) for side in sides):
        raise ValueError(
            'Expected `at` to be "logits", the name of an output, a pair ("student_layer", "teacher_layer") of names '
            f'or of tuples of names, or {{"student": ..., "teacher": ...}} with such a pair. Received: at={at!r}'
        )
    return as_names(given[0]), as_names(given[1])


def check_name(name: Any) -> str:
    if not isinstance(name, str) or not _NAMES.fullmatch(name):
        raise ValueError(
            "Expected `name` to begin with a letter or a digit, and to have only letters of English, digits, '_', '-' "
            f"and '.' in it, as TensorFlow's scopes do. Received: name={name!r}"
        )
    return name


def default_name(loss: Loss, pair: tuple[Names, Names]) -> str:
    """Return the name of a function or object, and of what is read, as TensorFlow takes it for a scope."""
    function = unwrapped(loss)
    name = getattr(function, "__name__", None) or getattr(function, "name", None) or type(function).__name__
    read = "_".join(as_tuple(pair[0]))
    name = name.strip("<>") if read == "logits" else f"{name.strip('<>')}_{read}"
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_-") or "term"
