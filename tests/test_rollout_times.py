"""What rollouts take: as many rows at a time as memory allows, and shares of an epoch's time that are logged."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.language import row_maker
from tests.rolled import distiller, rollouts, small

#: The square of this is more bytes than a machine has room for.
LARGE = 2**23


class Greedy(keras.layers.Layer):
    """Pass through what it is given, and ask for more memory than there is where a batch has more than some rows."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.sizes = rows, []

    def call(self, x):
        count = tf.shape(x)[0]
        room = tf.zeros([tf.where(count > self.rows, LARGE, 1)] * 2, "int8")
        tf.py_function(lambda size: self.sizes.append(int(size)), [count], [])
        return x + tf.cast(room[0, 0], x.dtype)


def greedy(rows):
    model = small(1)
    layer = Greedy(rows)
    return keras.Model(model.input, layer(model.output)), layer


def written(student, size, **arguments):
    """Return the rows of the first epoch."""
    data = rollouts(student, small(5), generation_batch_size=size, **arguments)
    data.on_epoch_begin()
    return data.state(), data


@pytest.mark.parametrize("size", [1, 5, 100])
def test_the_rows_do_not_depend_on_how_many_are_generated_at_a_time(size):
    expected, _ = written(small(1), None)
    found, _ = written(small(1), size)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(("rows", "at_once"), [(12, 12), (11, 6), (6, 6), (4, 3), (1, 1)])
def test_where_memory_does_not_suffice_half_as_many_are_generated_from_then_on(rows, at_once, monkeypatch):
    monkeypatch.setattr(row_maker, "_rows_at_once", lambda batch_size: None)  # as on an accelerator
    own = {"student_share": 1.0, "teacher_share": 0.0, "data": None, "length": 1, "replay": 1}
    expected, _ = written(small(1), 12, **own)
    student, layer = greedy(rows)
    layer.sizes.clear()
    found, data = written(student, None, **own)
    np.testing.assert_array_equal(found["token_ids"], expected["token_ids"])
    assert max(size for size in layer.sizes if size <= rows) == at_once
    layer.sizes.clear()
    data.on_epoch_begin()
    assert set(layer.sizes) == {at_once}  # larger ones are not tried again


def test_a_single_row_that_memory_does_not_hold_is_an_error():
    student, _ = greedy(0)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        written(student, 4)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "auto"])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=r"Expected `generation_batch_size` to be a whole number from 1 on\. Received"):
        rollouts(small(1), small(5), generation_batch_size=size)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_shares_of_the_time_of_an_epoch_are_logged_for_a_live_teacher(jit_compile):
    student, teacher = small(1), kd.teachers.Frozen(small(5))
    made = distiller(student, teacher)
    made.compile(keras.optimizers.Adam(0.02), alpha=1.0, jit_compile=jit_compile)
    seen = {}
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.update(logs))
    history = made.fit(rollouts(student, teacher), epochs=3, verbose=0, callbacks=[note]).history
    shares = np.array([history[f"rollouts_{name}time"] for name in ("", "teacher_", "student_")])
    assert np.all(shares > 0)
    np.testing.assert_allclose(shares.sum(0), 1.0)
    assert seen["rollouts_student_time"] == history["rollouts_student_time"][-1]  # as TensorBoard would see it


def test_the_time_of_a_slow_teacher_is_seen():
    def slow(x):
        tf.py_function(lambda: __import__("time").sleep(0.05), [], [])
        return 3.0 * tf.one_hot(x["token_ids"], 8)

    student = small(1)
    data = rollouts(student, None, student_share=1.0, teacher_share=0.0, data=None)
    made = distiller(student, slow)
    made.compile(keras.optimizers.Adam(0.02), alpha=1.0, jit_compile=False)
    history = made.fit(data, epochs=3, verbose=0).history
    assert history["rollouts_teacher_time"][-1] > 0.5


def test_under_a_teacher_in_memory_its_share_is_measured_and_the_rest_is_the_students():
    student = small(1)
    data = rollouts(student, small(5))
    history = distiller(student, kd.teachers.InMemory(small(5))).fit(data, epochs=2, verbose=0).history
    shares = np.array([history[f"rollouts_{name}time"] for name in ("", "teacher_", "student_")])
    assert np.all(shares > 0)
    np.testing.assert_allclose(shares.sum(0), 1.0)


def test_of_a_teacher_that_changes_with_the_student_no_share_is_logged():
    student = small(1)
    data = rollouts(student, small(5))
    history = distiller(student, kd.teachers.EMA()).fit(data, epochs=1, verbose=0).history
    assert "rollouts_time" in history and not {"rollouts_teacher_time", "rollouts_student_time"} & set(history)


def test_an_eager_teacher_is_timed_as_it_is_run():
    seen = []

    def eager(x):
        seen.append(x["token_ids"].numpy())  # no graph has this
        return 3.0 * tf.one_hot(x["token_ids"], 8)

    student = small(1)
    data = rollouts(student, None, student_share=1.0, teacher_share=0.0, data=None)
    made = distiller(student, eager)
    made.compile(keras.optimizers.Adam(0.02), alpha=1.0, run_eagerly=True)
    history = made.fit(data, epochs=2, verbose=0).history
    assert all(0 < share < 1 for share in history["rollouts_teacher_time"]) and seen


@pytest.mark.parametrize("form", ["list", "CallbackList", "one"])
def test_callbacks_in_any_form_see_the_shares(form):
    student, teacher = small(1), small(5)
    seen = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(set(logs)))
    made = distiller(student, teacher)
    given = {
        "list": [note],
        "one": note,
        "CallbackList": keras.callbacks.CallbackList([note], add_history=True, model=made),
    }[form]
    made.fit(rollouts(student, teacher), epochs=2, verbose=0, callbacks=given)
    assert len(seen) == 2
    for names in seen:
        assert {"loss", "rollouts_time", "rollouts_teacher_time", "rollouts_student_time", "rollouts_age"} <= names


def test_a_mixture_of_teachers_is_timed_and_a_fused_head_is_not():
    student = small(1)
    history = distiller(student, [small(5), small(7)]).fit(rollouts(student, small(5)), epochs=1, verbose=0).history
    assert 0 < history["rollouts_teacher_time"][0] < 1
    student, teacher = small(1), small(5)
    made = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.gkd(beta=1.0))
    made.compile(keras.optimizers.Adam(0.02), alpha=1.0, fused_head=True)
    history = made.fit(rollouts(student, teacher), epochs=1, verbose=0).history
    assert "rollouts_time" in history and "rollouts_teacher_time" not in history
