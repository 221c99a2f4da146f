"""The page of methods names all of them, with the figures that were printed, and its code runs."""

import ast
import inspect
import re

import pytest

from keras_kd import losses, methods
from tests.goldens import LOSSES
from tests.pages import ROOT, blocks

PAGE = (ROOT / "docs/methods.md").read_text()
#: The cells of each row, without the backticks of the first.
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `methods")
]
ROWS = {re.search(r"methods\.(\w+)", row[0])[1]: row for row in ROWS}
PRINTED = "\n".join(
    ast.get_docstring(ast.parse(path.read_text())) or "" for path in sorted((ROOT / "examples").glob("*.py"))
)
RESULTS = (ROOT / "examples/benchmarks/RESULTS.md").read_text()
METHODS, PIPELINES = (
    RESULTS.split(f"\n## {heading}\n")[1].split("\n## ")[0] for heading in ("Methods", "Teachers and pipelines")
)


def test_every_method_has_a_row():
    public = {name for name, value in vars(methods).items() if inspect.isfunction(value) and name[0] != "_"}
    assert set(ROWS) == {name for name in public if getattr(methods, name).__module__.startswith("keras_kd.methods.")}


def test_every_loss_that_no_method_uses_has_a_row():
    unused = {each.name for each in LOSSES if not each.methods}
    assert set(re.findall(r"`losses\.(\w+)`", PAGE.split("## Losses without a method")[1].split("\n## ")[0])) == unused
    assert all(hasattr(losses, name) for name in unused)


@pytest.mark.parametrize("name", ROWS)
def test_a_methods_figures_are_the_ones_that_were_printed(name):
    *_, cost, digits, fashion = ROWS[name]
    measured = re.search(rf"^{name} .* ± [\d.]+ +([+-][\d.]+) .* ([\d.]+)$", METHODS, re.MULTILINE)
    if measured:
        assert (re.match(r"[\d.]+\d", cost)[0], fashion) == (measured[2], measured[1])
    else:
        assert (cost.split(";")[0], fashion) == ("not measured", "not measured")
    gain = re.search(rf"^ *{name} +[\d.]+ ± [\d.]+ +([+-][\d.]+ ± [\d.]+)", PRINTED, re.MULTILINE)
    assert digits.startswith(gain[1] if gain else ("not measured", "+")), digits


def test_every_other_figure_was_printed():
    for figure in re.findall(r"[+-]?[\d.]+ ± \d+\.\d+", PAGE):
        assert figure in PRINTED or figure in RESULTS, figure
    for row in PAGE.split("## Teachers and pipelines")[1].splitlines():
        if row.startswith("| ") and "not measured" not in row:
            for figure in re.findall(r"[+-]\d[\d.]*", row.split("|")[-2]):
                assert figure in PIPELINES, (row, figure)


@pytest.mark.slow
def test_the_code_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("docs/methods.md"):
        block.run(names)
    assert capsys.readouterr().out == f"{(len(names['x_test']), 10)}\n"
    labels, teacher = (names["student"].get_layer(name) for name in ("label_head", "teacher_head"))
    assert (labels.kernel.numpy() != teacher.kernel.numpy()).any()
    assert names["distiller"].evaluate(names["x_test"], names["y_test"], verbose=0, return_dict=True)["accuracy"] > 0.6
