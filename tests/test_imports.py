"""What `import keras_kd` imports, and what it leaves until it is used."""

import ast
import pathlib
import subprocess
import sys

import pytest

import keras_kd as kd


def test_importing_the_library_imports_its_core_dependencies_alone_and_the_rest_on_access():
    # Keras and TensorFlow themselves import what they find (matplotlib, scikit-learn), so they come first.
    program = """
import sys, keras, numpy, tensorflow
before = set(sys.modules)
import keras_kd
print(*{name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
later = ["keras_kd." + name for name in ("evaluation", "experiments", "exporting")]
print(*(name in sys.modules for name in later))
keras_kd.benchmark, keras_kd.compare, keras_kd.export, keras_kd.tune
print(*(name in sys.modules for name in later))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["keras_kd", "False False False", "True True True"]


def test_names_that_are_imported_later_are_listed_and_found():
    later = {"BenchmarkResult", "Comparison", "Probes", "TuneResult", "benchmark", "compare", "export", "probe", "tune"}
    assert later <= set(dir(kd))
    assert {getattr(kd, name).__name__ for name in later} == later
    assert "evaluation" in dir(kd) and callable(kd.evaluation.measure)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="keras_kd.*exprot"):
        getattr(kd, "exprot")  # noqa: B009
    with pytest.raises(ImportError, match="exprot"):
        from keras_kd import exprot  # noqa: F401


def test_what_files_may_hold_is_known_to_keras_once_the_library_is_imported():
    # Keras finds a layer, loss or function of a file by what was registered before, and imports no package for it.
    package = pathlib.Path(kd.__file__).parent
    expected = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and "serializable" in map(
                ast.unparse, node.decorator_list
            ):
                expected.add(f"keras_kd>{node.name}")
    program = "import keras, keras_kd; print(*keras.saving.get_custom_objects())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(expected) > 50 and expected - set(run.stdout.split()) == set()


LAZY = (kd, kd.language, kd.preflight, kd.quantization)


@pytest.mark.parametrize("package", LAZY, ids=lambda package: package.__name__)
def test_names_for_type_checkers_are_those_that_are_imported_later(package):
    tree = ast.parse(pathlib.Path(package.__file__).read_text())
    [guard] = [node for node in tree.body if isinstance(node, ast.If)]
    expected = {}
    for node in guard.body:
        for alias in node.names:
            is_module = node.module == package.__name__
            expected[alias.name] = f"{node.module}.{alias.name}" if is_module else node.module
    assert expected == package._LATER


@pytest.mark.parametrize("package", LAZY, ids=lambda package: package.__name__)
def test_all_public_names_are_imported_with_a_star(package):
    found = {}
    exec(f"from {package.__name__} import *", found)
    names = {name for name in dir(package) if not name.startswith("_")}
    submodules = {path.stem for path in pathlib.Path(package.__file__).parent.iterdir()}
    assert set(found) - {"__builtins__"} == set(package.__all__) >= set(package._LATER)
    assert names - set(found) <= submodules | {"typing"}  # what was imported by its own name, and helpers
    if package is kd:
        assert {"Distiller", "Term", "Joined", "TeacherCache", "methods", "losses", "teachers", "distill"} <= set(found)


def test_no_name_that_is_imported_later_is_that_of_a_module():
    # The import of such a module, by whoever needs it, would put it in the place of what has its name.
    for package in LAZY:
        folder = pathlib.Path(package.__file__).parent
        for name, module in package._LATER.items():
            is_module = (folder / f"{name}.py").exists() or (folder / name).is_dir()
            assert is_module == (module == f"{package.__name__}.{name}"), f"{package.__name__}.{name}"
            assert getattr(package, name) is not None and name in dir(package)
