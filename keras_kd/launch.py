"""Run a script as several workers on this machine: `python -m keras_kd.launch --workers 2 script.py [ARGUMENTS]`.

Each worker is a process with a TF_CONFIG of its own, as `tf.distribute.MultiWorkerMirroredStrategy` and
`TeacherCache.build` read it; its lines are marked with its number. If one fails or cannot be started, the others are
ended, and its exit code is returned (128 plus the signal's number where it was killed). On several machines use what
runs there: a SLURM job needs no TF_CONFIG
(`MultiWorkerMirroredStrategy(tf.distribute.cluster_resolver.SlurmClusterResolver())`), Kubeflow's TFJob sets it.

No worker outlives the launcher, and no process that a worker has started outlives that worker: SIGINT, SIGTERM and
SIGHUP are passed on, what is left after ten seconds or at a second signal is killed, and if the launcher itself is
killed, so are they. A worker is a session of its own for this; a process that leaves that session is left alone. On
Windows, which has no such groups, only the workers themselves are ended, and not where the launcher is killed.

There is no well-kept tool for this: torchrun is PyTorch's alone, Horovod is no longer developed, and Ray is a platform.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

#: Seconds that workers have to end by themselves, once they are signalled.
_PATIENCE = 10

_POSIX = os.name == "posix"
_KILL = signal.SIGKILL if _POSIX else signal.SIGTERM

#: Run by a process of its own. A line starts or ends its care for a worker; its input ends when the launcher does.
#: A parent-death signal (Linux alone) would reach the workers, but not the processes that these have started.
_GUARD = """
import os, signal, sys
workers = set()
for line in sys.stdin:
    workers ^= {int(line)}
for worker in workers:
    try:
        os.killpg(worker, signal.SIGKILL)
    except OSError:
        pass
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the workers, and return 0, or the exit code of the first that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_kd.launch", description="Run a script as several workers on this machine."
    )
    parser.add_argument("--workers", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("script", help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for the script")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"argument --workers: expected at least 1. Received: {options.workers}")
    if not os.path.isfile(options.script):
        parser.error(f"argument script: expected a Python file. Received: {options.script!r}, which is none.")
    command = [sys.executable, "-u", options.script, *options.arguments]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(options.workers)]
    with received() as signals, Workers(signals) as workers:
        for index in range(options.workers):
            try:
                workers.start(command, addresses, index)
            except (OSError, RuntimeError) as error:  # no more processes, or no more threads
                sys.stderr.write(f"worker {index} could not be started: {error}; ending the others\n")
                return 1
        return workers.first_failure()


def free_ports(count: int) -> list[int]:
    """Return ports that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def received() -> Iterator[list[int]]:
    """Yield the signals that have arrived, and keep them from ending this process.

    An exception from a handler could come between the start of a worker and the note of it. What is ignored stays
    ignored: under `nohup`, SIGHUP.
    """
    found: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may handle signals
        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if _POSIX else [])]
        before = {each: signal.getsignal(each) for each in numbers if signal.getsignal(each) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda number, frame: found.append(number))
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: a handler that is not Python's


class Workers:
    """The processes, their readers and their guard. However the block is left, none of them stays.

    Args:
        signals: those that have arrived; another may be appended at any time.
    """

    def __init__(self, signals: list[int]) -> None:
        self._signals = signals
        self._running: dict[int, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Workers":
        if _POSIX:
            command = [sys.executable, "-I", "-S", "-c", _GUARD]
            self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        return self

    def start(self, command: list[str], addresses: list[str], index: int) -> None:
        """Start one worker, and what passes its lines on."""
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        worker = subprocess.Popen(
            command,
            env=os.environ | {"TF_CONFIG": json.dumps(task)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._running[index] = worker
        self._tell_guard(worker)
        reader = threading.Thread(target=_mark, args=(worker.stdout, index), daemon=True)
        reader.start()
        self._readers.append(reader)

    def first_failure(self) -> int:
        """Wait for all workers or for the first that fails, and return its exit code."""
        while self._running and not self._signals:
            for index, code in self._collect():
                if code:
                    sys.stderr.write(f"worker {index} failed with exit code {code}; ending the others\n")
                    return code if code > 0 else 128 - code
            time.sleep(0.1)
        return 128 + self._signals[0] if self._signals else 0

    def __exit__(self, *error: object) -> None:
        count = len(self._signals)
        for worker in self._running.values():
            _send(worker, self._signals[0] if count else signal.SIGTERM)
        end = time.monotonic() + _PATIENCE
        while self._running and time.monotonic() < end and len(self._signals) == count:
            self._collect()
            time.sleep(0.02)
        for worker in self._running.values():
            _send(worker, _KILL)
            worker.wait()
        for reader in self._readers:
            reader.join(timeout=_PATIENCE)
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()

    def _collect(self) -> list[tuple[int, int]]:
        """Return numbers and exit codes of the workers that have ended since, and end what these have started."""
        ended = [(index, code) for index, worker in self._running.items() if (code := worker.poll()) is not None]
        for index, _ in ended:
            worker = self._running.pop(index)
            _send(worker, _KILL)
            self._tell_guard(worker)
        return ended

    def _tell_guard(self, worker: subprocess.Popen[str]) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(OSError):  # somebody has killed it
                self._guard.stdin.write(f"{worker.pid}\n")
                self._guard.stdin.flush()


def _send(worker: subprocess.Popen[str], number: int) -> None:
    """Send a signal to a worker and what it has started; on Windows, end the worker."""
    with contextlib.suppress(OSError):  # all of them have ended
        os.killpg(worker.pid, number) if _POSIX else worker.terminate()


def _mark(lines: IO[str], index: int) -> None:
    """Pass lines on. Where they are not read any more, the worker gets the error that it would get without launcher."""
    with lines, contextlib.suppress(OSError, ValueError):
        for line in lines:
            shown = line.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8")
            sys.stdout.write(f"[{index}] {shown}")
            sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
