"""Find rows of a cache by the keys of their examples."""

import threading
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_kd._keras import step_errors
from keras_kd.cache import row_fingerprints, shards
from keras_kd.cache.source import Source


class Known(NamedTuple):
    """What is known of a view: 16 bytes an example.

    Attributes:
        view: its number.
        records: the rows, mapped from the files: each (rows of a record, row_bytes).
        keys: in their order, int64, (count,).
        order: the place of the example of each key, (count,).
        whole: by place, what `row_fingerprints.of_rows` returned when the files were as they had been written, int32,
            (count,).
    """

    view: int
    records: list[Any]
    keys: np.ndarray
    order: np.ndarray
    whole: np.ndarray


class Index:
    """Find rows by their keys, in one view at a time, from as many threads as there are.

    Args:
        source: of the rows.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._step: int = source.manifest["rows_per_record"]
        self._lock = threading.Lock()
        self._known: Known | None = None
        self._looked = 0.0

    def load(self, view: int) -> Known:
        """Return what is known of a view, read and compared with the checksums of its files if it is not there yet.

        Raises:
            ValueError: a damaged or missing file.
        """
        with self._lock:  # or each thread would read the whole view
            if self._known is None or self._known.view != view:
                self._known = None  # of another view, whose memory is needed
                self._known = self._read(view)
            return self._known

    def find(self, wanted: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of some keys, their places, -1 for a key that is not there, and their fingerprints."""
        with step_errors.in_a_graph():
            known = self.load(int(view))
            self._look(known.view)
        at = np.minimum(np.searchsorted(known.keys, wanted), len(known.keys) - 1)
        places = np.where(known.keys[at] == wanted, known.order[at].astype(np.int64), -1)
        rows = np.empty((len(places), self._source.layout.row_bytes), np.uint8)
        for number, place in enumerate(np.maximum(places, 0).tolist()):
            rows[number] = known.records[place // self._step][place % self._step]
        return rows, places, known.whole[places]

    def _look(self, view: int) -> None:
        """Check the sizes of the files once a second: reading past the end of one would end the process."""
        if time.monotonic() - self._looked > 1.0:
            shards.check_sizes(self._source.folder, self._source.files(view))
            self._looked = time.monotonic()

    def _read(self, view: int) -> Known:
        source = self._source
        shards.check_sizes(source.folder, source.files(view))  # or they could not be mapped
        mapped = shards.rows_of_view(source.folder, source.manifest, view, source.count)
        found = []
        for each in mapped:
            rows = np.asarray(each)
            with tf.device("CPU:0"):
                found.append((source.layout.keys(rows), row_fingerprints.of_rows(tf.constant(rows)).numpy()))
        keys, whole = map(np.concatenate, zip(*found, strict=True))
        source.check(view, again=True)  # after reading: what was read is what had been written
        order = np.argsort(keys)
        return Known(view, mapped, keys[order], order.astype(np.min_scalar_type(source.count)), whole)
