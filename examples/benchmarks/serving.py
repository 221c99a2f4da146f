"""The fraud student behind HTTP: requests a second, and how long they take; beside its teacher behind the same service.

    python examples/benchmarks/serving.py            # a minute, and a minute more for the training where it is not done
    python examples/benchmarks/serving.py --smoke    # seconds: does it run?

examples/serve.py runs as a process of its own, and wrk, a load generator in C, sends requests by loopback (apt install
wrk). One connection shows how long a response takes without other clients; 16, each of which sends its next request as
soon as it has a response, how much the service can do, and how long a client waits when it is always busy. locust, in
Python, took as much of the processor as the service does: it measured itself, at a third of the requests.

What it prints on two CPU cores is in RESULTS.md, under "Serving".
"""

import argparse
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

EXAMPLES = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(EXAMPLES))

from fraud import generate  # noqa: E402

WRK = """
wrk.method = "POST"
local bodies, next_one = {{}}, 0
for line in io.lines("{bodies}") do bodies[#bodies + 1] = line end
function request()
  next_one = next_one % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[next_one])
end
function done(summary, latency, requests)
  local bad = summary.errors
  io.write(string.format('{{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d}}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    bad.connect + bad.read + bad.write + bad.status + bad.timeout))
end
"""


def main() -> None:
    options = read_arguments()
    models = exported(options.output, options.smoke)
    x, _ = generate(2_000, seed=5)
    with tempfile.TemporaryDirectory() as folder:
        scripts = {rows: write_script(pathlib.Path(folder), x.tolist(), rows) for rows in (1, 100)}
        print(
            f"{'':<12}{'transactions':>13}{'connections':>13}{'requests/s':>12}{'transactions/s':>16}{'p50':>11}{'p99':>11}"
        )
        for name, model in models.items():
            with service(model) as address:
                for rows, script in scripts.items():
                    path = "score" if rows == 1 else "scores"
                    load(f"{address}/{path}", script, 16, 1)  # warms up
                    for connections in (1, 16):
                        show(name, rows, connections, load(f"{address}/{path}", script, connections, options.seconds))


def exported(output: pathlib.Path, smoke: bool) -> dict[str, pathlib.Path]:
    """Return the newest exports of an earlier run, or train and export now."""
    names = {"student": "fraud", "teacher": "teacher"}
    found = {
        title: sorted((output / name).glob("[0-9]*"), key=lambda path: int(path.name)) for title, name in names.items()
    }
    if not all(found.values()):
        command = [sys.executable, EXAMPLES / "fraud_models.py", "--output", output, *(["--smoke"] if smoke else [])]
        subprocess.run(command, check=True)  # in another process, so that TensorFlow's threads are not measured
        return exported(output, smoke)
    return {title: paths[-1] for title, paths in found.items()}


@contextlib.contextmanager
def service(model: pathlib.Path) -> Iterator[str]:
    """Serve a model, as long as the context lasts; yield the address."""
    command = [sys.executable, EXAMPLES / "serve.py", model, "--port", "0", "--drain", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            addresses = (re.search(r"http://\S+", line) for line in process.stdout)
            yield next(found.group() for found in addresses if found)
        finally:
            process.terminate()


def write_script(folder: pathlib.Path, x: list[list[float]], rows: int) -> pathlib.Path:
    """Write the requests of wrk: transactions one after another, alone or in batches."""
    bodies, script = folder / f"{rows}.jsonl", folder / f"{rows}.lua"
    parts = [{"transaction": row} for row in x]
    if rows > 1:
        parts = [{"transactions": x[start : start + rows]} for start in range(0, len(x), rows)]
    bodies.write_text("".join(f"{json.dumps(part)}\n" for part in parts))
    script.write_text(WRK.format(bodies=bodies))
    return script


def load(address: str, script: pathlib.Path, connections: int, seconds: int) -> dict[str, int]:
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    output = subprocess.run([*command, "--script", script, address], capture_output=True, text=True, check=True).stdout
    result = json.loads(output[output.index("{") :])
    if result["errors"] or not result["requests"]:
        raise SystemExit(f"Expected a response to every request. Received: {result}")
    return result


def show(name: str, rows: int, connections: int, result: dict[str, int]) -> None:
    rate = 1e6 * result["requests"] / result["microseconds"]
    print(
        f"{name:<12}{rows:>13}{connections:>13}{rate:>12,.0f}{rows * rate:>16,.0f}"
        f"{result['p50'] / 1000:>8.2f} ms{result['p99'] / 1000:>8.2f} ms",
        flush=True,
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="of each load (default: 8)")
    parser.add_argument("--smoke", action="store_true", help="a second each, and models that have hardly learned")
    parser.add_argument("--output", type=pathlib.Path, default="runs/serve", help="where the models are kept")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is needed for the load: apt install wrk, or brew install wrk")
    if options.smoke:
        options.seconds, options.output = 1, options.output / "smoke"
    return options


if __name__ == "__main__":
    main()
