"""The files of a cache: TFRecord, rows of a fixed size, many to a record.

TFRecord is what tf.data reads by itself, with a checksum on every record. As all records of a shard but the last are
of one size, the place of a row in its file can be computed, too.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd._internal.files import partial_path, partial_prefix, publish
from keras_kd.cache import records as record_codec
from keras_kd.cache.layout import Layout

#: A TFRecord's length (8 bytes) and its checksum (4) stand before the data, the data's checksum (4) behind.
_BEFORE, _BEHIND = 12, 4

#: Records of about a megabyte are read fast and held in small numbers.
_RECORD_BYTES = 2**20

#: Files of at most this size.
_SHARD_BYTES = 2**28

#: A build that was killed goes on with the shard that it was in: at most one of this number of a view is lost.
_SHARDS_PER_VIEW = 32


def rows_per_record(row_bytes: int, batch_size: int) -> int:
    """Return how many rows a record holds: a divisor of the batch size, so that shards end with a batch."""
    fitting = max(1, _RECORD_BYTES // row_bytes)
    return max(d for d in range(1, batch_size + 1) if batch_size % d == 0 and d <= fitting)


def rows_per_shard(row_bytes: int, batch_size: int, count: int | None, jobs: int) -> int:
    """Return how many examples a shard holds: whole batches.

    Args:
        row_bytes: bytes of a row.
        batch_size: examples in a batch.
        count: number of examples, or None where it is not known.
        jobs: how many jobs share the work: each has shards to write.
    """
    most = max(1, _SHARD_BYTES // (row_bytes * batch_size))
    wanted = 64 if count is None else -(-count // (batch_size * max(_SHARDS_PER_VIEW, 4 * jobs)))
    return batch_size * max(1, min(most, wanted))


def shard_path(folder: pathlib.Path, view: int, number: int) -> pathlib.Path:
    """Return the path of a shard."""
    return folder / f"view-{view:04d}" / f"shard-{number:06d}.tfrecord"


def remove_partial(folder: pathlib.Path, index: int, jobs: int) -> None:
    """Remove what builds on this machine left behind of a job's shards when they were killed; its lock is held.

    Args:
        folder: of the cache.
        index: of the job.
        jobs: their number.
    """
    for path in folder.glob(f"view-*/{partial_prefix()}*-shard-*.tfrecord"):
        number = path.stem.rpartition("-")[2]
        if number.isdecimal() and int(number) % jobs == index:
            path.unlink(missing_ok=True)


def refuse_links(folder: pathlib.Path) -> None:
    """Refuse a folder to build into that has links in it: what they lead to would be taken for the cache's own.

    Raises:
        ValueError: a link in the folder, or in one of its views.
    """
    for path in (*folder.glob("*"), *folder.glob("view-*/*")):
        if path.is_symlink():
            raise ValueError(
                f"Expected the folder of a cache to contain files of its own. {str(path)!r} is a link to "
                f"{os.readlink(path)!r}. Remove it; the folder itself may be a link to another disk."
            )


class Writer:
    """Write one shard: nothing stands under its name before all of it is on the disk.

    Args:
        path: of the shard.
        rows: in a record.
        layout: of a row, or None where all of it is written.
    """

    def __init__(self, path: pathlib.Path, rows: int, layout: Layout | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.partial = partial_path(path)
        self.rows = rows
        self._layout = layout or Layout([])
        self._file = tf.io.TFRecordWriter(str(self.partial))

    def write(self, rows: np.ndarray) -> None:
        """Write the rows of a batch, uint8, (batch, row_bytes)."""
        with self._explained():
            for start in range(0, len(rows), self.rows):
                self._file.write(record_codec.encode(self._layout, rows[start : start + self.rows]))

    def finish(self) -> None:
        """Bring all to the disk, and give the file its name."""
        with self._explained():
            self._file.close()
            publish(self.partial, self.path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
            raise OSError(
                f"Could not write {str(self.path)!r}: {_first_line(error)}. The shards before it are finished and are "
                "kept: make room, and call build again with the same arguments."
            ) from error


def check_records(paths: list[pathlib.Path]) -> None:
    """Compare all records of shards with the checksums that they were written with.

    Raises:
        ValueError: a file is damaged.
    """
    try:
        for _ in records([str(path) for path in paths]):
            pass
    except tf.errors.OpError as error:
        if len(paths) > 1:
            for each in paths:  # which one it is
                check_records([each])
        path = paths[0]
        raise ValueError(f"{str(path)!r} is damaged: {_first_line(error)}. Remove it, and call build again.") from error


def describe(path: pathlib.Path) -> dict[str, Any]:
    """Return size and checksum of a file."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def check_sizes(folder: pathlib.Path, described: dict[str, dict[str, Any]]) -> None:
    """Refuse a cache of which a file is missing, or is not as large as it was written.

    Args:
        folder: of the cache.
        described: by the file's path in the folder, what `describe` has returned for it.

    Raises:
        ValueError: a file is missing or damaged.
    """
    for name, expected in described.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{str(path)!r} is missing, which belongs to a finished cache. {REMEDY}")
        if path.stat().st_size != expected["bytes"]:
            raise ValueError(
                f"{str(path)!r} is damaged: expected {expected['bytes']:,} bytes. Received: {path.stat().st_size:,} "
                f"bytes. {REMEDY}"
            )


def check(folder: pathlib.Path, described: dict[str, dict[str, Any]]) -> None:
    """Read files of a cache, and refuse one that is not as it was written; see `check_sizes`."""
    check_sizes(folder, described)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, found in zip(described, pool.map(lambda name: describe(folder / name), described), strict=True):
            if found != described[name]:
                raise ValueError(
                    f"{str(folder / name)!r} is damaged: expected the checksum {described[name]['sha256'][:12]}. "
                    f"Received: {found['sha256'][:12]}. {REMEDY}"
                )


def records(paths: Any) -> tf.data.Dataset:
    """Return the records of shards in their order, each the bytes of several rows."""
    return tf.data.TFRecordDataset(paths, buffer_size=_RECORD_BYTES)


def size_bounds(rows: int, plan: dict[str, Any]) -> tuple[int, int]:
    """Return the smallest and the largest size of a shard with a number of rows."""
    count = -(-rows // plan["rows_per_record"])
    fewest, most = record_codec.bounds(Layout.from_config(plan["layout"]), rows, count)
    return fewest + count * (_BEFORE + _BEHIND), most + count * (_BEFORE + _BEHIND)


def rows_in(path: pathlib.Path, plan: dict[str, Any]) -> int:
    """Return how many rows a finished shard holds."""
    layout = Layout.from_config(plan["layout"])
    if layout.positions:
        return sum(map(len, mapped(path, layout, plan["rows_per_record"])))
    record = _BEFORE + plan["rows_per_record"] * layout.row_bytes + _BEHIND
    whole, rest = divmod(path.stat().st_size, record)
    return whole * plan["rows_per_record"] + max(0, rest - _BEFORE - _BEHIND) // layout.row_bytes


def rows_of_view(folder: pathlib.Path, plan: dict[str, Any], view: int, count: int) -> list[Any]:
    """Return the rows of a view without reading them: (rows of a record, row_bytes) each, in their order."""
    layout = Layout.from_config(plan["layout"])
    numbers = range(-(-count // plan["rows_per_shard"]))
    paths = [shard_path(folder, view, number) for number in numbers]
    return [record for path in paths for record in mapped(path, layout, plan["rows_per_record"])]


def keys(folder: pathlib.Path, plan: dict[str, Any], count: int, view: int) -> np.ndarray:
    """Return the keys of all examples in a view, int64, (count,)."""
    layout = Layout.from_config(plan["layout"])
    return np.concatenate([layout.keys(np.asarray(rows)) for rows in rows_of_view(folder, plan, view, count)])


def mapped(path: pathlib.Path, layout: Layout, rows: int) -> list[Any]:
    """Return the rows of a shard without reading them, in their order.

    Args:
        path: of the shard.
        layout: of a row.
        rows: in a record; the last may hold fewer.

    Returns:
        Of each record an array, uint8, (rows of the record, row_bytes), or what numpy.asarray makes one of.
    """
    octets = np.memmap(path, dtype=np.uint8, mode="r")
    if layout.positions:
        return [record_codec.Rows(layout, record) for record in _split(octets)]
    step = _BEFORE + rows * layout.row_bytes + _BEHIND
    records = [octets[start : start + step] for start in range(0, len(octets), step)]
    return [record[_BEFORE:-_BEHIND].reshape(-1, layout.row_bytes) for record in records]


def _split(octets: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the records of a file of TFRecord; what is cut off at its end is none."""
    start = 0
    while start + _BEFORE <= len(octets):
        length = int.from_bytes(octets[start : start + 8].tobytes(), "little")
        stop = start + _BEFORE + length
        if stop + _BEHIND > len(octets):
            return
        yield octets[start + _BEFORE : stop]
        start = stop + _BEHIND


#: What to do about a cache that cannot be trusted.
REMEDY = "Restore the file from a copy, or remove the folder and build the cache again."


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
