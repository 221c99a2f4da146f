"""Run the notebooks by papermill, two at a time, and keep the executed copies that the site shows.

    python docs/run_notebooks.py [--smoke] [--fresh] [--jobs 2] [--output docs/_build/executed] [NAME ...]

A notebook that was executed, with the same parameters, and has not changed since is left as it is; `--fresh` executes
it all the same, as after a change of keras_kd. `--smoke` takes the notebook's own metadata {"keras_kd": {"smoke":
{"epochs": 1, ...}}} as parameters: every cell, in under a minute.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nbformat

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXECUTED = ROOT / "docs" / "_build" / "executed"


@dataclasses.dataclass(frozen=True)
class Run:
    """One notebook: how long it took, None where it had been executed before, and what went wrong."""

    name: str
    seconds: float | None = None
    error: str = ""


def main() -> None:
    """Run what the command line asks for; the exit code is 1 if a notebook fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks, as 01_quickstart (default: all)")
    parser.add_argument("--smoke", action="store_true", help="with the notebooks' own parameters for a minute each")
    parser.add_argument("--fresh", action="store_true", help="execute also those that have not changed")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--output", type=pathlib.Path, default=EXECUTED, help="default: docs/_build/executed")
    options = parser.parse_args()
    found = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    unknown = sorted(set(options.names) - set(found))
    if unknown:
        parser.error(f"no notebooks of these names: {unknown}. There are {list(found)}.")
    chosen = [path for name, path in found.items() if not options.names or name in options.names]
    if not run_all(chosen, options.output, smoke=options.smoke, fresh=options.fresh, jobs=options.jobs):
        sys.exit(1)


def run_all(paths: list[pathlib.Path], folder: pathlib.Path, *, smoke: bool, fresh: bool, jobs: int = 2) -> bool:
    """Run notebooks, print a line for each as it ends, and return whether all are well."""
    folder.mkdir(parents=True, exist_ok=True)
    width = max((len(path.stem) for path in paths), default=0)
    well = True
    with ThreadPoolExecutor(jobs) as pool:
        for run in pool.map(lambda path: run_one(path, folder / path.name, smoke=smoke, fresh=fresh), paths):
            took = "  as before" if run.seconds is None else f"{run.seconds:8.0f} s"
            print(f"  {run.name:<{width}} {took}  {'FAILED' if run.error else ''}".rstrip(), flush=True)
            if run.error:
                well = False
                print(f"\n{run.error}\n", flush=True)
    return well


def run_one(path: pathlib.Path, target: pathlib.Path, *, smoke: bool, fresh: bool) -> Run:
    """Execute one notebook into `target`, in a folder of its own, unless what stands there is of the same notebook."""
    notebook = nbformat.read(path, as_version=4)
    parameters = smoke_parameters(path, notebook) if smoke else {}
    key = hashlib.sha256(path.read_bytes() + json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    if not fresh and target.exists() and nbformat.read(target, as_version=4).metadata.get("executed_from") == key:
        return Run(path.stem)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        raw = pathlib.Path(folder) / path.name
        (raw.parent / "examples").symlink_to(ROOT / "examples")  # as at the root, where a notebook may import from it
        command = [sys.executable, "-m", "papermill", str(path), str(raw), "--kernel", "python3", "--no-progress-bar"]
        for name, value in parameters.items():
            command += ["--parameters_yaml", json.dumps({name: value})]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(
            [*command, "--cwd", folder], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            return Run(path.stem, seconds, first_error(raw) or done.stderr.strip())
        executed = nbformat.read(raw, as_version=4)
    executed.metadata = {**notebook.metadata, "executed_from": key}  # without papermill's paths of this machine
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    nbformat.write(executed, target)
    return Run(path.stem, seconds)


def smoke_parameters(path: pathlib.Path, notebook: Any) -> dict[str, Any]:
    """Return a notebook's parameters for a run of a minute, or raise an error where it has none, or unknown ones."""
    parameters = notebook.metadata.get("keras_kd", {}).get("smoke")
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    known = set(re.findall(r"^(\w+)\s*=", "\n".join(cells), re.MULTILINE))
    if parameters is None or not set(parameters) <= known:
        raise ValueError(
            f"Expected the metadata of {path.name} to hold {{'keras_kd': {{'smoke': ...}}}}, with names of its cell "
            f"tagged 'parameters': {sorted(known)}. Received: {parameters}."
        )
    return parameters


def first_error(path: pathlib.Path) -> str:
    """Return the cell of an executed notebook that failed, and its traceback; nothing where none did."""
    if not path.exists():
        return ""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
                return f"In the cell\n\n{cell.source}\n\n{traceback}"
    return ""


if __name__ == "__main__":
    main()
