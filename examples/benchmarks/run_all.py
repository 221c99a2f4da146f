"""All benchmarks, one after the other, and at the end a table of every aim: its value, its limit, met or missed.

    python examples/benchmarks/run_all.py                           # all of RESULTS.md; half a day on two CPU cores
    python examples/benchmarks/run_all.py --only training growth    # some of them
    python examples/benchmarks/run_all.py --smoke                   # each with few steps: does it run? some minutes

What the scripts print is passed on as it comes. `make benchmark` runs this script. A missed aim is reported and fails
nothing; the exit status is 1 where a script fails. In a smoke run, whose times mean nothing, two run side by side.
"""

import argparse
import concurrent.futures
import itertools
import pathlib
import shutil
import subprocess
import sys

from aims import Aim, found_in

FOLDER = pathlib.Path(__file__).parent

#: The arguments of each run of a script, and those of a smoke run. The longest, which have no aims, come last.
BENCHMARKS = {
    "training": (["--steps 1500"], ["--steps 4 --imports 1"]),
    "growth": ([""], ["--smoke"]),
    "first_step": ([""], ["--smoke"]),
    "loss_cost": ([""], ["--rounds 2"]),
    "fused_heads": ([""], ["--smoke --rounds 2"]),
    "generation": ([""], ["--smoke"]),
    "sparse_targets": ([""], ["--smoke"]),
    "epochs": (["--rounds 7", "--rounds 5 --steps 16"], ["--dataset digits --images 512 --rounds 1"]),
    "cache": ([""], [f"--only {part} --examples 512 --rounds 2" for part in ("build", "speed", "size")]),
    "accelerator": (["" if shutil.which("nvidia-smi") else "--smoke"], ["--smoke --pairs text"]),
    "backbones": ([""], ["--smoke"]),
    "xla": ([""], ["--only dense --rounds 2"]),
    "serving": ([""], ["--smoke"]),
    "deployment": ([""], ["--smoke"]),
    "quantization": ([""], ["--smoke"]),
    "low_rank": ([""], ["--smoke"]),
    "mixed_files": ([""], ["--smoke"]),
    "short_runs": (["", "--learning-rate 1e-2"], ["--smoke"]),
    "teachers": ([""], ["--smoke"]),
    "methods": ([""], ["--smoke"]),
    "levers": ([""], ["--smoke"]),
    "horizons": ([""], ["--smoke"]),
    "lengths": ([""], ["--smoke"]),
    "one_budget": ([""], ["--smoke"]),
}


def main() -> None:
    options = read_arguments()
    chosen = list(options.only)
    if "serving" in chosen and shutil.which("wrk") is None:
        chosen.remove("serving")
        print("Left out: serving.py, which needs wrk (apt install wrk)")
    commands = [f"{name}.py {arguments}".strip() for name in chosen for arguments in BENCHMARKS[name][options.smoke]]
    with concurrent.futures.ThreadPoolExecutor(2 if options.smoke else 1) as pool:
        runs = list(pool.map(lambda command: run(command, at_once=not options.smoke), commands))
    print_aims(dict(zip(commands, (aims for aims, _ in runs), strict=True)))
    failed = [command for command, (_, status) in zip(commands, runs, strict=True) if status]
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def run(command: str, at_once: bool) -> tuple[list[Aim], int]:
    """Run a script; pass on what it prints, line by line or at its end; return its aims and its exit status."""
    script, *arguments = command.split()
    lines = []
    with subprocess.Popen(
        [sys.executable, "-u", FOLDER / script, *arguments],
        stdout=subprocess.PIPE,
        stderr=None if at_once else subprocess.STDOUT,
        text=True,
    ) as process:
        if at_once:
            print(f"\n== {command}\n", flush=True)
        for line in process.stdout or ():
            lines.append(line)
            if at_once:
                print(line, end="", flush=True)
    if not at_once:
        print(f"\n== {command}\n\n{''.join(lines)}", flush=True)
    return found_in(lines), process.returncode


def print_aims(found: dict[str, list[Aim]]) -> None:
    print("\n== The aims")
    for command, aims in found.items():
        for heading, group in itertools.groupby(aims, lambda aim: aim.heading):
            print(f"\n{': '.join(filter(None, (command, heading)))}")
            for aim in group:
                print(f"    {aim.what:<76}{aim.value:>10}  at most {aim.limit:>6}: {aim.verdict}")
    every = [aim.verdict for aims in found.values() for aim in aims]
    print(f"\n{every.count('met')} of {len(every)} aims are met")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(BENCHMARKS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="some (default: all)")
    parser.add_argument("--smoke", action="store_true", help="each with few steps, two side by side")
    return parser.parse_args()


if __name__ == "__main__":
    main()
