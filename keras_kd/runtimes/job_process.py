"""Run a module as a job, in a process of its own, which may crash, or in this one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
from types import ModuleType
from typing import Any


def run(
    module: ModuleType,
    job: dict[str, Any],
    folder: pathlib.Path,
    fresh: bool,
    environment: dict[str, str] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Run a job.

    Args:
        module: its `main` takes the path of a job in JSON and writes a dict in JSON to the job's `results`, anew after
            each part of the job. It is run as a file and imports nothing of keras_kd.
        job: what it does.
        folder: for the job's file.
        fresh: in a process of its own.
        environment: more variables for that process.
        seconds: after which that process is ended; None for no limit.

    Returns:
        The results; where the process ended too early, those that it had written by then, and the "error".
    """
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    if not fresh:
        module.main(str(path))
        return _read(job)
    command = [sys.executable, "-P", str(module.__file__), str(path)]
    variables = {**os.environ, **(environment or {})}
    arguments: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "env": variables}
    try:
        ended = subprocess.run(command, timeout=seconds, **arguments)
    except subprocess.TimeoutExpired:
        return {**_read(job), "error": f"its process took more than {seconds:g} seconds"}
    results = _read(job)
    if ended.returncode:
        results["error"] = f"its process ended with {_name(ended.returncode)}: {ended.stderr.strip()[-600:]}"
    return results


def _read(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(pathlib.Path(job["results"]).read_text())
    except (FileNotFoundError, ValueError):  # the process ended before or while it wrote them
        return {}


def _name(code: int) -> str:
    return signal.Signals(-code).name if -code in set(signal.Signals) else str(code)
