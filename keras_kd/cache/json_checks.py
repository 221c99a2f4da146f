"""Read the JSON files of a cache, and refuse contents that no build writes.

A checksum finds damage, not a file that was edited together with its checksum. What is read here decides which files
are opened and how their bytes are taken apart, so that it has to fit together.
"""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from keras_kd._internal import heads
from keras_kd.cache import cache_settings, format_1, layout, manifest, row_fingerprints, shards, top_classes

#: What `soft_targets.encode` stores, and the types that it stores it in.
_PARTS = re.compile(
    r"values|centred|mask|log_weights|log_probabilities|log_tail|indices_of_[1-9][0-9]{0,9}|mask_bits|kept_bits"
    r"|top_[1-9][0-9]{0,9}_of_[1-9][0-9]{0,9}_in_(float16|float32|packed)"
)
_DTYPES = ("bool", "uint8", "uint16", "int32", "int64", "float16", "float32")

#: More than anybody has: a number beyond would only keep a loop busy.
_MOST = 2**48


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
    """Return the content of a finished cache's manifest; of an earlier format, with what is new.

    Raises:
        ValueError: the file is damaged, of another format, or does not fit together.
    """
    content = _read_settings(path)
    _expect(path, content, "count", "a whole number from 1 on", _is_whole)
    count, files = content["count"], content.get("files")
    per_view = -(-count // content["rows_per_shard"])
    expected = content["views"] * per_view
    if not isinstance(files, dict) or len(files) != expected:
        raise _unfit(path, "files", f"{expected:,} files", files)
    for view in range(content["views"]):
        for number in range(per_view):
            name = shards.shard_path(pathlib.Path(), view, number).as_posix()
            rows = min(content["rows_per_shard"], count - number * content["rows_per_shard"])
            _check_file(path, name, files.get(name), shards.size_bounds(rows, content))
    return content


def read_plan(path: pathlib.Path) -> dict[str, Any]:
    """Return the content of the plan of an unfinished cache, see `read_manifest`."""
    content = _read_settings(path)
    _expect(path, content, "count", "a whole number from 1 on, or null", lambda each: each is None or _is_whole(each))
    return content


def read_end(path: pathlib.Path) -> int:
    """Return how many examples a finished job has seen, see `read_manifest`."""
    content = manifest.read(path)
    _expect(path, content, "end", "a whole number", lambda each: each == 0 or _is_whole(each))
    return content["end"]


def _read_settings(path: pathlib.Path) -> dict[str, Any]:
    content = manifest.read(path)
    if content["format"] == format_1.FORMAT:
        content = format_1.upgraded(content)
    for name in ("views", "batch_size", "jobs", "rows_per_record", "rows_per_shard"):
        _expect(path, content, name, "a whole number from 1 on", _is_whole)
    for name in ("teacher_architecture", "teacher_weights", "first_examples"):
        _expect(path, content, name, "a checksum", lambda each: isinstance(each, str))
    if content["format"] != format_1.FORMAT:
        _expect(path, content, "teacher_code", "a checksum", lambda each: isinstance(each, str))
    _expect(
        path,
        content,
        "check_bytes",
        f"one of {list(row_fingerprints.TYPES)}",
        lambda each: each in list(row_fingerprints.TYPES),
    )
    _expect(path, content, "dtype", f"one of {cache_settings.DTYPES}", lambda each: each in cache_settings.DTYPES)
    _expect(path, content, "top_k", "a whole number from 1 on, or null", lambda each: each is None or _is_whole(each))
    _expect(path, content, "augmented", "true or false", lambda each: isinstance(each, bool))
    _expect(path, content, "key", "a name, or null", lambda each: each is None or isinstance(each, str))
    if content["format"] == manifest.FORMAT:
        _expect(path, content, "tokens", "a tokenizer's checksum and sizes, or null", _are_tokens)
        _expect(path, content, "template", "text, values by name, or null", _is_template)
    if "columns" in content:
        _expect(path, content, "columns", "names", _are_names)
    _expect(path, content, "inputs", "types and shapes", lambda each: isinstance(each, list))
    _expect(path, content, "taps", "heads by name", _are_taps)
    _expect(path, content, "layout", "the fields of a row", lambda each: _is_layout(each, content))
    return content


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _expect(path: pathlib.Path, content: dict[str, Any], name: str, what: str, holds: Callable[[Any], bool]) -> None:
    if name not in content or not holds(content[name]):
        raise _unfit(path, name, what, content.get(name))


def _unfit(path: pathlib.Path, name: str, what: str, received: Any) -> ValueError:
    text = json.dumps(received)
    text = text if len(text) <= 80 else text[:60] + "..."
    return ValueError(
        f"{str(path)!r} is damaged, or was edited: expected {name!r} to be {what}. Received: {text}. {shards.REMEDY}"
    )


def _check_file(path: pathlib.Path, name: str, described: Any, nbytes: tuple[int, int]) -> None:
    """Refuse the entry of a file that does not fit to the number of rows; other files have no place in it."""
    fits = isinstance(described, dict) and set(described) == {"bytes", "sha256"} and _is_whole(described["bytes"])
    fits = fits and nbytes[0] <= described["bytes"] <= nbytes[1]
    if not fits or not re.fullmatch("[0-9a-f]{64}", str(described["sha256"])):
        size = f"{nbytes[0]:,} bytes" if nbytes[0] == nbytes[1] else f"{nbytes[0]:,} to {nbytes[1]:,} bytes"
        raise _unfit(path, "files", f"{name!r} with {size} and a checksum, and others like it", described)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST


def _are_tokens(tokens: Any) -> bool:
    if tokens is None:
        return True
    known = isinstance(tokens, dict) and set(tokens) == {"vocabulary", "size", "length"}
    whole = known and _is_whole(tokens["size"]) and (tokens["length"] is None or _is_whole(tokens["length"]))
    return whole and isinstance(tokens["vocabulary"], str)


def _is_template(template: Any) -> bool:
    return template is None or isinstance(template, (str, dict))


def _are_taps(taps: Any) -> bool:
    return isinstance(taps, dict) and bool(taps) and all(kind in heads.KINDS for kind in taps.values())


def _is_layout(fields: Any, content: dict[str, Any]) -> bool:
    """Return whether fields are the cache's own, and behind them those of each tap."""
    if not isinstance(fields, list) or not all(_is_field(field) for field in fields):
        return False
    own = [[layout.CHECK, row_fingerprints.TYPES[content["check_bytes"]]]]
    own += [] if content["key"] is None else [[layout.KEY, "int64"]]
    if [[field["part"], field["dtype"]] for field in fields if not field["name"]] != own:
        return False
    if any(field["shape"] for field in fields[: len(own)]) or not all(field["name"] for field in fields[len(own) :]):
        return False
    shapes: dict[str, dict[str, list[int]]] = {}
    for field in fields[len(own) :]:
        shapes.setdefault(field["name"], {})[field["part"]] = field["shape"]
    distinct = sum(map(len, shapes.values())) == len(fields) - len(own)
    found = layout.Layout.from_config(fields)
    if found.positions != found.fields[len(fields) - len(found.positions) :]:
        return False
    return distinct and set(shapes) == set(content["taps"]) and all(_can_be_read(parts) for parts in shapes.values())


def _is_field(field: Any) -> bool:
    if not isinstance(field, dict) or set(field) != {"name", "part", "dtype", "shape"}:
        return False
    shape = field["shape"]
    if not isinstance(field["name"], str) or not isinstance(shape, list) or not all(map(_is_whole, shape)):
        return False
    if field["dtype"] not in _DTYPES or not isinstance(field["part"], str):
        return False
    if field["part"].startswith(("top_", "mask_bits", "kept_bits")) and field["dtype"] != "uint8":
        return False
    return field["name"] == "" or _PARTS.fullmatch(field["part"]) is not None


def _can_be_read(shapes: dict[str, list[int]]) -> bool:
    """Return whether the shapes of a target's parts, of one example each, fit together; see `soft_targets.decode`."""
    rows = [(top_classes.TopClasses.named(part), shape) for part, shape in shapes.items() if part.startswith("top_")]
    if rows:
        return len(rows) == 1 and _are_rows(*rows[0], shapes)
    if "mask_bits" in shapes or "kept_bits" in shapes:
        return False
    classes = [(int(part.rpartition("_")[2]), shape) for part, shape in shapes.items() if part.startswith("indices_")]
    numbers = [shapes[part] for part in ("values", "centred", "log_probabilities") if part in shapes]
    if len(numbers) != 1 or len(classes) != ("log_probabilities" in shapes):
        return False
    (shape,) = numbers
    if "centred" in shapes and (not shape or shape[-1] < 3):
        return False
    for number, places in classes:
        some = bool(shape) and shape[-1] <= number and shape == places
        if not some or shapes.get("log_tail") != (shape[:-1] if shape[-1] < number else None):
            return False
    weights = shapes.get("log_weights")
    return weights is None or (len(weights) == len(shape) - 1 and weights[-1] == shape[0])


def _are_rows(top: Any, shape: list[int], shapes: dict[str, list[int]]) -> bool:
    """Return whether a target that is stored row by row can be read; see `Layout.of`."""
    others = {part: each for part, each in shapes.items() if part != top.part}
    bits = {others.pop(part, None) is not None and tuple(shapes[part]) for part in ("mask_bits", "kept_bits")} - {False}
    whole = top.classes >= 2 and top.k <= top.classes and bool(shape) and shape[-1] == top.nbytes
    if not whole or (bits and (len(shape) != 2 or bits != {(-(-shape[0] // 8),)})):
        return False
    weights = others.pop("log_weights", None)
    others.pop("mask", None)
    return not others and (weights is None or (len(weights) == len(shape) - 1 and weights[-1] == shape[0]))
