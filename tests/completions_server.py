"""A server of completions with one of our models: `python -m tests.completions_server [PORT]` prints its address.

It scores prompts by the OpenAI protocol, as vLLM does: `POST /v1/completions` with echo, logprobs and max_tokens=0. Its
faults are switched on by `POST /switches` of JSON, see `SWITCHES`; `GET /switches` returns how often it was asked, and
what with last.
"""

import atexit
import contextlib
import functools
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np

MODEL, WORDS, LIMIT, KEY = "writer", 8, 8, "key-of-the-tests"

#: What a server does, until it is told otherwise.
SWITCHES = {
    "statuses": [],  # of the next answers
    "always": 0,  # the status of all answers
    "after": -1,  # this many answers, all are 500
    "killed_after": -1,  # this many answers, it kills itself
    "seconds": 0.0,  # before each answer
    "random_seconds": 0.0,  # up to so much more
    "no_logprobs": False,
    "no_echo": False,
    "shift": 0,  # added to each token that it returns: another tokenizer
    "begin": False,  # puts a token at the beginning
    "limit": LIMIT,  # of logprobs
    "capped": 0,  # returns no more classes than these, and says nothing
    "names": "",  # tokens by strings that begin with this, in the place of ids
    "same": 0,  # as many strings are one
    "key": "",  # that is needed
    "text": "",  # in the place of an answer
}


class State:
    """What all threads share."""

    def __init__(self, predict) -> None:
        self.predict, self.lock = predict, threading.Lock()
        self.switches, self.asked, self.last, self.key, self.busy, self.most_busy = dict(SWITCHES), 0, {}, None, 0, 0


def handler(state: State) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(200, {"asked": state.asked, "last": state.last, "key": state.key, "busy": state.most_busy})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/switches":
                state.switches, state.asked, state.most_busy = {**SWITCHES, **body}, 0, 0
                return self.answer(200, {})
            with state.lock:
                state.asked, state.last, state.key = state.asked + 1, body, self.headers.get("authorization")
                state.busy += 1
                state.most_busy = max(state.busy, state.most_busy)
            try:
                self.answer(*completion(state, self.path, body, self.headers.get("authorization")))
            finally:
                state.busy -= 1

        def answer(self, status, content):
            content = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("content-length", str(len(content.encode())))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content.encode())

        def log_message(self, *arguments):
            pass

    return Handler


def completion(state: State, path: str, body: dict, key: str | None) -> tuple[int, dict | str]:
    """Return the status and the content of an answer."""
    on = state.switches
    if 0 <= on["killed_after"] < state.asked:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(on["seconds"] + on["random_seconds"] * np.random.default_rng(body["prompt"]).random())
    status = on["statuses"].pop(0) if on["statuses"] else on["always"]
    status = 500 if 0 <= on["after"] < state.asked else status
    if status:
        return status, error(f"status {status} for {key}")
    if path != "/v1/completions":
        return 404, {"detail": "Not Found"}
    if on["key"] and key != f"Bearer {on['key']}":
        return 401, error(f"Incorrect API key: {key}")
    if body["model"] != MODEL:
        return 404, error(f"The model `{body['model']}` does not exist.")
    if body["logprobs"] > on["limit"]:
        return 400, error(f"Requested {body['logprobs']} logprobs, which is greater than max allowed: {on['limit']}")
    return (200, on["text"]) if on["text"] else (200, {"choices": [choice(state, body)]})


def error(message: str) -> dict:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def choice(state: State, body: dict) -> dict:
    """Return the prompt with log-probabilities: at each place those of its token, as behind the tokens before."""
    on, sent = state.switches, body["prompt"]
    sent = [1, *sent] if on["begin"] else sent
    if on["no_echo"] or not body["echo"]:
        return {"text": "", "logprobs": {"tokens": [], "top_logprobs": []}}
    if on["no_logprobs"]:
        return {"text": "", "logprobs": None}
    with state.lock:
        logits = np.asarray(state.predict(np.array([sent], "int32")), "float64")[0]
    logarithms = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    by_id = body.get("return_tokens_as_token_ids") and not on["names"]

    def name(number):
        number = (int(number) + on["shift"]) % WORDS
        return f"token_id:{number}" if by_id else f"{on['names']}{0 if number < on['same'] else number}"

    tops = [None]
    for here, row in zip(sent[1:], logarithms, strict=False):
        best = np.argsort(-row, kind="stable")[: on["capped"] or body["logprobs"]]
        chosen = best if here in best else [here, *best]  # as vLLM
        tops.append({name(number): float(row[number]) for number in chosen})
    return {"text": "", "logprobs": {"tokens": [name(number) for number in sent], "top_logprobs": tops}}


class Server:
    """A server in a process of its own."""

    def __init__(self, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.completions_server", str(port)]
        root = pathlib.Path(__file__).parents[1]
        self.process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        self.url = f"{self.address}/v1"

    def switch(self, **switches) -> None:
        """Set all switches, and count anew."""
        assert switches.keys() <= SWITCHES.keys()
        self._call(json.dumps(switches).encode())

    def state(self) -> dict:
        """Return how often it was asked since, and with what last."""
        return json.loads(self._call())

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()

    def _call(self, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.address}/switches", data)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.read()


@functools.cache
def shared() -> Server:
    """Return the one server of the tests of this process, which take several seconds to start one."""
    server = Server()
    atexit.register(server.stop)
    return server


def main(port: int) -> None:
    """Serve until killed."""
    import tensorflow as tf

    from tests.writers import writer

    model = tf.function(writer(1, WORDS), input_signature=[tf.TensorSpec((None, None), tf.int32)])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler(State(model)))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
