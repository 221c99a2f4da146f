"""Run a script as several workers on this machine: `python -m keras_kd.launch --workers 2 script.py [ARGUMENTS]`.

Each worker is a process with a TF_CONFIG of its own, as `tf.distribute.MultiWorkerMirroredStrategy` and
`TeacherCache.build` read it; its lines are marked with its number. If one fails, the others are ended, and its exit
code is returned. On several machines use what runs there: a SLURM job needs no TF_CONFIG
(`MultiWorkerMirroredStrategy(tf.distribute.cluster_resolver.SlurmClusterResolver())`), Kubeflow's TFJob sets it.

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
from collections.abc import Iterator, Sequence
from typing import IO


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
    workers, readers = zip(*(start(command, addresses, index) for index in range(options.workers)), strict=True)
    with ended(workers, readers):
        return first_failure(workers)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start(command: list[str], addresses: list[str], index: int) -> tuple[subprocess.Popen, threading.Thread]:
    """Start one worker, and what passes its lines on."""
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    environment = os.environ | {"TF_CONFIG": json.dumps(task)}
    worker = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    reader = threading.Thread(target=_mark, args=(worker.stdout, index), daemon=True)
    reader.start()
    return worker, reader


@contextlib.contextmanager
def ended(workers: Sequence[subprocess.Popen], readers: Sequence[threading.Thread]) -> Iterator[None]:
    """End all workers in the end, however it comes: those that wait for a lost one would wait for ever."""
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.kill()
        for reader in readers:
            reader.join(timeout=10)


def first_failure(workers: Sequence[subprocess.Popen]) -> int:
    """Wait for all workers or for the first that fails, and return its exit code."""
    while True:
        codes = [worker.poll() for worker in workers]
        for index, code in enumerate(codes):
            if code:
                sys.stderr.write(f"worker {index} failed with exit code {code}; ending the others\n")
                return code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.1)


def _mark(lines: IO[str], index: int) -> None:
    for line in lines:
        sys.stdout.write(f"[{index}] {line}")
        sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the workers, too
    sys.exit(main())
