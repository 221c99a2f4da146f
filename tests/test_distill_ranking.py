"""`distill`: how candidates are told apart where labels are few, what is done to rows, and a budget of time."""

import dataclasses
import datetime
import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd._internal.log import quiet
from keras_kd.experiments import candidate_ranking, distill_setup, held_out, row_changes, run_settings, time_budget
from keras_kd.experiments.candidate_ranking import Scored
from keras_kd.experiments.candidates import Candidate
from tests.test_distill import ONE, linear, run

ROWS = 30
TABLE = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")


def accuracy(y, outputs):
    return float(np.mean(y == outputs))


def scored(right, nearness=(), loss=0.0, rate=0.1):
    """Return a candidate that has the first of 30 labels, all 1, right."""
    outputs = (np.arange(ROWS) < right).astype(int)
    candidate = Candidate(teacher=bool(nearness), learning_rate=rate)
    return Scored(candidate, 9, right / ROWS, loss, nearness, outputs)


def ordered(*found):
    return candidate_ranking.Ranking(np.ones(ROWS, int), accuracy).ordered(found)


def test_what_labels_cannot_tell_apart_the_teacher_does():
    # A difference of one row of 30 has the standard error sqrt(1 / 30 * (1 - 1 / 30) / 30) = 0.0328, about itself.
    far, near, nearest = scored(30, (0.8, -0.3)), scored(30, (0.9, -0.3)), scored(30, (0.9, -0.2))
    assert ordered(far, near, nearest) == [nearest, near, far]


def test_a_score_within_one_standard_error_is_no_worse():
    # One row more of 30 is right, of three that differ: the standard error is sqrt((3 / 30 - 1 / 30**2) / 30) = 0.057.
    better, nearer = scored(29, (0.8, -0.3)), scored(28, (0.9, -0.3))
    nearer.outputs[:] = 1
    nearer.outputs[:2] = 0  # rows that the other has right
    assert ordered(better, nearer) == [nearer, better]
    nearer.outputs[:8] = 0  # nine that differ, seven rows more: 0.094 of a difference of 0.23
    assert ordered(better, dataclasses.replace(nearer, worth=22 / ROWS))[0] is better


def test_what_labels_can_tell_apart_the_teacher_does_not():
    # Ten rows of 30: the standard error is sqrt(1 / 3 * 2 / 3 / 30) = 0.086, a quarter of the difference.
    follows, right = scored(20, (1.0, -0.0)), scored(30, (0.5, -2.0))
    assert ordered(follows, right) == [right, follows]


def test_of_controls_that_are_equal_the_one_of_the_least_loss_is_first():
    assert [each.loss for each in ordered(scored(30, loss=0.5), scored(30, loss=0.1))] == [0.1, 0.5]
    assert [each.worth for each in ordered(scored(15, loss=0.1), scored(30, loss=0.5))] == [1.0, 0.5]


def test_a_training_without_a_number_is_last():
    lost = Scored(Candidate(), 9, float("-inf"), float("inf"), (float("-inf"), float("-inf")), np.zeros(ROWS, int))
    assert ordered(lost, scored(1, (0.1, -9.0)))[1] is lost and ordered(lost, lost) == [lost, lost]


def test_nearness_is_agreement_and_cross_entropy_with_the_teacher():
    random = np.random.default_rng(0)
    x, theirs, ours = random.normal(size=(50, 4)), random.normal(size=(4, 3)), random.normal(size=(4, 3))
    teacher = keras.Sequential([linear(theirs), keras.layers.Softmax()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    same, negative = candidate_ranking.Nearness(teacher, x.astype("float32"), loss).of(linear(ours))
    p = np.exp(x @ theirs) / np.exp(x @ theirs).sum(1, keepdims=True)
    log_q = x @ ours - np.log(np.exp(x @ ours).sum(1, keepdims=True))
    np.testing.assert_allclose(negative, (p * log_q).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(same, np.mean(p.argmax(1) == log_q.argmax(1)), rtol=1e-6)


def test_nearness_of_values_is_their_squared_distance():
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    kernels = np.random.default_rng(1).normal(size=(2, 4, 1))
    one, other = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)]) for _ in range(2))
    one.set_weights([kernels[0]]), other.set_weights([kernels[1]])
    (negative,) = candidate_ranking.Nearness(one, x, "mae").of(other)
    np.testing.assert_allclose(-negative, np.mean((x @ (kernels[0] - kernels[1])) ** 2), rtol=1e-5)


def embedded(mask_zero):
    layers = [keras.layers.Embedding(50, 3, mask_zero=mask_zero), keras.layers.GlobalAveragePooling1D()]
    return keras.Sequential([keras.Input((6,), dtype="int32"), *layers, keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("student", "x", "names"),
    [
        (linear(), np.zeros((3, 4), "float32"), ["mixtures"]),
        (None, np.zeros((3, 8, 8, 1), "float32"), ["mixtures"]),
        (None, np.zeros((3, 28, 28, 1), "uint8"), ["mixtures", "crops"]),
        (embedded(True), np.ones((3, 6), "int32"), ["token noise"]),
        (embedded(False), np.ones((3, 6), "int32"), []),
        (linear(), np.ones((3, 4), "int64"), []),
    ],
    ids=["table", "small images", "images", "tokens", "ids without padding", "whole numbers"],
)
def test_changes_suit_the_rows(student, x, names):
    has_quantities = x.dtype.kind == "f" or x.ndim == 4
    assert list(row_changes.suitable(student or linear(), x, has_quantities, True)) == names


def test_codes_and_vocabulary_reach_the_changes_and_their_code():
    table = row_changes.suitable(linear(), np.zeros((3, 4), "float32"), True, True, [2])["mixtures"]
    assert table.change.codes == (2,) or list(table.change.codes) == [2]
    assert table.code == "kd.augment.MixUp(codes=[2])"
    text = row_changes.suitable(embedded(True), np.ones((3, 6), "int32"), False, True)["token noise"]
    assert text.code == "kd.augment.TokenNoise(50)"


def test_noise_moves_no_token_that_has_an_output_of_its_own():
    assert not row_changes.suitable(embedded(True), np.ones((3, 6), "int32"), False, False)


@pytest.mark.parametrize(
    ("given", "rows", "size"), [(None, 150, 64), (None, 10_000, 100), (None, 80_000, 512), (8, 150, 8)]
)
def test_a_batch_grows_with_the_rows_unless_it_is_given(given, rows, size):
    assert distill_setup.batch_size_of(given, rows) == size


def calling_each_other(factor):
    def one(x, seed):
        return factor * other(x, seed)

    def other(x, seed):
        return one(x, seed) if seed > 0 else x

    return one


def test_changes_with_other_arguments_are_another_search():
    def described(change):
        return run_settings.describe(row_changes.settings(row_changes.given({"noise": change})))

    assert described(kd.augment.Noise(TABLE, 0.1)) != described(kd.augment.Noise(TABLE, 0.2))
    assert described(kd.augment.Noise(TABLE, 0.1)) == described(kd.augment.Noise(TABLE, 0.1))
    assert described(lambda x, seed: x) != described(lambda x, seed: 2 * x)
    assert described(calling_each_other(2)) != described(calling_each_other(3))
    assert described(calling_each_other(2)) == described(calling_each_other(2))
    assert described(tf.random.shuffle) != described(tf.identity)  # whose wrappers call each other, too


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
def test_a_time_becomes_steps_which_stay_the_same(tmp_path, monkeypatch):
    # Of a minute 51 s are planned: 9 trainings with 0.5 s each beside their steps leave 46.5 s, of 0.1 s a step.
    monkeypatch.setattr(time_budget, "_timed", lambda *_: (0.1, 0.5))
    limit = datetime.timedelta(minutes=1)
    found = run(tmp_path / "a", budget=limit)
    steps = json.loads((tmp_path / "a" / "steps.json").read_text())
    assert 455 <= steps <= 465
    monkeypatch.setattr(time_budget, "_timed", lambda *_: (0.2, 0.5))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "runs").iterdir()}
    assert run(tmp_path / "a", budget=limit).steps == found.steps
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "runs").iterdir()} == kept


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
def test_too_little_time_is_refused_and_claims_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"`budget` of at least .* ms here, and each of 9 trainings.*0:00:01"):
        run(tmp_path / "a", budget=datetime.timedelta(seconds=1))
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
def test_methods_are_searched_by_name(tmp_path):
    terms = {"kd": lambda: kd.methods.kd(None), "nkd": lambda: kd.methods.nkd(temperature=None)}
    found = run(tmp_path / "a", terms=terms, fixed=ONE, budget=700)
    assert {each.candidate.method for each in found.rounds[0] if each.candidate.teacher} == {"kd", "nkd"}
    assert "kd, T=2" in str(found)


@pytest.mark.parametrize(("count", "every"), [(199, None), (200, 10), (5_000, 10), (100_000, 50)])
def test_some_rows_without_labels_are_not_trained_on(count, every):
    x = {"a": np.arange(count), "b": np.arange(count)[:, None]}
    kept, compared, found = held_out.apart(x)
    assert found == every
    if every is None:
        assert compared is None and kept is x
        return
    assert len(compared["a"]) == count // every <= 2_000
    np.testing.assert_array_equal(np.sort(np.concatenate([kept["a"], compared["a"]])), x["a"])
    np.testing.assert_array_equal(kept["a"][:, None], kept["b"])
    # As the printed code has it.
    np.testing.assert_array_equal(kept["a"], x["a"][np.arange(count) % every != every - 1])


def test_many_models_do_not_set_off_warnings_of_retracing(caplog):
    function = tf.function(lambda value: value)
    for number in range(10):
        function(number)
    warning = next(record.getMessage() for record in caplog.records)  # TensorFlow's own words
    caplog.clear()
    with quiet():
        for message in (warning, "something else"):
            logging.getLogger("tensorflow").warning(message)
    assert [record.getMessage() for record in caplog.records] == ["something else"]
    logging.getLogger("tensorflow").warning(warning)
    assert warning in caplog.text
