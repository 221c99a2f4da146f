"""Every example documents its command, and runs in a few seconds, in this process: TensorFlow is imported once."""

import ast
import importlib
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
#: Those that measure time, make devices, set how many threads there are, or serve, and so need a process of their own:
#: .ci/run runs them with few steps, and tests/test_serve.py the service.
OF_THEIR_OWN = {
    "check_devices.py",
    "benchmarks/accelerator.py",
    "benchmarks/backbones.py",
    "benchmarks/cache.py",
    "benchmarks/epochs.py",
    "benchmarks/first_step.py",
    "benchmarks/fused_heads.py",
    "benchmarks/generation.py",
    "benchmarks/growth.py",
    "benchmarks/horizons.py",
    "benchmarks/lengths.py",
    "benchmarks/levers.py",
    "benchmarks/loss_cost.py",
    "benchmarks/low_rank.py",
    "benchmarks/mixed_files.py",
    "benchmarks/one_budget.py",
    "benchmarks/run_all.py",
    "benchmarks/serving.py",
    "benchmarks/sparse_targets.py",
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


def benchmark_module(name, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    return importlib.import_module(name)


def test_all_benchmarks_are_run_together(monkeypatch):
    run = {f"benchmarks/{name}.py" for name in benchmark_module("run_all", monkeypatch).BENCHMARKS}
    assert run == {name for name in SCRIPTS if name.startswith("benchmarks/")} - {"benchmarks/run_all.py"}


def test_an_aim_that_a_benchmark_prints_is_found(monkeypatch):
    aims = benchmark_module("aims", monkeypatch)
    table = [
        "Batches of 64",
        "",
        "ms   median",
        f"live / plain   0.400  1.203   {aims.at_most(1.203, 1.1)}",
        "import keras 3",
    ]
    assert aims.found_in(table) == [aims.Aim("Batches of 64", "live / plain", "1.203", "1.10", "missed")]


def test_the_language_model_reads_the_most_frequent_pairs_as_one_token(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    byte_pairs = importlib.import_module("language_model").byte_pairs
    tokens, names = byte_pairs({b"aaab": 3, b"ab": 2, b"bc": 4, b"cc": 0}, vocabulary=259)
    # "ab" is there 5 times and "aa" 6, of which only the first of "aaab" can be merged; then "ab" and "bc" are left.
    assert names[256:] == [b"aa", b"ab", b"bc"]
    assert {word: [names[token] for token in ids] for word, ids in tokens.items()} == {
        b"aaab": [b"aa", b"ab"],
        b"ab": [b"ab"],
        b"bc": [b"bc"],
        b"cc": [b"c", b"c"],
    }


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", SMOKED)
def test_a_script_runs(name, tmp_path_factory, monkeypatch, capsys):
    if "\nimport keras_hub" in source(name):
        pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
        pytest.importorskip("pycocotools")
    folder = tmp_path_factory.getbasetemp() / "examples"  # one for all: the quickstart's teacher is trained once
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.syspath_prepend(SCRIPTS[name].parent)  # as for a script that is started
    monkeypatch.setattr(sys, "argv", [name, "--smoke", "--output", str(folder)])
    try:
        runpy.run_path(str(SCRIPTS[name]), run_name="__main__")
    except SystemExit as ended:  # of examples/results, where a package of the extra is not installed
        printed = capsys.readouterr().out
        assert not ended.code and "pip install" in printed and "Measured on " in printed
        pytest.skip(printed.partition("\n")[0])
    assert capsys.readouterr().out.count("\n") > 3
