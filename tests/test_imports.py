"""What `import keras_kd` imports, and what it leaves until it is used."""

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
