"""TeacherCache: the targets of a data set, on disk."""

import os
import pathlib
import time
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd._internal import batches, code_fingerprints, soft_targets, sparse_targets, teacher_fingerprints
from keras_kd._internal.log import info
from keras_kd.cache import format_1, json_checks, manifest, shards
from keras_kd.cache.batch_times import check_batch_size, time_batches
from keras_kd.cache.build import Build, TargetSpec, TeacherProgram, read_timing
from keras_kd.cache.cache_reports import Estimate, Info, Verification
from keras_kd.cache.cache_settings import NEW, check_taps, check_template, make_settings
from keras_kd.cache.elements import Augment, Examples, Key
from keras_kd.cache.join import arrays, by_key, by_position
from keras_kd.cache.layout import Layout
from keras_kd.cache.plan import (
    announcement,
    begin,
    finish,
    job_of_cluster,
    job_of_shard,
    make_plan,
    missing,
    of_dataset,
    unfinished,
    wait,
)
from keras_kd.cache.source import Source, mark
from keras_kd.cache.spot_check import verify
from keras_kd.teachers import cached_columns
from keras_kd.teachers.base import AnyTeacher, Teacher, check_cacheable, encoded, taken_for_logits
from keras_kd.teachers.ensemble import as_teacher
from keras_kd.teachers.stored_targets import StoredTargets


class TeacherCache(StoredTargets):
    """Run a teacher over a data set once, keep its targets on disk, and join them to the examples in every epoch.

    The targets travel inside the elements of the dataset, so shuffling, batching, filtering and repeating cannot
    separate the two. Every example is compared, as it is joined, with what the teacher saw: another one, or another
    order, raises an error instead of teaching.

    Logits take 2 bytes a class, and 4 for the largest, from which the others are counted; with `top_k`, the k most
    probable classes take 3 bytes each for up to 256 classes, 4 for up to 65,536, 6 for more; the mass of all others
    takes 2, see `teachers.Cached` for how they are read. In float32 each number takes 2 more, and the largest none.
    Packed, they take 112 bytes for 50 of 151,936 classes, 59 for 20. `check_bytes` identify the example.

    Of top-k targets of positions, those are kept that count: which the teacher's mask leaves in, and whose weight is
    not 0 where the examples are (x, y, sample_weight) with a weight for each. `join` refuses weights by which others
    count. A bit for each position marks which are kept.

    Args:
        path: folder of the cache; made by `build`.
        teacher: a model, a function, a teacher that does not change, or a list of these (members are kept apart, so
            that any temperature is exact). None opens a finished cache with its own settings.
        taps: the names that terms will read, see `Term(at=...)`: "logits", outputs, layers.
        top_k: how many classes to keep of each logits with a softmax. None: all.
        dtype: "float16" or "float32", of logits, logarithms and features; or "packed", for language models: the `top_k`
            classes as a set, their probabilities off by at most 0.003 for k up to 32, and 0.02 for more, and in the
            mean by 1e-5 and 1e-3 nats of KL; all else in float16. In float16, a logit is rounded by at most
            1/2048 of its distance to the largest of its example, whatever the teacher adds to all of them; a feature,
            and the logit of a sigmoid, by 1/2048 of itself. Take float32 for logits without a sigmoid that are read
            label by label and are far apart.
        views: how many augmented views of each example to keep; epoch e uses view e modulo `views`.
        augment: a function (x, seed) of one example and a stateless seed, int64, (2,), to its augmented x. It runs
            before the teacher, and again, with the same seed, where the examples are joined.
        key: joins by a key instead of by position: the name of an entry of a dict x, or a function of the element
            (x, y, ...), in batches, to int or string keys, (batch,). The order of the dataset is then free, and it may
            hold fewer examples. Takes 8 bytes an example on disk, and 16 in memory.
        template: what the examples of a language model were made by, as you name it: a string or a dict of plain
            values, such as a chat template and the name of a tokenizer. A cache is opened with the template that it was
            built with, or with None and no teacher. The vocabulary and the length of a task of KerasHub are known
            without it, and compared with the student's.
        check_bytes: how much of the fingerprint of each example is stored and compared: 2 bytes, by which 1 of 65,536
            changed rows is not noticed (15,000 of a billion), or 8, by which none is.

    A cache is of one teacher: its configuration, weights, and, as far as Python can read them, the functions and
    classes that it is made of. `build` warns of what cannot be read.

    Raises:
        TypeError: `teacher` is no teacher.
        ValueError: settings out of range; a folder that holds a cache of another teacher or other settings, or one
            that is damaged or not finished where no teacher is given.

    Example:
        >>> cache = TeacherCache("runs/cache", teacher=teacher, top_k=10)
        >>> cache.build(dataset)
        >>> train = cache.join(dataset).shuffle(10_000).batch(128)
        >>> distiller = Distiller(student=student, teacher=teachers.Cached(cache))

    Reference: Wu et al., TinyViT: Fast Pretraining Distillation, 2022, arXiv 2207.10666 (top-k logits and seeds).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        teacher: AnyTeacher | None = None,
        taps: Sequence[str] = ("logits",),
        top_k: int | None = None,
        dtype: str = "float16",
        *,
        views: int = 1,
        augment: Augment | None = None,
        key: Key | None = None,
        check_bytes: int = 2,
        template: str | dict[str, Any] | None = None,
    ) -> None:
        self.template = check_template(template)
        self.path = pathlib.Path(path)
        self.augment = augment
        self.key = key
        self.epoch: int | None = None  # set by `teachers.Cached`
        self._manifest: dict[str, Any] | None = None
        self._teacher: Teacher | None = None if teacher is None else as_teacher(teacher)
        if self._teacher is None:
            self._settings = self._read()
            return
        taps = check_taps(taps)
        check_cacheable(self._teacher, taps)
        self._teacher.bind(keras.Sequential(), taps)
        kinds = {name: self._teacher.kind(name) for name in taps}
        fingerprint = teacher_fingerprints.with_code(self._teacher, taps)
        specs = self._teacher.specs()
        sparse_targets.check_named(top_k, {name: self._teacher.named(name) for name in taps})
        made = make_settings(fingerprint, kinds, specs, top_k, dtype, views, augment, key, check_bytes)
        columns = cached_columns.check(self._teacher.columns(), key, augment)
        more = {"columns": list(columns)} if columns else {}
        self._settings = {**made, "tokens": self._teacher.tokens(), "template": self.template, **more}
        if (self.path / manifest.MANIFEST).exists():
            self._read()

    def __repr__(self) -> str:
        """Return the folder, whether the cache is built, and what it keeps."""
        state = "not built" if self._manifest is None else f"{self._manifest['count']:,} examples"
        kept = ", ".join(f"{name}={self._settings[name]!r}" for name in ("dtype", "top_k"))
        return f"<TeacherCache at {str(self.path)!r}: {state}, taps={sorted(self.taps)}, {kept}>"

    @property
    def taps(self) -> tuple[str, ...]:
        """The names that this cache offers to terms."""
        return tuple(self._settings["taps"])

    @property
    def mark(self) -> str | None:
        """What distinguishes targets of this cache from others, or None before it is built."""
        return None if self._manifest is None else mark(self._manifest)

    @property
    def tokens(self) -> dict[str, Any] | None:
        """What distinguishes the tokens of the teacher from others, where it is a task of KerasHub; None elsewhere."""
        return self._settings.get("tokens")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of examples that the teacher reads, which are compared as what the student reads."""
        return tuple(self._settings.get("columns", ()))

    def kind(self, name: str) -> str:
        """Return the head of one of the teacher's outputs; features are "values"."""
        return self._settings["taps"][name]

    def names_few(self, name: str) -> bool:
        """Return whether `top_k` classes of each row are kept under a name, and not all."""
        return self._settings["top_k"] is not None and self.kind(name) != "values"

    def specs(self) -> dict[str, Any] | None:
        """Return symbolic tensors of what terms will read, (None, ...) each, or None where they are not known yet."""
        if self._manifest is None:
            return self._teacher.specs() if self._teacher is not None else None
        layout = Layout.from_config(self._manifest["layout"])
        targets, _, _ = layout.unpack_arrays(np.zeros((0, layout.row_bytes), np.uint8))
        return {
            name: keras.KerasTensor((None, *soft_targets.shape(parts)), "float32") for name, parts in targets.items()
        }

    def build(
        self, dataset: Any, batch_size: int = 256, *, shard: tuple[int, int] | None = None, verbose: int = 1
    ) -> None:
        """Run the teacher over a data set, and write its targets.

        Killed at any moment, the same call goes on with the file that it was in. Several machines share the work where
        TF_CONFIG names them, and wait for each other; independent jobs, of any scheduler, each get a `shard`.

        Args:
            dataset: arrays of x, or a tf.data.Dataset of single examples, x, (x, y) or (x, y, sample_weight), in the
                same order each time, before any random step and before `batch`.
            batch_size: examples that the teacher sees at a time.
            shard: (index, count), the share of one of several jobs, from 0 on. The last to finish completes the cache.
            verbose: 1 for a progress bar, 0 for silence.

        Raises:
            ValueError: the dataset is shuffled or changed at random, unless it is joined by `key`; the folder holds
                something else; another process is building there; the teacher cannot read the examples, or predicts
                numbers that cannot be kept.
            OSError: no space is left, or under TF_CONFIG, a worker has written nothing for ten minutes, or for as long
                as 20 shards have taken here (TimeoutError). What is finished is kept.

        Warns:
            UserWarning: what the teacher returns looks like probabilities, and is taken for logits; the teacher uses
                something of which a change could not be noticed.
        """
        examples = Examples(cached_columns.bundled(dataset, self.columns))
        if self.key is None:
            examples.check_order()
        cluster = job_of_cluster() if shard is None else None
        job = cluster or job_of_shard(shard)
        check_batch_size(batch_size)
        if self._teacher is None or (self.path / manifest.MANIFEST).exists():
            self._accept(examples, verbose)
            return
        teacher, seen = self._teacher, code_fingerprints.read(self._teacher)
        self._look_at_teacher()
        self._settings["teacher_code"] = seen.digest
        if seen.unread:
            warnings.warn(code_fingerprints.warning(seen.unread), stacklevel=2)
        teacher.check_reachable()
        program = self._program(teacher, examples)
        for few in examples.first(self.augment, self.key):
            for warning in taken_for_logits(teacher, cached_columns.as_given(few, self.columns), self.taps):
                warnings.warn(warning, stacklevel=2)
        plan = make_plan(self._settings, program.layout, examples, self.augment, batch_size, job)
        build = Build(self.path, plan, program, examples, self.augment, self.key, job)
        with manifest.lock(self.path / f"{job.name}.lock"):
            if not begin(self.path, plan):
                self._accept(examples, verbose)
                return
            if verbose:
                info(announcement(self.path, plan, job))
            end = build.run(verbose)
            manifest.write(self.path / f"{job.name}.json", {"format": manifest.FORMAT, "end": end})
            done = finish(self.path, plan)
        if not done and cluster is not None:
            wait(self.path, plan, build.seconds_per_shard)
        if done or cluster is not None:
            self._settings = self._read()
        elif verbose:
            info(f"{job.name} is done. Not done: {', '.join(missing(self.path, plan))}")

    def join(self, dataset: Any) -> Any:
        """Give each example its targets.

        The files are read and compared with their checksums first, those of further views when their turn comes; then
        each example with what the teacher saw: of arrays here and once, of a dataset as it is joined, in every pass,
        which costs microseconds an example; what later passes read of the files is compared, too. With one view, and
        room for the examples in memory, `join(dataset).cache()` spares all passes but the first.

        Args:
            dataset: what the cache was built for: arrays of x, or a tf.data.Dataset of single examples, before any
                shuffle, batch or augmentation. y and sample_weight may be others.

        Returns:
            For a dataset, one of (Joined(x, targets), y, ...), to shuffle and batch at will. For arrays, a
            `keras_kd.Joined` to pass to `fit` as x. For use under `teachers.Cached`.

        Raises:
            ValueError: a damaged or missing file; another data set; another augmentation. While the dataset is read, as
                tf.errors.InvalidArgumentError outside of `Distiller.fit`: an example that the teacher has not seen.
        """
        self._require()
        content: dict[str, Any] = self._manifest or {}
        shards.check_sizes(self.path, content["files"])
        source = Source(self.path, content, self._view)
        if self.key is None or content["views"] > 1:  # by key, what is read is compared as it is read
            source.check(0)
        dataset = dataset if isinstance(dataset, tf.data.Dataset) else batches.as_arrays(dataset)
        if batches.are_arrays(dataset):
            if self.augment is not None or content["views"] > 1 or self.key is not None:
                raise ValueError(
                    "Expected a tf.data.Dataset, which is augmented and ordered anew in each epoch, for a cache with "
                    "views, `augment` or `key`: tf.data.Dataset.from_tensor_slices((x, y)). Received arrays."
                )
            joined = arrays(source, cached_columns.bundled(dataset, self.columns))
            return cached_columns.unbundled(joined, self.columns)
        examples = Examples(cached_columns.bundled(dataset, self.columns))
        self._check_dataset(examples)
        if self.key is not None:
            return by_key(source, examples, self.augment, self.key)
        return cached_columns.unbundled(by_position(source, examples, self.augment), self.columns)

    def verify(self, dataset: Any, fraction: float = 0.01, seed: int = 0) -> Verification:
        """Run the teacher again on a sample of a data set, and compare its targets with those of the cache.

        Args:
            dataset: as for `join`.
            fraction: of the examples, in (0, 1], at least one of each view.
            seed: decides which.

        Returns:
            A `Verification`: for each tap, the largest and the mean absolute difference; of a top-k target, over the
            classes that it keeps, between logarithms of probabilities.

        Raises:
            ValueError: the cache was opened without a teacher; as for `join`.
        """
        teacher = self._require_teacher()
        self._require()
        examples = Examples(cached_columns.bundled(dataset, self.columns))
        self._check_dataset(examples)
        source = Source(self.path, self._manifest or {}, self._view)
        program = self._program(teacher, examples, dtype="float32")
        return verify(source, program, examples, self.augment, self.key, fraction, seed)

    def info(self) -> Info:
        """Return an `Info`: its size, and after how many epochs it has paid off, by the time that its build took."""
        self._require()
        content: dict[str, Any] = self._manifest or {}
        timings = [read_timing(path) for path in sorted(self.path.glob("timing-*.json"))]
        started = time.perf_counter()
        source = Source(self.path, content, lambda: 0)
        rows = sum(len(source.decode(record)) for record in shards.records([str(path) for path in source.paths(0)]))
        return Info.of(
            content,
            on_disk=sum(each["bytes"] for each in content["files"].values()),
            examples_timed=sum(each["examples"] for each in timings),
            seconds=sum(each["seconds"] for each in timings),
            seconds_to_read=(time.perf_counter() - started) / max(1, rows),
        )

    def estimate(self, dataset: Any, batch_size: int = 256, batches: int = 5) -> Estimate:
        """Run a few batches, and estimate what `build` would take.

        Args:
            dataset: as for `build`.
            batch_size: as for `build`.
            batches: how many to time, after one that compiles.

        Returns:
            An `Estimate`: time, size and memory. It prints as three lines.
        """
        teacher, examples = self._require_teacher(), Examples(cached_columns.bundled(dataset, self.columns))
        program = self._program(teacher, examples)
        seconds, row_bytes = time_batches(
            program, examples, self.augment, self.key, check_batch_size(batch_size), batches
        )
        return Estimate.of(
            examples=examples.count,
            views=self._settings["views"],
            seconds_per_example=seconds,
            row_bytes=row_bytes,
            memory=sum(4 * int(np.prod(each.shape)) for each in teacher.variables)
            + 3 * batch_size * (examples.nbytes + program.layout.row_bytes),
        )

    def _program(self, teacher: Teacher, examples: Examples, dtype: str | None = None) -> TeacherProgram:
        """Return the teacher, compiled for these examples."""
        settings = self._settings
        kept = {"names": self.taps, "top_k": settings["top_k"], "dtype": dtype or settings["dtype"]}
        kinds = {name: teacher.kind(name) for name in self.taps}
        packed = kept["dtype"] == "packed"

        def predict(x: Any) -> dict[str, soft_targets.Parts]:
            return encoded(teacher, cached_columns.as_given(x, self.columns), **kept)

        spec = TargetSpec(predict, kinds, self.key, settings["check_bytes"], packed)
        return TeacherProgram(spec, examples, self.augment)

    def _read(self) -> dict[str, Any]:
        """Read the manifest, and compare it with what is given here."""
        path = self.path / manifest.MANIFEST
        if not path.exists():
            raise ValueError(unfinished(self.path))
        content = json_checks.read_manifest(path)
        if self._teacher is not None:
            here = code_fingerprints.comparable(self._settings, content)
            if content["format"] < manifest.FORMAT:
                here = {name: each for name, each in here.items() if name not in NEW}
            if content["format"] == format_1.FORMAT:
                here = format_1.comparable({**here, "format": format_1.FORMAT}, self._teacher)
            manifest.refuse_difference(path, content, here)
        elif content["augmented"] != (self.augment is not None) or (content["key"] is None) != (self.key is None):
            raise ValueError(
                f"{str(path)!r} was built {'with' if content['augmented'] else 'without'} `augment`, and with key = "
                f"{content['key']!r}. Received: augment={self.augment!r}, key={self.key!r}. Give the same."
            )
        elif self.template is not None:
            manifest.refuse_difference(path, content, {"template": self.template})
        self._manifest = content
        return content

    def _require(self) -> None:
        """Read the manifest where that has not happened, and compare it with the teacher as it is now."""
        self._look_at_teacher()
        if self._manifest is None or self._teacher is not None:
            self._settings = self._read()

    def _accept(self, examples: Examples, verbose: int) -> None:
        """Compare a finished cache with the teacher and the data set that were to be built into it."""
        self._require()
        self._check_dataset(examples)
        if verbose:
            info(f"The cache at {self.path} is finished already")

    def _look_at_teacher(self) -> None:
        if self._teacher is not None:  # which may have learned since the cache was opened
            self._settings = {**self._settings, **teacher_fingerprints.of_teacher(self._teacher, self.taps)}

    def _require_teacher(self) -> Teacher:
        if self._teacher is None:
            raise ValueError("Expected a cache with its teacher: TeacherCache(path, teacher=teacher). It has none.")
        return self._teacher

    def _check_dataset(self, examples: Examples) -> None:
        """Compare a data set with the one that the cache was built for, as far as can be seen before it is read."""
        here = of_dataset(examples, self.augment, self._settings["views"])
        if self.key is not None:
            here = {"inputs": here["inputs"]}  # order and number are free
        elif examples.count is None:
            del here["count"]
        manifest.refuse_difference(self.path / manifest.MANIFEST, self._manifest or {}, here)

    def _view(self) -> int:
        if self.epoch is None:
            raise ValueError(
                f"The cache at {str(self.path)!r} has several views, of which each epoch uses one. Give the Distiller "
                "this very cache, which then follows them: teachers.Cached(cache). Elsewhere: cache.epoch = epoch."
            )
        return self.epoch % self._settings["views"]
