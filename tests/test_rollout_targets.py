"""Rows that are written once and given to the teacher once: the live teacher's training, with less to do."""

import keras
import numpy as np
import pytest
from keras import tree

import keras_kd as kd
from tests.rolled import distiller, rollouts, small


class Counted(kd.teachers.InMemory):
    """Notes how many rows the teacher has read, each time."""

    def __init__(self, *arguments, **numbers):
        super().__init__(*arguments, **numbers)
        self.counts = []

    def targets(self, x, verbose=0):
        self.counts.append(len(tree.flatten(x)[0]))
        return super().targets(x, verbose)


def run(teacher, epochs=4, callbacks=(), **arguments):
    """Train for some epochs of twelve rows, and return the weights, the logs and the rows."""
    student = small(1)
    data = rollouts(student, small(5), **arguments)
    fitted = distiller(student, teacher).fit(data, epochs=epochs, callbacks=list(callbacks), verbose=0)
    return student.get_weights(), fitted.history, data


@pytest.mark.slow
@pytest.mark.parametrize("replay", [1, 2])
def test_targets_that_are_kept_train_as_the_live_teacher(replay):
    kept = Counted(small(5), batch_size=5)
    expected, of_live, _ = run(small(5), replay=replay)
    found, logs, _ = run(kept, replay=replay)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    np.testing.assert_allclose(logs["loss"], of_live["loss"], rtol=1e-5)
    assert kept.counts[-4:] == [12, *[12 // replay] * 3]  # each row once; before, what Keras looks at
    assert all(0 < share < 1 for share in logs["rollouts_teacher_time"]) and all(
        each > 0 for each in of_live["rollouts_teacher_time"]
    )


@pytest.mark.slow
def test_all_classes_of_top_k_are_the_dense_targets():
    expected, *_ = run(kd.teachers.InMemory(small(5)))
    found, *_ = run(kd.teachers.InMemory(small(5), top_k=8, tail="bucket"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_some_classes_are_those_of_a_cache(tail, tmp_path):
    x = np.random.default_rng(0).integers(0, 8, (12, 6)).astype("int32")
    cache = kd.TeacherCache(tmp_path / "cache", teacher=small(5), top_k=3, dtype="float32")
    cache.build(x, verbose=0)
    weights = []
    for teacher, data in (
        (kd.teachers.Cached(cache, tail=tail), cache.join(x)),
        (kd.teachers.InMemory(small(5), top_k=3, tail=tail), x),
    ):
        student = small(1)
        distiller(student, teacher).fit(data, batch_size=4, shuffle=False, epochs=2, verbose=0)
        weights.append(student.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_what_was_not_kept_is_predicted_as_what_was():
    x = np.random.default_rng(0).integers(0, 8, (12, 6)).astype("int32")
    kept = kd.teachers.InMemory(small(5), top_k=3, tail="bucket")
    made = distiller(small(1), kept)
    again = made.evaluate(x, verbose=0, return_dict=True)["loss"]
    joined = made.evaluate(kept.before_fit(x, verbose=0), verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(again, joined, rtol=1e-6)


def test_a_later_training_under_a_live_teacher_has_no_targets():
    student = small(1)
    data = rollouts(student, small(5))
    distiller(student, kd.teachers.InMemory(small(5))).fit(data, verbose=0)
    assert isinstance(data[0][0], kd.Joined)
    distiller(student, small(5)).fit(data, verbose=0)
    assert not isinstance(data[0][0], kd.Joined)


@pytest.mark.slow
def test_one_member_of_an_ensemble_may_be_kept():
    expected, *_ = run([small(5), small(7)])
    found, *_ = run([kd.teachers.InMemory(small(5)), small(7)])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_is_continued_makes_the_targets_of_the_rows_that_it_finds(tmp_path):
    def stop(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    expected, *_ = run(kd.teachers.InMemory(small(5)), epochs=5)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        run(kd.teachers.InMemory(small(5)), 5, [backup, keras.callbacks.LambdaCallback(on_epoch_begin=stop)])
    kept = Counted(small(5))
    found, *_ = run(kept, 5, [keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert kept.counts[-3:] == [12, 6, 6]


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="`tail` to be one of"):
        kd.teachers.InMemory(small(5), tail="even")
    for top_k in (0, 9, True):
        with pytest.raises(ValueError, match="from 1 to the number of classes"):
            distiller(small(1), kd.teachers.InMemory(small(5), top_k=top_k))
    with pytest.raises(ValueError, match="temperature"):
        made = kd.Distiller(student=small(1), teacher=kd.teachers.InMemory(small(5), top_k=3, tail="bucket"))
        made.compile("sgd", temperature=2.0, alpha=1.0)


def test_top_k_and_tail_are_saved():
    teacher = kd.teachers.InMemory(small(5), 7, top_k=3, tail="bucket")
    again = kd.teachers.InMemory.from_config(teacher.get_config())
    assert (again.batch_size, again.top_k, again.tail("logits")) == (7, 3, "bucket")


def test_rows_that_are_restored_have_their_own_targets():
    data = run(kd.teachers.InMemory(small(5)), epochs=1)[2]
    before, state = data[0], data.state()
    data.on_epoch_begin()
    data.restore(state)
    after = data[0]
    for one, other in zip(tree.flatten(after), tree.flatten(before), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
