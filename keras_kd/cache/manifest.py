"""The manifest of a cache: JSON with a checksum, written in one step.

`plan.json` stands while a cache is built, `job-*.json` for each finished job, and `manifest.json` when all is done.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from keras_kd._internal.files import replace
from keras_kd._internal.locks import lock_now
from keras_kd.cache.shards import REMEDY

PLAN, MANIFEST = "plan.json", "manifest.json"

#: Of the format on the disk, and those that can be read.
FORMAT, FORMATS = 3, (1, 2, 3)

_REMEDIES = {
    "teacher_architecture": "The teacher is another. Build a cache of it in another folder.",
    "teacher_weights": "The teacher, or one of its weights, is another. Build a cache of it in another folder.",
    "teacher_code": "A function or class of the teacher, or a value that it uses, is another. Build a cache of it in "
    "another folder. If it outputs the same all the same, open the cache without a teacher: TeacherCache(path).",
    "augmentation": "The augmentation is another. Give the one that the cache was built with, or build another cache.",
    "template": "The examples were made by another template. Give that one, or build another cache.",
    "tokens": "The tokenizer of the teacher, or the length of its examples, is another. Build another cache.",
    "first_examples": "The dataset, or its order, is another. Join it as it was, before any random step.",
    "count": "The dataset has another number of examples. Build the cache again, in another folder.",
    "inputs": "The examples have other types or shapes. If the dataset is batched: dataset.unbatch().",
}


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Write content and its checksum, in one step."""
    replace(path, lambda partial: partial.write_bytes(_bytes(content)))


def read(path: pathlib.Path) -> dict[str, Any]:
    """Return the content.

    Raises:
        ValueError: the file is damaged in any byte, or of another format.
        FileNotFoundError: it is not there.
    """
    if path.exists() and not path.is_file():  # to read a pipe could take for ever
        raise ValueError(f"Expected {str(path)!r} to be a file. It is something else. {REMEDY}")
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    try:
        content = json.loads(found)["content"]
        whole = _bytes(content) == found and isinstance(content, dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{str(path)!r} is damaged: its checksum does not fit its content. {REMEDY}")
    if isinstance(content.get("format"), bool) or content.get("format") not in FORMATS:
        raise ValueError(
            f"Expected {str(path)!r} to be of a format in {FORMATS}. Received: {content.get('format')!r}, written by "
            "another version of keras_kd. Build the cache again, or use that version."
        )
    return content


def refuse_difference(path: pathlib.Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse a folder that was begun, or finished, with something else than is given now.

    Args:
        path: of the plan or the manifest.
        there: its content.
        here: what is given now; what it does not name is not compared.
    """
    for name, value in here.items():
        if there.get(name) != value:
            advice = _REMEDIES.get(name, "Use another folder, or remove this one.")
            raise ValueError(
                f"{str(path)!r} was made with {name} = {_short(there.get(name))}. Received: {_short(value)}. {advice}"
            )


_SHARED = "Wait for it, or share the work: build(dataset, shard=(index, count)), one index in each process."


@contextlib.contextmanager
def lock(path: pathlib.Path, advice: str = _SHARED) -> Iterator[None]:
    """Hold a lock on a file, which ends with the process that holds it, however it ends.

    Args:
        path: of the file.
        advice: what to do where another process holds it.

    Raises:
        ValueError: another process holds it; a folder that cannot be written to, or has no locks.
    """
    with _locked(path, advice):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove what is open
                path.unlink()


def _locked(path: pathlib.Path, advice: str) -> IO[bytes]:
    """Return the open file that the lock is on, which is still the one of this name."""
    while True:
        file = _opened(path)
        try:
            lock_now(file.fileno())
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:  # the process that held the lock has removed the file since it was opened here
            pass
        except (BlockingIOError, PermissionError) as error:
            file.close()
            raise ValueError(
                f"Another process is building into {str(path.parent)!r}, and holds {path.name!r}. {advice}"
            ) from error
        except OSError as error:
            file.close()
            raise ValueError(
                f"Expected a folder on a file system with locks. Received: {str(path.parent)!r}: {error}. Build on "
                "another disk, and move the finished folder."
            ) from error
        file.close()


def _opened(path: pathlib.Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # which Windows does not have
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, flags, 0o666), "r+b")
    except OSError as error:
        raise ValueError(
            f"Expected a folder that can be written to. Received: {str(path.parent)!r}: {error}"
        ) from error


def _bytes(content: Any) -> bytes:
    text = json.dumps(content, sort_keys=True)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return (json.dumps({"checksum": checksum, "content": content}, sort_keys=True, indent=1) + "\n").encode()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:60] + "..."
