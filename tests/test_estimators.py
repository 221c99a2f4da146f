"""Estimators of scikit-learn wherever a teacher is taken: comparisons, benchmarks, searches, labels, ensembles."""

import keras
import numpy as np
import pytest
from sklearn import ensemble

import keras_kd as kd
from tests.benchmarks import arguments, net, part
from tests.models import linear, softmax
from tests.test_teachers_python import log, soft, softly

X, Y = part(0)
FOREST = ensemble.RandomForestClassifier(5, random_state=0).fit(X, Y)
BOOSTED = ensemble.HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=2, random_state=0).fit(X, Y)


def test_a_comparison_has_a_column_for_an_estimator():
    test_x, test_y = part(2)
    student = linear(1)
    found = kd.compare({"teacher": FOREST, "student": student}, (test_x, test_y), rounds=0, memory=False).quality
    p = FOREST.predict_proba(test_x)
    brier = np.mean(np.sum((p - np.eye(3)[test_y]) ** 2, -1))
    assert found["teacher"]["accuracy"] == pytest.approx(FOREST.score(test_x, test_y))
    assert found["teacher"]["brier"] == pytest.approx(brier, abs=1e-6)
    same = np.argmax(softmax(student(test_x)), -1) == np.argmax(p, -1)
    assert found["student"]["agreement"] == pytest.approx(np.mean(same))


@pytest.mark.slow
def test_a_benchmark_under_an_estimator_is_that_under_its_probabilities(tmp_path):
    brief = {"seeds": 1, "epochs": 1, "label_smoothing": None}
    runs = kd.benchmark(**arguments(tmp_path / "a", teacher=FOREST, **brief)).runs
    dense = kd.teachers.Python(lambda x: FOREST.predict_proba(x), outputs=3, head="softmax")
    again = kd.benchmark(**arguments(tmp_path / "b", teacher=dense, **brief)).runs
    assert [(run.recipe, run.test) for run in runs] == [(run.recipe, run.test) for run in again]
    assert {run.recipe for run in runs} == {"alone", "kd"}


@pytest.mark.slow
def test_a_search_under_an_estimator(tmp_path):
    pytest.importorskip("keras_tuner")
    compiled = arguments(tmp_path)["compile_arguments"]
    few = {"space": {"temperature": [2.0], "alpha": [0.9]}, "trials": 1, "epochs": 1, "verbose": 0}
    found = kd.tune(net(), FOREST, part(0), part(1), folder=tmp_path, compile_arguments=compiled, **few)
    assert found.best["temperature"] == 2.0


def test_an_estimator_labels_what_has_no_labels():
    x, y, kept = kd.stages.soft_labels(FOREST, X, threshold=0.8, temperature=2.0)
    p = FOREST.predict_proba(X)
    np.testing.assert_array_equal(kept, p.max(-1) > 0.8 - 1e-9)  # ten trees: 0.8 itself is often there
    assert 0 < kept.sum() < len(X)
    np.testing.assert_allclose(y, softmax(log(p) / 2.0)[kept], atol=1e-6)
    _, record = kd.stages.pseudo_label(
        FOREST,
        X,
        0.8,
        net(),
        compile_arguments={"optimizer": "adam", "loss": keras.losses.CategoricalCrossentropy(from_logits=True)},
        fit_arguments={"epochs": 1, "verbose": 0},
    )
    assert len(record) == 1


def test_estimators_of_several_kinds_are_averaged():
    student = linear(1)
    p = np.mean([softmax(log(each.predict_proba(X)) / 4.0) for each in (FOREST, BOOSTED)], axis=0)
    assert softly(student, [FOREST, BOOSTED], X) == pytest.approx([soft(student(X), 4.0 * log(p))], rel=1e-5)


def test_a_cache_of_estimators_of_several_kinds(tmp_path):
    student = linear(1)
    cache = kd.TeacherCache(tmp_path, teacher=[FOREST, BOOSTED], dtype="float32")
    cache.build(X, verbose=0)
    received = softly(student, kd.teachers.Cached(cache), cache.join(X))
    assert received == pytest.approx(softly(student, [FOREST, BOOSTED], X), rel=1e-5)
