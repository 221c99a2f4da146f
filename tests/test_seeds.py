"""The five snippets of docs/snippets.md: both versions run, and ours is the shorter, with the same result."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score

import keras_kd as kd
from tests.pages import blocks

PAGE = "docs/snippets.md"
#: The page's first block, and those of each snippet.
START, *OTHERS = blocks(PAGE)
SNIPPETS = {
    heading: [b for b in OTHERS if b.heading == heading] for heading in dict.fromkeys(b.heading for b in OTHERS)
}
FRAUD, CLASS, SQUARED, SOFTMAX, SOFT = SNIPPETS
#: Snippets whose texts use MNIST.
MNIST = (CLASS, SQUARED, SOFTMAX, SOFT)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A function that runs one version of one snippet, once, on a number of examples, and returns its names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("snippets"))  # a benchmark writes where it is
        patch.setattr(kd, "benchmark", functools.partial(kd.benchmark, seeds=1))
        keras.utils.set_random_seed(0)
        started: dict = {}
        START.run(started)
        prepared = functools.cache(lambda heading: prepare(heading, dict(started)))

        @functools.cache
        def once(heading: str, label: str, rows: int | None = None) -> dict:
            names = prepared(heading)
            return version(heading, label, names | {name: names[name][:rows] for name in ("x", "y")})

        yield once


def prepare(heading: str, namespace: dict) -> dict:
    """Run what both versions of a snippet start from."""
    keras.utils.set_random_seed(0)
    for block in SNIPPETS[heading][:-2]:
        block.run(namespace)
    return namespace


def version(heading: str, label: str, namespace: dict) -> dict:
    """Run one of the two versions of a snippet; record the confidence of a student that is refined later."""
    keras.utils.set_random_seed(0)
    block = SNIPPETS[heading][{"There": -2, "Here": -1}[label]]
    before, refined, after = block.code.partition("gentle")
    dataclasses.replace(block, code=before).run(namespace)
    if refined:
        namespace["sure"] = namespace["student"].predict(namespace["x_test"], verbose=0).max(axis=-1).mean()
        dataclasses.replace(block, code=refined + after, line=block.line + before.count("\n")).run(namespace)
    return namespace


def accuracy(model, part) -> float:
    x, y = part
    return float(np.mean(np.argmax(model.predict(x, verbose=0), axis=-1) == y))


def of_test(namespace: dict):
    return namespace["x_test"], namespace["y_test"]


def test_the_page_shows_five_snippets_each_in_two_versions():
    assert len(SNIPPETS) == 5
    for found in SNIPPETS.values():
        assert [block.label for block in found][-2:] == ["**There**", "**Here**"]


@pytest.mark.parametrize("heading", SNIPPETS)
def test_ours_has_no_more_lines(heading):
    there, here = SNIPPETS[heading][-2:]
    assert here.lines() <= there.lines()


@pytest.mark.slow
@pytest.mark.parametrize("label", ["There", "Here"])
def test_fraud_is_found_by_a_light_student(label, ran):
    namespace = ran(FRAUD, label)
    x, y = namespace["payments"], namespace["fraud"]
    if label == "Here":
        scores = namespace["distiller"].predict(x, verbose=0)
    else:
        scores = namespace["sigmoid"](namespace["forward"](x, namespace["small"])[1])
    assert average_precision_score(y, scores) > 5 * y.mean()  # a ranking by chance has the share of the positives


@pytest.mark.slow
def test_the_class_with_a_history_becomes_a_fit(ran):
    namespace = ran(CLASS, "Here")
    soft, hard, total = (np.array(namespace[name]) for name in ("soft", "hard", "total"))
    assert len(total) == 3 and total[-1] < total[0]
    np.testing.assert_allclose(total, 0.7 * soft + 0.3 * hard, rtol=1e-5)
    result = namespace["result"]
    assert {(run.student, run.recipe) for run in result.runs} == {
        (student, recipe) for student in ("narrow", "deep") for recipe in ("alone", "distilled")
    }
    for name, part in (("train", ("x", "y")), ("test", ("x_test", "y_test"))):
        expected = accuracy(namespace["teacher"], [namespace[each] for each in part])
        np.testing.assert_allclose(result.teacher[name]["accuracy"], expected, rtol=1e-6)
        assert all("accuracy" in getattr(run, name) for run in result.runs)


@pytest.mark.slow
def test_the_soft_loss_of_the_class_is_ours_plus_the_teachers_entropy(ran):
    namespace = ran(CLASS, "There", rows=100)
    loop, x, y = namespace["loop"], namespace["x_test"], namespace["y_test"]
    assert set(loop.history) == {"soft", "hard", "total"} and len(loop.history["total"]) == 3
    distiller = kd.Distiller(student=loop.student, teacher=loop.teacher)
    distiller.compile("adam", namespace["cross_entropy"], temperature=loop.temperature, alpha=loop.alpha)
    soft, hard, _ = loop.loss(x, y)
    softened = tf.nn.softmax(loop.teacher(x) / loop.temperature).numpy().astype("float64")
    entropy = -np.mean(np.sum(softened * np.log(softened), axis=-1)) * loop.temperature**2
    ours = distiller.objective(x, y)
    np.testing.assert_allclose(ours["distillation_loss"], soft - entropy, rtol=1e-4)
    np.testing.assert_allclose(ours["student_loss"], hard, rtol=1e-5)


def test_the_loss_with_t_squared_is_the_same_number(ran):
    namespace = ran(SQUARED, "There", rows=100)
    student, x, y = namespace["student"], namespace["x_test"], namespace["y_test"]
    distiller = kd.Distiller(student=student, teacher=namespace["teacher"])
    distiller.compile("adam", namespace["cross_entropy"], temperature=2.0, alpha=0.7)
    theirs = namespace["distillation_loss"](y, student(x), namespace["teacher"](x))
    np.testing.assert_allclose(distiller.objective(x, y)["loss"], theirs, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("heading", [SQUARED, SOFTMAX, SOFT])
def test_ours_is_about_as_accurate_as_theirs(heading, ran):
    theirs, ours = ran(heading, "There"), ran(heading, "Here")
    found, least = accuracy(ours["distiller"], of_test(ours)), accuracy(theirs["student"], of_test(theirs)) - 0.1
    assert found > max(0.5, least)


@pytest.mark.slow
def test_a_softened_teacher_alone_makes_an_unsure_student(ran):
    assert ran(SOFTMAX, "There")["sure"] < ran(SOFTMAX, "Here")["sure"] - 0.1


@pytest.mark.slow
def test_the_refinement_keeps_the_best(ran):
    namespace = ran(SOFTMAX, "Here")
    logs = namespace["record"][0].logs
    validation = namespace["x_val"], namespace["y_val"]
    assert accuracy(namespace["student"], validation) >= logs["before"] - 1e-6


@pytest.fixture(scope="module")
def on_fashion_mnist(fashion_mnist):
    """What the page starts from, with Fashion-MNIST in the place of the digits."""
    few = dataclasses.replace(fashion_mnist, train=tuple(values[:5_000] for values in fashion_mnist.train))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kd.data, "load", lambda name: few)
        patch.setattr(kd, "benchmark", functools.partial(kd.benchmark, seeds=1))
        namespace: dict = {}
        START.run(namespace)
        yield namespace


@pytest.mark.tfds
@pytest.mark.parametrize("heading", MNIST)
def test_ours_runs_on_fashion_mnist(heading, on_fashion_mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = version(heading, "Here", prepare(heading, dict(on_fashion_mnist)))
    assert accuracy(namespace["distiller"], of_test(namespace)) > 0.6
