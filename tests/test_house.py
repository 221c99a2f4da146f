"""The shape of the package: imports run down, none in a circle, and a name stands once."""

import ast
import collections
import graphlib
import pathlib

import pytest

import keras_kd

ROOT = pathlib.Path(keras_kd.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: Files and folders at the top of the package. A layer may import from those above it in this list, not from its own.
LAYERS = [
    {"_backend", "_types", "_version"},
    {"_keras", "data", "launch", "runtimes", "schedules", "transforms"},
    {"_internal", "losses", "metrics"},
    {"bridges", "cache", "layer_matching", "quantization"},
    {"teachers", "term"},
    {"methods", "preflight"},
    {"distiller"},
    {"callbacks", "evaluation", "exporting", "stages"},
    {"experiments"},
]


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Return the modules of the package that a file imports, in functions too, but for those for types alone."""
    tree, known = ast.parse(path.read_text()), {name_of(each) for each in FILES}
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    for_types = {id(node) for guard in guards for node in ast.walk(guard)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{each.name}" for each in node.names}
            found |= {name if name in known else str(node.module) for name in names}
    return (found & known) - {name_of(path)}


IMPORTS = {name_of(path): imported(path) for path in FILES}


def test_every_file_of_the_top_has_a_layer():
    tops = {name.split(".")[1] for name in IMPORTS if "." in name}
    assert tops == set.union(*LAYERS)


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_run_down(name):
    level = {top: number for number, layer in enumerate(LAYERS) for top in layer}
    top = (*name.split("."), "")[1]
    for other in IMPORTS[name]:
        below = other.split(".")[1] if "." in other else ""
        assert name == "keras_kd" or below == top or level[below] < level[top], f"{name} imports {other}"


def test_no_imports_run_in_a_circle():
    below = {name: {other for other in others if not name.startswith(other)} for name, others in IMPORTS.items()}
    graphlib.TopologicalSorter({name: below[name] for name in below if name != "keras_kd"}).prepare()


def test_a_file_name_stands_once():
    counts = collections.Counter(path.name for path in FILES if path.name not in ("__init__.py", "base.py"))
    assert [name for name, count in counts.items() if count > 1] == []
