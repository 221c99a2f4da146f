"""A search finds what is better, keeps what is finished, and runs the teacher once."""

import importlib.util
import json
import os
import re
import signal
import threading
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd._internal.files import replace
from keras_kd._keras.tuner_records import written_with
from keras_kd.experiments import Trial, TuneResult
from keras_kd.experiments.search_space import parameter
from keras_kd.experiments.tuner_trials import Search
from tests.benchmarks import LOSS, net, part, teacher

if importlib.util.find_spec("keras_tuner") is None:
    pytest.skip('KerasTuner is not installed: pip install "keras_kd[tune]"', allow_module_level=True)

import keras_tuner


def arguments(folder, **more) -> dict:
    """Return what every search here takes."""
    compiled = {"optimizer": keras.optimizers.Adam(0.03), "loss": LOSS, "metrics": ["accuracy"], "run_eagerly": True}
    return {
        "student": net(),
        "teacher": teacher(),
        "train": part(0),
        "validation": part(1),
        "folder": folder,
        "compile_arguments": compiled,
        "trials": 2,
        "epochs": 2,
        "batch_size": 16,
        "verbose": 0,
        **more,
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A small search, and its folder."""
    folder = tmp_path_factory.mktemp("tune")
    return kd.tune(**arguments(folder, trials=3)), folder


@pytest.mark.slow
def test_the_best_trial_is_the_best_by_validation_and_its_student_is_returned(found):
    result, _ = found
    scores = [trial.score for trial in result.trials]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert result.best == result.trials[0].settings
    assert 1 <= result.best["temperature"] <= 16 and 0.1 <= result.best["alpha"] <= 1
    x, y = part(1)
    accuracy = np.mean(np.argmax(result.student.predict(x, verbose=0), axis=-1) == y)
    np.testing.assert_allclose(accuracy, scores[0], rtol=1e-6)
    assert isinstance(result.student, keras.Model) and not isinstance(result.student, kd.Distiller)


@pytest.mark.slow
def test_a_trial_is_the_distiller_that_one_would_write_by_hand(found):
    result, _ = found
    keras.utils.set_random_seed(0)
    student = net()
    distiller = kd.Distiller(student=student, teacher=teacher())
    distiller.compile(keras.optimizers.Adam(0.03), LOSS, metrics=["accuracy"], run_eagerly=True, **result.best)
    keras.utils.set_random_seed(0)
    data = tf.data.Dataset.from_tensor_slices(part(0)).shuffle(48, seed=0).batch(16)
    history = distiller.fit(data, validation_data=part(1), epochs=2, verbose=0, shuffle=False).history
    np.testing.assert_allclose(max(history["val_accuracy"]), result.trials[0].score, rtol=1e-6)


def recorded(folder, name: str) -> dict[str, float]:
    """Return the best value of a metric of each trial, as KerasTuner has stored it."""
    scores = {}
    for path in folder.glob("trials/trial_*/trial.json"):
        state = json.loads(path.read_text())
        values = state["metrics"]["metrics"][name]
        best = max if values["direction"] == "max" else min
        scores[state["trial_id"]] = best(np.mean(each["value"]) for each in values["observations"])
    return scores


@pytest.mark.slow
def test_where_less_is_better_the_best_trial_is_the_lowest(tmp_path):
    result = kd.tune(**arguments(tmp_path, trials=3, metric="loss"))
    known = recorded(tmp_path, "val_loss")
    assert len(set(known.values())) == 3
    np.testing.assert_allclose([trial.score for trial in result.trials], sorted(known.values()), rtol=1e-6)
    result.student.compile("sgd", LOSS)
    np.testing.assert_allclose(result.student.evaluate(*part(1), verbose=0), min(known.values()), rtol=1e-5)
    assert result.noise is None


@pytest.mark.slow
def test_the_band_of_equals_is_the_standard_error_over_the_validation_examples(found):
    result, folder = found
    known = recorded(folder, "val_accuracy")
    best = max(known.values())
    error = np.sqrt(best * (1 - best) / 48)  # 48 examples, in batches of 256
    np.testing.assert_allclose(result.noise, error, rtol=1e-6)
    within = sorted(score for score in known.values() if best - score <= error)
    np.testing.assert_allclose(sorted(trial.score for trial in result.as_good()), within, rtol=1e-6)
    assert f"{len(within)} of 3 trials are within {error:.4f} of the best" in str(result)


@pytest.mark.slow
def test_the_same_call_again_runs_nothing_and_more_trials_are_added(found):
    result, folder = found
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/trial_*/trial.json")}
    again = kd.tune(**arguments(folder, trials=3))
    assert again.trials == result.trials
    more = kd.tune(**arguments(folder, trials=4))
    assert len(more.trials) == 4
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


@pytest.mark.slow
def test_another_search_is_not_mixed_into_a_folder(found, tmp_path):
    _, folder = found
    for change, name in (
        ({"space": {"alpha": (0.2, 0.4)}}, "space"),
        ({"student": net(5)}, "student"),
        ({"validation": part(5)}, "validation"),
        ({"tuner": "bayesian"}, "tuner"),
    ):
        with pytest.raises(ValueError, match=f"with another `{name}`"):
            kd.tune(**arguments(folder, **change))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        kd.tune(**arguments(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["bayesian", "hyperband"])
def test_every_tuner_finds_settings_within_the_space(tuner, tmp_path):
    space = {
        "temperature": (2.0, 4.0),
        "alpha": [0.25, 0.75],
        "method": {"kd": kd.methods.kd(None), "dkd": kd.methods.dkd()},
        "weights": {"decoupled_kl": (0.5, 2.0)},
    }
    result = kd.tune(**arguments(tmp_path, tuner=tuner, space=space, epochs=3, trials=3))
    for trial in result.trials:
        assert 2 <= trial.settings["temperature"] <= 4 and trial.settings["alpha"] in (0.25, 0.75)
        assert trial.settings["method"] in space["method"] and 0.5 <= trial.settings["weight of decoupled_kl"] <= 2
    result.plot(tmp_path / "search.svg")
    assert (tmp_path / "search.svg").read_text().count("<!-- ") > 10  # a comment for each text that is drawn
    assert {trial.epochs for trial in result.trials} == ({1, 3} if tuner == "hyperband" else {3})


@pytest.mark.slow
def test_the_teacher_runs_once_for_all_trials(tmp_path):
    seen = []

    def counted(x):
        seen_now = tf.numpy_function(lambda batch: seen.append(len(batch)) or batch, [x], tf.float32)
        return given(tf.ensure_shape(seen_now, x.shape))

    given = teacher()
    kd.tune(**arguments(tmp_path, teacher=counted))
    assert seen == [48]


@pytest.mark.slow
def test_progress_is_printed_with_the_remaining_time_and_nothing_else(tmp_path, capsys):
    kd.tune(**arguments(tmp_path / "loud", verbose=1))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial")]
    assert len(lines) == 2
    assert re.fullmatch(
        r"trial 1: temperature [\d.]+, alpha [\d.]+: val_accuracy [\d.]+; about [\d.]+ s left", lines[0]
    )
    assert lines[1].endswith("about 0.0 s left")
    kd.tune(**arguments(tmp_path / "quiet", trials=1))
    assert capsys.readouterr().out == ""


def test_a_search_that_goes_on_counts_what_is_kept(capsys):
    def record(status, **values):
        return types.SimpleNamespace(status=status, hyperparameters=types.SimpleNamespace(values=values))

    further = {"tuner/initial_epoch": 3, "tuner/epochs": 9}  # as Hyperband has it
    kept = [record("COMPLETED", alpha=0.5), record("COMPLETED", **further), record("RUNNING", alpha=0.1)]
    search = Search(net(), teacher(), {}, {}, {}, 0, "val_loss", epochs=4, total=1200.0, talks=False)
    search.go_on_from(types.SimpleNamespace(oracle=types.SimpleNamespace(trials=dict(enumerate(kept)))))
    assert (search.trials, search.epochs, search.kept) == (2, 10, 10)  # 4, and from 3 to 9
    assert "tune: about 1,200 epochs in all; 2 trials are kept" in capsys.readouterr().out


def test_a_record_is_never_incomplete(tmp_path):
    trial = keras_tuner.engine.trial.Trial(keras_tuner.HyperParameters(), "0")
    path = tmp_path / "trial.json"
    with written_with(replace):
        trial.save(str(path))
        first = path.stat().st_ino
        held = os.open(path, os.O_RDONLY)  # so that its number is not given again
        trial.save(str(path))
    os.close(held)
    assert path.stat().st_ino != first and [each.name for each in tmp_path.iterdir()] == ["trial.json"]
    assert keras_tuner.engine.trial.Trial.load(str(path)).trial_id == "0"


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_a_search_that_is_interrupted_keeps_its_trials(tmp_path, capsys):
    def done():
        return sum('"COMPLETED"' in path.read_text() for path in tmp_path.glob("trials/trial_*/trial.json"))

    def press():
        while not done():
            event.wait(0.02)
        while not event.wait(0.4):  # one that arrives while Python collects garbage is ignored
            os.kill(os.getpid(), signal.SIGINT)

    event = threading.Event()
    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        kd.tune(**arguments(tmp_path, trials=4, verbose=1))
    event.set()
    thread.join()
    assert "the same call goes on" in capsys.readouterr().out
    assert 1 <= done() < 4
    assert len(kd.tune(**arguments(tmp_path, trials=4)).trials) == 4


def test_flatness_is_measured_by_the_standard_error_of_an_accuracy(tmp_path):
    trials = [Trial({"alpha": alpha}, score, 1) for alpha, score in ((0.5, 0.9), (0.2, 0.89), (0.8, 0.80))]
    result = TuneResult({"alpha": 0.5}, net(), trials, "accuracy", 0.03)
    assert [trial.settings["alpha"] for trial in result.as_good()] == [0.5, 0.2]
    assert "2 of 3 trials are within 0.0300 of the best" in str(result) and "alpha 0.2 to 0.5" in str(result)
    result.plot(tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    unknown = TuneResult({"alpha": 0.5}, net(), trials, "loss", None)
    assert unknown.as_good() == trials[:1] and "kd.benchmark" in str(unknown)


def test_a_short_range_of_temperatures_has_labels_that_can_be_read(tmp_path):
    trials = [Trial({"temperature": temperature}, 0.9, 1) for temperature in (1.3, 2.6)]
    TuneResult({"temperature": 1.3}, net(), trials, "accuracy", None).plot(tmp_path / "search.svg")
    drawn = re.findall("<!-- (.*?) -->", (tmp_path / "search.svg").read_text())  # each text that is drawn
    assert "2" in drawn and not any("times" in text for text in drawn)


def test_what_cannot_be_searched_is_refused_before_any_work(tmp_path):
    for change, message in (
        ({"tuner": "grid"}, "Expected `tuner` to be one of"),
        ({"space": {"learning_rate": (0.1, 1.0)}}, "Expected `space` to name some of"),
        ({"space": {"temperature": (0.0, 4.0)}}, "Expected the range of 'temperature'"),
        ({"space": {"alpha": (0.9, 0.1)}}, "Expected the range of 'alpha'"),
        ({"space": {"alpha": [0.5], "weights": {"unknown": (1.0, 2.0)}}}, "Expected `weights` to name terms"),
        (
            {"space": {"method": {"mine": [kd.Term(lambda student, teacher: student[:, 0])]}}},
            "Give the recipe as a function",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            kd.tune(**arguments(tmp_path, **change))
    assert not list(tmp_path.iterdir())


def test_temperature_is_drawn_by_its_logarithm_and_alpha_evenly():
    hp = keras_tuner.HyperParameters()
    given = {"temperature": (1.0, 16.0), "alpha": (0.1, 1.0), "weight": [1.0, 2.0], "fixed": 3.0}
    for name, values in given.items():
        parameter(hp, name, values)
    middle = {each.name: each.prob_to_value(0.5) for each in hp.space}
    assert middle["temperature"] == pytest.approx(4.0)  # (1 * 16) ** 0.5
    assert middle["alpha"] == pytest.approx(0.55)  # (0.1 + 1) / 2
    assert middle["weight"] in (1.0, 2.0) and middle["fixed"] == 3.0


@pytest.mark.slow
def test_a_plain_hypermodel_of_keras_tuner_builds_distillers(tmp_path):
    class Students(keras_tuner.HyperModel):
        def build(self, hp):
            distiller = kd.Distiller(student=net(hp.Choice("units", [2, 4])), teacher=given)
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            distiller.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"], temperature=hp.Float("t", 1, 8))
            return distiller

    given = teacher()
    search = keras_tuner.RandomSearch(Students(), "val_accuracy", 2, directory=str(tmp_path), seed=0)
    search.search(*part(0), validation_data=part(1), epochs=1, verbose=0)
    best = search.get_best_models(1)[0]
    assert isinstance(best, kd.Distiller)
    scores = [trial.score for trial in search.oracle.trials.values()]
    x, y = part(1)
    assert np.isclose(np.mean(np.argmax(best.student.predict(x, verbose=0), -1) == y), max(scores))
