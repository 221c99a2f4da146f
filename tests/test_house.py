"""The structure of the package: imports go down, none in a circle; what belongs in one place is nowhere else."""

import ast
import collections
import graphlib
import importlib
import pathlib

import pytest

import keras_kd
from tests import private_names

ROOT = pathlib.Path(keras_kd.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: Files and folders at the top of the package. A layer may import from those above it in this list, not from its own.
LAYERS = [
    {"_backend", "_lazy", "_serialization", "_types", "_version"},
    {"_keras", "data", "launch", "runtimes", "schedules", "transforms"},
    {"_internal", "losses", "metrics"},
    {"bridges", "cache", "layer_matching", "local_logits", "quantization", "targets", "temperature"},
    {"teachers", "term"},
    {"objective"},
    {"augment", "language", "methods", "preflight"},
    {"distiller"},
    {"callbacks", "evaluation", "exporting", "stages"},
    {"pruning"},
    {"experiments"},
    {"compression"},
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


def test_a_file_name_is_used_once():
    counts = collections.Counter(path.name for path in FILES if path.name not in ("__init__.py", "base.py"))
    assert [name for name, count in counts.items() if count > 1] == []


def test_what_is_registered_keeps_its_type():
    found = [path.name for path in FILES if "@keras.saving.register_keras_serializable" in path.read_text()]
    assert found == [], "Use keras_kd._serialization.serializable: Keras's decorator has no types."


def test_private_names_of_other_packages_are_in_one_folder():
    trees = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in FILES}
    inside = [tree for path, tree in trees.items() if path.parts[0] == "_keras"]
    outside = {path: tree for path, tree in trees.items() if path.parts[0] != "_keras"}
    relied_on = set.union(*(private_names.used(tree) | private_names.named(tree) for tree in inside))
    own = set.union(*map(private_names.defined, outside.values())) - relied_on
    found = {str(path): private_names.used(tree) - own for path, tree in outside.items()}
    assert {path: names for path, names in found.items() if names} == {}, "Move these into keras_kd/_keras."


def test_private_methods_of_other_packages_are_overridden_in_one_folder():
    modules = [importlib.import_module(name) for name in IMPORTS if not name.startswith("keras_kd._keras")]
    classes = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    own = {each for each in classes if each.__module__.startswith("keras_kd.") and "._keras." not in each.__module__}
    foreign = {
        (each, base) for each in own for base in each.__mro__ if not base.__module__.startswith(("keras_kd.", "typing"))
    }
    found = {(each.__name__, name) for each, base in foreign for name in vars(each).keys() & vars(base).keys()}
    assert {pair for pair in found if private_names.PRIVATE.fullmatch(pair[1])} == set()


@pytest.mark.parametrize(
    "code",
    [
        "layer._metrics",
        "self._compile_loss",
        "getattr(output, '_keras_logits', None)",
        "tensor._keras_mask = mask",
        "import keras.src.losses",
        "from tensorflow.python.eager import record",
        "from concurrent.futures import _base",
        "tf.__internal__.tracking.AutoTrackable()",
        "importlib.import_module('keras_tuner.src.engine.stateful')",
    ],
)
def test_a_private_name_is_found_in_each_way_to_use_it(code):
    assert len(private_names.used(ast.parse(code))) == 1


@pytest.mark.parametrize("code", ["pair._replace(x=1)", "os._exit(0)", "a.__name__", "import keras_kd._keras.loops"])
def test_a_name_that_is_documented_or_our_own_is_not(code):
    assert private_names.used(ast.parse(code)) == set()
