"""Runs side by side: in processes of this machine, on Ray, or wherever an executor takes them.

What crosses is JSON and the path of a folder: the teacher and the students as .keras files, arrays as .npz, functions
by import path. A process loads the common part once, and keeps each run itself as it ends.
"""

import contextlib
import functools
import importlib
import json
import logging
import multiprocessing
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal.files import replace
from keras_kd._internal.log import quiet
from keras_kd._keras import executor_internals
from keras_kd.experiments import run_settings
from keras_kd.experiments.benchmark_run import PARTS, Common, Job, run
from keras_kd.experiments.data_splits import Part
from keras_kd.teachers.base import Teacher

_NAMED = ("processes", "ray")


def check(executor: Any) -> None:
    """Refuse what cannot run TensorFlow side by side.

    Raises:
        TypeError: no executor.
        ValueError: threads, which share Keras's random state; forked processes, in which TensorFlow hangs.
    """
    if executor is None or executor in _NAMED:
        return
    if not isinstance(executor, Executor):
        raise TypeError(
            f"Expected `executor` to be None, one of {_NAMED}, or a concurrent.futures.Executor. Received: {executor!r}"
        )
    if isinstance(executor, ThreadPoolExecutor):
        raise ValueError("Expected an executor of processes. Received threads, which share one random state in Keras.")
    if isinstance(executor, ProcessPoolExecutor) and executor_internals.are_forked(executor):
        raise ValueError(
            "Expected an executor of fresh processes: TensorFlow hangs in forked ones. Give "
            'ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")), or executor="processes".'
        )


@contextlib.contextmanager
def opened(executor: Any, jobs: int) -> Iterator[Executor]:
    """Give an executor, made here if it is named; what has not begun when the block ends is dropped."""
    if isinstance(executor, Executor):
        yield executor
        return
    others = set(multiprocessing.active_children())
    made = _Ray() if executor == "ray" else _processes(jobs)
    try:
        yield made
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # what it has finished is whole, and Ctrl-C should not wait for what it has not
        raise
    finally:
        made.shutdown(wait=True, cancel_futures=True)


def send(common: Common, jobs: list[Job], executor: Any) -> dict[Job, dict[str, Any]]:
    """Write what all jobs share to files, and return each job as JSON that contains their paths.

    Raises:
        ValueError: something that another process cannot make.
    """
    folder = (common.folder / "shared").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    models: dict[int, Any] = {}
    for job in jobs:
        if id(job.model) not in models:
            models[id(job.model)] = _send_model(job.model, folder / f"student-{len(models)}.keras", "a student")
    content = {
        "folder": str(common.folder.resolve()),
        "teacher": _send_teacher(common.teacher, folder),
        "compile_arguments": run_settings.encode(common.compile_arguments, "`compile_arguments`"),
        **{name: _send_part(getattr(common, name), folder) for name in PARTS},
        **{name: getattr(common, name) for name in _PLAIN},
        "batch_size": common.train.batch_size,
    }
    path = folder / "common.json"
    sent = {
        job: {
            "common": str(path),
            **{name: getattr(job, name) for name in ("student", "recipe", "seed")},
            "model": models[id(job.model)],
            "how": run_settings.encode(job.how, f"recipe {job.recipe!r}"),
        }
        for job in jobs
    }
    if executor == "ray" and '"__main__:' in json.dumps([content, *sent.values()]):
        raise ValueError(
            "Expected functions that Ray's processes can import. Received one of the script that is running: move it "
            "to a module of its own."
        )
    replace(path, lambda partial: partial.write_text(json.dumps(content)))
    return sent


def work(sent: dict[str, Any]) -> float:
    """Run one job in this process, and keep it; return the seconds that it took."""
    path = sent["common"]
    common = _receive(path, pathlib.Path(path).stat().st_mtime_ns)
    job = Job(
        sent["student"], sent["recipe"], sent["seed"], _receive_model(sent["model"]), run_settings.decode(sent["how"])
    )
    with quiet():
        return run(common, job).seconds


@functools.lru_cache(maxsize=1)
def _receive(path: str, changed: int) -> Common:
    """Make what all jobs share, once in each process; `changed` distinguishes one benchmark from the next."""
    content = json.loads(pathlib.Path(path).read_text())
    teacher = content["teacher"]
    parts: dict[str, Any] = {name: Part(name, _receive_source(content[name]), content["batch_size"]) for name in PARTS}
    return Common(
        teacher=list(map(_receive_model, teacher)) if isinstance(teacher, list) else _receive_model(teacher),
        compile_arguments=run_settings.decode(content["compile_arguments"]),
        folder=pathlib.Path(content["folder"]),
        **parts,
        **{name: content[name] for name in _PLAIN},
    )


def _send_model(model: Any, path: pathlib.Path, what: str) -> Any:
    """Return JSON for a model, which goes by file, or for a function."""
    if not isinstance(model, keras.Model):
        return run_settings.encode(model, what)
    replace(path, model.save)
    return {"file": str(path)}


def _receive_model(sent: dict[str, Any]) -> Any:
    return keras.saving.load_model(sent["file"], compile=False) if "file" in sent else run_settings.decode(sent)


def _send_teacher(teacher: Any, folder: pathlib.Path) -> Any:
    members = teacher if isinstance(teacher, (list, tuple)) else [teacher]
    if any(isinstance(each, Teacher) for each in members):
        raise ValueError(
            "Expected the teacher of runs in other processes to be a keras.Model, a list of these, or a function of a "
            f"module. Received: {teacher!r}. Leave `executor` out, or give the model."
        )
    sent = [_send_model(each, folder / f"teacher-{n}.keras", "the teacher") for n, each in enumerate(members)]
    return sent if isinstance(teacher, (list, tuple)) else sent[0]


def _send_part(part: Part, folder: pathlib.Path) -> Any:
    """Return JSON for a part of the data: arrays go by file, in the structure that they have."""
    if not part.is_arrays:
        if isinstance(part.source, tf.data.Dataset):
            raise ValueError(
                f"Expected `{part.name}` to be arrays, or a function of a module that makes the tf.data.Dataset, which "
                "cannot cross to another process. Leave `executor` out, or give one of these."
            )
        return run_settings.encode(part.source, f"`{part.name}`")
    path = folder / f"{part.name}.npz"
    leaves: dict[str, Any] = {str(number): np.asarray(leaf) for number, leaf in enumerate(tree.flatten(part.source))}
    replace(path, lambda partial: np.savez(partial, **leaves))
    numbers = iter(leaves)
    return {"arrays": str(path), "structure": tree.map_structure(lambda leaf: next(numbers), part.source)}


def _receive_source(sent: dict[str, Any]) -> Any:
    if "arrays" not in sent:
        return run_settings.decode(sent)
    with np.load(sent["arrays"], allow_pickle=False) as file:
        return tree.map_structure(lambda number: file[number], sent["structure"])


def _processes(jobs: int) -> ProcessPoolExecutor:
    """Return a process for each GPU, or for each two cores."""
    gpus, cores = len(tf.config.list_physical_devices("GPU")), os.cpu_count() or 1
    workers = max(1, min(jobs, gpus or max(2, cores // 2)))
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_share, initargs=(context.Value("i", 0), workers))


def _share(counter: Any, workers: int) -> None:
    """Take a part of the machine for this process, before TensorFlow takes all of it."""
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    gpus = tf.config.list_physical_devices("GPU")
    with contextlib.suppress(RuntimeError):  # the script that is imported again has made TensorFlow begin already
        if gpus:
            tf.config.set_visible_devices(gpus[number % len(gpus)], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(max(1, (os.cpu_count() or 1) // workers))


def _ray() -> Any:
    return importlib.import_module("ray")


class _Ray(Executor):
    """Ray as an executor: the cluster that is connected, or this machine."""

    def __init__(self) -> None:
        try:
            ray = _ray()
        except ImportError as error:
            raise ImportError('executor="ray" needs Ray: pip install ray.') from error
        self._started = not ray.is_initialized()
        if self._started:
            quiet_ray = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(**quiet_ray, **executor_internals.RAY_ON_THIS_MACHINE)
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._work = ray.remote(num_cpus=1, num_gpus=gpus)(work)
        self._sent: list[Any] = []

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `work`, which was registered with Ray before."""
        self._sent.append(self._work.remote(*args, **kwargs))
        return self._sent[-1].future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Drop what has not begun, and stop what was started here."""
        ray = _ray()
        for each in self._sent if cancel_futures else []:
            ray.cancel(each)
        if self._started:
            ray.shutdown()


#: What the runs share and JSON holds as it is.
_PLAIN = ("epochs", "metric", "mode", "keep_best", "label_smoothing", "digests")
