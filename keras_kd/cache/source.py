"""The rows of a finished cache: which files hold a view, and how passes over the data read them."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd._internal.soft_targets import MARK
from keras_kd._keras import step_errors
from keras_kd._types import Tensor
from keras_kd.cache import records, shards
from keras_kd.cache.layout import Layout


def mark(manifest: dict[str, Any]) -> str:
    """Return the name of the entry that distinguishes targets of this cache from others."""
    files = "".join(each["sha256"] for each in manifest["files"].values())
    return MARK + hashlib.sha256(files.encode()).hexdigest()[:16]


class Source:
    """The rows of a finished cache.

    Args:
        folder: of the cache.
        manifest: its content.
        view: returns the view that a pass over the data uses, when the pass begins.
    """

    def __init__(self, folder: pathlib.Path, manifest: dict[str, Any], view: Callable[[], int]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.layout = Layout.from_config(manifest["layout"])
        self.count: int = manifest["count"]
        self._view = view
        self._checked: set[int] = set()

    @property
    def mark(self) -> dict[str, Any]:
        """An empty entry among the targets, whose name identifies their cache."""
        return {mark(self.manifest): {}}

    def of_view(self, view: int) -> "Source":
        """Return a source that uses one view in every pass."""
        return Source(self.folder, self.manifest, lambda: view)

    def check(self, view: int, again: bool = False) -> None:
        """Compare the files of a view with their checksums, once.

        Args:
            view: number of the view.
            again: whether to compare them even if that has happened.

        Raises:
            ValueError: a damaged or missing file.
        """
        if again or view not in self._checked:
            shards.check(self.folder, self.files(view))
            self._checked.add(view)

    def files(self, view: int) -> dict[str, dict[str, Any]]:
        """Return the manifest's entries for the files of a view, by their paths in the folder."""
        names = [path.relative_to(self.folder).as_posix() for path in self.paths(view)]
        return {name: self.manifest["files"][name] for name in names}

    def in_passes(self, one_pass: Callable[[Tensor], tf.data.Dataset], begin: Callable[[int], Any]) -> tf.data.Dataset:
        """Return the dataset that `one_pass` makes for a view.

        Args:
            one_pass: returns the joined examples of a view.
            begin: is called with the view as a pass begins; where there is only one view, now.
        """
        if self.manifest["views"] == 1:
            begin(0)
            return one_pass(tf.zeros((), tf.int64))

        def view() -> np.int64:
            with step_errors.in_a_graph():
                view = self._view()
                begin(view)
                return np.int64(view)

        views = tf.data.Dataset.from_tensors(0).map(
            lambda _: tf.ensure_shape(tf.numpy_function(view, [], tf.int64, stateful=True), [])
        )
        return views.flat_map(one_pass)

    def paths(self, view: int) -> list[pathlib.Path]:
        """Return the shards of a view, in their order."""
        numbers = range(-(-self.count // self.manifest["rows_per_shard"]))
        return [shards.shard_path(self.folder, view, number) for number in numbers]

    def records(self, view: Tensor, rows: int) -> tf.data.Dataset:
        """Return what a view holds, `rows` of it at a time, in their order, and behind it no rows for ever."""
        paths = tf.constant([[str(path) for path in self.paths(number)] for number in range(self.manifest["views"])])
        found, none = shards.records(paths[view]), tf.constant(b"")
        if rows != self.manifest["rows_per_record"]:
            found, none = found.map(self.decode).rebatch(rows), self.decode(none)
        return found.concatenate(tf.data.Dataset.from_tensors(none).repeat())

    def decode(self, found: tf.Tensor) -> tf.Tensor:
        """Return rows, uint8, (rows, row_bytes), of an element of `records`."""
        return records.decode(self.layout, found) if found.dtype == tf.string else found
