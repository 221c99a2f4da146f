"""The service of examples/serve.py: a real process, tested over real connections."""

import argparse
import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import math
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_kd as kd

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
MOST_BYTES = 20_000
MOST_ROWS = 30
DRAIN = 0.5


@pytest.fixture(scope="module")
def fraud():
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield __import__("fraud")
    finally:
        sys.path.remove(str(EXAMPLES))


def make_student(features=20):
    inputs = keras.Input((features,))
    # The square is 0 for what transactions hold, and overflows above 2e34: infinities of both signs then sum to NaN.
    prepared = ops.log(1.0 + ops.relu(inputs)) + ops.square(1e-15 * inputs)
    hidden = layers.Dense(8, activation="relu")(prepared)
    return keras.Model(inputs, layers.Dense(3, activation="sigmoid")(hidden), name="student")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    keras.utils.set_random_seed(0)
    student, folder = make_student(), tmp_path_factory.mktemp("models") / "fraud" / "7"
    kd.export(student, folder, formats=("litert",), fresh=False)
    return student, folder


def start(folder, drain, most_seconds):
    command = [sys.executable, EXAMPLES / "serve.py", folder, "--port", "0", "--drain", str(drain)]
    limits = ["--most-bytes", str(MOST_BYTES), "--most-rows", str(MOST_ROWS), "--most-seconds", str(most_seconds)]
    process = subprocess.Popen([*command, *limits], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"Serving on http://127\.0\.0\.1:(\d+)", line):
            return process, int(found.group(1))
    raise RuntimeError("".join([*lines, process.stderr.read()]))


@contextlib.contextmanager
def serving(folder, drain=DRAIN, most_seconds=30):
    process, port = start(folder, drain, most_seconds)
    try:
        yield process, port
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def port(exported):
    with serving(exported[1]) as (_, port):
        yield port


def fetch(port, path, body=None, **headers):
    """Return status and JSON; a body that is no text is sent as JSON."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        content = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_health_names_the_model_and_what_it_takes(port, fraud):
    status, content = fetch(port, "/health")
    assert status == 200
    assert content == {
        "status": "ready",
        "model": "fraud",
        "version": "7",
        "features": list(fraud.FEATURES),
        "labels": list(fraud.LABELS),
    }


def test_single_and_batch_return_what_the_student_predicts(port, exported, fraud):
    x, _ = fraud.generate(MOST_ROWS, seed=3)
    expected = exported[0].predict(x, verbose=0)
    status, batch = fetch(port, "/scores", {"transactions": x.tolist()})
    assert status == 200
    assert batch["labels"] == list(fraud.LABELS)
    np.testing.assert_allclose(batch["scores"], expected, atol=1e-5)
    singles = [fetch(port, "/score", {"transaction": row.tolist()}) for row in x[:5]]
    assert [status for status, _ in singles] == [200] * 5
    np.testing.assert_allclose(
        [[scores[label] for label in fraud.LABELS] for _, scores in singles], expected[:5], atol=1e-5
    )


def test_many_clients_at_once_get_their_own_responses(port, exported, fraud):
    """Batches of other sizes and single transactions share threads, and so interpreters."""
    x, _ = fraud.generate(40 * MOST_ROWS, seed=4)
    parts = [slice(start, start + 1 + start % MOST_ROWS) for start in range(0, len(x), MOST_ROWS - 1)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda part: fetch(port, "/scores", {"transactions": x[part].tolist()})[1], parts))
    expected = exported[0].predict(x, verbose=0)
    for part, response in zip(parts, responses, strict=True):
        np.testing.assert_allclose(response["scores"], expected[part], atol=1e-5)


GOOD = [1.0] * 20


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (math.nan, "finite"),
        (math.inf, "finite"),
        (1e39, "less than or equal"),  # a float64 that no float32 holds
        (-1.0, "greater than or equal to 0"),
        ("1.0", "valid number"),
        (None, "valid number"),
        (True, "valid number"),
        ([1.0], "valid number"),
    ],
)
def test_values_that_are_no_numbers_are_refused_with_their_position(port, first, message):
    status, content = fetch(port, "/score", {"transaction": [*GOOD[:3], first, *GOOD[4:]]})
    assert status == 422
    assert content["detail"][0]["loc"] == ["transaction", 3]
    assert message in content["detail"][0]["msg"]
    status, content = fetch(port, "/scores", {"transactions": [GOOD, [first, *GOOD[1:]]]})
    assert status == 422
    assert content["detail"][0]["loc"] == ["transactions", 1, 0]


@pytest.mark.parametrize("first", [3.4e38, 1e36])
def test_a_transaction_without_a_finite_score_is_refused_with_its_place(port, first):
    status, content = fetch(port, "/score", {"transaction": [first, *GOOD[1:]]})
    assert status == 422
    assert content["detail"][0]["loc"] == ["transaction"] and "no finite score" in content["detail"][0]["msg"]
    status, content = fetch(port, "/scores", {"transactions": [GOOD, [first, *GOOD[1:]], GOOD, [first, *GOOD[1:]]]})
    assert status == 422
    assert [each["loc"] for each in content["detail"]] == [["transactions", 1], ["transactions", 3]]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/score", {"transaction": GOOD[1:]}, "at least 20"),
        ("/score", {"transaction": [*GOOD, 1.0]}, "at most 20"),
        ("/score", {"transaction": []}, "at least 20"),
        ("/score", {"transactions": [GOOD]}, "required"),
        ("/score", {"transaction": GOOD, "threshold": 0.5}, "not permitted"),
        ("/score", [GOOD], "object"),
        ("/scores", {"transactions": []}, "at least 1"),
        ("/scores", {"transactions": GOOD}, "valid array"),
        ("/scores", {"transactions": [GOOD] * (MOST_ROWS + 1)}, f"at most {MOST_ROWS}"),
    ],
)
def test_a_body_of_another_form_is_refused(port, path, body, message):
    status, content = fetch(port, path, body)
    assert status == 422
    assert message in " ".join(each["msg"] for each in content["detail"])


@pytest.mark.parametrize("body", ["", '{"transaction": [1, 2', "hello", b"\xff\xfe", "[" * 5000])
def test_a_body_that_is_not_json_is_refused(port, body):
    status, content = fetch(port, "/score", body)
    assert status == 400
    assert "Invalid JSON" in content["detail"][0]["msg"]


def test_a_body_too_large_is_refused_by_its_declared_length(port):
    status, content = fetch(port, "/scores", b" " * (MOST_BYTES + 1))
    assert status == 413
    assert str(MOST_BYTES) in content["detail"]


def test_the_largest_body_is_read(port):
    body = json.dumps({"transaction": GOOD}).ljust(MOST_BYTES).encode()
    assert fetch(port, "/score", body)[0] == 200


def test_a_body_without_an_end_is_refused_when_it_is_too_large(port):
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST /scores HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError):
            for _ in range(100_000):  # 400 MB, if it is not stopped
                connection.sendall(chunk)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_other_paths_and_methods_are_refused(port):
    assert fetch(port, "/nothing")[0] == 404
    assert fetch(port, "/score")[0] == 405


def test_the_service_still_responds_after_all_that(port):
    assert fetch(port, "/score", {"transaction": GOOD})[0] == 200


def score_until_closed(port):
    """Score on one connection until the service closes it; return the number of requests, all with a response."""
    count = 0
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        while True:
            connection.request("POST", "/score", json.dumps({"transaction": GOOD}))
            response = connection.getresponse()
            assert response.status == 200
            assert len(json.loads(response.read())) == 3
            count += 1
            if response.headers["connection"] == "close":
                return count


def test_nothing_is_lost_when_the_service_is_stopped_under_load(exported):
    with serving(exported[1]) as (process, port), concurrent.futures.ThreadPoolExecutor(8) as pool:
        body = json.dumps({"transactions": [GOOD] * MOST_ROWS}).encode()
        head = f"POST /scores HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        slow = socket.create_connection(("127.0.0.1", port), timeout=30)
        slow.sendall(head + body[:100])
        clients = [pool.submit(score_until_closed, port) for _ in range(8)]
        time.sleep(0.5)
        assert not any(client.done() for client in clients)
        process.send_signal(signal.SIGTERM)
        assert all(client.result(timeout=30) > 0 for client in clients)
        assert fetch(port, "/health")[0] == 503  # still there, for clients that have not seen it yet
        assert fetch(port, "/score", {"transaction": GOOD})[0] == 200
        wait_until_closed(port)
        slow.sendall(body[100:])
        with slow, slow.makefile("rb") as stream:
            assert stream.readline().startswith(b"HTTP/1.1 200 ")
            assert stream.read().count(b"[") == 2 + MOST_ROWS
        assert process.wait(timeout=30) == -signal.SIGTERM
        assert "Error" not in process.stderr.read()


SCORE = json.dumps({"transaction": GOOD}).encode()
HEAD = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(SCORE)}\r\n\r\n".encode()


@pytest.mark.parametrize("turns", range(6))
def test_connections_that_wait_to_be_accepted_when_the_service_stops_get_a_response(fraud, exported, turns):
    """Connections at every stage between the kernel and the application, by the turns that the loop has made since."""
    serve = __import__("serve")
    options = argparse.Namespace(most_bytes=MOST_BYTES, most_rows=MOST_ROWS, most_seconds=30)
    app = serve.make_app(serve.Model(exported[1]), options)

    async def connect_and_stop():
        server = serve.Server(app, 0.0, 30.0, host="127.0.0.1", port=0)
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        address = server.servers[0].sockets[0].getsockname()
        clients = [socket.create_connection(address, timeout=10) for _ in range(100)]
        for client in clients:
            client.sendall(HEAD + SCORE)
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.shutdown()
        return clients

    clients = asyncio.run(connect_and_stop())
    assert [client.recv(15) for client in clients] == [b"HTTP/1.1 200 OK"] * 100
    for client in clients:
        client.close()


def test_a_body_that_does_not_arrive_is_refused_and_its_connection_closed(exported):
    with serving(exported[1], most_seconds=0.2) as (_, port):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client, client.makefile("rb") as response:
            client.sendall(HEAD + SCORE[:-1])
            content = response.read()  # up to the end of the connection
        assert content.startswith(b"HTTP/1.1 408 ") and b"within 0.2 seconds" in content
        assert fetch(port, "/score", {"transaction": GOOD})[0] == 200


def silent(port):
    """Return clients that a service waits for: half a body, half a head, nothing, and one that does not read."""
    clients = [socket.create_connection(("127.0.0.1", port), timeout=1) for _ in range(4)]
    for client, content in zip(clients, (HEAD + SCORE[:9], HEAD[:9], b"", (HEAD + SCORE) * 300), strict=True):
        client.sendall(content)
    time.sleep(0.3)
    return clients


def test_silent_clients_do_not_keep_the_service_from_ending(exported):
    with serving(exported[1], drain=0, most_seconds=1) as (process, port):
        clients = silent(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == -signal.SIGTERM
        assert "Traceback" not in process.stderr.read()
        for client in clients:
            client.close()


def test_a_second_signal_ends_the_service_at_once(exported):
    with serving(exported[1], drain=0, most_seconds=600) as (process, port):
        clients = silent(port)
        process.send_signal(signal.SIGTERM)
        wait_until_closed(port)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == -signal.SIGTERM
        for client in clients:
            client.close()


def test_a_client_that_leaves_amid_its_body_is_no_error(exported):
    with serving(exported[1], drain=0) as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(HEAD + SCORE[:9])
            time.sleep(0.2)
        assert fetch(port, "/score", {"transaction": GOOD})[0] == 200
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("path", ["/health", "/nothing", "/openapi.json"])
def test_every_response_closes_its_connection_while_the_service_drains(exported, path):
    with serving(exported[1], drain=20) as (process, port):
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 20
        while fetch(port, "/health")[0] != 503 and time.monotonic() < end:
            time.sleep(0.02)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", path)
            assert connection.getresponse().headers["connection"] == "close"


def wait_until_closed(port):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("The service still takes connections.")


def refused(folder):
    process = subprocess.run(
        [sys.executable, EXAMPLES / "serve.py", folder], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 1
    return process.stderr


def test_a_file_that_was_changed_after_the_export_is_not_served(tmp_path, exported):
    folder = tmp_path / "fraud" / "7"
    folder.mkdir(parents=True)
    for file in exported[1].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = bytearray((folder / "student.tflite").read_bytes())
    content[-1] ^= 1
    (folder / "student.tflite").write_bytes(content)
    assert "checksum differs" in refused(folder)


def test_a_folder_without_an_export_or_with_another_model_is_not_served(tmp_path):
    assert "Expected a folder that kd.export wrote" in refused(tmp_path)
    kd.export(make_student(features=5), tmp_path / "1", formats=("litert",), fresh=False)
    assert "Expected a model of 20 features. Received one of 5" in refused(tmp_path / "1")
