"""The fraud student behind a small HTTP service.

    python examples/serve.py --train                        # train, distil, export to runs/serve/fraud/1, and serve it
    python examples/serve.py runs/serve/fraud/1 --port 8080   # serve what `kd.export` wrote

    curl localhost:8080/health
    curl localhost:8080/score -d '{"transaction": [48.5,1.2,14.5,0.8,3,600,1,0.6,900,250,0,0,0,0,1,0,0,0,0,0]}'
    curl localhost:8080/scores -d '{"transactions": [[...], [...]]}'

A transaction is its numbers in the order of `fraud.FEATURES`, which /health returns, too. Anything else (another number
of features, text, NaN, a negative number) is refused with 422 and its position, and so is a transaction
for which the model returns no finite score; what is not JSON with 400, more than --most-rows rows with 422, a body
larger than --most-bytes with 413, before all of it is read, and one that has not arrived after --most-seconds with 408.

The model runs in LiteRT: neither TensorFlow nor keras_kd is imported to serve. Each thread has its own interpreter.
On SIGTERM, /health returns 503 and every response closes its connection, so that clients move to another server.
--drain seconds later the service stops listening. Connections that wait to be accepted are accepted first, and requests
that arrive on open connections within --most-seconds get their response; then the process ends. A second signal ends
it at once. TLS, authentication and clients that are slow or silent are left to a proxy before the service.

Training takes about a minute on two CPU cores (--smoke: seconds), seed 0. Single transactions took 0.4 ms (p50) and
0.6 ms (p99) there on one connection, and 16 connections had 3,400 responses a second: examples/benchmarks/serving.py.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import pathlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import fastapi
import numpy as np
import pydantic
import pydantic_core
import uvicorn
from ai_edge_litert.interpreter import Interpreter
from anyio import to_thread
from fraud import FEATURES, LABELS
from starlette.requests import ClientDisconnect

#: The largest float32.
LARGEST = float(np.finfo("float32").max)


class Model:
    """A LiteRT file that `kd.export` wrote, for all threads."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.name, self.version = folder.resolve().parent.name, folder.name
        self._content = read_checked(folder)
        self._own = threading.local()
        width = self._interpreter(1).get_input_details()[0]["shape"][1]
        if width != len(FEATURES):
            raise SystemExit(f"Expected a model of {len(FEATURES)} features. Received one of {width}: {folder}")

    def __call__(self, rows: list[list[float]]) -> np.ndarray:
        """Return probabilities, (rows, labels)."""
        interpreter = self._interpreter(len(rows))
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.array(rows, "float32"))
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    def _interpreter(self, rows: int) -> Interpreter:
        """Return this thread's interpreter for that many rows: one for single transactions, one for batches."""
        kept = self._own.__dict__
        kind = "single" if rows == 1 else "batch"
        if kind not in kept:
            kept[kind] = Interpreter(model_content=self._content, num_threads=1)
        interpreter = kept[kind]
        given = interpreter.get_input_details()[0]
        if kept.get(f"{kind} rows") != rows:
            interpreter.resize_tensor_input(given["index"], (rows, given["shape"][1]))
            interpreter.allocate_tensors()
            kept[f"{kind} rows"] = rows
        return interpreter


def read_checked(folder: pathlib.Path) -> bytes:
    """Return the LiteRT file of an export, if it is what was written and compared with the student there."""
    try:
        artefacts = json.loads((folder / "export.json").read_text())["artefacts"]
    except FileNotFoundError:
        raise SystemExit(f"Expected a folder that kd.export wrote, or --train. Received: {folder}") from None
    found = [each for each in artefacts if each["name"] == "litert float32" and each["passed"]]
    if not found:
        raise SystemExit(f"Expected an export with formats=('litert',) that has passed its comparison: {folder}")
    ((file, checksum),) = found[0]["checksums"].items()
    content = (folder / file).read_bytes()
    if hashlib.sha256(content).hexdigest() != checksum:
        raise SystemExit(f"{folder / file} is not what was exported: its checksum differs from that in export.json.")
    return content


def make_app(model: Model, options: argparse.Namespace) -> fastapi.FastAPI:
    number = Annotated[float, pydantic.Field(strict=True, ge=0, le=LARGEST, allow_inf_nan=False)]
    row = Annotated[list[number], pydantic.Field(min_length=len(FEATURES), max_length=len(FEATURES))]
    rows = Annotated[list[row], pydantic.Field(min_length=1, max_length=options.most_rows, fail_fast=True)]
    one = pydantic.create_model("Transaction", __config__={"extra": "forbid"}, transaction=row)
    many = pydantic.create_model("Transactions", __config__={"extra": "forbid"}, transactions=rows)
    app = fastapi.FastAPI(title="Fraud screening", version=model.version)
    app.state.draining = False
    app.add_middleware(Leaving, state=app.state)

    def respond(content: Any, status: int = 200) -> fastapi.Response:
        return fastapi.Response(pydantic_core.to_json(content), status, media_type="application/json")

    @app.get("/health")
    async def health() -> fastapi.Response:
        state = {"status": "draining" if app.state.draining else "ready", "model": model.name, "version": model.version}
        return respond({**state, "features": FEATURES, "labels": LABELS}, 503 if app.state.draining else 200)

    @app.post("/score", openapi_extra=body_of(one))
    async def score(request: fastapi.Request) -> fastapi.Response:
        given = one.model_validate_json(await read(request, options.most_bytes, options.most_seconds))
        found = finite(model([given.transaction]), lambda row: ("transaction",))
        return respond(dict(zip(LABELS, found[0].tolist(), strict=True)))

    @app.post("/scores", openapi_extra=body_of(many))
    async def scores(request: fastapi.Request) -> fastapi.Response:
        given = many.model_validate_json(await read(request, options.most_bytes, options.most_seconds))
        found = await to_thread.run_sync(model, given.transactions)  # others do not wait for a large batch
        return respond({"labels": LABELS, "scores": finite(found, lambda row: ("transactions", row)).tolist()})

    @app.exception_handler(pydantic.ValidationError)
    async def refuse(request: fastapi.Request, error: pydantic.ValidationError) -> fastapi.Response:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:5]
        return respond({"detail": found}, 400 if found[0]["type"] == "json_invalid" else 422)

    @app.exception_handler(ClientDisconnect)
    async def ignore(request: fastapi.Request, error: ClientDisconnect) -> fastapi.Response:
        return fastapi.Response(status_code=400)  # it is not sent; without this handler, the error would be logged

    return app


class Leaving:
    """Close the connection with every response, as soon as the service is about to end."""

    def __init__(self, app: Any, state: Any) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_last(message: Any) -> None:
            if self.state.draining and message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self.app(scope, receive, send_last)


async def read(request: fastapi.Request, most_bytes: int, most_seconds: float) -> bytes:
    """Return the body, or refuse it as soon as it is too large (by its length, before anything is read) or too late."""
    # The rest of a body would be read as the next request: a refusal is the last response on its connection.
    last = {"connection": "close"}
    content = bytearray()
    if int(request.headers.get("content-length", 0)) <= most_bytes:
        try:
            async with asyncio.timeout(most_seconds):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > most_bytes:
                        break
                else:
                    return bytes(content)
        except TimeoutError:
            raise fastapi.HTTPException(408, f"Expected the body within {most_seconds:g} seconds.", last) from None
    raise fastapi.HTTPException(413, f"Expected a body of at most {most_bytes} bytes.", last)


def finite(scores: np.ndarray, place: Callable[[int], tuple[str | int, ...]]) -> np.ndarray:
    """Return the scores, or refuse the rows that have none: near the largest float32, a model's sums overflow."""
    rows = np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist()
    if rows:
        kind = pydantic_core.PydanticCustomError("no_score", "The model returns no finite score for this transaction")
        errors = [{"type": kind, "loc": place(row), "input": None} for row in rows]
        raise pydantic_core.ValidationError.from_exception_data("Scores", errors)
    return scores


def body_of(kind: type[pydantic.BaseModel]) -> dict[str, Any]:
    """Return a body's schema for /docs. FastAPI does not parse it: pydantic reads JSON from the bytes, strictly."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


class Server(uvicorn.Server):
    """Uvicorn, which on SIGTERM lets its clients disconnect, and loses none of those that have connected."""

    def __init__(self, app: fastapi.FastAPI, drain: float, most_seconds: float, **config: Any) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", **config))
        self.app, self.drain, self.most_seconds = app, drain, most_seconds

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.should_exit:  # the second signal
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"Serving on http://{self.config.host}:{port}", flush=True)

    async def shutdown(self, sockets: Any = None) -> None:
        self.app.state.draining = True
        await asyncio.sleep(self.drain)
        await self.stop_listening()
        end = time.monotonic() + self.most_seconds
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for connection in self.server_state.connections:  # silent, or too slow to send or to read
            connection.transport.abort()
        await super().shutdown(sockets)

    async def stop_listening(self) -> None:
        """Close the listening sockets, but accept first what waits there: closing alone would reset it."""
        loop = asyncio.get_running_loop()
        listeners = [listener for server in self.servers for listener in server.sockets]
        for listener in listeners:
            with contextlib.suppress(NotImplementedError):  # the loop of Windows
                loop.remove_reader(listener)
        await asyncio.sleep(0.1)  # asyncio forgets what it has accepted if its server is closed a few turns later
        waiting = []
        for listener in listeners:
            # The duplicate is a plain socket, which asyncio's is not: it can accept.
            with listener.dup() as door, contextlib.suppress(BlockingIOError):
                door.setblocking(False)
                for _ in range(self.config.backlog):
                    waiting.append(door.accept()[0])
        for server in self.servers:
            server.close()
        for each in waiting:
            await loop.connect_accepted_socket(self.protocol, each)

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol of one client's connection, as in `uvicorn.Server.startup`."""
        kind: Any = self.config.http_protocol_class
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def main() -> None:
    options = read_arguments()
    if options.train:
        from fraud_models import train_and_export  # TensorFlow is needed for this alone

        options.model = train_and_export(options.output, options.smoke)["fraud"]
    model = Model(options.model)
    print(f"Model {model.name!r}, version {model.version}", flush=True)
    app, address = make_app(model, options), {"host": options.host, "port": options.port}
    Server(app, options.drain, options.most_seconds, **address, access_log=False).run()


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, nargs="?", help="folder of an export, as runs/serve/fraud/1")
    parser.add_argument("--train", action="store_true", help="train, distil and export first")
    parser.add_argument("--smoke", action="store_true", help="with --train: seconds, and a poor model")
    parser.add_argument("--output", type=pathlib.Path, default="runs/serve", help="of --train (default: runs/serve)")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=int, default=8080, help="default: 8080; 0 for any that is free")
    parser.add_argument("--most-rows", type=int, default=1000, help="transactions in a batch (default: 1000)")
    parser.add_argument("--most-bytes", type=int, default=1_000_000, help="bytes of a body (default: 1000000)")
    seconds = "for a body to arrive, and at the end for all that is left (default: 10)"
    parser.add_argument("--most-seconds", type=float, default=10.0, help=seconds)
    parser.add_argument("--drain", type=float, default=2.0, help="seconds that it listens after SIGTERM (default: 2)")
    options = parser.parse_args()
    if options.train == (options.model is not None):
        parser.error("expected either the folder of an export or --train")
    return options


if __name__ == "__main__":
    main()
