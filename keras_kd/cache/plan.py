"""The plan of a build: which job writes which shards, and the end of the last job."""

import contextlib
import dataclasses
import math
import os
import pathlib
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd._internal import code_fingerprints
from keras_kd._internal.log import info
from keras_kd._internal.number_formats import duration, size
from keras_kd._version import __version__
from keras_kd.cache import json_checks, manifest, shards
from keras_kd.cache.elements import Augment, Examples
from keras_kd.cache.layout import Layout

#: Workers of a cluster wait for each other: at least these seconds, and this many times what a shard took here.
_PATIENCE, _SHARDS_MISSED = 600.0, 20.0


@dataclasses.dataclass(frozen=True)
class Job:
    """A share of the work: number `index` of `count`."""

    index: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        """The name of the files that belong to this job alone."""
        return f"job-{self.index:05d}-of-{self.count:05d}"


def job_of_shard(shard: Any) -> Job:
    """Return the job of a share (index, count) of the work, or the only one where that is None.

    Raises:
        ValueError: it is no such share.
    """
    if shard is None:
        return Job()
    whole = isinstance(shard, (tuple, list)) and len(shard) == 2 and all(isinstance(each, int) for each in shard)
    if not whole or not 0 <= shard[0] < shard[1]:
        raise ValueError(f"Expected `shard` to be (index, count) with 0 <= index < count. Received: shard={shard!r}")
    return Job(*shard)


def make_plan(
    settings: dict[str, Any],
    layout: Layout,
    examples: Examples,
    augment: Augment | None,
    batch_size: int,
    job: Job,
) -> dict[str, Any]:
    """Return all that decides about the bytes of a cache, as plain values.

    Args:
        settings: see `cache_settings.make_settings`.
        layout: of a row.
        examples: the data set.
        augment: see `TeacherCache`.
        batch_size: examples that the teacher sees at a time.
        job: one of those that share the work.
    """
    versions = {"keras_kd": __version__, "keras": keras.__version__, "tensorflow": tf.__version__}
    return {
        "format": manifest.FORMAT,
        "versions": versions,
        **settings,
        **of_dataset(examples, augment, settings["views"]),
        "layout": layout.get_config(),
        "batch_size": batch_size,
        "jobs": job.count,
        "rows_per_record": shards.rows_per_record(layout.row_bytes, batch_size),
        "rows_per_shard": shards.rows_per_shard(layout.row_bytes, batch_size, examples.count, job.count),
    }


def of_dataset(examples: Examples, augment: Augment | None, views: int) -> dict[str, Any]:
    """Return what distinguishes one data set, and one augmentation, from another before they are read."""
    found: dict[str, Any] = {
        "inputs": examples.inputs,
        "count": examples.count,
        "first_examples": examples.digest(),
    }
    if augment is not None:
        found["augmentation"] = examples.digest_of_views(augment, views)
    return found


def begin(folder: pathlib.Path, plan: dict[str, Any]) -> bool:
    """Write down the plan, or compare it with the one that is there; the lock of the job is held.

    Returns:
        Whether there is something to build: another process may have finished the cache since it was looked for.

    Raises:
        ValueError: the folder holds something else, or links.
    """
    path = folder / manifest.PLAN
    shards.refuse_links(folder)
    try:
        there = json_checks.read_plan(path)
    except FileNotFoundError:
        if (folder / manifest.MANIFEST).exists():  # which is written before the plan is removed
            return False
        if next(folder.glob("view-*"), None) is not None:
            raise ValueError(
                f"{str(path)!r} is missing beside the files of an unfinished cache. Remove {str(folder)!r}."
            ) from None
        manifest.write(path, plan)
        return True
    here = {name: value for name, value in plan.items() if name != "versions"}
    manifest.refuse_difference(path, there, code_fingerprints.comparable(here, there))
    return True


def announcement(folder: pathlib.Path, plan: dict[str, Any], job: Job) -> str:
    """Return a line about the work to come."""
    row_bytes = Layout.from_config(plan["layout"]).row_bytes
    if plan["count"] is None:
        return f"{row_bytes} bytes an example and view, into {folder}"
    written = size(plan["count"] * plan["views"] * row_bytes, "MB")
    share = f", {job.name}" if job.count > 1 else ""
    return f"{plan['count']:,} examples x {plan['views']} views: {written} into {folder}{share}"


def missing(folder: pathlib.Path, plan: dict[str, Any]) -> list[str]:
    """Return the jobs that have not reported their end."""
    return [f"job {job.index} of {job.count}" for job in _jobs(plan) if not (folder / f"{job.name}.json").exists()]


def unfinished(folder: pathlib.Path) -> str:
    """Return the message for a folder without a finished cache."""
    path = folder / manifest.PLAN
    if not path.exists():
        return f"There is no cache at {str(folder)!r}. Build one: TeacherCache(path, teacher=teacher).build(dataset)."
    names = ", ".join(missing(folder, json_checks.read_plan(path))) or "its manifest"
    return (
        f"The cache at {str(folder)!r} is not finished. Not done: {names}. Call build again there, with the same "
        "arguments: it goes on where it was."
    )


def finish(folder: pathlib.Path, plan: dict[str, Any]) -> bool:
    """Write the manifest if all jobs have reported their end; return whether it is there.

    Args:
        folder: of the cache.
        plan: see `make_plan`.

    Raises:
        ValueError: passes over the data set saw different numbers of examples, or two examples have one key.
    """
    names = [f"{job.name}.json" for job in _jobs(plan)]
    try:
        ends = [json_checks.read_end(folder / name) for name in names]
    except FileNotFoundError:  # not done; or all done, and tidied up by another job
        return (folder / manifest.MANIFEST).exists()
    count = plan["count"] if plan["count"] is not None else max(ends)
    if count == 0:
        raise ValueError("Expected at least one example. Received an empty data set.")
    described = {}
    for view in range(plan["views"]):
        for number in range(-(-count // plan["rows_per_shard"])):
            path = shards.shard_path(folder, view, number)
            rows = min(plan["rows_per_shard"], count - number * plan["rows_per_shard"])
            if not path.exists() or shards.rows_in(path, plan) != rows:
                raise ValueError(
                    f"Expected {rows:,} examples in {str(path)!r}: the data set had {count:,} in another pass or job. "
                    "A cache needs the same examples in the same order each time. Remove the folder and build again."
                )
            described[path.relative_to(folder).as_posix()] = shards.describe(path)
    shards.check_records([folder / name for name in described])
    _check_keys(folder, plan, count)
    manifest.write(folder / manifest.MANIFEST, {**plan, "count": count, "files": described})
    partial = [*folder.glob("view-*/partial-*"), *folder.glob("partial-*.json")]  # of builds that were killed
    partial = [path for path in partial if not path.name.endswith(manifest.MANIFEST)]  # another job may be here, too
    for leftover in (folder / manifest.PLAN, *(folder / name for name in names), *partial):
        leftover.unlink(missing_ok=True)
    return True


def _check_keys(folder: pathlib.Path, plan: dict[str, Any], count: int) -> None:
    if plan["key"] is None:
        return
    distinct = min(len(np.unique(shards.keys(folder, plan, count, view))) for view in range(plan["views"]))
    if distinct < count:
        raise ValueError(
            f"Expected a key for each example. {count:,} examples have {distinct:,} different ones: name another `key`."
        )


def job_of_cluster() -> Job | None:
    """Return this worker's share where TF_CONFIG names several workers, or None."""
    if "TF_CONFIG" not in os.environ:
        return None
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    cluster = resolver.cluster_spec().as_dict()
    kinds = [kind for kind in ("chief", "worker") if kind in cluster]
    workers = [(kind, index) for kind in kinds for index in range(len(cluster[kind]))]
    mine = (resolver.task_type, resolver.task_id)
    return Job(workers.index(mine), len(workers)) if len(workers) > 1 and mine in workers else None


def wait(folder: pathlib.Path, plan: dict[str, Any], seconds_per_shard: float) -> None:
    """Wait until the other workers have finished a cache, and report every minute which are missing.

    Args:
        folder: of the cache.
        plan: see `make_plan`.
        seconds_per_shard: what one has taken here at most, by which is judged for how long nothing may be written.

    Raises:
        TimeoutError: nothing was written for too long.
    """
    patience = max(_PATIENCE, _SHARDS_MISSED * seconds_per_shard)
    reported, moved, before = -math.inf, time.monotonic(), None
    while not (folder / manifest.MANIFEST).exists():
        now, progress = time.monotonic(), _progress(folder)
        if progress != before:
            moved, before = now, progress
        names = ", ".join(missing(folder, plan))
        if now - moved > patience:
            raise TimeoutError(
                f"Expected {names} to write their shards into {str(folder)!r}. Nothing was written for "
                f"{duration(now - moved)}: a worker has ended, or was not started. What is finished is kept: start all "
                "workers again, and they go on where they were."
            )
        if now - reported >= 60:
            info(f"Waiting for {names} to write their shards")
            reported = now
        time.sleep(min(1.0, patience / 10))


def _progress(folder: pathlib.Path) -> set[tuple[str, int]]:
    """Return what changes as long as any job writes: names of files, and sizes of those that are not finished."""
    found = set()
    for path in (*folder.glob("*"), *folder.glob("view-*/*")):
        with contextlib.suppress(OSError):  # renamed since
            found.add((path.name, path.stat().st_size if path.name.startswith("partial-") else 0))
    return found


def _jobs(plan: dict[str, Any]) -> list[Job]:
    return [Job(index, plan["jobs"]) for index in range(plan["jobs"])]
