"""A benchmark is fair, its numbers are SciPy's, and it continues after it was killed."""

import copy
import functools
import importlib.util
import json
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import types
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import keras
import matplotlib.axes
import matplotlib.figure
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import keras_kd as kd
from keras_kd.experiments import benchmark_plot, benchmark_run, executors, run_settings, scoring, statistics
from keras_kd.experiments.benchmark_result import BenchmarkResult, Run
from keras_kd.experiments.benchmark_run import Heartbeat
from keras_kd.experiments.data_splits import Part
from keras_kd.teachers import as_teacher
from tests.benchmarks import LOSS, arguments, finished, net, part, shuffled, teacher
from tests.models import headed, softmax


class Recipes:
    """A recipe as a method, whose object has settings."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __repr__(self) -> str:
        return f"Recipes({self.temperature})"

    def make(self, student, teacher):
        return {"temperature": self.temperature}


#: As little work as a benchmark can be.
BRIEF = {"seeds": 1, "epochs": 1, "label_smoothing": None}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One finished benchmark, and the folder that it is kept in."""
    folder = tmp_path_factory.mktemp("benchmark")
    recipes = {"kd": {"temperature": 3.0, "alpha": 0.8}, "dkd": {"terms": kd.methods.dkd(), "alpha": 0.5}}
    return kd.benchmark(**arguments(folder, recipes=recipes)), folder, recipes


def made(values: dict[tuple[str, str], list[tuple[float, float]]], metric: str = "accuracy") -> BenchmarkResult:
    """Return a result of runs with these (validation, test) by (student, recipe), seed after seed."""
    runs = [
        Run(student, recipe, seed, 10, 1.0, 1, {}, {metric: validation}, {metric: test}, {}, "")
        for (student, recipe), pairs in values.items()
        for seed, (validation, test) in enumerate(pairs)
    ]
    return BenchmarkResult(runs, {}, 100, metric, "min" if metric == "loss" else "max")


@pytest.mark.parametrize("seeds", [2, 6])
def test_intervals_and_the_paired_test_are_scipys(seeds):
    random = np.random.default_rng(0)
    recipe, alone = random.normal(size=(2, seeds))
    found = statistics.interval(recipe)
    expected = stats.ttest_1samp(recipe, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(found, [recipe.mean(), expected.low, expected.high], rtol=1e-12)
    found, test = statistics.paired(recipe, alone), stats.ttest_rel(recipe, alone)
    bounds = test.confidence_interval(0.95)
    np.testing.assert_allclose(found, [np.mean(recipe - alone), bounds.low, bounds.high, test.pvalue], rtol=1e-12)


def test_one_seed_has_no_interval_and_equal_seeds_have_no_p():
    assert statistics.interval([0.5]) == (0.5, None, None)
    assert statistics.paired([0.5], [0.25]) == (0.25, None, None, None)
    assert statistics.paired([0.5, 0.75], [0.5, 0.75]) == (0.0, 0.0, 0.0, None)
    result = made({("net", "alone"): [(0.5, 0.5)], ("net", "kd"): [(0.6, 0.625)]})
    assert "+0.1250" in str(result) and "One seed" in str(result)


def test_the_table_compares_a_recipe_with_alone_seed_by_seed():
    tests = {"alone": [0.50, 0.70, 0.60], "kd": [0.54, 0.75, 0.63]}
    result = made({("net", name): [(each, each) for each in values] for name, values in tests.items()})
    _, row = result.rows()
    expected = stats.ttest_rel(tests["kd"], tests["alone"])
    np.testing.assert_allclose(row.over_alone.p, expected.pvalue, rtol=1e-12)
    np.testing.assert_allclose(row.over_alone.mean, 0.04, rtol=1e-12)
    assert f"{expected.pvalue:.3f}" in str(result)


def test_an_unfinished_benchmark_compares_the_seeds_that_both_have():
    result = made({("net", "alone"): [(0.5, 0.5)] * 3, ("net", "kd"): [(0.6, 0.6), (0.6, 0.7)]})
    np.testing.assert_allclose(result.rows()[1].over_alone.mean, 0.15, rtol=1e-12)


def test_the_best_recipe_and_its_best_seed_are_those_of_validation():
    values = {
        ("net", "alone"): [(0.1, 0.9), (0.9, 0.9)],
        ("net", "kd"): [(0.7, 0.2), (0.6, 0.1)],
        ("tiny", "alone"): [(0.2, 0.99), (0.2, 0.99)],
    }
    result = made(values)
    assert (result.best().recipe, result.best().seed) == ("kd", 0)
    assert result.best("tiny").student == "tiny"
    assert [row.chosen for row in result.rows()] == [False, True, True]
    losses = made(values, "loss")
    assert losses.best().recipe == "alone" and losses.best().student == "tiny"
    with pytest.raises(ValueError, match="Expected `student` to be one of"):
        result.best("huge")


@pytest.mark.parametrize("metric, good", [("accuracy", 0.7), ("loss", 0.3)])
def test_a_recipe_that_has_diverged_is_never_the_best(metric, good):
    nan, bad = float("nan"), 0.5
    values = {
        ("net", "alone"): [(nan, nan), (nan, nan)],
        ("net", "kd"): [(bad, bad), (bad, bad)],
        ("net", "half"): [(good, good), (nan, nan)],  # and its mean
        ("net", "good"): [(bad, bad), (good, good)],
    }
    result = made(values, metric)
    assert [row.recipe for row in result.rows() if row.chosen] == ["good"]
    assert (result.best().recipe, result.best().seed) == ("good", 1)


@pytest.mark.slow
def test_every_run_is_saved_with_its_evaluation_history_and_student(small):
    result, _, _ = small
    assert [row.recipe for row in result.rows()] == ["alone", "label smoothing", "kd", "dkd"]
    assert set(result.histories) == {
        ("net", name, seed) for name in ("alone", "label smoothing", "kd", "dkd") for seed in (0, 1)
    }
    assert {"loss", "student_loss", "distillation_loss", "val_accuracy"} <= set(result.histories["net", "kd", 0])
    run = result.best()
    student = keras.saving.load_model(run.path, compile=False)
    student.compile("sgd", LOSS, metrics=["accuracy"])
    for name in ("train", "validation", "test"):
        x, y = part({"train": 0, "validation": 1, "test": 2}[name])
        loss, accuracy = student.evaluate(x, y, verbose=0)
        np.testing.assert_allclose(getattr(run, name)["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(getattr(run, name)["accuracy"], accuracy, rtol=1e-6)
        predicted = np.argmax(teacher().predict(x, verbose=0), axis=-1)
        np.testing.assert_allclose(result.teacher[name]["accuracy"], np.mean(predicted == y), rtol=1e-6)


@pytest.mark.slow
def test_a_compiled_teacher_is_measured_unchanged(tmp_path):
    compiled = teacher()
    compiled.compile("sgd", LOSS, metrics=["accuracy"])
    result = kd.benchmark(**arguments(tmp_path, teacher=compiled, **BRIEF))
    loss, accuracy = compiled.evaluate(*part(2), verbose=0)
    np.testing.assert_allclose(
        [result.teacher["test"][name] for name in ("loss", "accuracy")], [loss, accuracy], rtol=1e-5
    )


@pytest.mark.parametrize("head", ["logits", "softmax", "sigmoid"])
def test_a_teacher_is_measured_on_what_the_student_outputs(head):
    x = part(2)[0]
    y = np.eye(3, dtype="float32")[part(2)[1]]
    members = [headed(seed, "sigmoid" if head == "sigmoid" else "logits") for seed in (1, 2)]
    outputs = [member.predict(x, verbose=0).astype("float64") for member in members]
    p = np.mean([each if head == "sigmoid" else softmax(each) for each in outputs], axis=0)
    if head == "sigmoid":
        loss, expected = "binary_crossentropy", -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    else:
        loss = keras.losses.CategoricalCrossentropy(from_logits=head == "logits")
        expected = -np.mean(np.sum(y * np.log(p), axis=-1))
    compiled = {"optimizer": "sgd", "loss": loss, "run_eagerly": True, "temperature": 3.0}
    assert scoring.better(headed(3, head), compiled, "loss", "auto") == "min"
    found = scoring.teacher_measured(as_teacher(members), headed(3, head), compiled, [Part("test", (x, y), 16)])
    assert found["test"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_function_is_measured_and_a_teacher_without_logits_is_not():
    x, y = part(2)
    measured = functools.partial(
        scoring.teacher_measured,
        student=net(),
        compile_arguments={"optimizer": "sgd", "loss": LOSS, "run_eagerly": True},
        parts=[Part("test", (x, y), 16)],
    )
    given, inputs = teacher(), keras.Input((4,))
    z = softmax(given.predict(x, verbose=0))
    expected = -np.mean(np.log(z[np.arange(len(y)), y]))
    assert measured(as_teacher(lambda x: given(x)))["test"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert measured(as_teacher(keras.Model(inputs, {"a": given(inputs), "b": given(inputs)}))) == {}


@pytest.mark.slow
def test_a_run_of_a_recipe_is_the_distiller_that_one_would_write_by_hand(small):
    result, _, _ = small
    keras.utils.set_random_seed(1)
    student = net()
    distiller = kd.Distiller(student=student, teacher=teacher())
    distiller.compile(keras.optimizers.Adam(0.03), LOSS, run_eagerly=True, temperature=3.0, alpha=0.8)
    keras.utils.set_random_seed(1)  # TensorFlow adds this one to the seed of a shuffle
    distiller.fit(shuffled(1), epochs=2, verbose=0, shuffle=False)
    kept = keras.saving.load_model(next(run.path for run in result.runs if run.recipe == "kd" and run.seed == 1))
    for received, expected in zip(kept.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-5)


def test_the_control_trains_with_smoothed_labels(small):
    result, _, _ = small
    keras.utils.set_random_seed(0)
    student = net()
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    student.compile(keras.optimizers.Adam(0.03), smoothed, run_eagerly=True)
    x, y = part(0)
    data = tf.data.Dataset.from_tensor_slices((x, np.eye(3, dtype="float32")[y])).shuffle(48, seed=0).batch(16)
    student.fit(data, epochs=2, verbose=0, shuffle=False)
    kept = keras.saving.load_model(next(run.path for run in result.runs if run.recipe == "label smoothing"))
    for received, expected in zip(kept.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-5)


def test_the_same_call_again_runs_nothing_and_returns_the_same(small):
    result, folder, recipes = small
    before = finished(folder)
    again = kd.benchmark(**arguments(folder, recipes=recipes))
    assert finished(folder) == before
    assert str(again) == str(result) == str(BenchmarkResult.load(folder))
    assert again.to_dict() == result.to_dict() == json.loads(json.dumps(result.to_dict()))


def test_the_table_is_aligned_and_available_in_markdown(small):
    result, _, _ = small
    lines = str(result).split("\n\n")[0].splitlines()
    assert len(lines) == 6
    assert all(line.rstrip().endswith(("over alone      p", "p")) or len(line) <= len(lines[0]) for line in lines)
    assert len({line.index("0.") for line in lines[2:]}) == 1
    rows = result.to_markdown().split("\n\n")[0].splitlines()
    assert {row.count("|") for row in rows} == {9}


@pytest.mark.slow
def test_a_poisoned_test_set_changes_neither_the_best_epoch_nor_the_best_recipe(tmp_path):
    def contrary(seed):
        x, y = part(seed)
        return x, (y + 1) % 3

    # By validation, a student that learns gets worse: the first epoch is the best one, and a fast learner is bad.
    recipes = {"fast": {"optimizer": keras.optimizers.Adam(0.5)}, "still": {"optimizer": keras.optimizers.SGD(0.0)}}
    common = {**BRIEF, "keep_best": True, "epochs": 3, "recipes": recipes, "validation": contrary(1)}
    clean = kd.benchmark(**arguments(tmp_path / "clean", **common))
    spoiled = kd.benchmark(**arguments(tmp_path / "spoiled", test=contrary(2), **common))
    for a, b in zip(clean.runs, spoiled.runs, strict=True):
        assert a.test != b.test
        assert (a.epoch, a.validation, a.history) == (b.epoch, b.validation, b.history)
        curve = a.history["val_accuracy"]
        assert a.epoch == int(np.argmax(curve)) + 1 == 1
        assert a.recipe == "still" or max(curve) > curve[-1]
        for part_of, name in ((contrary(1), "validation"), (part(2), "test")):
            student = keras.saving.load_model(a.path, compile=False)
            accuracy = np.mean(np.argmax(student.predict(part_of[0], verbose=0), -1) == part_of[1])
            assert getattr(a, name)["accuracy"] == pytest.approx(accuracy, abs=1e-6)
        assert a.validation["accuracy"] == pytest.approx(max(curve))
    chosen = [[row.recipe for row in result.rows() if row.chosen] for result in (clean, spoiled)]
    assert chosen[0] == chosen[1] == [clean.best().recipe] == [spoiled.best().recipe]
    by_test = [max(result.rows(), key=lambda row: row.test.mean).recipe for result in (clean, spoiled)]
    assert by_test[0] == "fast" != by_test[1] and clean.best().recipe != "fast"


@pytest.mark.slow
def test_a_changed_setting_is_refused_and_an_added_one_is_run(small):
    _, folder, recipes = small
    before = finished(folder)
    for name, change in {
        "recipe": {"recipes": {**recipes, "kd": {"temperature": 4.0, "alpha": 0.8}}},
        "epochs": {"epochs": 3},
        "test": {"test": part(9)},
        "student": {"students": {"net": net(4)}},
        "compile_arguments": {
            "compile_arguments": {"optimizer": keras.optimizers.Adam(0.1), "loss": LOSS, "metrics": ["accuracy"]}
        },
        "teacher": {"teacher": net(16)},
    }.items():
        with pytest.raises(ValueError, match=f"with another `{name}`"):
            kd.benchmark(**{**arguments(folder, recipes=recipes), **change})
    assert finished(folder) == before
    kd.benchmark(**arguments(folder, recipes={**recipes, "hot": {"temperature": 9.0}}, seeds=[0]))
    assert before.items() <= finished(folder).items() and len(finished(folder)) == len(before) + 1


@pytest.mark.parametrize(
    "one, other",
    [
        (2.0, 3.0),
        ("a", "b"),
        ({1, 2}, {1, 3}),
        ([1, {"a": 2}], [1, {"a": 3}]),
        (np.arange(3), np.arange(3) + 1),
        (np.zeros(5000), np.r_[np.zeros(2500), 1e-9, np.zeros(2499)]),  # NumPy does not show the middle
        (tf.constant(1.0), tf.constant(2.0)),
        (np.float32(0.1), np.float32(0.2)),
        (lambda: 1.0, lambda: 2.0),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (pathlib.Path("a"), pathlib.Path("b")),
        (tf.float32, tf.float16),
        (kd.Term(kd.losses.kl_divergence, weight=1.0), kd.Term(kd.losses.kl_divergence, weight=2.0)),
        (Recipes(1.0).make, Recipes(2.0).make),
    ],
)
def test_a_recipe_that_is_a_function_is_compared_by_its_enclosed_values_too(one, other):
    def enclosing(value):
        return lambda student, teacher: {"temperature": value}

    def by_default(value):
        return lambda student, teacher, given=value: {"temperature": given}

    def by_name(value):
        return lambda student, teacher, *, given=value: {"temperature": given}

    for made in (enclosing, by_default, by_name):
        assert run_settings.describe(made(one)) != run_settings.describe(made(other))
        assert run_settings.describe(made(one)) == run_settings.describe(made(copy.deepcopy(one)))
        json.dumps(run_settings.describe(made(one)))


def test_settings_that_another_process_makes_of_json_are_those_that_were_sent():
    given = {"build": net, "optimizer": keras.optimizers.Adam(0.25), "others": [1, 0.5, None, "a", True]}
    sent = json.dumps(run_settings.encode(given, "`compile_arguments`"))
    received = run_settings.decode(json.loads(sent))
    assert received["build"] is net and received["others"] == given["others"]
    assert isinstance(received["optimizer"], keras.optimizers.Adam)
    assert float(received["optimizer"].learning_rate) == 0.25


@pytest.mark.slow
def test_a_recipe_of_other_enclosed_values_is_not_treated_as_finished(tmp_path):
    def recipe(value):
        return lambda student, teacher: {"temperature": value}

    kd.benchmark(**arguments(tmp_path, recipes={"kd": recipe(2.0)}, **BRIEF))
    before = finished(tmp_path)
    kd.benchmark(**arguments(tmp_path, recipes={"kd": recipe(2.0)}, **BRIEF))
    with pytest.raises(ValueError, match="with another `recipe`"):
        kd.benchmark(**arguments(tmp_path, recipes={"kd": recipe(3.0)}, **BRIEF))
    assert finished(tmp_path) == before


def test_nothing_is_printed_without_verbose_and_a_damaged_record_is_named(tmp_path, capsys):
    kd.benchmark(**arguments(tmp_path, **BRIEF))
    assert capsys.readouterr().out == ""
    path = next(tmp_path.glob("runs/*alone*.json"))
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="is damaged: .* Remove it"):
        kd.benchmark(**arguments(tmp_path, **BRIEF))


@pytest.mark.slow
def test_a_list_of_named_models_with_their_own_settings_is_one_call(tmp_path, capsys):
    configs = [
        {"name": "small", "model": net(3), "temperature": 2.0, "alpha": 0.5},
        {"name": "tiny", "model": lambda: net(2), "temperature": 5.0, "alpha": 0.9},
    ]
    given = arguments(tmp_path, **BRIEF, students=configs, verbose=1)
    given["compile_arguments"]["temperature"] = 9.0  # the student alone knows none
    result = kd.benchmark(**{**given, "recipes": None})
    assert [(row.student, row.recipe) for row in result.rows()] == [
        (name, recipe) for name in ("small", "tiny") for recipe in ("alone", "distilled")
    ]
    assert set(result.teacher) == {"train", "validation", "test"}
    printed = capsys.readouterr().out
    assert re.search(r"4/4  tiny, distilled, seed 0: validation accuracy 0\.\d+", printed)
    assert re.search(r"2/4 .* about [\d.]+ s left", printed)


def test_a_recipe_may_be_a_function_of_the_models(tmp_path):
    def hints(student, given):
        assert isinstance(given, keras.Model)
        pair = (student.layers[0].name, given.layers[0].name)
        return {"terms": kd.methods.fitnets([pair]), "alpha": 0.3}

    result = kd.benchmark(**arguments(tmp_path, recipes={"hints": hints}, **BRIEF))
    assert result.rows()[-1].recipe == "hints"


def test_data_from_a_function_of_the_seed_are_recognised_whatever_was_random_before(tmp_path):
    # tf.data's shuffle(seed=) goes by the global seed, too.
    given = arguments(tmp_path, train=shuffled, recipes={}, **BRIEF)
    runs = []
    for before in (1, 2):
        keras.utils.set_random_seed(before)
        runs.append(kd.benchmark(**given).runs)
    assert runs[0] == runs[1]


def test_data_from_a_function_of_the_seed_come_in_the_same_order_for_all_recipes(tmp_path):
    given = arguments(tmp_path, train=shuffled, recipes={"off": {"alpha": 0.0}}, **BRIEF)
    result = kd.benchmark(**given)
    alone, off = (
        keras.saving.load_model(run.path, compile=False) for run in result.runs if run.recipe in ("alone", "off")
    )
    for a, b in zip(alone.get_weights(), off.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_every_evaluation_on_data_from_a_function_is_of_the_seed_whose_digest_is_taken():
    seeds = []
    source = Part("validation", lambda seed: seeds.append(seed) or shuffled(seed), 16)
    source.digest()
    source.batches()
    source.shuffled(5)
    assert seeds == [0, 0, 5]


def test_what_cannot_be_compared_is_refused_before_any_work(tmp_path):
    random = tf.data.Dataset.from_tensor_slices(part(0)).shuffle(48).batch(16)
    for change, message in (
        ({"train": random}, "same batches to every run"),
        ({"train": 3}, "Expected `train` to be arrays"),
        ({"recipes": {"alone": {}}}, "other names for recipes"),
        ({"recipes": {"kd": 4.0}}, "Expected recipe 'kd' to be a dict"),
        (
            {"recipes": {"kd": {"terms": [kd.Term(lambda student, teacher: student[:, 0])]}}},
            "Give the recipe as a function",
        ),
        ({"seeds": [1, 1]}, "different seeds"),
        ({"seeds": 0}, "different seeds"),
        ({"metric": "f1"}, "better: ['accuracy', 'loss']. Received: 'f1'"),
        ({"metric": "f1", "mode": "max"}, "Expected `metric` to be one of ['accuracy', 'loss']"),
        ({"mode": "largest"}, "Expected `mode` to be one of"),
        ({"teacher": kd.teachers.EMA(0.9)}, "teacher that all runs can share"),
        ({"epochs": 0}, "Expected `epochs`"),
        ({"label_smoothing": 1.0}, "Expected `label_smoothing`"),
        ({"students": {"net": lambda: 3}}, "Expected student 'net'"),
        ({"students": [{"name": "net"}], "recipes": None}, "Expected `students` by name"),
        ({"students": {}}, "at least one student"),
        ({"executor": ThreadPoolExecutor(1)}, "Received threads"),
        ({"executor": "threads"}, "Expected `executor`"),
        ({"executor": "processes", "students": {"net": lambda: net(3)}}, "another process can import"),
        ({"executor": "processes", "train": random.take(0)}, "cannot cross"),
        ({"executor": "processes", "teacher": kd.teachers.Frozen(teacher())}, "Leave `executor` out"),
    ):
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            kd.benchmark(**arguments(tmp_path, **change))
    assert not finished(tmp_path)


def test_a_folder_without_a_benchmark_is_named(tmp_path):
    with pytest.raises(ValueError, match="Expected the folder of a benchmark"):
        BenchmarkResult.load(tmp_path)


def test_the_front_holds_the_runs_that_no_other_beats():
    assert benchmark_plot.front([(10, 0.5), (5, 0.4), (7, 0.3), (20, 0.5), (5, 0.1)]) == [1, 0]


def test_the_picture_is_written(small, tmp_path):
    small[0].plot_pareto(tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_the_bars_of_the_picture_are_the_intervals(tmp_path, monkeypatch):
    drawn, original = [], matplotlib.axes.Axes.errorbar

    def errorbar(self, x, y, spread, **arguments):
        drawn.append((y, spread))
        return original(self, x, y, spread, **arguments)

    monkeypatch.setattr(matplotlib.axes.Axes, "errorbar", errorbar)
    tests = [0.5, 0.7, 0.6]
    result = made({("net", "alone"): [(each, each) for each in tests], ("tiny", "alone"): [(0.5, 0.5)]})
    result.plot_pareto(tmp_path / "pareto.png")
    half = stats.t.ppf(0.975, 2) * np.std(tests, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(drawn, [([0.6, 0.5], [half, 0.0])])


@pytest.mark.parametrize("metric, best", [("accuracy", 0.7), ("loss", 0.5)])
def test_the_picture_has_the_teacher_at_its_size_and_the_front_of_the_better(metric, best, monkeypatch):
    drawn = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, path, **arguments: drawn.append(figure))
    result = made({("net", "alone"): [(0.5, 0.5)], ("net", "kd"): [(0.7, 0.7)]}, metric)
    result.teacher = {"test": {metric: 0.9}}
    result.plot_pareto("pareto.png")
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    np.testing.assert_allclose(lines["teacher"].get_xydata(), [(100, 0.9)])  # (parameters, quality)
    (front,) = [line for line in lines.values() if line.get_linestyle() == "-"]
    np.testing.assert_allclose(front.get_ydata(), [best])


@pytest.mark.one_in(2, group="kills")
@pytest.mark.slow
def test_a_benchmark_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks", str(tmp_path / "killed"), "--kills", "3"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert len(re.findall(r"exit code -9, \d runs, earlier ones kept", done.stdout)) == 3, done.stdout
    assert "in the end kept" in done.stdout
    whole = kd.benchmark(**arguments(tmp_path / "whole"))
    assert (tmp_path / "killed" / "table.txt").read_text() == str(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_a_benchmark_that_is_interrupted_prints_what_is_kept(tmp_path, capsys):
    def press():
        while not finished(tmp_path):
            event.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    event = threading.Event()
    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        kd.benchmark(**arguments(tmp_path, epochs=8, verbose=1))
    thread.join()
    count = len(finished(tmp_path))
    assert f"Stopped. {count} of 6 runs" in capsys.readouterr().out
    there = BenchmarkResult.load(tmp_path)
    assert len(there.runs) == count and "alone" in str(there) and there.best().path.endswith(".keras")


def test_a_long_run_prints_its_progress(capsys):
    beat = Heartbeat("net, kd, seed 0", 4, every=0.0)
    student = net()
    student.compile("sgd", LOSS)
    student.fit(*part(0), epochs=4, verbose=0, callbacks=[beat])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and re.search(r"net, kd, seed 0: epoch 1 of 4; about [\d.]+ s left", printed[0])


def test_what_is_left_of_a_run_is_the_time_of_its_other_epochs(monkeypatch, capsys):
    clock = iter([100.0, 110.0, 140.0, 160.0])
    monkeypatch.setattr(benchmark_run, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    beat = Heartbeat("net, kd, seed 0", 5, every=30.0)
    beat.on_train_begin()
    for epoch in range(3):  # after 10, 40 and 60 seconds
        beat.on_epoch_end(epoch)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("epoch 2 of 5; about 60.0 s left of this run")  # 40 / 2 * 3


def test_an_executor_of_forked_processes_is_refused():
    executors.check(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
    with pytest.raises(ValueError, match="hangs in forked ones"):
        executors.check(ProcessPoolExecutor(1, multiprocessing.get_context("fork")))


@pytest.mark.parametrize("jobs, cores, gpus, expected", [(1, 8, 0, 1), (9, 8, 0, 4), (9, 2, 0, 2), (9, 8, 3, 3)])
def test_there_is_a_process_for_each_gpu_or_two_cores_and_no_more_than_jobs(jobs, cores, gpus, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * gpus)
    with executors.opened("processes", jobs) as pool:  # none is started before there is work
        assert pool._max_workers == expected


class AtOnce(Executor):
    """An executor that works in this process, on what another one would receive as JSON."""

    def submit(self, function, /, *args):
        future = Future()
        future.set_result(function(*json.loads(json.dumps(args))))
        return future


@pytest.mark.slow
def test_a_run_that_crosses_as_files_has_the_settings_of_this_process(tmp_path):
    more = {**BRIEF, "teacher": [teacher(), net(5)], "students": {"net": net}, "train": shuffled, "keep_best": True}
    given = arguments(tmp_path, **more)
    apart = kd.benchmark(**given, executor=AtOnce())
    assert [(run.recipe, run.epoch) for run in apart.runs] == [("alone", 1), ("kd", 1)]
    before = finished(tmp_path)
    assert kd.benchmark(**given).runs == apart.runs  # refuses runs of other settings
    assert finished(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_runs_side_by_side_are_those_of_one_process(executor, tmp_path):
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install ray")
    more = {**BRIEF, "train": shuffled, "students": {"net": net}, "recipes": {"dkd": {"terms": kd.methods.dkd()}}}
    apart = kd.benchmark(**arguments(tmp_path / "apart", executor=executor, **more))
    before = finished(tmp_path / "apart")
    together = kd.benchmark(**arguments(tmp_path / "together", **more))
    for a, b in zip(apart.runs, together.runs, strict=True):
        assert (a.student, a.recipe, a.seed) == (b.student, b.recipe, b.seed)
        np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-4)
    again = kd.benchmark(**arguments(tmp_path / "apart", **more))
    assert finished(tmp_path / "apart") == before and str(again) == str(apart)
    assert all(pathlib.Path(run.path).exists() for run in apart.runs)
