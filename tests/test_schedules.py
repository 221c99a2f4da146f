"""Schedules: numbers that change with the step."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import schedules


@keras.saving.register_keras_serializable("tests")
def registered(step):
    return 0.5


def round_trip(schedule):
    """Return a schedule that was saved and loaded."""
    config = json.loads(json.dumps(schedules.to_config(schedule, "distiller.alpha")))
    return keras.saving.deserialize_keras_object(config)


@pytest.mark.parametrize(("step", "value"), [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0), (10**6, 1.0)])
def test_a_ramp_from_0_trains_on_something_from_its_first_step_and_stays_at_its_end(step, value):
    assert float(schedules.Ramp(0.0, 1.0, steps=4)(step)) == value


def test_a_ramp_can_go_down():
    # 8 + (2 - 8) * 1 / 3 = 6, then 4, then 2
    assert [float(schedules.Ramp(8.0, 2.0, steps=3)(step)) for step in range(4)] == pytest.approx([6.0, 4.0, 2.0, 2.0])


def test_a_ramp_takes_the_step_of_an_optimizer_in_a_graph():
    ramp = tf.function(schedules.Ramp(0.0, 1.0, steps=4))
    assert float(ramp(keras.Variable(1, dtype="int64").value)) == 0.5


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 0), (0.0, 1.0, -3), (float("nan"), 1.0, 4), (0.0, float("inf"), 4)])
def test_a_ramp_that_does_not_change_is_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        schedules.Ramp(*arguments)


def test_a_keras_schedule_is_accepted_unchanged():
    decay = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0)
    assert float(schedules.at(decay, tf.constant(5, "int64"))) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "schedule", [3, 3.0, np.float64(3.0), lambda step: 3, lambda step: tf.constant(3.0, "float64")]
)
def test_every_schedule_has_a_float32_value(schedule):
    value = schedules.at(schedule, tf.constant(0))
    assert value.dtype == "float32" and float(value) == 3.0


def test_an_assigned_number_takes_effect_in_a_compiled_function():
    number = schedules.Adjustable(2.0)
    traces = []

    @tf.function
    def double(step):
        traces.append(step)
        return 2 * schedules.at(number, step)

    before = float(double(tf.constant(0)))
    number.assign(5.0)
    assert (before, float(double(tf.constant(1))), len(traces)) == (4.0, 10.0, 1)


def test_the_number_of_the_user_is_returned_unrounded():
    assert schedules.plain(schedules.Adjustable(0.1)) == 0.1
    assert schedules.plain(abs) is abs


def test_the_first_value_is_that_of_step_0():
    assert schedules.first(0.3) == 0.3
    assert schedules.first(schedules.Ramp(0.0, 1.0, steps=4)) == 0.25


@pytest.mark.parametrize("value", ["2", None, [2.0], 2j])
def test_values_that_are_no_numbers_are_refused_by_their_type(value):
    with pytest.raises(TypeError, match="`alpha` to be a number"):
        schedules.finite("alpha", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(value):
    with pytest.raises(ValueError, match="`alpha` to be finite"):
        schedules.finite("alpha", value)


def test_numbers_and_none_are_saved_unchanged():
    assert schedules.to_config(0.3, "alpha") == 0.3
    assert schedules.to_config(None, "temperature") is None


def test_a_ramp_is_saved():
    ramp = round_trip(schedules.Ramp(1.0, 3.0, steps=4))
    assert isinstance(ramp, schedules.Ramp) and float(ramp(1)) == 2.0


def test_a_keras_schedule_is_saved():
    assert float(round_trip(keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0))(5)) == pytest.approx(0.5)


def test_a_registered_function_is_saved():
    assert round_trip(registered) is registered


def test_a_lambda_is_not_saved_but_required_when_it_is_needed():
    unsaved = round_trip(lambda step: 0.5)
    assert schedules.first(unsaved) == 1.0  # loading must not fail
    with pytest.raises(ValueError, match="distiller.alpha was a function that a file cannot hold.*again after loading"):
        unsaved(0)
