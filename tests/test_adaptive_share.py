"""A student's share that follows validation, and rows that are used in more epochs as training goes on."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.language import AdaptiveShare, Rollouts
from keras_kd.language.row_turns import RowTurns
from keras_kd.schedules import Ramp
from tests.rolled import distiller, examples, rollouts, small
from tests.writers import PROMPTS


def shares(values, **arguments):
    """Return the share after each of some values of the validation loss."""
    share = AdaptiveShare(**{"mode": "min", **arguments})
    found = []
    for value in values:
        share.update({} if value is None else {"val_loss": value})
        found.append(share.value)
    return found


def expected(values, start, end, step, tolerance):
    """Return the same by the definition: compared with the value at the last raise, and first with the first one."""
    reference, count, found = values[0], 0, []
    for value in values[1:]:
        if value >= reference + tolerance:
            reference, count = value, count + 1
        found.append(min(start + count * step, end))
    return [start, *found]


def test_the_share_rises_when_the_loss_is_worse_than_at_the_last_raise():
    # 2.6 is worse than 2.0 by 0.6; 2.75 is not worse than 2.6 by a quarter, though 3.0 is; 0.5 is no new reference.
    values = [2.0, 2.125, 2.6, 2.75, 0.5, 2.75, 3.0]
    assert shares(values, tolerance=0.25) == [0.0, 0.0, 0.1, 0.1, 0.1, 0.1, 0.2]
    assert shares([2.25], tolerance=0.25, reference=2.0) == [0.1]
    assert shares([2.0, 2.25], tolerance=0.25) == [0.0, 0.1]  # "at least"


def test_the_share_ends_where_it_is_told_to_and_reaches_1_exactly():
    assert shares(range(0, 24, 2), tolerance=1.0)[-2:] == [1.0, 1.0]
    assert shares(range(0, 24, 2), tolerance=1.0, start=0.25, end=0.5, step=0.2)[:4] == [0.25, 0.45, 0.5, 0.5]


def test_epochs_without_a_finite_value_change_nothing():
    values = [None, math.nan, 1.0, None, math.nan, math.inf, 1.05, 1.5]
    assert shares(values) == [0.0] * 7 + [0.1]


def test_more_is_better_of_a_metric_that_declares_it():
    assert shares([0.8, 0.7, 0.9, 0.55], mode="max", tolerance=0.125) == [0.0, 0.0, 0.0, 0.1]


@pytest.mark.parametrize("seed", range(5))
def test_any_course_of_the_loss_is_followed_by_the_definition(seed):
    random = np.random.default_rng(seed)
    values = random.normal(2.0, 0.5, 40).cumsum() / np.arange(1, 41) + random.normal(0.0, 0.2, 40)
    arguments = {"start": 0.1, "end": 0.7, "step": 0.05, "tolerance": 0.02}
    np.testing.assert_allclose(shares(values, **arguments), expected(values, **arguments), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": -0.1}, "0 <= start <= end <= 1. Received: start=-0.1, end=1.0"),
        ({"end": 1.1}, "start=0.0, end=1.1"),
        ({"start": 0.6, "end": 0.5}, "start=0.6, end=0.5"),
        ({"start": math.nan}, "`start` to be finite"),
        ({"step": 0.0}, "`step` to be above 0. Received: step=0.0"),
        ({"tolerance": math.inf}, "`tolerance` to be finite"),
        ({"reference": math.nan}, "`reference` to be finite"),
        ({"mode": "least"}, "`mode` to be one of"),
    ],
)
def test_shares_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        AdaptiveShare(**arguments)


def validation():
    """Examples of other tokens, by which a student that learns its own text gets worse."""
    x, y, weights = examples(seed=11)
    return x["token_ids"] if isinstance(x, dict) else x, y, weights


def test_the_rows_of_an_epoch_follow_the_loss_after_the_one_before():
    student, teacher = small(1), small(5)
    share = AdaptiveShare(0.2, 0.9, step=0.3, tolerance=-0.05)  # worse, or hardly better
    data = rollouts(student, teacher, student_share=share, teacher_share=0.0, batch_size=100, replay=1)
    made = distiller(student, teacher)
    made.compile(keras.optimizers.Adam(1.0), alpha=1.0)  # so large a rate that the loss rises and falls
    history = made.fit(data, epochs=8, validation_data=validation(), verbose=0).history
    due = expected(history["val_loss"], 0.2, 0.9, 0.3, -0.05)
    assert share.value == due[-1] and len(set(due)) >= 3
    sure = 5 * np.sqrt(0.25 / 300)
    np.testing.assert_allclose(history["rollouts_student"], [0.2, *due[:-1]], rtol=0, atol=sure)


def test_what_the_share_follows_is_known_before_training():
    student, teacher = small(1), small(5)
    made = distiller(student, teacher)
    with pytest.raises(ValueError, match="`validation_data` in fit, which the share.*'val_loss'. Received: none"):
        made.fit(rollouts(student, teacher, student_share=AdaptiveShare(), teacher_share=0.0))
    follows = AdaptiveShare(monitor="val_perplexity")
    with pytest.raises(ValueError, match="declares whether more of it is better.*'val_perplexity'"):
        made.fit(rollouts(student, teacher, student_share=follows, teacher_share=0.0), validation_data=validation())
    assert int(made.optimizer.iterations) == 0


def test_a_share_that_would_never_rise_stops_the_training_of_a_student_alone():
    student = small(1)
    student.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = rollouts(student, small(5), student_share=AdaptiveShare(monitor="loss"), teacher_share=0.0)
    student.fit(data, epochs=1, verbose=0)  # of one epoch, nothing is missing
    with pytest.raises(ValueError, match="in the `fit` of a Distiller, whose logs it follows"):
        student.fit(data, epochs=1, verbose=0)


def test_a_file_holds_the_share_and_what_it_is_compared_with(tmp_path):
    student, teacher = small(1), small(5)

    def data(of, **arguments):
        share = {"student_share": AdaptiveShare(0.2, 0.7, step=0.1, tolerance=-1.0), "teacher_share": 0.3}
        return rollouts(of, teacher, **{**share, "replay": Ramp(1.0, 3.0, 9), **arguments})

    first, rows = distiller(student, teacher), data(student)
    first.fit(rows, epochs=3, validation_data=validation(), verbose=0)
    first.save_weights(tmp_path / "state.weights.h5")
    np.testing.assert_allclose(rows.state()["shares"][0, 0], 2)

    other = small(1)
    again, restored = distiller(other, teacher), data(other)
    again.fit(restored, validation_data=validation(), verbose=0)
    again.load_weights(tmp_path / "state.weights.h5")
    for name, value in rows.state().items():
        np.testing.assert_array_equal(restored.state()[name], value, err_msg=name)

    plain = distiller(other, teacher)
    plain.fit(data(other, student_share=0.5), verbose=0)
    with pytest.raises(ValueError, match="adaptive_shares = 1. Received: 0"):
        plain.load_weights(tmp_path / "state.weights.h5")


# Rows that are used in more epochs as training goes on


def turns(rows, replay, steps):
    """Return the places that are written at each of some steps."""
    turn, found = RowTurns(rows, replay), []
    for step in steps:
        turn = turn.next(step)
        found.append(turn.places.tolist())
    return found


@pytest.mark.parametrize(("rows", "replay"), [(12, 1), (12, 3), (12, 5), (7, 2), (5, 5), (12, 2.5)])
def test_each_row_is_written_again_when_it_was_used_as_often_as_asked_for(rows, replay):
    written = turns(rows, replay, range(60))
    assert written[0] == list(range(rows))
    for place in range(rows):
        epochs = [epoch for epoch, places in enumerate(written) if place in places]
        gaps = np.diff(epochs[1:])  # the first turn is that of all
        assert set(gaps) <= {math.floor(replay), math.ceil(replay)}
        assert np.mean(gaps) == pytest.approx(replay, abs=1 / len(gaps))
    assert sum(map(len, written[1:])) == pytest.approx(59 * rows / replay, abs=1)


def test_the_share_of_new_rows_may_fall_in_a_straight_line():
    steps = np.arange(0, 100, 10)
    written = turns(40, lambda step: 1.0 / (1.0 - tf.cast(step, tf.float32) / 100.0), steps)
    assert [len(places) for places in written] == [40, 36, 32, 28, 24, 20, 16, 12, 8, 4]
    flat = [place for places in written for place in places]
    counts = np.bincount(flat, minlength=40)
    assert counts.max() - counts.min() <= 1  # always those that were written longest ago


def test_under_a_schedule_the_oldest_rows_are_replaced_and_targets_are_of_the_new_ones():
    results = []
    for teacher in (small(5), kd.teachers.InMemory(small(5))):
        student = small(1)
        data = Rollouts(PROMPTS, student=student, length=6, batch_size=4, every=3, replay=Ramp(1.0, 4.0, 12), seed=3)
        seen = []
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, data=data, seen=seen: seen.append(
            data.state()["step"].copy()))  # fmt: skip
        distiller(student, teacher).fit(data, epochs=6, callbacks=[note], verbose=0)
        results.append(student.get_weights())
    replaced = [np.sum(now != before) for before, now in zip(seen, seen[1:], strict=False)]
    # Steps 3, 6, 9, 12, 15: 1 + 3 * (step + 1) / 12 epochs of a row: 12 of these at each, and what is left over.
    due = np.cumsum([12 / min(1 + 3 * (step + 1) / 12, 4) for step in (3, 6, 9, 12, 15)])
    np.testing.assert_array_equal(replaced, np.diff([0, *np.floor(due + 1e-4)]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_writing_that_fails_leaves_the_turns_as_they_were():
    student, teacher = small(1), small(5)
    data = rollouts(student, teacher)
    weights = student.get_weights()
    student.set_weights([np.full_like(each, np.nan) for each in weights])
    with pytest.raises(ValueError, match="predicts NaN"):
        data.on_epoch_begin()
    student.set_weights(weights)
    data.on_epoch_begin()
    other = rollouts(student, teacher)
    other.on_epoch_begin()
    for name, value in other.state().items():
        np.testing.assert_array_equal(data.state()[name], value, err_msg=name)
