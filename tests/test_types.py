"""What a checker of types knows of the library: that of `make types`, with its settings."""

import inspect
import re

import pytest

import keras_kd as kd
from tests.pages import ROOT

api = pytest.importorskip("mypy.api")

FUNCTIONS = [
    f"{module.__name__.rpartition('.')[2]}.{name}"
    for module in (kd.losses, kd.metrics, kd.transforms)
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__.startswith(module.__name__) and not name.startswith("_")
]

IMPORTS = """
import functools
from typing import Any
import keras
from keras import ops
from keras_kd import Term, losses, metrics, transforms
STAGES = (("a", "b"), ("a", "b"))
"""
TERMS = """
Term(losses.kl_divergence)
Term(losses.jensen_shannon, beta=0.3)
Term(losses.decoupled_kl, non_target_weight=2.0)
Term(losses.fsp, at=STAGES)
Term(losses.review, at=STAGES)
Term(losses.VariationalInformation())
Term(losses.ContrastiveMemory(), at=("a", "a"))
Term(metrics.same_prediction, weight=0.0)
Term(functools.partial(losses.jensen_shannon, beta=0.2))
Term(lambda student, teacher: ops.mean(ops.square(student - teacher), axis=-1))
Term(lambda student, teacher, labels: ops.square(student - teacher)[labels])
Term("huber", delta=0.5)
Term(keras.losses.mean_squared_error)
Term(keras.losses.Huber())
"""
NO_LOSSES = """
Term(3)
Term([losses.kl_divergence])
Term(lambda student: student)
Term(transforms.standardize)
Term(repr)
"""


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Return a function that returns what mypy prints of each line of some code that it remarks on, in their order."""

    def check(code):
        monkeypatch.setenv("MYPYPATH", str(ROOT))
        path = tmp_path / "used.py"
        path.write_text(IMPORTS.strip() + "\n" + code.strip())
        # The cache of `make types`: without it, mypy reads all of Keras.
        options = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={ROOT / '.mypy_cache'}", "--no-pretty"]
        printed, _, _ = api.run([*options, str(path)])
        lines = path.read_text().splitlines()
        remarks = re.findall(r"^\S*used\.py:(\d+): (?:error|note): (.*)$", printed, re.MULTILINE)
        return [(lines[int(number) - 1], remark) for number, remark in remarks]

    return check


@pytest.mark.slow
def test_the_signature_of_each_function_is_known(checked):
    remarks = dict(checked("\n".join(f"reveal_type({name})" for name in FUNCTIONS)))
    assert list(remarks) == [f"reveal_type({name})" for name in FUNCTIONS]
    assert [line for line, remark in remarks.items() if "Any" in remark] == []
    tensor = "keras_kd._types.Tensor"
    assert remarks["reveal_type(losses.jensen_shannon)"] == (
        f'Revealed type is "def (student: {tensor}, teacher: {tensor}, beta: {tensor} | float =) -> {tensor}"'
    )


@pytest.mark.slow
def test_what_a_term_takes_as_its_loss_is_known(checked):
    assert checked(TERMS) == []
    refused = {line for line, remark in checked(NO_LOSSES) if 'Argument 1 to "Term"' in remark}
    assert refused == set(NO_LOSSES.split("\n")) - {""}
