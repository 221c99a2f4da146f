"""Every example documents its command, and runs in a few seconds, in this process: TensorFlow is imported once."""

import ast
import pathlib
import runpy
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
SCRIPTS = {
    str(path.relative_to(EXAMPLES)): path
    for path in sorted(EXAMPLES.rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
}
#: Those that measure time, make devices or serve, and so need a process of their own: .ci/run runs them with few steps,
#: and tests/test_serve.py the service.
OF_THEIR_OWN = {
    "check_devices.py",
    "benchmarks/accelerator.py",
    "benchmarks/cache.py",
    "benchmarks/epochs.py",
    "benchmarks/growth.py",
    "benchmarks/loss_cost.py",
    "benchmarks/serving.py",
    "benchmarks/training.py",
    "benchmarks/xla.py",
    "serve.py",
}
#: `make quickstart` runs it, in .ci/run.
SMOKED = sorted(set(SCRIPTS) - OF_THEIR_OWN - {"quickstart.py"})


def source(name):
    return SCRIPTS[name].read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_opens_with_its_command(name):
    docstring = ast.get_docstring(ast.parse(source(name)))
    assert docstring and f"\n    python examples/{name}" in docstring


@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - OF_THEIR_OWN))
def test_a_script_can_be_tried_in_seconds(name):
    assert "--smoke" in source(name) or "task.parser(__doc__)" in source(name)  # which has it


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKED)
def test_a_script_runs(name, tmp_path_factory, monkeypatch, capsys):
    folder = tmp_path_factory.getbasetemp() / "examples"  # one for all: the quickstart's teacher is trained once
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.syspath_prepend(SCRIPTS[name].parent)  # as for a script that is started
    monkeypatch.setattr(sys, "argv", [name, "--smoke", "--output", str(folder)])
    runpy.run_path(str(SCRIPTS[name]), run_name="__main__")
    assert capsys.readouterr().out.count("\n") > 3
