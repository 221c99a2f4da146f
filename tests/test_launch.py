"""Several workers on this machine, as real processes."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from keras_kd import launch


@pytest.fixture
def launched(capsys):
    """Return a function that runs workers, and returns its exit code and what was printed."""

    def launch_here(*arguments):
        try:
            code = launch.main([str(each) for each in arguments])
        except SystemExit as stopped:
            code = stopped.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return launch_here


def script(folder, text):
    path = folder / "script.py"
    path.write_text("import json, os, sys, time\ntask = json.loads(os.environ['TF_CONFIG'])\n" + text)
    return path


def test_each_worker_has_its_own_tf_config_and_a_mark(launched, tmp_path):
    path = script(tmp_path, "print(json.dumps([task, sys.argv[1:]]))")
    code, output, errors = launched("--workers", 3, path, "--epochs", 2, "--flag")
    assert code == 0, errors
    lines = sorted(output.splitlines())
    assert [line[:4] for line in lines] == ["[0] ", "[1] ", "[2] "]
    tasks = [json.loads(line[4:]) for line in lines]
    assert [task["task"] for task, _ in tasks] == [{"type": "worker", "index": index} for index in range(3)]
    assert all(arguments == ["--epochs", "2", "--flag"] for _, arguments in tasks)
    clusters = [task["cluster"]["worker"] for task, _ in tasks]
    assert clusters[0] == clusters[1] == clusters[2] and len(set(clusters[0])) == 3


def test_no_line_is_lost(launched, tmp_path):
    path = script(tmp_path, "print('x' * 70 + chr(10), end='' if task['task']['index'] else chr(10) * 20_000)")
    assert launched(path)[1].count("\n") == 20_002


def test_errors_and_bytes_that_are_no_text_are_passed_on_too(launched, tmp_path):
    path = script(tmp_path, "sys.stderr.write('an error' + chr(10)); os.write(1, b'\\xff' + chr(10).encode())")
    lines = launched("--workers", 1, path)[1].splitlines()
    assert sorted(lines) == ["[0] an error", "[0] \ufffd"]


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_one_that_fails_ends_the_others(launched, tmp_path, ending, code):
    path = script(tmp_path, f"{ending} if task['task']['index'] else time.sleep(300)")
    started = time.monotonic()
    received, _, errors = launched(path)
    assert received == code and time.monotonic() - started < 50
    assert f"worker 1 failed with exit code {code if code < 100 else -9}" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--workers", 0, __file__], "at least 1"), (["nowhere.py"], "expected a Python file")],
)
def test_bad_arguments_are_named(launched, arguments, message):
    code, _, errors = launched(*arguments)
    assert code == 2 and message in errors


# Nothing stays behind.

#: The launcher without the package, whose import takes seconds.
LAUNCHER = [sys.executable, launch.__file__]

#: A worker that starts a process of its own, names both, and then does what follows.
PARENT = """
import signal, subprocess
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"])
print("processes", os.getpid(), child.pid, "", flush=True)
"""

posix = pytest.mark.skipif(os.name != "posix", reason="needs process groups")


def running(process):
    """Whether it runs; one that has ended may wait for long until its exit code is read."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = pathlib.Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def all_end(processes, seconds=8):
    """Wait until none runs, for less than the ten seconds that a launcher waits."""
    end = time.monotonic() + seconds
    while any(map(running, processes)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(running, processes))


def notice_signals():
    """Reset what the background of a shell and nohup have set: there, the launcher would correctly ignore signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def launching(path, *prefix, **arguments):
    """Yield a launcher that runs, and the processes that its two workers have named."""
    command = [*prefix, *LAUNCHER, path]
    start = {"stdout": subprocess.PIPE, "text": True, "preexec_fn": notice_signals}
    with subprocess.Popen(command, **start, **arguments) as launcher:
        processes = []
        try:
            while len(processes) < 4:
                processes += map(int, re.findall(r"\d+(?= )", launcher.stdout.readline()))
            yield launcher, processes
        finally:
            launcher.kill()
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_signal_to_the_launcher_ends_workers_and_what_they_have_started(tmp_path, name):
    number = signal.Signals[name]
    with launching(script(tmp_path, PARENT + "time.sleep(300)")) as (launcher, processes):
        launcher.send_signal(number)
        assert all_end(processes)
        assert launcher.wait(timeout=8) == (-9 if name == "SIGKILL" else 128 + number)


@posix
def test_a_signal_reaches_the_workers_so_that_they_can_clean_up(tmp_path):
    text = """
signal.signal(signal.SIGINT, lambda *_: (print("in order", flush=True), sys.exit()))
print("processes", os.getpid(), os.getpid(), "", flush=True)
time.sleep(300)
"""
    with launching(script(tmp_path, "import signal" + text)) as (launcher, _):
        launcher.send_signal(signal.SIGINT)
        assert launcher.stdout.read().count("in order") == 2


@posix
def test_a_second_signal_ends_workers_that_ignore_the_first_at_once(tmp_path):
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PARENT.replace("import signal, ", "import ")
    with launching(script(tmp_path, "import signal\n" + text + "time.sleep(300)")) as (launcher, processes):
        launcher.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert launcher.poll() is None and all(map(running, processes[::2]))
        launcher.send_signal(signal.SIGTERM)
        assert all_end(processes, 5)


@posix
def test_a_hangup_that_is_ignored_stays_ignored(tmp_path):
    with launching(script(tmp_path, PARENT + "time.sleep(300)"), "nohup") as (launcher, processes):
        launcher.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert launcher.poll() is None and all(map(running, processes))


@posix
@pytest.mark.parametrize(("ending", "code"), [("", 0), ("sys.exit(task['task']['index'] and time.sleep(1) or 5)", 5)])
def test_processes_that_workers_have_started_end_with_them(launched, tmp_path, ending, code):
    received, output, _ = launched(script(tmp_path, PARENT + ending))
    assert received == code
    processes = [int(each) for each in re.findall(r"\d+(?= )", output.replace("[", "").replace("]", "@"))]
    assert len(processes) >= 2 and all_end(processes)  # one that was ended early has named none


def test_signals_are_handled_afterwards_as_before(launched, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert launched("--workers", 1, script(tmp_path, ""))[0] == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_worker_that_cannot_be_started_ends_the_others(launched, tmp_path, monkeypatch):
    real, started = subprocess.Popen, []

    def start(command, **arguments):
        if "script.py" in str(command):
            if started:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            started.append(real(command, **arguments))
            return started[0]
        return real(command, **arguments)

    monkeypatch.setattr(subprocess, "Popen", start)
    code, _, errors = launched(script(tmp_path, "time.sleep(300)"))
    assert code == 1 and "worker 1 could not be started" in errors and "temporarily" in errors
    assert started[0].returncode is not None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its pipe was not read
def test_a_reader_that_cannot_be_started_ends_its_worker(launched, tmp_path, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(launch.threading.Thread, "start", refuse)
    code, _, errors = launched(script(tmp_path, "time.sleep(300)"))
    assert code == 1 and "worker 0 could not be started: can't start new thread" in errors


@posix
def test_an_output_without_a_reader_ends_the_workers_as_it_would_end_the_script(tmp_path):
    path = script(tmp_path, "while True: print('x' * 1000)")
    command = [*LAUNCHER, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as launcher:
        launcher.stdout.readline()
        launcher.stdout.close()
        assert launcher.wait(timeout=20) != 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_lines_that_the_terminal_cannot_show_do_not_stop_a_worker(tmp_path, encoding):
    path = script(tmp_path, "print(('\\xe9' * 100 + chr(10)) * 1000 + 'last')")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    path.write_text("import sys; sys.stdout.reconfigure(encoding='utf-8')\n" + path.read_text())
    command = [*LAUNCHER, path]
    found = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=True).stdout
    assert found.count(b"last") == 2
    assert (b"?" * 100 if encoding == "ascii" else "\xe9".encode() * 100) in found
