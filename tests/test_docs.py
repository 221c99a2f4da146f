"""The code of the pages and the docstrings runs unchanged, and nothing public is missing from the API pages."""

import ast
import doctest
import functools
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from tests.pages import ROOT, blocks

sys.path.append(str(ROOT / "docs"))
import site_names  # noqa: E402

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TROUBLES = {block.heading: block for block in blocks("docs/troubleshooting.md")}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def at_once(tmp_path, monkeypatch):
    """Run in a folder of its own, and without tracing graphs: what is shown is tried, not timed."""
    monkeypatch.chdir(tmp_path)
    # The same functions with less work; their other arguments are those of the page.
    monkeypatch.setattr(kd, "export", functools.partial(kd.export, fresh=False))
    monkeypatch.setattr(kd, "benchmark", functools.partial(kd.benchmark, seeds=1, epochs=1, verbose=0))
    monkeypatch.setattr(kd, "tune", functools.partial(kd.tune, trials=1, epochs=1, verbose=0))
    monkeypatch.setattr(kd, "compare", functools.partial(kd.compare, memory=False, rounds=10))
    fit = kd.Distiller.fit
    monkeypatch.setattr(
        kd.Distiller, "fit", lambda self, *x, epochs=1, **more: fit(self, *x, epochs=min(epochs, 2), **more)
    )
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def images(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images of noise with labels, of the size that the README shows."""
    random = np.random.default_rng(seed)
    return random.uniform(size=(rows, 28, 28, 1)).astype("float32"), random.integers(0, 10, rows)


def convolutional(name: str, *units: int) -> keras.Sequential:
    """Return a small model whose layers have the names that the README reads."""
    layers = [
        keras.layers.Conv2D(n, 3, 2, "same", activation="relu", name=f"{name}{i}") for i, n in enumerate(units, 1)
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def models() -> dict:
    """Return what a reader of the README has."""
    backbone = convolutional("block", 2, 3, 4, 4)
    backbone.name = "backbone"
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    teacher = keras.Sequential([keras.Input((28, 28, 1)), backbone, *head])
    maps = convolutional("conv_", 2, 2, 2).layers
    student = keras.Sequential([keras.Input((28, 28, 1)), *maps, keras.layers.Flatten(), keras.layers.Dense(10)])
    return {"teacher": teacher, "student": student}


@pytest.fixture
def readme(at_once):
    """The names that the README's blocks use without a definition."""
    (x, y), (x_val, y_val), (x_test, y_test) = images(16), images(16, 1), images(16, 2)
    small, tiny, alone, distilled = (dense_images(units) for units in (4, 2, 3, 3))
    arguments = {"optimizer": "adam", "loss": CROSS_ENTROPY, "metrics": ["accuracy"]}
    distiller = kd.Distiller(student=small, teacher=dense_images(8))
    distiller.compile(**arguments)
    dense_images(8).save("teacher.keras")
    return {
        **models(),
        **{"x": x, "y": y, "x_val": x_val, "y_val": y_val, "x_test": x_test, "y_test": y_test},
        **{"x_train": x, "small": small, "tiny": tiny, "alone": alone, "distilled": distilled},
        **{"loss": CROSS_ENTROPY, "compile_arguments": arguments, "distiller": distiller},
        "dataset": tf.data.Dataset.from_tensor_slices((x, y)),
        "keras": keras,
        "kd": kd,
    }


def dense_images(units: int) -> keras.Sequential:
    layers = [keras.layers.Flatten(), keras.layers.Dense(units, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


# The first block is in tests/test_readme.py.
@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("README.md")[1:], ids=lambda block: block.code.split("=")[0].split()[-1])
def test_the_readmes_code_runs(block, readme):
    if "stages" in block.code:  # assistants are made between the sizes of two models of one kind
        readme |= {"teacher": dense_images(16), "student": dense_images(2)}
    elif "benchmark" in block.code or "export" in block.code:
        readme |= {"teacher": dense_images(8), "student": dense_images(2)}
    block.run(readme)


@pytest.mark.parametrize("page", ["docs/scaling.md", "CONTRIBUTING.md"])
def test_code_that_needs_more_machines_than_one_is_python(page):
    found = blocks(page)
    assert found
    for block in found:
        compile(block.code, page, "exec")


def dense(*hidden, classes=10):
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers, keras.layers.Dense(classes)])


@pytest.fixture(scope="module")
def taught():
    """The weights of a good teacher of digits."""
    teacher = dense(32)
    teacher.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY)
    teacher.fit(*kd.data.load("digits").train, epochs=5, verbose=0)
    return teacher.get_weights()


@pytest.fixture
def trouble(taught, at_once):
    """What a reader of the troubleshooting page has: a good teacher, a fresh student, a compiled Distiller."""
    digits = kd.data.load("digits")
    teacher, student = dense(32), dense(16)
    teacher.set_weights(taught)
    distiller = kd.Distiller(student=student, teacher=teacher)
    distiller.compile("adam", CROSS_ENTROPY, metrics=["accuracy"], temperature=4.0)
    x, y = (values[:128] for values in digits.train)
    x_val, y_val = (values[:128] for values in digits.validation)
    return {
        **{"keras": keras, "kd": kd, "np": np, "tf": tf, "cross_entropy": CROSS_ENTROPY, "dense": dense},
        **{"teacher": teacher, "student": student, "distiller": distiller},
        **{"x": x, "y": y, "x_val": x_val, "y_val": y_val},
    }


@pytest.mark.parametrize("heading", TROUBLES)
def test_the_code_against_troubles_runs(heading, trouble):
    TROUBLES[heading].run(trouble)


@pytest.mark.slow
def test_with_validation_data_val_loss_is_logged(trouble):
    TROUBLES['"val_loss not available"'].run(trouble)
    assert {"val_loss", "val_student_loss", "val_accuracy"} <= set(trouble["history"].history)
    kept = keras.models.load_model("best.keras")
    assert type(kept) is keras.Sequential
    distiller = trouble["distiller"]
    distiller.compile("adam", temperature=4.0, alpha=1.0)
    unlabelled = tf.data.Dataset.from_tensor_slices(trouble["x_val"]).batch(64)
    logs = distiller.fit(trouble["x"], validation_data=unlabelled, verbose=0).history
    assert "val_distillation_loss" in logs and "val_accuracy" not in logs


def test_without_validation_data_keras_warns_that_val_loss_is_not_available(trouble):
    stop = keras.callbacks.EarlyStopping(monitor="val_loss")
    with pytest.warns(UserWarning, match="`val_loss` which is not available"):
        trouble["distiller"].fit(trouble["x"], trouble["y"], callbacks=[stop], verbose=0)


@pytest.mark.slow
def test_the_students_file_is_the_smallest(trouble):
    distiller, student = trouble["distiller"], trouble["student"]
    distiller.fit(trouble["x"], trouble["y"], verbose=0)
    TROUBLES["The saved student is bigger than before"].run(trouble)
    student.compile("adam", CROSS_ENTROPY)
    student.fit(trouble["x"], trouble["y"], verbose=0)
    student.save("with_optimizer.keras")
    kd.export(student, "without", formats=("keras",))
    size = {path: path.stat().st_size for path in pathlib.Path().rglob("*.keras")}
    to_go_on, alone, compiled = (
        size.pop(pathlib.Path(f"{name}.keras")) for name in ("to_go_on", "student", "with_optimizer")
    )
    (exported,) = size.values()
    adam = 2 * 4 * student.count_params()
    assert min(to_go_on - alone, compiled - exported) > adam


def test_inverted_pixels_are_caught_by_the_check(trouble):
    TROUBLES["The student learns nothing, accuracy at chance"].run(trouble)
    assert any("not shown what it was trained on" in advice for advice in trouble["report"].advice)


@pytest.mark.slow
def test_a_loss_for_probabilities_on_logits_spoils_the_training(trouble):
    found = []
    for loss in (CROSS_ENTROPY, "sparse_categorical_crossentropy"):
        keras.utils.set_random_seed(0)
        student = dense(16)  # as under a Distiller: alpha=0 is plain training
        student.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        found.append(student.fit(trouble["x"], trouble["y"], epochs=10, verbose=0).history["accuracy"][-1])
    assert found[1] < found[0] - 0.2


def test_the_teacher_stays_unchanged(trouble):
    TROUBLES["The teacher's weights change"].run(trouble)
    assert trouble["same"]


def test_the_weight_undoes_t_squared(trouble):
    TROUBLES["Temperature, T**2 and alpha from elsewhere"].run(trouble)
    parts = []
    for terms in ([trouble["same_as_without"]], [kd.Term(kd.losses.kl_divergence)]):
        distiller = kd.Distiller(student=trouble["student"], teacher=trouble["teacher"], terms=terms)
        distiller.compile("adam", alpha=1.0, temperature=4.0)
        parts.append(float(distiller.objective(trouble["x"])["loss"]))
    np.testing.assert_allclose(parts[0] * 16, parts[1], rtol=1e-5)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_on_the_site_a_solution_is_folded(path):
    """What is folded is the code below "## Solution", and nothing else: docs/conf.py names it so."""
    below, solutions, folded = False, [], []
    for cell in json.loads(path.read_text())["cells"]:
        below = below or "## Solution" in "".join(cell["source"])
        solutions += [cell["id"]] if below and cell["cell_type"] == "code" else []
        folded += [cell["id"]] if "hide-cell" in cell["metadata"].get("tags", []) else []
    assert solutions and folded == solutions


def test_every_public_name_is_on_an_api_page():
    assert site_names.undocumented(ROOT / "docs" / "api") == []


def test_what_public_functions_return_is_on_an_api_page():
    assert site_names.undocumented_results(ROOT / "docs" / "api") == []


def test_every_name_on_an_api_page_exists():
    for name in site_names.documented_names(ROOT / "docs" / "api"):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_a_unit_is_explained_where_a_reader_meets_it_first():
    families = re.findall(r"autofamily:: (\S+)", (ROOT / "docs/api/losses.md").read_text())
    names = [name.rpartition(".")[2] for each in families for name in site_names.family(each)]
    first = next(doc for doc in (getattr(kd.losses, name).__doc__ for name in names) if " nats" in doc)
    assert "nats, the unit of natural logarithms" in first


def examples() -> list[doctest.DocTest]:
    """Return the examples of all docstrings of the library."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for module in pkgutil.walk_packages(kd.__path__, "keras_kd."):
        if not module.name.rpartition(".")[2].startswith("_"):
            found += [test for test in finder.find(importlib.import_module(module.name)) if test.examples]
    return found


EXAMPLES = {test.name: test for test in examples()}
PRINTED = {name: test for name, test in EXAMPLES.items() if test.examples[-1].want}
#: Those that need models, layers or data that only their reader has.
TOLD = {name: test for name, test in EXAMPLES.items() if name not in PRINTED}


#: Names of variables in the examples, which are modules of the library as well.
VARIABLES = ("cache", "comparison", "distiller")


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_in_a_docstring_prints_what_it_shows(name):
    test = PRINTED[name]
    namespace = {**test.globs, "np": np}
    *before, last = test.examples
    for example in before:
        exec(example.source, namespace)
    value = eval(last.source, namespace)
    if isinstance(value, tuple):
        assert repr(value) == last.want.strip()
    else:
        printed = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", last.want)]
        np.testing.assert_allclose(np.ravel(value), printed, atol=5e-4)


@pytest.mark.parametrize("name", TOLD)
def test_the_names_in_other_examples_exist(name):
    """Every name of the library in a call exists, and every argument that is given by name."""
    test = TOLD[name]
    for example in test.examples:
        for node in ast.walk(ast.parse(example.source)):
            called = resolve(node.func, test.globs) if isinstance(node, ast.Call) else None
            if called is not None:
                parameters = inspect.signature(called.__init__ if isinstance(called, type) else called).parameters
                takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
                unknown = {each.arg for each in node.keywords} - set(parameters)
                assert takes_more or not unknown, (ast.unparse(node), unknown)


def resolve(node: ast.expr, names: dict):
    """Return what `losses.pkt` or `kd.Term` means in a docstring, or None for what is no name of the library."""
    path = ast.unparse(node).split(".")
    library = {"kd": kd, "keras_kd": kd, **vars(kd), **names}
    known = None if path[0] in VARIABLES else library.get(path[0])
    if known is None or not getattr(known, "__module__", getattr(known, "__name__", "")).startswith("keras_kd"):
        return None
    return functools.reduce(getattr, path[1:], known)
