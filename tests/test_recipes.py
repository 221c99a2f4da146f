"""CONTRIBUTING's recipes: that for a loss is followed in a copy of the tree, the code of the others is run."""

import os
import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.methods import on_features
from keras_kd.teachers import ensemble
from tests.models import batch, mlp
from tests.mutate import ROOT, copied

X, _ = batch(24)
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = dict(re.findall(r"## How to add a (\w+)\n(.*?)(?=\n## |\Z)", TEXT, re.DOTALL))
#: The file that each step names, and its code.
STEPS = [
    (re.findall(r"`((?:keras_kd|tests)/[\w/]+\.py)`", text)[-1], textwrap.dedent(code))
    for text, code in re.findall(r"\n\d\. (.*?)```python\n(.*?)```", RECIPES["loss"], re.DOTALL)
]


def test_each_step_has_its_file():
    assert [path.rpartition("/")[2] for path, _ in STEPS] == [
        "regression.py",
        "__init__.py",
        "references.py",
        "goldens.py",
    ]


@pytest.mark.slow
def test_a_loss_that_is_added_by_the_recipe_is_tested_like_all_others(tmp_path):
    copied(tmp_path)
    for name, code in STEPS:
        path = tmp_path / name
        before = path.read_text()
        if path.name == "goldens.py":
            start = before.index("LOSSES = (\n") + len("LOSSES = (\n")
            path.write_text(before[:start] + textwrap.indent(code, "    ") + before[start:])
        else:
            path.write_text(f"{before}\n\n{code}")
    arguments = ["-q", "-n0", "-p", "no:cacheprovider", "-k", "charbonnier or (test_docs and page)"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "tests/test_losses_all.py", "tests/test_docs.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "KERAS_KD_THOROUGH": "all"},
    )
    assert run.returncode == 0, run.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", run.stdout)[1])
    assert passed >= 20, run.stdout[-500:]


def made(recipe, module, name):
    """Return what a recipe's code defines, where the names of a module are known."""
    names = dict(vars(module))
    code = textwrap.dedent(re.search(r"```python\n(.*?)```", RECIPES[recipe], re.DOTALL)[1])
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names[name]


def test_the_method_of_the_recipe_has_its_terms():
    [term] = made("method", on_features, "cosine_features")([("student_layer", "teacher_layer")], weight=2.0)
    student, teacher = np.array([[3.0, 0.0]], "float32"), np.array([[1.0, 1.0]], "float32")
    assert term.weight == 2.0
    assert float(term.read({"student_layer": student}, {"teacher_layer": teacher})) == pytest.approx(1 - 0.5**0.5)


@pytest.mark.slow
def test_the_teacher_of_the_recipe_trains_with_noise():
    keras.utils.set_random_seed(0)
    teacher = made("teacher", ensemble, "Noisy")(mlp(2), scale=0.5)
    distiller = kd.Distiller(student=mlp(1), teacher=teacher)
    distiller.compile("sgd", alpha=1.0)
    distiller.fit(X, verbose=0)
    noise = np.stack([teacher(X, {})["logits"] - mlp(2)(X) for _ in range(200)])
    assert np.std(noise) == pytest.approx(0.5, rel=0.05)
    assert not np.array_equal(noise[0], noise[1])
