"""The changes that `python -m tests.mutate` makes."""

import ast
import random

import pytest

from tests.mutate import ROOT, applied, changes

MODULES = sorted((ROOT / "keras_kd").rglob("*.py"))


def changed(source):
    return [applied(source, node, replacement) for node, replacement in changes(ast.parse(source))]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", "(a <= b)"),
        ("a + b * c", "a + (b / c)"),
        ("f(x, y, z=1)", "(f(y, x, z=1))"),
        ("f(x, z=1)", "(f(x))"),
        ("if not a: b = 2", "if (a): b = 2"),
        ("x = 'é', min(a)", "x = 'é', (max)(a)"),
        ("def f(x: int = 0): return x", "def f(x: int = (1)): return x"),
        ("def f(x): return x", "def f(x): return None"),
        ("f(x)", "pass"),
        ("self.a = b", "pass"),
        ("if a: raise ValueError(1 + 1)", "if a: pass"),
        ("a if b else c", "(c if b else a)"),
        ("ops.mean(x)", "(ops.sum)(x)"),
        ("x = -1", "x = (1)"),
    ],
)
def test_a_change_is_made_in_its_place(source, expected):
    assert expected in changed(source)


@pytest.mark.parametrize("source", ["x: int", "'text'", "def f(x: min[int]) -> max[1]: ...", "f'{1 + 1}'", "x = y"])
def test_types_and_texts_stay(source):
    assert changed(source) == []


@pytest.mark.one_in(4)
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_change_is_valid_and_another_program(path):
    source = path.read_text()
    found = list(changes(ast.parse(source)))
    for node, replacement in random.Random(0).sample(found, min(5, len(found))):
        assert ast.dump(ast.parse(applied(source, node, replacement))) != ast.dump(ast.parse(source)), replacement
