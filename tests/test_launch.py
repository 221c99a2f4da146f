"""Several workers on this machine, as real processes."""

import json
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
        said = capsys.readouterr()
        return code, said.out, said.err

    return launch_here


def script(folder, text):
    path = folder / "script.py"
    path.write_text("import json, os, sys, time\ntask = json.loads(os.environ['TF_CONFIG'])\n" + text)
    return path


def test_each_worker_is_told_who_it_is_and_is_marked(launched, tmp_path):
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
def test_bad_arguments_are_said(launched, arguments, message):
    code, _, errors = launched(*arguments)
    assert code == 2 and message in errors
