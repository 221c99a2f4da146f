"""Run a function over a data set and write what it returns: resumable, and by several jobs at once."""

import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_kd._internal import soft_targets
from keras_kd._internal.files import replace
from keras_kd._keras import step_errors
from keras_kd._types import Tensor, Tensors
from keras_kd.cache import row_fingerprints, shards
from keras_kd.cache.elements import Augment, Examples, Key, augmented, inputs_of, key_of
from keras_kd.cache.layout import Layout
from keras_kd.cache.plan import Job
from keras_kd.cache.top_classes import KEPT_BITS


class TargetSpec(NamedTuple):
    """Which targets are kept of a batch, and how it is recognised.

    Attributes:
        predict: a function from a batch's x to its targets by name, each as parts, see `soft_targets.encode`.
        kinds: the head under each name; features are "values".
        key: see `TeacherCache`.
        check_bytes: see `TeacherCache`.
        packed: whether top-k targets are.
    """

    predict: Callable[[Tensors], dict[str, soft_targets.Parts]]
    kinds: dict[str, str]
    key: Key | None
    check_bytes: int
    packed: bool = False


class TeacherProgram:
    """The function that predicts targets, compiled for one kind of examples.

    Args:
        spec: the function, and which of its targets are kept.
        examples: the data set.
        augment: see `TeacherCache`.

    Raises:
        ValueError: the teacher cannot read these examples.
    """

    def __init__(self, spec: TargetSpec, examples: Examples, augment: Augment | None) -> None:
        self._spec = spec
        x = examples.seen_specs(augment, spec.key)
        row_fingerprints.check_specs(x)
        batch = soft_targets.map_arrays(lambda leaf: tf.TensorSpec((None, *leaf.shape), leaf.dtype), x)
        try:
            self.predict = tf.function(spec.predict).get_concrete_function(batch)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"The teacher cannot read examples like these: {inputs_of(x)}. If the dataset is batched: "
                f"dataset.unbatch(). Caches are built and joined example by example. {error}"
            ) from error
        count = examples.weights_of_positions
        self.layout = Layout.of(
            self.predict.structured_outputs, spec.key is not None, spec.check_bytes, spec.packed, count
        )
        self._is_weighted = any(field.part == KEPT_BITS for field in self.layout.fields)
        keys, run = tf.TensorSpec((None,), tf.int64), self._rows
        if self._is_weighted:
            weights = tf.TensorSpec((None, count), examples.weights(examples.spec).dtype)
            self._run = tf.function(run).get_concrete_function(batch, keys, weights)
        else:  # an argument that is None would be expected by name
            self._run = tf.function(lambda x, key: run(x, key)).get_concrete_function(batch, keys)

    def rows(self, x: Tensors, key: Tensor, weights: Tensor | None = None) -> tuple[Any, Any]:
        """Return the rows of a batch, and whether all numbers in it can be kept.

        Args:
            x: of the batch.
            key: of its examples, or their places.
            weights: of their positions, where they have some.
        """
        with step_errors.from_a_graph():
            return self._run(x, key, weights) if self._is_weighted else self._run(x, key)

    def _rows(self, x: Tensors, key: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        targets = self.predict(x)
        sound = [tf.constant(True)]
        for name, parts in targets.items():
            for part in soft_targets.NUMBERS:
                if part in parts:
                    is_output = self._spec.kinds[name] != "values"
                    good = tf.logical_not(tf.math.is_nan(parts[part])) if is_output else tf.math.is_finite(parts[part])
                    sound.append(tf.reduce_all(good))
        checks = row_fingerprints.fingerprints(x, self._spec.check_bytes)
        return self.layout.pack(targets, checks, key, weights), tf.reduce_all(sound)


class Build:
    """Write the shards of one job, those that are not there yet.

    Args:
        folder: of the cache.
        plan: see `plan.make_plan`.
        program: predicts the targets.
        examples: the data set.
        augment: see `TeacherCache`.
        key: see `TeacherCache`.
        job: which share of the work.

    Attributes:
        seconds_per_shard: what a shard has taken at most.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        plan: dict[str, Any],
        program: TeacherProgram,
        examples: Examples,
        augment: Augment | None,
        key: Key | None,
        job: Job,
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.program = program
        self.examples = examples
        self.augment = augment
        self.key = key
        self.job = job
        self._timing = folder / f"timing-{job.name}.json"
        self._spent = read_timing(self._timing)
        self._done = 0
        self.seconds_per_shard = 0.0

    def run(self, verbose: int) -> int:
        """Predict the targets of every view, and return how many examples there are, as far as this job can see."""
        count = self.plan["count"]
        shards.remove_partial(self.folder, self.job.index, self.job.count)
        total = None if count is None else -(-count * self.plan["views"] // self.job.count)
        progress = keras.utils.Progbar(total, unit_name="example", verbose=verbose)
        ends = []
        for view in range(self.plan["views"]):
            first, end = self._finished(view)
            if count is None or first * self.plan["rows_per_shard"] < count:
                end = max(end, self._write(view, first, progress))
            ends.append(end)
        return max(ends)

    def _finished(self, view: int) -> tuple[int, int]:
        """Return the number of this job's first missing shard, and the index after the last example before it."""
        number, end, size = self.job.index, 0, self.plan["rows_per_shard"]
        while (path := shards.shard_path(self.folder, view, number)).exists():
            rows = shards.rows_in(path, self.plan)
            self._done += rows
            end = number * size + rows
            number += self.job.count
        return number, end

    def _write(self, view: int, first: int, progress: keras.utils.Progbar) -> int:
        """Write this job's shards of a view from one on, and return the number of the last example and one."""
        size, end, writer = self.plan["rows_per_shard"], 0, None
        started, rows = time.perf_counter(), 0
        for places, element in self._batches(view, first):
            x = self.examples.x(element)
            keys = tf.constant(places) if self.key is None else key_of(self.key, element)
            written, sound = self.program.rows(x, keys, self.examples.weights(element))
            start, end = int(places[0]), int(places[-1]) + 1
            if not sound:
                self._refuse(start, end)
            path = shards.shard_path(self.folder, view, start // size)
            if writer is None or writer.path != path:
                rows, started = self._finish(writer, rows, started)
                writer = shards.Writer(path, self.plan["rows_per_record"], self.program.layout)
            writer.write(written.numpy())
            rows += end - start
            self._done += end - start
            progress.update(self._done)
        self._finish(writer, rows, started)
        return end

    def _finish(self, writer: shards.Writer | None, rows: int, started: float) -> tuple[int, float]:
        if writer is not None:
            writer.finish()
            seconds = time.perf_counter() - started
            self.seconds_per_shard = max(self.seconds_per_shard, seconds)
            self._spent = {
                "examples": self._spent["examples"] + rows,
                "seconds": self._spent["seconds"] + seconds,
            }
            replace(self._timing, lambda partial: partial.write_text(json.dumps(self._spent)))
        return 0, time.perf_counter()

    def _batches(self, view: int, first: int) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield the places of the examples of a batch, and the examples."""
        size, jobs, batch_size = self.plan["rows_per_shard"], self.job.count, self.plan["batch_size"]
        if self.augment is None:
            whole = self.key is not None or self.examples.weights_of_positions is not None
            batches = self.examples.batches(batch_size, first * size, whole=whole)
            # a shard ends with a batch
            yield from (each for each in batches if each[0][0] // size % jobs == self.job.index)
            return
        data = self.examples.dataset.enumerate().skip(first * size)
        if jobs > 1:
            data = data.filter(lambda place, element: place // size % jobs == self.job.index)
        data = augmented(data, self.augment, self.key, tf.constant(view, tf.int64))
        if self.key is None and not self.examples.is_dense:  # y may be of several shapes; the teacher needs x alone
            data = data.map(lambda place, element: (place, (self.examples.x(element),)))
        for places, element in data.batch(batch_size).prefetch(tf.data.AUTOTUNE):
            yield places.numpy(), element

    def _refuse(self, start: int, end: int) -> None:
        raise ValueError(
            f"Expected numbers that {self.plan['dtype']} can hold. The teacher predicts something else for one of the "
            f"examples {start:,} to {end - 1:,}: NaN, or features that are too large. Mend the teacher or the example, "
            'or build with dtype="float32".'
        )


def read_timing(path: pathlib.Path) -> dict[str, float]:
    """Return how many examples a job has written in how many seconds; nothing depends on it but what is reported."""
    try:
        found = json.loads(path.read_text())
        timing = {name: float(found[name]) for name in ("examples", "seconds")}
        whole = all(math.isfinite(each) and each >= 0 for each in timing.values())
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        whole = False
    return timing if whole else {"examples": 0.0, "seconds": 0.0}
